//! Rules of an account, except its imports and exports (jwt `account_claims.go`, `signingkeys.go`, `types.go`).

use std::collections::BTreeMap;

use super::info::info;
use super::issues::Issues;
use super::mapping::Mapping;
use super::shape::{Account, doubtful_revocation, permissions, revocations};
use super::{exports, imports, mapping, subject};
use crate::jwt::json::Fields;
use crate::jwt::nkey::{self, KeyKind};
use crate::jwt::quote::cut;
use crate::jwt::rejection::Rejection;

/// Every rule that an account breaks (jwt `account_claims.go`), and what is doubtful about it.
pub(in crate::jwt) fn account(account: &Account<'_, '_>) -> Result<Issues, Rejection> {
    let mut issues = Issues::default();
    let nats = &account.nats;
    let imports = imports::check(nats, account.subject, &mut issues)?;
    let exports = exports::check(nats, &mut issues)?;
    let limits = account.limits()?;
    if limits.blank_tier {
        issues.add("tiered-limits", || {
            "a JetStream tier has no name: name it, such as R1 or R3".to_owned()
        });
    }
    over("import", imports, limits.imports, &mut issues);
    over("export", exports.count, limits.exports, &mut issues);
    if limits.exports != -1 && !limits.wildcards && exports.wildcards {
        issues.add("limits", || {
            "an export has a wildcard, but limits.wildcards is not set: set it (`nsc edit account --wildcard-exports`) or export without".to_owned()
        });
    }
    for signer in account.signing_keys()? {
        if nkey::kind(signer.key) != Some(KeyKind::Account) {
            issues.add("signing-key", || {
                format!("the signing key {:?} is no account public key (A...): remove it, or make one with `nsc edit account --sk generate`", cut(signer.key))
            });
        }
    }
    for (user, at) in revocations(nats)? {
        doubtful_revocation(user, at, &mut issues);
    }
    if !account.v1 {
        version_2(nats, &mut issues)?;
    }
    Ok(issues)
}

/// -1 means unlimited. An absent limit reads as 0, so a token without limits may have neither imports nor exports.
fn over(what: &str, count: usize, limit: i64, issues: &mut Issues) {
    if limit != -1 && i64::try_from(count).unwrap_or(i64::MAX) > limit {
        issues.add("limits", || {
            format!("it has {count} {what}s, limits.{what}s allows {limit}: raise the limit (-1 means unlimited, an absent limit means 0)")
        });
    }
}

/// Checks the fields that only version 2 has.
fn version_2(nats: &Fields<'_, '_>, issues: &mut Issues) -> Result<(), Rejection> {
    let (publish, subscribe) = permissions(&nats.fields("default_permissions", &["pub", "sub", "resp"])?)?;
    for subject in publish {
        subject::check_permission(subject, false, issues);
    }
    for subject in subscribe {
        subject::check_permission(subject, true, issues);
    }
    check_mappings(nats, issues)?;
    authorization(nats, issues)?;
    trace(nats, issues)?;
    info(nats, "the account", issues)?;
    let traffic = nats.text("cluster_traffic")?;
    if !matches!(traffic, "" | "system" | "owner") {
        issues.add("cluster-traffic", || {
            format!("cluster_traffic is {:?}: use \"system\" or \"owner\"", cut(traffic))
        });
    }
    Ok(())
}

/// The mappings of an account, which has some only in version 2.
pub(in crate::jwt) fn mappings<'j>(account: &Account<'j, '_>) -> Result<Vec<Mapping<'j>>, Rejection> {
    if account.v1 {
        return Ok(Vec::new());
    }
    mapping::read(&account.nats)
}

fn check_mappings(nats: &Fields<'_, '_>, issues: &mut Issues) -> Result<(), Rejection> {
    for mapping in mapping::read(nats)? {
        let from = mapping.from;
        subject::check(from, "a mapping", issues);
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for target in &mapping.targets {
            subject::check(target.subject, "a mapping's target", issues);
            if target.weight > 100 {
                issues.add("mapping", || {
                    format!(
                        "mapping {:?} has a weight of {}: use 1 to 100",
                        cut(from),
                        target.weight
                    )
                });
            }
            *sums.entry(target.cluster).or_default() += u64::from(target.weight);
        }
        let subjects: Vec<&str> = mapping.targets.iter().map(|target| target.subject).collect();
        if let Some(defect) = mapping::defect(from, &subjects) {
            issues.warn("mapping-not-installed", || {
                format!(
                    "nats-server does not install mapping {:?}, because {}, and keeps the one before it; with a directory resolver it \
                     refuses the whole JWT from 2.14.8 and 2.15.1 on",
                    cut(from),
                    cut(&defect)
                )
            });
        }
        if sums.values().any(|sum| *sum > 100) {
            issues.add("mapping", || {
                format!(
                    "the weights of mapping {:?} add up to more than 100 within one cluster: lower them (no weight counts as 100)",
                    cut(from)
                )
            });
        }
    }
    Ok(())
}

fn authorization(nats: &Fields<'_, '_>, issues: &mut Issues) -> Result<(), Rejection> {
    let authorization = nats.fields("authorization", &["auth_users", "allowed_accounts", "xkey"])?;
    let users = authorization.texts("auth_users")?;
    let accounts = authorization.texts("allowed_accounts")?;
    let xkey = authorization.text("xkey")?;
    if !accounts.is_empty() && users.is_empty() {
        issues.add("authorization", || {
            "authorization allows accounts but names no auth_users: add the users of the auth callout".to_owned()
        });
    }
    for user in users.iter().filter(|user| nkey::kind(user) != Some(KeyKind::User)) {
        issues.add("authorization", || {
            format!(
                "the auth user {:?} is no user public key (U...): name the user by its key",
                cut(user)
            )
        });
    }
    for account in &accounts {
        if *account == "*" && accounts.len() > 1 {
            issues.add("authorization", || {
                "allowed_accounts holds \"*\" beside others: keep \"*\" alone or the list".to_owned()
            });
        } else if *account != "*" && nkey::kind(account) != Some(KeyKind::Account) {
            issues.add("authorization", || {
                format!(
                    "the allowed account {:?} is no account public key (A...): name it by its key",
                    cut(account)
                )
            });
        }
    }
    if !xkey.is_empty() && nkey::kind(xkey) != Some(KeyKind::Curve) {
        issues.add("authorization", || {
            format!(
                "the xkey {:?} is no public curve key (X...): make one with `nsc generate nkey --curve`",
                cut(xkey)
            )
        });
    }
    Ok(())
}

fn trace(nats: &Fields<'_, '_>, issues: &mut Issues) -> Result<(), Rejection> {
    if nats.get("trace").is_none() {
        return Ok(());
    }
    let trace = nats.fields("trace", &["dest", "sampling"])?;
    let destination = trace.text("dest")?;
    subject::check(destination, "the trace destination", issues);
    if subject::has_wildcards(destination) {
        issues.add("trace", || {
            format!(
                "the trace destination {:?} has a wildcard: name one subject",
                cut(destination)
            )
        });
    }
    let sampling = trace.int("sampling")?;
    if !(0..=100).contains(&sampling) {
        issues.add("trace", || format!("the trace sampling is {sampling}: use 1 to 100"));
    }
    Ok(())
}
