//! Builds claims and signs them, as nsc does.

use anyhow::Context;
use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha512_256};

/// The fields every token has, in the order of the Go library (jwt, `claims.go`), then those of its kind.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Claims {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    aud: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    exp: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    jti: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    iat: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    nbf: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    sub: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    nats: Value,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl Claims {
    /// An operator with a system account.
    pub fn operator(key: &KeyPair, name: &str, system: &KeyPair) -> Self {
        let nats = json!({ "system_account": system.public_key(), "type": "operator", "version": 2 });
        Self::of(&key.public_key(), name, nats)
    }

    /// The account with the public key `key`, without limits on NATS itself and without JetStream.
    pub fn account(key: &str, name: &str) -> Self {
        let nats = json!({
            "limits": {
                "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
                "wildcards": true, "conn": -1, "leaf": -1,
            },
            "default_permissions": { "pub": {}, "sub": {} },
            "authorization": {},
            "type": "account",
            "version": 2,
        });
        Self::of(key, name, nats)
    }

    /// A user that may publish and subscribe to these subjects. An empty list allows every subject.
    pub fn user(key: &KeyPair, name: &str, publish: &[&str], subscribe: &[&str]) -> Self {
        let allow = |subjects: &[&str]| {
            if subjects.is_empty() {
                json!({})
            } else {
                json!({ "allow": subjects })
            }
        };
        let nats = json!({
            "pub": allow(publish), "sub": allow(subscribe),
            "subs": -1, "data": -1, "payload": -1,
            "type": "user",
            "version": 2,
        });
        Self::of(&key.public_key(), name, nats)
    }

    /// A request to delete accounts, to be signed with `key`: an operator's, or one of its signing keys (nsc `cmd/push.go`).
    pub fn delete(key: &KeyPair, accounts: &[String]) -> Self {
        Self::of(&key.public_key(), "", json!({ "accounts": accounts, "version": 2 }))
    }

    /// The same claims of an account, but it allows no connection and every user is revoked up to `now`, Unix seconds: no
    /// server keeps a client of it, or takes another.
    pub fn closed(mut self, now: i64) -> Self {
        self.nats["limits"]["conn"] = json!(0);
        self.nats["limits"]["leaf"] = json!(0);
        self.revoke("*", now);
        self.exp = 0;
        self
    }

    fn of(key: &str, name: &str, nats: Value) -> Self {
        Self {
            sub: key.to_owned(),
            name: name.to_owned(),
            nats,
            ..Self::default()
        }
    }

    /// All claims of a token, unverified, so that fields which other tools wrote survive a change.
    pub fn of_token(token: &str) -> anyhow::Result<Self> {
        decode(token)
    }

    /// When they were issued, Unix seconds; 0 if they do not say.
    pub fn issued_at(&self) -> i64 {
        self.iat
    }

    /// The name of whom they are about.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same claims with an expiry, in Unix seconds.
    pub fn until(mut self, expires_at: i64) -> Self {
        self.exp = expires_at;
        self
    }

    /// Revokes every JWT that was issued to `user` (public key or `*`) up to `now`, in Unix seconds. One that reaches further
    /// already stays.
    pub fn revoke(&mut self, user: &str, now: i64) {
        if !self.nats["revocations"].is_object() {
            self.nats["revocations"] = json!({});
        }
        let until = &mut self.nats["revocations"][user];
        *until = json!(until.as_i64().map_or(now, |before| before.max(now)));
    }

    /// The same claims after `change` was applied to the fields under `nats`.
    pub fn with(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.nats);
        self
    }

    /// The claims as JSON, issued `now` by `issuer`: to be changed at will, then signed with [`encode`].
    pub fn into_value(mut self, issuer: &KeyPair, now: i64) -> anyhow::Result<Value> {
        self.issue(issuer, now)?;
        Ok(serde_json::to_value(&self)?)
    }

    fn issue(&mut self, issuer: &KeyPair, now: i64) -> anyhow::Result<()> {
        self.iat = self.iat.max(now);
        self.iss = issuer.public_key();
        self.jti = self.id()?;
        Ok(())
    }

    /// Signs the claims and returns the token. Its issue time is `now`, or that of the claims if it is later: an issue
    /// time must not go backwards.
    pub fn sign(mut self, issuer: &KeyPair, now: i64) -> anyhow::Result<String> {
        self.issue(issuer, now)?;
        encode(issuer, &self)
    }

    /// The `jti`: a hash of the other common fields, as Go encodes them. The fields under `nats` are not part of it.
    fn id(&self) -> anyhow::Result<String> {
        let common = Self {
            jti: String::new(),
            nats: Value::Null,
            ..self.clone()
        };
        let json = serde_json::to_string(&common)?
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026");
        Ok(BASE32_NOPAD.encode(&Sha512_256::digest(json.as_bytes())))
    }
}

