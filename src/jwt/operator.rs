//! Operators, and the question whom an account's token may be signed by.

use std::collections::{BTreeMap, BTreeSet};

use super::claims::Common;
use super::json::{Fields, Json};
use super::nkey::{AccountKey, Issuer, OperatorKey};
use super::quote::cut;
use super::rejection::Rejection;
use super::rules;
use super::token::Verified;

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

pub(super) fn read(json: &Json<'_>, common: &Common) -> Result<OperatorClaims, Rejection> {
    let wrong_key = |error: super::nkey::KeyError| Rejection::Subject(error.to_string());
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
    let issues = rules::operator(&nats, v1)?;
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
        // Nobody reads it in version 1.
        strict_signing_key_usage: !v1 && nats.bool("strict_signing_key_usage")?,
        system_account,
        account_server_url: nats.text("account_server_url")?.to_owned(),
    })
}

/// Who may issue accounts. Built only from verified operators, so that nobody forgets strictness.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys {
    operators: Vec<Verified<OperatorClaims>>,
    /// Every key that may sign here, by its text.
    issuers: BTreeMap<String, Issuer>,
}

impl TrustedKeys {
    /// The keys of `operators`.
    pub fn new(operators: impl IntoIterator<Item = Verified<OperatorClaims>>) -> Self {
        let operators: Vec<Verified<OperatorClaims>> = operators.into_iter().collect();
        let keys = operators.iter().flat_map(|operator| {
            let claims = operator.claims();
            claims.signing_keys.iter().chain([&claims.operator])
        });
        let issuers = keys.filter_map(|key| {
            let text = key.to_string();
            Issuer::parse(&text).map(|issuer| (text, issuer))
        });
        let issuers = issuers.collect();
        Self { operators, issuers }
    }

    /// The key `text`, if it may sign for one of the operators: the usual issuer, taken apart already.
    pub(super) fn issuer(&self, text: &str) -> Option<&Issuer> {
        self.issuers.get(text)
    }

    /// The operators, in the order given.
    pub fn operators(&self) -> &[Verified<OperatorClaims>] {
        &self.operators
    }

    /// The operator for whom the issuer of an account's claims may sign (nats-server `jwt.go`, `strict`).
    pub(super) fn operator_of(&self, common: &Common) -> Result<OperatorKey, Rejection> {
        let issuer = common.issuer.as_str();
        if let Ok(key) = issuer.parse::<OperatorKey>() {
            for operator in &self.operators {
                let claims = operator.claims();
                if claims.signing_keys.contains(&key) || (claims.operator == key && !claims.strict_signing_key_usage) {
                    return Ok(claims.operator);
                }
            }
            if let Some(strict) = self.operators.iter().find(|operator| operator.claims().operator == key) {
                return Err(Rejection::Strict {
                    issuer: issuer.to_owned(),
                    operator: cut(&strict.claims().name),
                    signing_keys: list(strict.claims().signing_keys.iter().map(ToString::to_string)),
                });
            }
        } else if common.issuer == common.subject {
            return Err(Rejection::SelfSigned {
                account: common.account()?,
                trusted: self.names(),
            });
        }
        Err(Rejection::Untrusted {
            issuer: issuer.to_owned(),
            trusted: self.names(),
        })
    }

    fn names(&self) -> String {
        list(self.operators.iter().map(|operator| {
            let claims = operator.claims();
            format!("{} {}", cut(&claims.name), claims.operator)
        }))
    }
}

/// The first few, for a sentence.
fn list(items: impl Iterator<Item = String>) -> String {
    const MOST: usize = 4;
    let all: Vec<String> = items.collect();
    match all.len() {
        0 => "none".to_owned(),
        count if count > MOST => format!("{} and {} more", all[..MOST].join(", "), count - MOST),
        _ => all.join(", "),
    }
}
