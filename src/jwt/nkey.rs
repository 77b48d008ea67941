//! Public NATS keys by kind: text to bytes, bytes to text, and the signature check. Never a seed.
//!
//! The text form is base32 without padding of one prefix byte, 32 key bytes and a CRC-16, 56 characters
//! (nkeys, `strkey.go`). Each kind has its own type here, so that an operator's key cannot be used as an account's.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use nkeys::KeyPair;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::quote::without_seeds;

/// How many characters a public key has.
pub const KEY_CHARS: usize = 56;

/// Why a text is not the public key it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a public {kind} key: {reason}")]
pub struct KeyError {
    /// What was given, cut to the length of a key; never a seed.
    pub text: String,
    /// The kind of key that was wanted: "operator", "account" or "user".
    pub kind: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

fn parse(text: &str, kind: &'static str, letter: char, prefix: u8) -> Result<[u8; 32], KeyError> {
    let fail = |reason: String| KeyError {
        text: without_seeds(text).chars().take(KEY_CHARS).collect(),
        kind,
        reason,
    };
    if text.len() != KEY_CHARS {
        return Err(fail(format!("it has {} characters, a key has {KEY_CHARS}", text.len())));
    }
    if !text.starts_with(letter) {
        return Err(fail(format!("it does not begin with {letter}")));
    }
    match nkeys::from_public_key(text) {
        // The library maps prefixes it does not know to a kind, so the byte itself is compared.
        Ok((found, bytes)) if found == prefix => Ok(bytes),
        Ok(_) => Err(fail(format!("it does not begin with {letter}"))),
        Err(error) => Err(fail(format!("{error}"))),
    }
}

/// A parsed public key of any kind, to check signatures with. Parsing the text again would add a tenth to each check.
#[derive(Clone)]
struct Issuer {
    key: KeyPair,
    kind: KeyKind,
}

impl Issuer {
    /// Parses `text`; `None` if it is not a usable public key.
    fn parse(text: &str) -> Option<Self> {
        let kind = kind(text)?;
        let key = KeyPair::from_public_key(text).ok()?;
        Some(Self { key, kind })
    }

    /// Whether `signature` is the Ed25519 signature of `message` under this key.
    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        verify_with(&self.key, message, signature)
    }
}

/// Not the strict variant of the check: nats-server uses Go's `crypto/ed25519`, and both must agree.
fn verify_with(key: &KeyPair, message: &[u8], signature: &[u8]) -> bool {
    signature.len() == 64 && key.verify(message, signature).is_ok()
}

/// The keys that usually issue tokens, by their text, parsed once. Any other key is parsed each time it is used.
#[derive(Clone, Default)]
pub(super) struct Issuers(BTreeMap<String, Issuer>);

impl FromIterator<String> for Issuers {
    fn from_iter<I: IntoIterator<Item = String>>(texts: I) -> Self {
        let parsed = texts
            .into_iter()
            .filter_map(|text| Issuer::parse(&text).map(|issuer| (text, issuer)));
        Self(parsed.collect())
    }
}

impl Issuers {
    /// The kind of the key `text`, if it is one.
    pub(super) fn kind(&self, text: &str) -> Option<KeyKind> {
        self.0.get(text).map_or_else(|| kind(text), |issuer| Some(issuer.kind))
    }

    /// Whether `signature` is the Ed25519 signature of `message` under the key `text`.
    pub(super) fn verify(&self, text: &str, message: &[u8], signature: &[u8]) -> bool {
        match self.0.get(text) {
            Some(issuer) => issuer.verify(message, signature),
            None => verify(text, message, signature),
        }
    }
}

impl fmt::Debug for Issuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Whether `signature` is the Ed25519 signature of `message` under the public key `issuer` (text, of any kind).
pub fn verify(issuer: &str, message: &[u8], signature: &[u8]) -> bool {
    let key = KeyPair::from_public_key(issuer)
        .ok()
        .filter(|_| issuer.len() == KEY_CHARS);
    key.is_some_and(|key| verify_with(&key, message, signature))
}

/// What a public key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// `O...`
    Operator,
    /// `A...`
    Account,
    /// `U...`
    User,
    /// `N...`
    Server,
    /// `C...`
    Cluster,
    /// `X...`, for encryption
    Curve,
}

