//! Accounts: what their claims say, read as nats-server reads them.

use std::collections::BTreeMap;

use crate::jwt::json::Json;
use crate::jwt::nkey::{AccountKey, OperatorKey};
use crate::jwt::opened::Common;
use crate::jwt::quote::time;
use crate::jwt::rejection::{Issue, Rejection};
use crate::jwt::rules::{self, Account, Issues, revocations};

/// The fields of an account's token that this program uses. The others were validated and dropped.
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
    /// `jti`. Does not identify the bytes: the fields under `nats` are not part of this hash (jwt `claims.go`).
    pub id: String,
    /// Revoked users: public key or `*`, and the time, in Unix seconds, up to which their JWTs are void.
    pub revocations: BTreeMap<String, i64>,
    /// Keys that may sign users for it.
    pub signing_keys: Vec<String>,
    /// How many clients may be connected; -1 means any number.
    pub connections: i64,
    /// How many leaf nodes may be connected; -1 means any number.
    pub leaf_nodes: i64,
    /// What nats-server accepts, but the signer probably does not want; at most ten.
    pub warnings: Vec<Issue>,
}

impl AccountClaims {
    /// Why this JWT does not shut its account for good, if it does not: nats-server closes every connection of an account
    /// that allows none, and refuses new ones. `is_kept`: it is to be used now, and need not be valid for much longer.
    pub fn why_not_closing(&self, now: i64, is_kept: bool) -> Option<String> {
        let allowed = |limit: i64| match limit {
            -1 => "any number of".to_owned(),
            limit => limit.to_string(),
        };
        for (name, what, limit) in [
            ("conn", "connections", self.connections),
            ("leaf", "leaf nodes", self.leaf_nodes),
        ] {
            if limit != 0 {
                return Some(format!(
                    "limits.{name} allows {} {what}, and a closing JWT allows none (`nsc edit account --conns 0 --leaf-conns 0`)",
                    allowed(limit)
                ));
            }
        }
        let needed = if is_kept { 0 } else { CLOSING_SECONDS };
        if self.expires_at != 0 && self.expires_at < now.saturating_add(needed) {
            return Some(format!(
                "it expires at {}, and a closing JWT is kept for an unknown day: issue it without `exp`, or for more than a \
                 year",
                time(self.expires_at)
            ));
        }
        None
    }

    /// Whether a JWT of `user`, issued at `issued_at` (Unix seconds), is void: issued at or before the time at which
    /// its key or `*` was revoked (jwt `revocation_list.go`).
    pub fn is_revoked(&self, user: &str, issued_at: i64) -> bool {
        [user, "*"].iter().any(|key| {
            self.revocations
                .get(*key)
                .is_some_and(|revoked_at| *revoked_at >= issued_at)
        })
    }
}

/// How long a closing JWT is valid at least: one that has expired shuts nothing.
const CLOSING_SECONDS: i64 = 365 * 24 * 3600;

/// Every rule that an account's claims break, and what is doubtful about them.
pub(in crate::jwt) fn issues(json: &Json<'_>, common: &Common) -> Result<Issues, Rejection> {
    let mut issues = rules::account(&Account::open(json, common)?)?;
    rules::doubtful_times(common, &mut issues);
    Ok(issues)
}

/// Reads and validates an account's claims, whose signature and issuer were verified.
pub(in crate::jwt) fn read(
    json: &Json<'_>,
    common: &Common,
    operator: OperatorKey,
) -> Result<AccountClaims, Rejection> {
    let account_key = common.account()?;
    let account = Account::open(json, common)?;
    let mut found = rules::account(&account)?;
    rules::doubtful_times(common, &mut found);
    let (issues, warnings) = found.into_lists();
    if !issues.is_empty() {
        return Err(Rejection::Invalid { issues });
    }
    let revocations = revocations(&account.nats)?;
    let limits = account.limits()?;
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
        connections: limits.connections,
        leaf_nodes: limits.leaf_nodes,
        warnings,
    })
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
            connections: -1,
            leaf_nodes: -1,
            warnings: Vec::new(),
        };
        let one = claims(&[("U1", 100)]);
        assert!(one.is_revoked("U1", 99) && one.is_revoked("U1", 100));
        assert!(!one.is_revoked("U1", 101) && !one.is_revoked("U2", 1));
        let all = claims(&[("U1", 100), ("*", 200)]);
        assert!(all.is_revoked("U1", 150) && all.is_revoked("U2", 200));
        assert!(!all.is_revoked("U1", 201));
    }
}