/// A version 2 token of any `claims`, valid or not, signed by `signer`.
pub fn encode(signer: &KeyPair, claims: &impl Serialize) -> anyhow::Result<String> {
    let header = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let claims = BASE64URL_NOPAD.encode(&serde_json::to_vec(claims)?);
    let signed = format!("{header}.{claims}");
    let signature = signer.sign(signed.as_bytes()).context("cannot sign")?;
    Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
}

/// The claims of a token, unverified: for callers that change and sign them.
pub fn decode<T: for<'de> Deserialize<'de>>(token: &str) -> anyhow::Result<T> {
    let claims = token.trim().split('.').nth(1).context("a token has three parts")?;
    Ok(serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes())?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwt::{AccountClaims, OperatorClaims, Token, TrustedKeys, Verified};

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn our_own_rules_accept_what_is_signed_here() {
        let [operator, signing] = [KeyPair::new_operator(), KeyPair::new_operator()];
        let [system, app] = [KeyPair::new_account(), KeyPair::new_account()];
        let token = Claims::operator(&operator, "demo", &system)
            .with(|nats| nats["signing_keys"] = json!([signing.public_key()]))
            .sign(&operator, NOW)
            .unwrap();
        let verified = Verified::<OperatorClaims>::verify(Token::parse(token.as_bytes()).unwrap()).unwrap();
        assert_eq!(verified.claims().signing_keys.len(), 1);
        let trusted = TrustedKeys::new([verified]);
        for issuer in [&operator, &signing] {
            let mut claims = Claims::account(&app.public_key(), "APP");
            claims.revoke("*", NOW);
            let token = claims.sign(issuer, NOW).unwrap();
            let token = Token::parse(token.as_bytes()).unwrap();
            let verified = Verified::<AccountClaims>::verify(token, &trusted, NOW).unwrap();
            assert_eq!(verified.claims().name, "APP");
            assert_eq!(verified.claims().revocations.get("*"), Some(&NOW));
        }
        let foreign = Claims::account(&app.public_key(), "APP")
            .sign(&KeyPair::new_operator(), NOW)
            .unwrap();
        let foreign = Token::parse(foreign.as_bytes()).unwrap();
        assert!(Verified::<AccountClaims>::verify(foreign, &trusted, NOW).is_err());
    }

    #[test]
    fn a_revocation_keeps_what_others_wrote_and_never_goes_back_in_time() {
        let [operator, app] = [KeyPair::new_operator(), KeyPair::new_account()];
        let mut claims = Claims::account(&app.public_key(), "APP");
        claims.nats["description"] = json!("by hand");
        let token = claims.sign(&operator, NOW + 60).unwrap();
        let mut claims = Claims::of_token(&token).unwrap();
        claims.revoke("UX", NOW);
        claims.revoke("UX", NOW - 60);
        let again = Claims::of_token(&claims.sign(&operator, NOW).unwrap()).unwrap();
        assert_eq!(again.nats["description"], "by hand");
        assert_eq!(again.nats["revocations"]["UX"], NOW);
        assert_eq!(again.iat, NOW + 60);
    }

    #[test]
    fn g9_a_closed_account_is_one_that_our_own_rules_take_for_closed() {
        let [operator, app, system] = [KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account()];
        let trusted = Claims::operator(&operator, "O", &system).sign(&operator, NOW).unwrap();
        let trusted = Verified::<OperatorClaims>::verify(Token::parse(trusted.as_bytes()).unwrap()).unwrap();
        let trusted = TrustedKeys::new([trusted]);
        let why_not = |claims: Claims| {
            let token = claims.sign(&operator, NOW).unwrap();
            let token = Token::parse(token.as_bytes()).unwrap();
            let verified = Verified::<AccountClaims>::verify(token, &trusted, NOW).unwrap();
            verified.claims().why_not_closing(NOW, false)
        };
        let open = || Claims::account(&app.public_key(), "APP");
        assert_eq!(why_not(open().until(NOW + 60).closed(NOW)), None, "it expires no more");
        for (claims, words) in [
            (open(), "limits.conn allows any number of connections"),
            (
                open().closed(NOW).with(|nats| nats["limits"]["conn"] = json!(1)),
                "limits.conn allows 1 connections",
            ),
            (
                open().closed(NOW).with(|nats| nats["limits"]["leaf"] = json!(-1)),
                "limits.leaf allows any number of",
            ),
            (open().closed(NOW).until(NOW + 3600), "it expires at"),
        ] {
            let reason = why_not(claims).expect(words);
            assert!(reason.contains(words), "{reason}");
        }
        assert_eq!(
            why_not(open().closed(NOW).until(NOW + 400 * 24 * 3600)),
            None,
            "far enough"
        );
    }

    #[test]
    fn the_id_is_the_one_that_nsc_computes() {
        let claims = Claims::of_token(NSC_TOKEN).unwrap();
        assert_eq!(claims.id().unwrap(), claims.jti);
    }

    /// Made by nsc 2.15.0: `nsc add account -n "A<&>B"`.
    const NSC_TOKEN: &str = "\
        eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.eyJqdGkiOiJUWUJPNEJLWU1KNE9ZSDNCT1Y3S0hRUEs0RTJCUkFEN\
        VJXUFhGV1lYWFZLSFhHQVBRWEhBIiwiaWF0IjoxNzk1NTc2NDk1LCJpc3MiOiJPQUJDTUVVRlJTMldMNzQ3Q1pQNUM3NTZaTU9OT\
        Ec0Mko1RkVQSEhYWE9DNDRCUzZaVzcyVktURCIsIm5hbWUiOiJBXHUwMDNjXHUwMDI2XHUwMDNlQiIsInN1YiI6IkFBS0FTMkdQV\
        k82WE5QTU4ySlBGRDRHRURHNjJDQkk2TVRYSDVTNjNSV1gyM1FTSEFBSlZLSFRRIiwibmF0cyI6eyJsaW1pdHMiOnsic3VicyI6L\
        TEsImRhdGEiOi0xLCJwYXlsb2FkIjotMSwiaW1wb3J0cyI6LTEsImV4cG9ydHMiOi0xLCJ3aWxkY2FyZHMiOnRydWUsImNvbm4iO\
        i0xLCJsZWFmIjotMX0sImRlZmF1bHRfcGVybWlzc2lvbnMiOnsicHViIjp7fSwic3ViIjp7fX0sImF1dGhvcml6YXRpb24iOnt9L\
        CJ0eXBlIjoiYWNjb3VudCIsInZlcnNpb24iOjJ9fQ.aPHVw2X58JWTFkWEYCmzhLg8Ww0oxlswguehgbo3AePqMqveIZwDkEh3Lb\
        VSGIwB3R9TXu-nK7w8oen_uWt9DQ";
}
