//! Which keys may sign an account's token, and the type that proves that a token was verified.

use std::collections::BTreeMap;

use super::claims::account::{self, AccountClaims};
use super::claims::delete::{self, DeleteClaims};
use super::claims::operator::{self, OperatorClaims};
use super::nkey::{Issuers, OperatorKey};
use super::opened::{Common, Kind, Opened};
use super::quote::{cut, time};
use super::rejection::Rejection;
use super::token::Token;

/// Verified claims, with the token they came from. Only `verify` makes one, so its existence is the proof (I1).
#[derive(Debug, Clone, PartialEq)]
pub struct Verified<C> {
    token: Token,
    claims: C,
}

impl<C> Verified<C> {
    /// The token.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// What it says.
    pub fn claims(&self) -> &C {
        &self.claims
    }
}

impl Verified<AccountClaims> {
    /// Verifies an account's token as nats-server does for `trusted` operators: signature, issuer, subject, times
    /// and the blocking rules. `now` in Unix seconds.
    pub fn verify(token: Token, trusted: &TrustedKeys, now: i64) -> Result<Self, Rejection> {
        let opened = Opened::open(&token)?;
        let json = opened.json()?;
        let common = opened.verify(&json, Kind::Account, trusted.issuers())?;
        let operator = trusted.operator_of(&common)?;
        common.check_times(now)?;
        let claims = account::read(&json, &common, operator)?;
        Ok(Self { token, claims })
    }
}

impl Verified<DeleteClaims> {
    /// Verifies a request to delete accounts, as nats-server does: signature, subject, issuer and content. Its times count
    /// too, which nats-server does not look at. `now` in Unix seconds.
    pub fn verify(token: Token, trusted: &TrustedKeys, now: i64) -> Result<Self, Rejection> {
        let opened = Opened::open(&token)?;
        let json = opened.json()?;
        let common = opened.verify(&json, Kind::Delete, trusted.issuers())?;
        // Which bytes are signed nats-server reads from the header of generic claims, and this room from their version: for
        // version 2, which every library writes, that is the same.
        if common.version != 2 {
            return Err(Rejection::Version(common.version));
        }
        delete::check_self_signed(&common)?;
        let operator = trusted.operator_of(&common)?;
        common.check_times(now)?;
        let claims = delete::read(&json, &common, operator)?;
        Ok(Self { token, claims })
    }
}

impl Verified<OperatorClaims> {
    /// Verifies an operator's token, which must be signed by its own identity key. Its expiry is ignored, as in
    /// nats-server (`server.go`).
    pub fn verify(token: Token) -> Result<Self, Rejection> {
        let opened = Opened::open(&token)?;
        let json = opened.json()?;
        let common = opened.verify(&json, Kind::Operator, &Issuers::default())?;
        let claims = operator::read(&json, &common)?;
        Ok(Self { token, claims })
    }
}

/// The keys that may issue accounts. Built only from verified operators, so that no caller can forget that an operator
/// is strict (`strict_signing_key_usage`).
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys {
    operators: Vec<Verified<OperatorClaims>>,
    /// Every identity and signing key of the operators, parsed. Strictness is checked in `operator_of`.
    issuers: Issuers,
}

impl TrustedKeys {
    /// The keys of `operators`.
    pub fn new(operators: impl IntoIterator<Item = Verified<OperatorClaims>>) -> Self {
        let operators: Vec<Verified<OperatorClaims>> = operators.into_iter().collect();
        let keys = operators.iter().flat_map(|operator| {
            let claims = operator.claims();
            claims.signing_keys.iter().chain([&claims.operator])
        });
        let issuers = keys.map(ToString::to_string).collect();
        Self { operators, issuers }
    }

    /// Every identity and signing key of the operators, parsed once for checking signatures.
    pub(super) fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// A key that two operators list, which leaves open for whom it signs; `None` if every key has one owner.
    pub fn shared_key(&self) -> Option<SharedKey> {
        let mut owners = BTreeMap::new();
        for operator in &self.operators {
            let claims = operator.claims();
            for key in claims.signing_keys.iter().chain([&claims.operator]) {
                let owner = owners.entry(*key).or_insert(claims.operator);
                if *owner != claims.operator {
                    return Some(SharedKey {
                        key: *key,
                        operators: [*owner, claims.operator],
                    });
                }
            }
        }
        None
    }

    /// Whether an account that `key` signed is one of these operators'.
    pub fn may_issue(&self, key: OperatorKey) -> bool {
        self.operators.iter().any(|operator| operator.claims().may_issue(key))
    }

    /// The operator whose key `key` is.
    pub fn owner_of(&self, key: OperatorKey) -> Option<&OperatorClaims> {
        let mut claims = self.operators.iter().map(Verified::claims);
        claims.find(|claims| claims.operator == key || claims.signing_keys.contains(&key))
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
                if claims.may_issue(key) {
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

    /// The operators, in words.
    pub fn names(&self) -> String {
        list(self.operators.iter().map(|operator| {
            let claims = operator.claims();
            format!(
                "{} {}, by its JWT of {}",
                cut(&claims.name),
                claims.operator,
                time(claims.issued_at)
            )
        }))
    }
}

/// A key that two operators list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedKey {
    /// The key.
    pub key: OperatorKey,
    /// The operators.
    pub operators: [OperatorKey; 2],
}

/// The first few items, joined for a sentence.
fn list(items: impl Iterator<Item = String>) -> String {
    const MOST: usize = 4;
    let all: Vec<String> = items.collect();
    match all.len() {
        0 => "none".to_owned(),
        count if count > MOST => format!("{} and {} more", all[..MOST].join(", "), count - MOST),
        _ => all.join(", "),
    }
}
