//! The shape of an account's `nats`: which fields it has and of which types, read for the rules.

use std::borrow::Cow;

use super::issues::Issues;
use crate::jwt::json::{Fields, Json};
use crate::jwt::opened::{Common, MILLISECONDS};
use crate::jwt::quote::{cut, time};
use crate::jwt::rejection::Rejection;

/// The names inside an account's `nats`.
const ACCOUNT: &[&str] = &[
    "imports",
    "exports",
    "limits",
    "signing_keys",
    "revocations",
    "default_permissions",
    "mappings",
    "authorization",
    "trace",
    "cluster_traffic",
    "description",
    "info_url",
    "tags",
    "type",
    "version",
];

/// The same in version 1.
const ACCOUNT_V1: &[&str] = &["imports", "exports", "limits", "signing_keys", "revocations"];

/// The type of an import or export. As in Go, an absent type breaks a rule, and an unknown one cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::jwt) enum Traffic {
    Missing,
    Stream,
    Service,
}

impl Traffic {
    pub(in crate::jwt) fn read(fields: &Fields<'_, '_>, name: &str) -> Result<Self, Rejection> {
        match fields.text(name)? {
            "stream" => Ok(Self::Stream),
            "service" => Ok(Self::Service),
            "" if !fields.is_written(name) => Ok(Self::Missing),
            _ => Err(Rejection::FieldType {
                field: fields.path(name),
                wanted: "\"stream\" or \"service\"",
            }),
        }
    }
}

/// The limits that other rules need; -1 means unlimited.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::jwt) struct Limits {
    pub(in crate::jwt) imports: i64,
    pub(in crate::jwt) exports: i64,
    pub(in crate::jwt) wildcards: bool,
    pub(in crate::jwt) connections: i64,
    pub(in crate::jwt) leaf_nodes: i64,
    pub(in crate::jwt) blank_tier: bool,
}

/// A key that may sign users, with a scope or without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::jwt) struct SigningKey<'j> {
    pub(in crate::jwt) key: &'j str,
}

pub(super) const NATS_LIMITS: &[&str] = &["subs", "data", "payload"];
const JETSTREAM: &[&str] = &[
    "mem_storage",
    "disk_storage",
    "streams",
    "consumer",
    "max_ack_pending",
    "mem_max_stream_bytes",
    "disk_max_stream_bytes",
];
const LIMITS: &[&str] = &[
    "subs",
    "data",
    "payload",
    "imports",
    "exports",
    "wildcards",
    "disallow_bearer",
    "conn",
    "leaf",
    "mem_storage",
    "disk_storage",
    "streams",
    "consumer",
    "max_ack_pending",
    "mem_max_stream_bytes",
    "disk_max_stream_bytes",
    "max_bytes_required",
    "tiered_limits",
];
const LIMITS_V1: &[&str] = &[
    "subs",
    "data",
    "payload",
    "imports",
    "exports",
    "wildcards",
    "disallow_bearer",
    "conn",
    "leaf",
];

/// An account's `nats`, opened for the rules.
pub(in crate::jwt) struct Account<'j, 'a> {
    pub(in crate::jwt) nats: Fields<'j, 'a>,
    pub(in crate::jwt) subject: &'j str,
    pub(in crate::jwt) v1: bool,
}

impl<'j, 'a> Account<'j, 'a> {
    /// Opens the claims `json`.
    pub(in crate::jwt) fn open(json: &'j Json<'a>, common: &'j Common) -> Result<Self, Rejection> {
        let top = Fields::of(json, "", &[])?;
        let v1 = common.version == 1;
        Ok(Account {
            nats: top.fields("nats", if v1 { ACCOUNT_V1 } else { ACCOUNT })?,
            subject: &common.subject,
            v1,
        })
    }
}

/// A revocation list: public key or `*` -> Unix seconds.
pub(in crate::jwt) fn revocations<'j, 'a>(fields: &Fields<'j, 'a>) -> Result<Vec<(&'j Cow<'a, str>, i64)>, Rejection> {
    let entry = |(key, at): &'j (Cow<'a, str>, Json<'a>)| match at {
        Json::Null => Ok((key, 0)),
        at => at.int().map(|at| (key, at)).ok_or_else(|| Rejection::FieldType {
            field: fields.path("revocations"),
            wanted: "whole numbers of Unix seconds",
        }),
    };
    fields.map("revocations")?.iter().map(entry).collect()
}

impl<'j, 'a> Account<'j, 'a> {
    pub(in crate::jwt) fn limits(&self) -> Result<Limits, Rejection> {
        let limits = self.nats.fields("limits", if self.v1 { LIMITS_V1 } else { LIMITS })?;
        for name in NATS_LIMITS {
            limits.int(name)?;
        }
        let mut read = Limits {
            imports: limits.int("imports")?,
            exports: limits.int("exports")?,
            wildcards: limits.bool("wildcards")?,
            connections: limits.int("conn")?,
            leaf_nodes: limits.int("leaf")?,
            ..Limits::default()
        };
        limits.bool("disallow_bearer")?;
        if self.v1 {
            return Ok(read);
        }
        jetstream(&limits)?;
        for (tier, json) in limits.map("tiered_limits")? {
            read.blank_tier |= tier.is_empty();
            let mut known = JETSTREAM.to_vec();
            known.push("max_bytes_required");
            jetstream(&Fields::of(json, &limits.path("tiered_limits"), &known)?)?;
        }
        // Tiers and flat limits together break no rule: if there are tiers, the library drops the flat limits first.
        Ok(read)
    }

