//! An account as an argument names it: by its key, or by its name where only one account has it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use super::pages::Pages;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::plain;
use crate::client::{AdminClient, ClientError};
use crate::jwt::{AccountKey, KEY_CHARS, without_seeds};

/// What an argument names.
#[derive(Debug, Clone)]
pub(in crate::cli) enum Named {
    /// An account by its key.
    Key(AccountKey),
    /// An account by the name in its token.
    Name(String),
}

/// Why the name names no account.
#[derive(Debug)]
pub(in crate::cli) enum NameError {
    /// The node gave no answer.
    NoAnswer(ClientError),
    /// No account has it, or several have it.
    Unusable(Failure),
}

impl FromStr for Named {
    type Err = String;

    /// What looks like a key must be one: a mistyped key is no name.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Cow::Owned(_) = without_seeds(text) {
            return Err("this is a private seed: treat it as exposed, and name the account".to_owned());
        }
        match text.parse() {
            Ok(key) => Ok(Self::Key(key)),
            Err(_) if text.is_empty() => Err("it is empty: give a name or a key".to_owned()),
            Err(_) if text.to_ascii_uppercase().parse::<AccountKey>().is_ok() => {
                Err("keys are written in upper case".to_owned())
            }
            Err(error) if text.len() == KEY_CHARS && text.starts_with('A') => Err(error.to_string()),
            Err(_) => Ok(Self::Name(text.to_owned())),
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "{key}"),
            Self::Name(name) => f.write_str(&plain(name)),
        }
    }
}

impl Named {
    /// The account's key; the node is asked for a name.
    pub(in crate::cli) async fn key(&self, client: &AdminClient) -> Result<AccountKey, NameError> {
        let name = match self {
            Self::Key(key) => return Ok(*key),
            Self::Name(name) => name,
        };
        let mut found = Vec::new();
        let mut pages = Pages::named(client, name);
        while let Some(page) = pages.next().await.map_err(NameError::NoAnswer)? {
            found.extend(page.into_iter().map(|account| account.account));
        }
        let unusable = |exit, sentence| Err(NameError::Unusable(Failure::new(exit, sentence)));
        match found.as_slice() {
            [key] => key.parse().map_err(|error: crate::jwt::KeyError| {
                NameError::Unusable(Failure::new(
                    Exit::Failed,
                    format!("the node's listing is damaged: {error}"),
                ))
            }),
            [] => unusable(
                Exit::NotFound,
                format!("no account is called {self}: see `jwtmesh account list`"),
            ),
            several => unusable(
                Exit::Usage,
                format!(
                    "{} accounts are called {self}, name one by its key: {}",
                    several.len(),
                    several.join(", ")
                ),
            ),
        }
    }
}

impl From<NameError> for Failure {
    fn from(error: NameError) -> Self {
        match error {
            NameError::NoAnswer(error) => error.into(),
            NameError::Unusable(failure) => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_key_is_no_name_and_a_name_that_begins_like_a_key_is_one() {
        let key = AccountKey::from_bytes([7; 32]).to_string();
        let mistyped = format!(
            "{}{}",
            &key[..KEY_CHARS - 1],
            if key.ends_with('A') { 'B' } else { 'A' }
        );
        assert!(matches!(key.parse(), Ok(Named::Key(_))));
        for (text, words) in [
            (mistyped.as_str(), "checksum"),
            (&key.to_lowercase(), "upper case"),
            ("", "empty"),
        ] {
            let error = text.parse::<Named>().expect_err(text);
            assert!(error.to_lowercase().contains(words), "{error}");
        }
        for name in ["payments", "A", "SYS", "APP", "AB CD", "ÄÖ"] {
            assert!(
                matches!(name.parse(), Ok(Named::Name(found)) if found == name),
                "{name}"
            );
        }
    }
}
