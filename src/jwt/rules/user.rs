//! Rules of a user (jwt `user_claims.go`, `types.go`). No node stores users; people have theirs explained.

use std::net::IpAddr;

use super::issues::Issues;
use super::shape::{NATS_LIMITS, USER_LIMITS, permissions, sources, times_of_day, user_limits};
use super::subject;
use crate::jwt::json::{Fields, Json};
use crate::jwt::nkey::{self, KeyKind, UserKey};
use crate::jwt::opened::Common;
use crate::jwt::quote::cut;
use crate::jwt::rejection::Rejection;

/// Every rule that a user's claims break. Whether its account still accepts it, only the account's own token says; and
/// the name of its time zone is not looked up.
pub(in crate::jwt) fn user(json: &Json<'_>, common: &Common) -> Result<Issues, Rejection> {
    let mut issues = Issues::default();
    if let Err(error) = common.subject.parse::<UserKey>() {
        issues.add("user-key", || format!("{error}: a user's `sub` is its public key"));
    }
    let top = Fields::of(json, "", &[])?;
    let nats = top.fields(
        "nats",
        &[USER_LIMITS, &["issuer_account", "tags", "type", "version"]].concat(),
    )?;
    let (publish, subscribe) = permissions(&nats)?;
    for subject in publish {
        subject::check_permission(subject, false, &mut issues);
    }
    for subject in subscribe {
        subject::check_permission(subject, true, &mut issues);
    }
    for name in NATS_LIMITS {
        nats.int(name)?;
    }
    user_limits(&nats)?;
    let account = match common.version {
        1 => top.text("issuer_account")?,
        _ => nats.text("issuer_account")?,
    };
    if !account.is_empty() && nkey::kind(account) != Some(KeyKind::Account) {
        issues.add("issuer-account", || {
            format!("the issuer_account {:?} is no account public key (A...)", cut(account))
        });
    }
    for source in sources(&nats)?.into_iter().filter(|source| !is_network(source)) {
        issues.add("source-address", || {
            format!(
                "the source {:?} is no network in CIDR form: write it as 192.0.2.0/24",
                cut(source)
            )
        });
    }
    for time in times_of_day(&nats)?.into_iter().filter(|time| !is_time_of_day(time)) {
        issues.add("time-range", || {
            format!("the time of day {:?} cannot be read: write it as 15:04:05", cut(time))
        });
    }
    Ok(issues)
}

fn is_network(text: &str) -> bool {
    let parts = text.split_once('/').and_then(|(address, bits)| {
        let bits: u8 = bits.parse().ok()?;
        Some((address.parse::<IpAddr>().ok()?, bits))
    });
    parts.is_some_and(|(address, bits)| bits <= if address.is_ipv4() { 32 } else { 128 })
}

fn is_time_of_day(text: &str) -> bool {
    let numbers: Vec<Option<u8>> = text.split(':').map(|part| part.parse().ok()).collect();
    matches!(numbers.as_slice(), [Some(0..=23), Some(0..=59), Some(0..=59)])
}
