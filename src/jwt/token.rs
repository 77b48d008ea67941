//! Tokens as text: bounded, in one spelling, not yet verified.

use std::fmt;

use bytes::Bytes;

use super::quote::contains_seed;
use super::rejection::Rejection;

/// The longest token. nats-server's decoder takes 1 MiB (jwt `decoder.go`), but a line of a PACK answer is 57 bytes
/// longer than its token and must fit into a NATS message of 1 MiB.
pub const MAX_TOKEN_BYTES: usize = 1_048_576 - 57;

/// An encoded JWT of bounded size, in the one spelling under which it is stored, compared and served.
///
/// Its content is not verified. Clones share the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Bytes);

/// Never the token itself: it must not reach a log.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes)", self.0.len())
    }
}

impl Token {
    /// A token from the bytes that a client sent, without trailing line ends: nats-server would keep those, and treat
    /// the same token with and without them as two different ones.
    pub fn parse(sent: &[u8]) -> Result<Self, Rejection> {
        let end = sent
            .iter()
            .rposition(|byte| !matches!(byte, b'\r' | b'\n'))
            .map_or(0, |at| at + 1);
        let text = &sent[..end];
        if text.is_empty() {
            return Err(Rejection::Empty);
        }
        if text.len() > MAX_TOKEN_BYTES {
            return Err(Rejection::TooLarge {
                bytes: text.len(),
                limit: MAX_TOKEN_BYTES,
            });
        }
        if has_form_of_a_token(text) {
            Ok(Self(Bytes::copy_from_slice(text)))
        } else {
            Err(defect_of_form(text))
        }
    }

    /// A token from the content of a file, which may be decorated with BEGIN and END lines (nkeys `creds_utils.go`) and
    /// begin with a byte order mark, as editors on Windows write it.
    pub fn from_file_text(text: &str) -> Result<Self, Rejection> {
        let text = text.trim_start_matches('\u{feff}');
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let inner = match lines
            .clone()
            .find(|line| line.starts_with("---") && line.contains("BEGIN") && line.contains("JWT"))
        {
            None => text.trim(),
            Some(begin) => {
                lines.by_ref().find(|line| *line == begin);
                lines.next().unwrap_or_default()
            }
        };
        Self::parse(inner.as_bytes())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // The alphabet was checked: all of it is ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The claims, unverified; `None` if they are not JSON. Only for what is verified later.
    pub fn unverified_claims(&self) -> Option<serde_json::Value> {
        let claims = self.as_str().split('.').nth(1)?;
        let claims = data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?;
        serde_json::from_slice(&claims).ok()
    }

    /// The same as bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Whether `text` is three parts of URL-safe base64. Without an early return, so that the compiler can check many bytes
/// at once.
fn has_form_of_a_token(text: &[u8]) -> bool {
    let (mut dots, mut foreign) = (0, 0);
    for byte in text {
        dots += usize::from(*byte == b'.');
        foreign += usize::from(!(is_base64url(*byte) || *byte == b'.'));
    }
    dots == 2 && foreign == 0
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Why `text`, which is not three parts of base64, is refused.
fn defect_of_form(text: &[u8]) -> Rejection {
    // First of all: whatever a seed is wrapped in, it is exposed.
    if contains_seed(text) || text.windows(9).any(|window| window == b"SEED-----") {
        return Rejection::Seed;
    }
    if let Some(rejection) = other_format(text) {
        return rejection;
    }
    if text.windows(5).any(|window| window == b"-----") {
        return Rejection::Decorated;
    }
    let found = text.split(|byte| *byte == b'.').count();
    let parts = ["header", "claims", "signature"].into_iter();
    let foreign = parts
        .zip(text.split(|byte| *byte == b'.'))
        .find_map(|(part, chunk)| Some((part, *chunk.iter().find(|byte| !is_base64url(**byte))?)));
    match foreign {
        Some((part, byte)) if found == 3 => foreign_byte(part, byte),
        _ => Rejection::Chunks { found },
    }
}

/// What people send in place of a token. Checked before its parts are, since a count of parts or a foreign byte says
/// nothing about it.
fn other_format(text: &[u8]) -> Option<Rejection> {
    const FORM: &str = " (curl: --data-binary @FILE)";
    const PLAIN: &str = ", uncompressed";
    let begins = |magic: &[u8]| text.starts_with(magic);
    let contains = |words: &[u8]| text.windows(words.len()).any(|window| window == words);
    let (what, remedy) = if begins(&[0x1f, 0x8b]) {
        ("compressed with gzip", PLAIN)
    } else if begins(&[0x28, 0xb5, 0x2f, 0xfd]) {
        ("compressed with zstd", PLAIN)
    } else if begins(b"PK\x03\x04") {
        ("a zip file", "")
    } else if begins(b"--") && contains(b"Content-Disposition: form-data") {
        ("a form (multipart/form-data)", FORM)
    } else if (begins(b"{") || begins(b"[")) && contains(b"eyJ") {
        ("JSON", "; it is in this JSON")
    } else if begins(b"{") || begins(b"[") {
        ("JSON", "; the claims in it must be signed first")
    } else if begins(b"<") {
        ("HTML or XML", "")
    } else if text
        .iter()
        .position(|byte| *byte == b'=')
        .is_some_and(|at| text[at + 1..].starts_with(b"eyJ"))
    {
        ("a form (NAME=JWT)", FORM)
    } else if contains(b"PRIVATE KEY-----") {
        (
            "a PEM file with a private key",
            "; if the key left its machine, replace it",
        )
    } else if contains(b"-----BEGIN CERTIFICATE") {
        ("a PEM file with a certificate", "")
    } else {
        return None;
    };
    Some(Rejection::OtherFormat { what, remedy })
}

fn foreign_byte(part: &'static str, byte: u8) -> Rejection {
    let defect = match byte {
        b'=' => "it is padded with '='; cut the padding off before signing".to_owned(),
        b'+' | b'/' => "it uses the standard alphabet ('+' and '/'); use the URL-safe one ('-' and '_')".to_owned(),
        byte => format!("it holds the byte {:?}, which does not belong there", char::from(byte)),
    };
    Rejection::Base64 { part, defect }
}
