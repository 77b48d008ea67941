//! Operators: what their claims say.

use std::collections::BTreeSet;

use crate::jwt::json::{Fields, Json};
use crate::jwt::nkey::{AccountKey, KeyError, OperatorKey};
use crate::jwt::opened::Common;
use crate::jwt::rejection::{Issue, Rejection};
use crate::jwt::rules;

/// What an operator's token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorClaims {
    /// The identity key.
    pub operator: OperatorKey,
    /// The name.
    pub name: String,
    /// `iat`, Unix seconds.
    pub issued_at: i64,
    /// `exp`, Unix seconds; 0 means never. Nothing in NATS enforces it.
    pub expires_at: i64,
    /// 1 or 2.
    pub version: i64,
    /// The keys it lists to sign for it.
    pub signing_keys: BTreeSet<OperatorKey>,
    /// Whether accounts must be signed with one of those.
    pub strict_signing_key_usage: bool,
    /// The account whose users may use `$SYS`.
    pub system_account: Option<AccountKey>,
    /// Where its servers and nsc look for accounts, empty if it names none.
    pub account_server_url: String,
    /// What nats-server accepts, but the signer probably does not want; at most ten.
    pub warnings: Vec<Issue>,
}

impl OperatorClaims {
    /// Whether `key` may sign accounts for it (nats-server `jwt.go`, `strict`).
    pub fn may_issue(&self, key: OperatorKey) -> bool {
        self.signing_keys.contains(&key) || (self.operator == key && !self.strict_signing_key_usage)
    }
}

const OPERATOR: &[&str] = &[
    "signing_keys",
    "account_server_url",
    "operator_service_urls",
    "system_account",
    "assert_server_version",
    "strict_signing_key_usage",
    "tags",
    "type",
    "version",
];

/// The same in version 1.
const OPERATOR_V1: &[&str] = &[
    "signing_keys",
    "account_server_url",
    "operator_service_urls",
    "system_account",
    "tags",
    "type",
    "version",
];

pub(in crate::jwt) fn read(json: &Json<'_>, common: &Common) -> Result<OperatorClaims, Rejection> {
    let wrong_key = |error: KeyError| Rejection::Subject(error.to_string());
    let operator: OperatorKey = common.subject.parse().map_err(wrong_key)?;
    if common.issuer != common.subject {
        return Err(Rejection::IssuerKind {
            issuer: common.issuer.clone(),
            kind: "this operator",
            wanted: "its own identity key, the subject,",
        });
    }
    let top = Fields::of(json, "", &[])?;
    let v1 = common.version == 1;
    let nats = top.fields("nats", if v1 { OPERATOR_V1 } else { OPERATOR })?;
    let mut found = rules::operator(&nats, v1)?;
    rules::doubtful_times(common, &mut found);
    let (issues, warnings) = found.into_lists();
    if !issues.is_empty() {
        return Err(Rejection::Invalid { issues });
    }
    let system_account = match nats.text("system_account")? {
        "" => None,
        text => Some(text.parse().map_err(wrong_key)?),
    };
    let signing_keys = nats.texts("signing_keys")?;
    Ok(OperatorClaims {
        operator,
        name: common.name.clone(),
        issued_at: common.issued_at,
        expires_at: common.expires_at,
        version: common.version,
        signing_keys: signing_keys
            .into_iter()
            .map(|key| key.parse().map_err(wrong_key))
            .collect::<Result<_, _>>()?,
        // Version 1 does not have this field, so it is ignored there.
        strict_signing_key_usage: !v1 && nats.bool("strict_signing_key_usage")?,
        system_account,
        account_server_url: nats.text("account_server_url")?.to_owned(),
        warnings,
    })
}
