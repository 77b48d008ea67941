//! Accounts: what their claims say, read as nats-server reads them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::claims::Common;
use super::json::{Fields, Json};
use super::nkey::{AccountKey, OperatorKey};
use super::rejection::{Issue, Rejection};
use super::rules;

/// What an account's token says, as far as this program needs it; the rest was validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountClaims {
    /// The account.
    pub account: AccountKey,
    /// The operator for whom it was signed.
    pub operator: OperatorKey,
    /// The key that signed it: the operator's identity key or one of its signing keys.
    pub issuer: String,
    /// The name.
    pub name: String,
    /// `iat`, Unix seconds.
    pub issued_at: i64,
    /// `exp`, Unix seconds; 0 means never.
    pub expires_at: i64,
    /// `nbf`, Unix seconds; 0 means at once.
    pub not_before: i64,
    /// `jti`. Not an identity of the bytes: it ignores the body of the claims (jwt `claims.go`).
    pub id: String,
    /// Revoked users: public key or `*`, and the time up to which their JWTs are void.
    pub revocations: BTreeMap<String, i64>,
    /// Keys that may sign users for it.
    pub signing_keys: Vec<String>,
}

impl AccountClaims {
    /// Whether a JWT of `user`, issued at `issued_at`, is void: issued at or before the time its key or `*` was
    /// revoked at (jwt `revocation_list.go`).
    pub fn is_revoked(&self, user: &str, issued_at: i64) -> bool {
        [user, "*"].iter().any(|key| {
            self.revocations
                .get(*key)
                .is_some_and(|revoked_at| *revoked_at >= issued_at)
        })
    }
}

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

/// What an import or export carries. Absent is a validation error, anything else a decoding one, as in Go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    Missing,
    Stream,
    Service,
}

impl Traffic {
    pub(super) fn read(fields: &Fields<'_, '_>, name: &str) -> Result<Self, Rejection> {
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

/// The limits that other rules need; -1 means none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    pub(super) imports: i64,
    pub(super) exports: i64,
    pub(super) wildcards: bool,
    pub(super) blank_tier: bool,
}

/// A key that may sign users, with a scope or without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SigningKey<'j> {
    pub(super) key: &'j str,
}

const NATS_LIMITS: &[&str] = &["subs", "data", "payload"];
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
pub(super) struct Account<'j, 'a> {
    pub(super) nats: Fields<'j, 'a>,
    pub(super) subject: &'j str,
    pub(super) v1: bool,
}

impl<'j, 'a> Account<'j, 'a> {
    fn open(json: &'j Json<'a>, common: &'j Common) -> Result<Self, Rejection> {
        let top = Fields::of(json, "", &[])?;
        let v1 = common.version == 1;
        Ok(Account {
            nats: top.fields("nats", if v1 { ACCOUNT_V1 } else { ACCOUNT })?,
            subject: &common.subject,
            v1,
        })
    }
}

/// Every rule that an account's claims break.
pub(super) fn issues(json: &Json<'_>, common: &Common) -> Result<Vec<Issue>, Rejection> {
    rules::account(&Account::open(json, common)?)
}

/// Reads and validates an account's claims, whose signature and issuer were verified.
pub(super) fn read(json: &Json<'_>, common: &Common, operator: OperatorKey) -> Result<AccountClaims, Rejection> {
    let account_key = common.account()?;
    let account = Account::open(json, common)?;
    let issues = rules::account(&account)?;
    if !issues.is_empty() {
        return Err(Rejection::Invalid { issues });
    }
    let revocations = revocations(&account.nats)?;
    Ok(AccountClaims {
        account: account_key,
        operator,
        issuer: common.issuer.clone(),
        name: common.name.clone(),
        issued_at: common.issued_at,
        expires_at: common.expires_at,
        not_before: common.not_before,
        id: common.id.clone(),
        revocations: revocations.into_iter().map(|(key, at)| (key.to_string(), at)).collect(),
        signing_keys: account
            .signing_keys()?
            .into_iter()
            .map(|signer| signer.key.to_owned())
            .collect(),
    })
}

/// A revocation list: public key or `*` -> Unix seconds.
pub(super) fn revocations<'j, 'a>(fields: &Fields<'j, 'a>) -> Result<Vec<(&'j Cow<'a, str>, i64)>, Rejection> {
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
    pub(super) fn limits(&self) -> Result<Limits, Rejection> {
        let limits = self.nats.fields("limits", if self.v1 { LIMITS_V1 } else { LIMITS })?;
        for name in NATS_LIMITS.iter().chain(&["conn", "leaf"]) {
            limits.int(name)?;
        }
        let mut read = Limits {
            imports: limits.int("imports")?,
            exports: limits.int("exports")?,
            wildcards: limits.bool("wildcards")?,
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
        // No rule against tiers beside flat limits: where there are tiers, the library drops the flat ones first.
        Ok(read)
    }

    /// The keys that may sign users. What is neither a string nor an object is passed over, as in Go.
    pub(super) fn signing_keys(&self) -> Result<Vec<SigningKey<'j>>, Rejection> {
        if self.v1 {
            let keys = self.nats.texts("signing_keys")?;
            return Ok(keys.into_iter().map(|key| SigningKey { key }).collect());
        }
        let path = self.nats.path("signing_keys");
        let mut keys = Vec::new();
        for item in self.nats.list("signing_keys")? {
            // The library reads this list into float64, whatever comes of the items.
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

/// A scoped signing key: reads all of it for its types, and gives the key.
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
    let template = scope.fields(
        "template",
        &[
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
        ],
    )?;
    let response = permission_lists(&template)?.2;
    for (fields, names) in [(&template, NATS_LIMITS), (&response, RESPONSE)] {
        for name in names {
            fields.int_through_float(name)?;
        }
    }
    template.bool("bearer_token")?;
    template.bool("proxy_required")?;
    template.text("times_location")?;
    template.texts("allowed_connection_types")?;
    // A list, or one string with commas (jwt `CIDRList`).
    if !matches!(template.get("src"), Some(Json::Text(_))) {
        template.texts("src")?;
    }
    for range in template.list("times")? {
        let range = Fields::of(range, &template.path("times"), &["start", "end"])?;
        range.text("start")?;
        range.text("end")?;
    }
    scope.text("key")
}

/// How many responses are allowed, and for how long.
const RESPONSE: &[&str] = &["max", "ttl"];

/// Publish, subscribe and response permissions: `(pub, sub)`, each allowed then denied.
pub(super) fn permissions<'j>(fields: &Fields<'j, '_>) -> Result<(Vec<&'j str>, Vec<&'j str>), Rejection> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_revoked_up_to_and_including_the_second() {
        let claims = |revocations: &[(&str, i64)]| AccountClaims {
            account: AccountKey::from_bytes([1; 32]),
            operator: OperatorKey::from_bytes([2; 32]),
            issuer: String::new(),
            name: String::new(),
            issued_at: 0,
            expires_at: 0,
            not_before: 0,
            id: String::new(),
            revocations: revocations.iter().map(|(key, at)| ((*key).to_owned(), *at)).collect(),
            signing_keys: Vec::new(),
        };
        let one = claims(&[("U1", 100)]);
        assert!(one.is_revoked("U1", 99) && one.is_revoked("U1", 100));
        assert!(!one.is_revoked("U1", 101) && !one.is_revoked("U2", 1));
        let all = claims(&[("U1", 100), ("*", 200)]);
        assert!(all.is_revoked("U1", 150) && all.is_revoked("U2", 200));
        assert!(!all.is_revoked("U1", 201));
    }
}