    /// The keys that may sign users. An item that is neither a string nor an object is skipped, as in Go.
    pub(in crate::jwt) fn signing_keys(&self) -> Result<Vec<SigningKey<'j>>, Rejection> {
        if self.v1 {
            let keys = self.nats.texts("signing_keys")?;
            return Ok(keys.into_iter().map(|key| SigningKey { key }).collect());
        }
        let path = self.nats.path("signing_keys");
        let mut keys = Vec::new();
        for item in self.nats.list("signing_keys")? {
            // The library decodes every number in this list as float64, even in items that it then skips.
            if !item.fits_floats() {
                return Err(Rejection::FieldType {
                    field: path,
                    wanted: "keys and scopes, without numbers out of range",
                });
            }
            match item {
                Json::Text(key) => keys.push(SigningKey { key }),
                Json::Object(_) => keys.push(SigningKey {
                    key: scope(item, &path)?,
                }),
                _ => {}
            }
        }
        Ok(keys)
    }
}

fn jetstream(limits: &Fields<'_, '_>) -> Result<(), Rejection> {
    for name in JETSTREAM {
        limits.int(name)?;
    }
    limits.bool("max_bytes_required").map(drop)
}

/// The key of a scoped signing key. Reads all other fields only to check their types.
fn scope<'j>(json: &'j Json<'_>, path: &str) -> Result<&'j str, Rejection> {
    let scope = Fields::of(json, path, &["kind", "key", "role", "template", "description"])?;
    if scope.text("kind")? != "user_scope" {
        return Err(Rejection::FieldType {
            field: scope.path("kind"),
            wanted: "\"user_scope\"",
        });
    }
    scope.text("role")?;
    scope.text("description")?;
    let template = scope.fields("template", USER_LIMITS)?;
    let response = permission_lists(&template)?.2;
    for (fields, names) in [(&template, NATS_LIMITS), (&response, RESPONSE)] {
        for name in names {
            fields.int_through_float(name)?;
        }
    }
    user_limits(&template)?;
    scope.text("key")
}

/// The fields that a user and the template of a scope have in common (jwt `UserPermissionLimits`).
pub(super) const USER_LIMITS: &[&str] = &[
    "pub",
    "sub",
    "resp",
    "src",
    "times",
    "times_location",
    "subs",
    "data",
    "payload",
    "bearer_token",
    "proxy_required",
    "allowed_connection_types",
];

/// Checks the types of those fields, except of permissions and numbers, which a scope reads in another way.
pub(super) fn user_limits(fields: &Fields<'_, '_>) -> Result<(), Rejection> {
    fields.bool("bearer_token")?;
    fields.bool("proxy_required")?;
    fields.text("times_location")?;
    fields.texts("allowed_connection_types")?;
    sources(fields)?;
    times_of_day(fields).map(drop)
}

/// The addresses from which a user may connect: a list, or one string with commas (jwt `CIDRList`).
pub(super) fn sources<'j>(fields: &Fields<'j, '_>) -> Result<Vec<&'j str>, Rejection> {
    match fields.get("src") {
        Some(Json::Text(text)) => Ok(text.split(',').map(str::trim).filter(|text| !text.is_empty()).collect()),
        _ => fields.texts("src"),
    }
}

/// The beginnings and the ends of the times at which a user may connect.
pub(super) fn times_of_day<'j>(fields: &Fields<'j, '_>) -> Result<Vec<&'j str>, Rejection> {
    let mut times = Vec::new();
    for range in fields.list("times")? {
        let range = Fields::of(range, &fields.path("times"), &["start", "end"])?;
        times.extend([range.text("start")?, range.text("end")?]);
    }
    Ok(times)
}

/// How many responses are allowed, and for how long.
const RESPONSE: &[&str] = &["max", "ttl"];

/// Reads publish, subscribe and response permissions. Returns the subjects of `(pub, sub)`, the allowed before the
/// denied ones in each.
pub(in crate::jwt) fn permissions<'j>(fields: &Fields<'j, '_>) -> Result<(Vec<&'j str>, Vec<&'j str>), Rejection> {
    let (publish, subscribe, response) = permission_lists(fields)?;
    for name in RESPONSE {
        response.int(name)?;
    }
    Ok((publish, subscribe))
}

type PermissionLists<'j, 'a> = (Vec<&'j str>, Vec<&'j str>, Fields<'j, 'a>);

fn permission_lists<'j, 'a>(fields: &Fields<'j, 'a>) -> Result<PermissionLists<'j, 'a>, Rejection> {
    let read = |name: &str| -> Result<Vec<&'j str>, Rejection> {
        let permission = fields.fields(name, &["allow", "deny"])?;
        let mut subjects = permission.texts("allow")?;
        subjects.extend(permission.texts("deny")?);
        Ok(subjects)
    };
    Ok((read("pub")?, read("sub")?, fields.fields("resp", RESPONSE)?))
}

/// Warns of an expiry in milliseconds. An issue time or `nbf` in milliseconds refuses the token (`Common::check_times`).
pub(in crate::jwt) fn doubtful_times(common: &Common, issues: &mut Issues) {
    if common.expires_at >= MILLISECONDS {
        issues.warn("milliseconds", || {
            format!(
                "`exp` is {}, which in seconds is tens of thousands of years ahead; if it is in milliseconds and {} is meant, write it \
                 in seconds",
                common.expires_at,
                time(common.expires_at / 1000)
            )
        });
    }
}

/// Warns of the revocation of `user` at `at`, if that is in milliseconds.
pub(super) fn doubtful_revocation(user: &str, at: i64, issues: &mut Issues) {
    if at >= MILLISECONDS {
        issues.warn("milliseconds", || {
            format!(
                "the revocation of {:?} is dated {at}, which in seconds is tens of thousands of years ahead: no new creds let that user \
                 in again; if it is in milliseconds and {} is meant, write it in seconds",
                cut(user),
                time(at / 1000)
            )
        });
    }
}