/// The kind of the public key `text`, if it is one.
pub fn kind(text: &str) -> Option<KeyKind> {
    if text.len() != KEY_CHARS {
        return None;
    }
    let raw = data_encoding::BASE32_NOPAD.decode(text.as_bytes()).ok()?;
    let (key, crc) = raw.split_at_checked(33)?;
    if crc != crc16(key).to_le_bytes() {
        return None;
    }
    // Anyone can forge signatures under a key of small order; nkeys refuses such keys too (`strkey.go`). Curve keys
    // (23) do not sign.
    if key[0] >> 3 != 23 && is_weak(&key[1..]) {
        return None;
    }
    match key[0] >> 3 {
        14 => Some(KeyKind::Operator),
        0 => Some(KeyKind::Account),
        20 => Some(KeyKind::User),
        13 => Some(KeyKind::Server),
        2 => Some(KeyKind::Cluster),
        23 => Some(KeyKind::Curve),
        _ => None,
    }
    .filter(|_| key[0] & 7 == 0)
}

/// The first byte of each encoding of a point of small order. Other keys, 97 in 100, need not be decompressed, which
/// takes 5 us: a token may list thousands of keys.
const FIRST_BYTES_OF_WEAK_KEYS: [u8; 7] = [0x00, 0x01, 0x26, 0xc7, 0xec, 0xed, 0xee];

/// Whether the key's point is of small order. Bytes that encode no point are not weak: no signature fits them.
fn is_weak(key: &[u8]) -> bool {
    if !FIRST_BYTES_OF_WEAK_KEYS.contains(&key[0]) {
        return false;
    }
    let key = <&[u8; 32]>::try_from(key).ok();
    let key = key.and_then(|key| ed25519_dalek::VerifyingKey::from_bytes(key).ok());
    key.is_some_and(|key| key.is_weak())
}

fn print(bytes: &[u8; 32], prefix: u8) -> String {
    let mut raw = Vec::with_capacity(35);
    raw.push(prefix);
    raw.extend_from_slice(bytes);
    let crc = crc16(&raw);
    raw.extend_from_slice(&crc.to_le_bytes());
    data_encoding::BASE32_NOPAD.encode(&raw)
}

/// CRC-16/XMODEM, as nkeys `crc16.go`. Uses a table, because every lookup checks a key.
fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = crc16_table();
    bytes.iter().fold(0u16, |crc, byte| {
        (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)]
    })
}

const fn crc16_table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

macro_rules! public_key {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $letter:literal, $prefix:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The key's 32 raw bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// A key from its 32 raw bytes, for rows read back from disk.
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                parse(text, $kind, $letter, $prefix).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&print(&self.0, $prefix))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        /// Text in readable formats, 32 bytes in binary ones.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                if to.is_human_readable() { to.collect_str(self) } else { self.0.serialize(to) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                if from.is_human_readable() {
                    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 32]>::deserialize(from).map(Self)
                }
            }
        }
    };
}

public_key!(
    /// The public key of an operator, identity or signing: `O...`.
    OperatorKey,
    "operator",
    'O',
    14 << 3
);
public_key!(
    /// The public key of an account, identity or signing: `A...`.
    AccountKey,
    "account",
    'A',
    0
);
public_key!(
    /// The public key of a user: `U...`.
    UserKey,
    "user",
    'U',
    20 << 3
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_prints_as_it_was_written() {
        for pair in [KeyPair::new_account(), KeyPair::new_account()] {
            let text = pair.public_key();
            assert_eq!(text.parse::<AccountKey>().expect("its own text").to_string(), text);
        }
        let text = KeyPair::new_operator().public_key();
        assert_eq!(text.parse::<OperatorKey>().expect("its own text").to_string(), text);
        assert!(text.parse::<AccountKey>().is_err(), "an operator key is no account key");
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let text = KeyPair::new_user().public_key();
        for at in 0..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'B' { b'C' } else { b'B' };
            let other = String::from_utf8(other).expect("ascii");
            assert!(other.parse::<UserKey>().is_err(), "{other} was taken for {text}");
        }
    }

    /// The y coordinates, least significant byte first, of the points of small order, some of them in two encodings.
    const SMALL_ORDER: [&str; 7] = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];

    #[test]
    fn a_key_of_small_order_is_refused_in_every_encoding() {
        for point in SMALL_ORDER {
            for sign in [0, 0x80] {
                let mut bytes = [0; 32];
                let length = data_encoding::HEXLOWER.decode_mut(point.as_bytes(), &mut bytes);
                assert_eq!(length.expect("hexadecimal digits"), 32);
                bytes[31] |= sign;
                assert_eq!(
                    kind(&OperatorKey::from_bytes(bytes).to_string()),
                    None,
                    "{point}, sign {sign}"
                );
            }
        }
        let sound = KeyPair::new_operator().public_key();
        assert_eq!(kind(&sound), Some(KeyKind::Operator));
    }
}
