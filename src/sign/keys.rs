//! The key file of an operator.

use nkeys::{KeyPair, KeyPairType};

/// A key that signs.
pub type SigningKey = KeyPair;

/// Why a key file cannot be used to sign accounts. Says nothing of what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// There is no seed in it.
    #[error(
        "it holds no private key: name the file with the operator's seed, which begins with SO, as nsc keeps it under keys/O"
    )]
    NoSeed,
    /// It is the public half.
    #[error("it holds a public key only: name the file with the operator's seed, which begins with SO")]
    Public,
    /// The seed is damaged.
    #[error("the private key in it is damaged: its checksum does not fit")]
    Damaged,
    /// The seed is not an operator's.
    #[error("it holds the private key of a{}: an account's JWT is signed by a key of its operator, whose seed begins with SO", kind_of(.0))]
    NotAnOperator(char),
    /// There are several.
    #[error("it holds several private keys: name a file with one")]
    Several,
}

fn kind_of(letter: &char) -> &'static str {
    match letter {
        'A' => "n account",
        'U' => " user",
        'C' => " cluster",
        'N' => " server",
        _ => "nother kind",
    }
}

/// The key pair of an operator, its identity or one of its signing keys, from the `text` of a key file as nsc writes it:
/// the seed on a line of its own.
pub fn operator_key(text: &str) -> Result<SigningKey, KeyFileError> {
    let words = text.trim_start_matches('\u{feff}').split_whitespace();
    let mut seeds = words
        .clone()
        .filter(|word| word.len() > SEED_CHARS_AT_LEAST && word.starts_with('S'));
    let Some(seed) = seeds.next() else {
        let is_public = words.clone().any(|word| KeyPair::from_public_key(word).is_ok());
        return Err(if is_public {
            KeyFileError::Public
        } else {
            KeyFileError::NoSeed
        });
    };
    if seeds.next().is_some() {
        return Err(KeyFileError::Several);
    }
    let key = KeyPair::from_seed(seed).map_err(|_| KeyFileError::Damaged)?;
    if key.key_pair_type() != KeyPairType::Operator {
        return Err(KeyFileError::NotAnOperator(seed.chars().nth(1).unwrap_or('?')));
    }
    Ok(key)
}

/// A seed has 58 characters; shorter words are none.
const SEED_CHARS_AT_LEAST: usize = 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_holds_one_operator_seed() {
        let [operator, account, user] = [KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user()];
        let seed = |key: &KeyPair| key.seed().unwrap();
        for text in [
            seed(&operator),
            format!("{}\n", seed(&operator)),
            format!("\u{feff}  {}\r\n", seed(&operator)),
            format!(
                "-----BEGIN OPERATOR NKEY SEED-----\n{}\n------END OPERATOR NKEY SEED------\n",
                seed(&operator)
            ),
        ] {
            assert_eq!(operator_key(&text).unwrap().public_key(), operator.public_key());
        }
        let mut damaged = seed(&operator);
        let last = if damaged.ends_with('A') { "B" } else { "A" };
        damaged.replace_range(damaged.len() - 1.., last);
        for (text, error) in [
            (String::new(), KeyFileError::NoSeed),
            (operator.public_key(), KeyFileError::Public),
            (damaged, KeyFileError::Damaged),
            (seed(&account), KeyFileError::NotAnOperator('A')),
            (seed(&user), KeyFileError::NotAnOperator('U')),
            (
                format!("{}\n{}", seed(&operator), seed(&account)),
                KeyFileError::Several,
            ),
        ] {
            let found = operator_key(&text).map(|key| key.public_key());
            assert_eq!(found, Err(error));
            assert!(!error.to_string().contains("SOA"), "{error}");
        }
    }
}
