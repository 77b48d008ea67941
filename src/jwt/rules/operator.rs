//! Rules of an operator (jwt `operator_claims.go`). nats-server never applies them; nsc and this program do.

use super::issues::Issues;
use super::url::Url;
use crate::jwt::json::Fields;
use crate::jwt::nkey::{self, KeyKind};
use crate::jwt::quote::cut;
use crate::jwt::rejection::{Issue, Rejection};

/// Every rule that an operator's `nats` breaks.
pub(in crate::jwt) fn operator(nats: &Fields<'_, '_>, v1: bool) -> Result<Vec<Issue>, Rejection> {
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
    let server = nats.text("account_server_url")?;
    let defect = match Url::parse(server) {
        Ok(url) if url.scheme.is_empty() && !server.is_empty() => Some("it lacks a scheme"),
        Ok(_) => None,
        Err(defect) => Some(defect),
    };
    if let Some(defect) = defect {
        issues.add("operator-url", || {
            format!(
                "the account_server_url {:?} cannot be used: {defect}; write https://HOST:PORT/jwt/v1",
                cut(server)
            )
        });
    }
    for url in nats.texts("operator_service_urls")? {
        if let Some(defect) = service_url_defect(url) {
            issues.add("operator-url", || {
                format!(
                    "the operator_service_url {:?} cannot be used: {defect}; write nats://HOST:PORT",
                    cut(url)
                )
            });
        }
    }
    let version = if v1 { "" } else { nats.text("assert_server_version")? };
    if !version.is_empty() && !is_version(version) {
        issues.add("operator-version", || {
            format!(
                "assert_server_version {:?} is no version: write it as 2.10.0",
                cut(version)
            )
        });
    }
    Ok(issues.into_list())
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
