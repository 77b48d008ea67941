//! A user's creds, as the official client reads them (nkeys `creds_utils.go`): blocks between BEGIN and END lines, or
//! bare lines where an editor or a secret store has left no others.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use async_nats::{AuthError, ConnectOptions};
use nkeys::{KeyPair, KeyPairType};

use crate::jwt::Token;

/// A creds file holds a user JWT and a seed, 2 KiB; this is room for a user with very many permissions.
const MAX_CREDS_BYTES: u64 = 256 * 1024;

/// The JWT and the key of a user.
#[derive(Debug)]
pub(super) struct Creds {
    token: String,
    key: KeyPair,
    claims: serde_json::Value,
}

impl Creds {
    /// Reads the file at `path`; an error names it and what is wrong with it, and never shows any of it.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let unusable = |defect: &dyn Display| {
            format!(
                "cannot use the creds file {}: {defect}. It must hold the JWT and seed of a system-account user, as \
                 `nsc generate creds -a SYS -n USER` prints them",
                path.display()
            )
        };
        let size = std::fs::metadata(path).map_err(|error| unusable(&error))?.len();
        if size > MAX_CREDS_BYTES {
            return Err(unusable(&format!(
                "it has {size} bytes; creds have at most {MAX_CREDS_BYTES}"
            )));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unusable(&error))?;
        Self::parse(&text).map_err(|defect| unusable(&defect))
    }

    /// Reads the text of a creds file; an error is what is wrong with it, and never shows any of it.
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim_start_matches('\u{feff}');
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let blocks: Vec<&str> = lines
            .windows(2)
            .filter(|pair| is_rule(pair[0]) && !is_rule(pair[1]))
            .map(|pair| pair[1])
            .filter(|line| !line.contains(char::is_whitespace))
            .collect();
        let is_token = |line: &&&str| line.starts_with("eyJ");
        let is_seed = |line: &&&str| ["SU", "SA", "SO"].iter().any(|prefix| line.starts_with(prefix));
        let token = blocks.iter().find(is_token).or_else(|| lines.iter().find(is_token));
        let token = token.ok_or("it holds no user JWT (a line that begins with eyJ)")?;
        let seed = blocks.iter().find(is_seed).or_else(|| lines.iter().find(is_seed));
        let seed = seed.ok_or("it holds no seed of a user (a line that begins with SU)")?;
        let key = KeyPair::from_seed(seed).map_err(|_| "its seed is damaged: a character is wrong or missing")?;
        if key.key_pair_type() != KeyPairType::User {
            return Err(
                "its seed is that of an account or an operator, which does not belong here: replace that key"
                    .to_owned(),
            );
        }
        let token =
            Token::parse(token.as_bytes()).map_err(|rejection| format!("its user JWT is damaged: {rejection}"))?;
        let claims = token.unverified_claims().unwrap_or_default();
        if claims["sub"].as_str().is_some_and(|user| user != key.public_key()) {
            return Err("its seed is not that of the user whose JWT it holds".to_owned());
        }
        Ok(Self {
            token: token.as_str().to_owned(),
            key,
            claims,
        })
    }

    /// Options of a connection that logs in with them, and the unverified claims of the user's JWT; null if they cannot
    /// be read.
    pub(super) fn into_options(self) -> (ConnectOptions, serde_json::Value) {
        let key = Arc::new(self.key);
        let options = ConnectOptions::with_jwt(self.token, move |nonce| {
            let key = key.clone();
            async move { key.sign(&nonce).map_err(AuthError::new) }
        });
        (options, self.claims)
    }
}

/// The account that a user's claims name. In version 1, `issuer_account` is at the top level.
pub(super) fn account_in(claims: &serde_json::Value) -> Option<&str> {
    [
        &claims["nats"]["issuer_account"],
        &claims["issuer_account"],
        &claims["iss"],
    ]
    .into_iter()
    .find_map(|named| named.as_str().filter(|named| !named.is_empty()))
}

/// Whether a line is a BEGIN or END line: the client only asks for three dashes at both ends.
fn is_rule(line: &str) -> bool {
    line.len() > 6 && line.starts_with("---") && line.ends_with("---")
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_account_of_a_user_is_read_in_both_versions() {
        for (claims, account) in [
            (json!({"iss": "I", "nats": {"issuer_account": "A"}}), Some("A")),
            (json!({"iss": "I", "issuer_account": "A", "nats": {}}), Some("A")),
            (json!({"iss": "I", "nats": {"issuer_account": ""}}), Some("I")),
            (json!({"iss": "I"}), Some("I")),
            (json!({}), None),
        ] {
            assert_eq!(account_in(&claims), account, "{claims}");
        }
    }

    /// The forms are those that nkeys v0.4.17, `ParseDecoratedJWT` and `ParseDecoratedNKey`, reads, and bare lines.
    #[test]
    fn creds_are_read_however_a_secret_store_has_left_them() {
        let (account, user) = (KeyPair::new_account(), KeyPair::new_user());
        // The server is the first to verify it.
        let claims = format!(r#"{{"sub":"{}"}}"#, user.public_key());
        let parts = [r#"{"typ":"JWT","alg":"ed25519-nkey"}"#, &claims, "signature"];
        let token = parts.map(|part| BASE64URL_NOPAD.encode(part.as_bytes())).join(".");
        let seed = user.seed().expect("a private key");
        let block = |what: &str, text: &str| format!("-----BEGIN {what}-----\n{text}\n------END {what}------\n");
        let (jwt, key) = (block("NATS USER JWT", &token), block("USER NKEY SEED", &seed));
        let words = "\n*** IMPORTANT ***\nNKEYs are sensitive and should be treated as secrets.\n\n";
        let whole = format!("{jwt}{words}{key}");
        for (form, text) in [
            ("as nsc prints them", whole.clone()),
            ("without the last line's end", whole.trim_end().to_owned()),
            ("with the line ends of Windows", whole.replace('\n', "\r\n")),
            ("with a byte order mark", format!("\u{feff}{whole}")),
            ("with a bare seed", format!("{jwt}{seed}\n")),
            (
                "with a bare and indented seed without a line's end",
                format!("{jwt}  {seed}"),
            ),
            ("as two bare lines", format!("{token}\n{seed}")),
            ("with the seed first", format!("{key}{jwt}")),
            ("with empty lines", whole.replace('\n', "\n\n")),
            ("with a comment before", format!("# system user\n{whole}")),
        ] {
            let creds = Creds::parse(&text).unwrap_or_else(|error| panic!("{form}: {error}"));
            assert_eq!(
                (creds.token.as_str(), creds.key.public_key()),
                (token.as_str(), user.public_key()),
                "{form}"
            );
        }
        let other = KeyPair::new_user().seed().expect("a private key");
        let of_account = account.seed().expect("a private key");
        for (text, defect) in [
            (String::new(), "no user JWT"),
            (jwt.clone(), "no seed"),
            (key.clone(), "no user JWT"),
            (
                format!("{jwt}{}", block("USER NKEY SEED", &seed[..40])),
                "seed is damaged",
            ),
            (
                format!("{jwt}{}", block("USER NKEY SEED", &of_account)),
                "that of an account",
            ),
            (
                format!("{jwt}{}", block("USER NKEY SEED", &other)),
                "not that of the user",
            ),
            (format!("eyJ.x\n{seed}"), "user JWT is damaged"),
        ] {
            let error = Creds::parse(&text).expect_err(defect);
            assert!(error.contains(defect), "{error}, not {defect}");
            assert!(
                !error.contains(&seed[..20]) && !error.contains(&of_account[..20]),
                "it shows a seed: {error}"
            );
        }
    }
}
