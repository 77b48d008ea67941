//! Rules of an operator (jwt `operator_claims.go`): those without which nats-server does not start
//! (`validateTrustedOperators`). The library also judges URLs, which nats-server does not; they are warnings here.

use super::issues::Issues;
use super::url::Url;
use crate::jwt::json::Fields;
use crate::jwt::nkey::{self, KeyKind};
use crate::jwt::quote::cut;
use crate::jwt::rejection::Rejection;

/// Every rule that an operator's `nats` breaks, and what is doubtful about it.
pub(in crate::jwt) fn operator(nats: &Fields<'_, '_>, v1: bool) -> Result<Issues, Rejection> {
    let mut issues = Issues::default();
    for key in nats.texts("signing_keys")? {
        if nkey::kind(key) != Some(KeyKind::Operator) {
            issues.add("signing-key", || {
                format!(
                    "the signing key {:?} is no operator public key (O...): remove it",
                    cut(key)
                )
            });
        }
    }
    let system = nats.text("system_account")?;
    if !system.is_empty() && nkey::kind(system) != Some(KeyKind::Account) {
        issues.add("system-account", || {
            format!(
                "the system account {:?} is no account public key (A...): name it by its key",
                cut(system)
            )
        });
    }
    urls(nats, &mut issues)?;
    let version = if v1 { "" } else { nats.text("assert_server_version")? };
    if !version.is_empty() && !is_version(version) {
        issues.add("operator-version", || {
            format!(
                "assert_server_version {:?} is no version: write it as 2.10.0",
                cut(version)
            )
        });
    }
    Ok(issues)
}

/// nats-server reads the `account_server_url` only where its configuration has no resolver, and ignores one that it
/// cannot parse (`opts.go`). It never reads the `operator_service_urls`; nsc offers them to clients.
fn urls(nats: &Fields<'_, '_>, issues: &mut Issues) -> Result<(), Rejection> {
    let server = nats.text("account_server_url")?;
    let defect = match Url::parse(server) {
        _ if server.is_empty() => None,
        Err(defect) => Some(defect),
        Ok(url) if url.scheme.is_empty() => Some("it lacks a scheme"),
        // nsc pushes over both.
        Ok(url) if !matches!(url.scheme.as_str(), "http" | "https" | "nats" | "tls" | "ws" | "wss") => {
            Some("its scheme is neither one of HTTP nor of NATS")
        }
        Ok(_) => None,
    };
    if let Some(defect) = defect {
        issues.warn("operator-url", || {
            format!(
                "the account_server_url {:?} cannot be used, because {defect}: nats-server needs a `resolver` of its own, \
                 and `nsc push` a URL; write https://HOST:PORT/jwt/v1",
                without_user(server)
            )
        });
    }
    for url in nats.texts("operator_service_urls")? {
        if let Some(defect) = service_url_defect(url) {
            issues.warn("operator-url", || {
                format!(
                    "the operator_service_url {:?} breaks a rule of nsc, because {defect}: write nats://HOST:PORT, one in \
                     each text",
                    without_user(url)
                )
            });
        }
    }
    Ok(())
}

/// `url`, shortened, without its credentials: a warning goes into the log.
fn without_user(url: &str) -> String {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    match url.rfind('@') {
        Some(at) if at >= after_scheme => cut(&format!("{}***{}", &url[..after_scheme], &url[at..])),
        _ => cut(url),
    }
}

fn service_url_defect(text: &str) -> Option<&'static str> {
    match Url::parse(text) {
        _ if text.is_empty() => None,
        Err(defect) => Some(defect),
        Ok(url) if url.has_user => Some("it holds credentials"),
        Ok(url) if !url.path.is_empty() => Some("it has a path"),
        Ok(url) if !matches!(url.scheme.as_str(), "nats" | "tls" | "ws" | "wss") => {
            Some("its scheme is not nats, tls, ws or wss")
        }
        Ok(_) => None,
    }
}

/// Three numbers, none negative.
fn is_version(text: &str) -> bool {
    let numbers: Vec<Option<i64>> = text.split('.').map(|part| part.parse().ok()).collect();
    numbers.len() == 3 && numbers.iter().all(|number| number.is_some_and(|number| number >= 0))
}
