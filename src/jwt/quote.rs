//! Foreign text and times, made safe to repeat in a sentence: short, and never a private key.

use std::borrow::Cow;
use std::ops::Range;

/// A time in Unix seconds, for people and for programs: RFC 3339, then the seconds in parentheses.
pub fn time(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(at) => format!("{at} ({seconds})"),
        Err(_) => seconds.to_string(),
    }
}

/// What stands for a seed where it must not be repeated.
pub(super) const SEED: &str = "(a private seed)";

/// `text` with every seed in it replaced.
///
/// For text that people typed, such as the arguments of a command: a seed in the place of a file or a key must not be
/// copied into a terminal's history or a CI log.
pub fn without_seeds(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut copied = 0;
    for seed in seeds(text.as_bytes()) {
        shown.push_str(&text[copied..seed.start]);
        shown.push_str(SEED);
        copied = seed.end;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    shown.push_str(&text[copied..]);
    Cow::Owned(shown)
}

/// Foreign text, shortened so that a sentence can repeat it. If it contains a seed, none of it is repeated.
pub(super) fn cut(text: &str) -> String {
    const MOST: usize = 80;
    if matches!(without_seeds(text), Cow::Owned(_)) {
        return SEED.to_owned();
    }
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}...", &text[..at]),
    }
}

/// Whether a seed is somewhere in `text`.
pub(super) fn contains_seed(text: &[u8]) -> bool {
    seeds(text).next().is_some()
}

/// The least that is taken for a seed, of 58 characters. A `jti` has 52 of the same alphabet, and may begin alike.
const SEED_CHARS: usize = 53;

/// Where seeds are in `text`: `S`, the letter of a kind, and base32 (nkeys `strkey.go`).
///
/// Digits that base32 does not have count too, and lower case, because a mistyped seed gives as much away. Other text
/// of one case is never that long: a token changes its case every few characters, and a public key begins otherwise.
fn seeds(text: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < text.len() {
            // A run of one case. It begins with a letter, because digits before a seed are not part of it.
            let is_lower = text[at].is_ascii_lowercase();
            let is_of_run = |byte: &&u8| {
                byte.is_ascii_digit() || byte.is_ascii_alphabetic() && byte.is_ascii_lowercase() == is_lower
            };
            let length = match text[at].is_ascii_alphabetic() {
                true => text[at..].iter().take_while(is_of_run).count(),
                false => 0,
            };
            let found = at..at + length;
            at += length.max(1);
            let word = &text[found.clone()];
            let is_seed = length >= SEED_CHARS
                && word[0].eq_ignore_ascii_case(&b'S')
                && b"OAUNCX".contains(&word[1].to_ascii_uppercase());
            if is_seed {
                return Some(found);
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use nkeys::{KeyPair, KeyPairType};

    use super::*;

    #[test]
    fn every_kind_of_seed_is_hidden_wherever_it_stands_and_nothing_else_is() {
        let kinds = [
            KeyPairType::Operator,
            KeyPairType::Account,
            KeyPairType::User,
            KeyPairType::Server,
            KeyPairType::Cluster,
        ];
        for kind in kinds {
            let pair = KeyPair::new(kind);
            let seed = pair.seed().expect("a new pair has one");
            for seed in [
                seed.clone(),
                seed.to_lowercase(),
                seed[..57].to_owned(),
                format!("{seed}A"),
                format!("{seed}{seed}"),
                format!("{}018{}", &seed[..20], &seed[23..]),
            ] {
                for (text, shown) in [
                    (seed.clone(), SEED.to_owned()),
                    (format!("cannot read {seed}: no"), format!("cannot read {SEED}: no")),
                    (format!("/a/{seed}.nk"), format!("/a/{SEED}.nk")),
                    (format!("a%20{seed}"), format!("a%20{SEED}")),
                    (format!("'{seed}' \"{seed}\" é"), format!("'{SEED}' \"{SEED}\" é")),
                ] {
                    assert_eq!(without_seeds(&text), shown);
                    assert_eq!(cut(&text), SEED);
                }
            }
            let public = pair.public_key();
            // A `jti` is 52 characters of base32, whatever they are.
            let jti = format!("SA{}", "7".repeat(50));
            for text in [jti.as_str(), public.as_str(), "SYS", "", "é", "SUPER-SYSTEM"] {
                assert_eq!(without_seeds(text), text);
            }
        }
    }
}
