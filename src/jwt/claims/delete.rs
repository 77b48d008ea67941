//! Requests to delete accounts: what an operator signs for it (nats-server `server/accounts.go`, `handleDeleteRequest`; nsc
//! `cmd/push.go`).

use crate::jwt::json::{Fields, Json};
use crate::jwt::nkey::{AccountKey, KeyError, OperatorKey};
use crate::jwt::opened::Common;
use crate::jwt::quote::cut;
use crate::jwt::rejection::{Issue, Rejection};

/// A request to delete accounts: generic claims of version 2, which the key of an operator has issued for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteClaims {
    /// The operator for whom it was signed.
    pub operator: OperatorKey,
    /// The key that signed it: the operator's identity key or one of its signing keys.
    pub issuer: String,
    /// `iat`, Unix seconds; 0 if it has none.
    pub issued_at: i64,
    /// The accounts, in the order given.
    pub accounts: Vec<AccountKey>,
}

/// Refuses claims that are not issued for their own issuer.
pub(in crate::jwt) fn check_self_signed(common: &Common) -> Result<(), Rejection> {
    if common.issuer == common.subject {
        return Ok(());
    }
    Err(Rejection::Subject(format!(
        "the request was issued by {} for {:?}, not self signed",
        common.issuer,
        cut(&common.subject)
    )))
}

/// Reads a request whose signature and issuer were verified.
pub(in crate::jwt) fn read(json: &Json<'_>, common: &Common, operator: OperatorKey) -> Result<DeleteClaims, Rejection> {
    let nats = Fields::of(json, "", &[])?.fields("nats", &["accounts"])?;
    let malformed = |detail: String| Rejection::Invalid {
        issues: vec![Issue {
            code: "malformed-delete",
            detail,
        }],
    };
    if nats.get("accounts").is_none() {
        let detail = "nats.accounts is missing: it lists the public keys of the accounts to delete";
        return Err(malformed(detail.to_owned()));
    }
    let account = |key: &str| {
        let wrong = |error: KeyError| malformed(format!("nats.accounts: {error}"));
        key.parse::<AccountKey>().map_err(wrong)
    };
    let accounts = nats.texts("accounts")?.into_iter().map(account);
    Ok(DeleteClaims {
        operator,
        issuer: common.issuer.clone(),
        issued_at: common.issued_at,
        accounts: accounts.collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use nkeys::KeyPair;
    use serde_json::{Value, json};

    use super::*;
    use crate::jwt::{OperatorClaims, Token, TrustedKeys, Verified};
    use crate::sign::{Claims, encode};

    const NOW: i64 = 1_800_000_000;

    fn trusted(operator: &KeyPair, signing: &KeyPair, strict: bool) -> TrustedKeys {
        let system = KeyPair::new_account();
        let token = Claims::operator(operator, "O", &system)
            .with(|nats| {
                nats["signing_keys"] = json!([signing.public_key()]);
                nats["strict_signing_key_usage"] = json!(strict);
            })
            .sign(operator, NOW)
            .unwrap();
        let token = Token::parse(token.as_bytes()).unwrap();
        TrustedKeys::new([Verified::<OperatorClaims>::verify(token).unwrap()])
    }

    fn claims(signer: &KeyPair, accounts: &Value) -> Value {
        let key = signer.public_key();
        json!({"iat": NOW, "iss": key, "sub": key, "nats": {"accounts": accounts, "version": 2}})
    }

    fn judged(signer: &KeyPair, claims: &Value, trusted: &TrustedKeys) -> Result<DeleteClaims, Rejection> {
        let token = Token::parse(encode(signer, claims).unwrap().as_bytes()).unwrap();
        Verified::<DeleteClaims>::verify(token, trusted, NOW).map(|verified| verified.claims().clone())
    }

    #[test]
    fn g8_a_delete_request_is_one_that_a_key_of_the_operator_has_issued_for_itself() {
        let [operator, signing, stranger] = [(); 3].map(|()| KeyPair::new_operator());
        let account = KeyPair::new_account();
        let accounts = json!([account.public_key()]);
        let lenient = trusted(&operator, &signing, false);
        for signer in [&operator, &signing] {
            let found = judged(signer, &claims(signer, &accounts), &lenient).unwrap();
            assert_eq!(found.operator.to_string(), operator.public_key());
            assert_eq!(
                (found.issued_at, found.accounts),
                (NOW, vec![account.public_key().parse().unwrap()])
            );
        }
        let strict = trusted(&operator, &signing, true);
        assert!(judged(&signing, &claims(&signing, &accounts), &strict).is_ok());
        let mut other = claims(&operator, &accounts);
        other["sub"] = json!(account.public_key());
        for (what, code, signer, claims, trusted) in [
            (
                "a strict operator's identity key",
                "strict",
                &operator,
                claims(&operator, &accounts),
                &strict,
            ),
            (
                "a stranger",
                "untrusted",
                &stranger,
                claims(&stranger, &accounts),
                &lenient,
            ),
            (
                "an account",
                "issuer-kind",
                &account,
                claims(&account, &accounts),
                &lenient,
            ),
            (
                "another's signature",
                "signature",
                &signing,
                claims(&operator, &accounts),
                &lenient,
            ),
            ("another subject", "subject", &operator, other, &lenient),
        ] {
            let refused = judged(signer, &claims, trusted).expect_err(what);
            assert_eq!(refused.code(), code, "{what}: {refused}");
        }
    }

    #[test]
    fn g8_a_delete_request_is_generic_timely_and_lists_account_keys() {
        let [operator, signing] = [(); 2].map(|()| KeyPair::new_operator());
        let (account, trusted) = (KeyPair::new_account(), trusted(&operator, &signing, false));
        let key = account.public_key();
        for (what, code, pointer, value) in [
            ("an account's JWT", "kind", "/nats/type", json!("account")),
            ("another version", "version", "/nats/version", json!(0)),
            ("six minutes ahead", "issued-in-future", "/iat", json!(NOW + 301)),
            ("expired", "expired", "/exp", json!(NOW - 1)),
            ("not yet valid", "not-yet-valid", "/nbf", json!(NOW + 1)),
            ("no accounts", "malformed-delete", "/nats/accounts", Value::Null),
            ("a text", "field-type", "/nats/accounts", json!(key)),
            (
                "an operator's key among them",
                "malformed-delete",
                "/nats/accounts",
                json!([key, operator.public_key()]),
            ),
        ] {
            let mut claims = claims(&operator, &json!([key]));
            let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
            claims.pointer_mut(parent).expect("an object")[field] = value;
            let refused = judged(&operator, &claims, &trusted).expect_err(what);
            assert_eq!(refused.code(), code, "{what}: {refused}");
        }
        let empty = judged(&operator, &claims(&operator, &json!([])), &trusted).unwrap();
        assert!(empty.accounts.is_empty());
        let mut undated = claims(&operator, &json!([key]));
        undated.as_object_mut().unwrap().remove("iat");
        assert_eq!(judged(&operator, &undated, &trusted).unwrap().issued_at, 0);
    }
}
