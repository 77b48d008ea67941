//! Foreign text and times, made safe to repeat in a sentence: short, and never a private key.

use std::borrow::Cow;

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
    let mut rest = 0;
    while let Some(start) = text[rest..].find(|c: char| c.is_ascii_alphanumeric()) {
        let start = rest + start;
        let word = &text[start..];
        let end = word.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(word.len());
        rest = start + end;
        if looks_like_seed(&word.as_bytes()[..end]) {
            shown.push_str(&text[copied..start]);
            shown.push_str(SEED);
            copied = rest;
        }
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

/// A seed is `S`, the letter of a kind, and base32; 58 characters (nkeys `strkey.go`). One that was mistyped by a few
/// characters, or changed to lower case, gives as much away.
pub(super) fn looks_like_seed(text: &[u8]) -> bool {
    (50..80).contains(&text.len())
        && matches!(text[0], b'S' | b's')
        && b"OAUNCX".contains(&text[1].to_ascii_uppercase())
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'2'..=b'7'))
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
            ] {
                for (text, shown) in [
                    (seed.clone(), SEED.to_owned()),
                    (format!("cannot read {seed}: no"), format!("cannot read {SEED}: no")),
                    (format!("/a/{seed}.nk"), format!("/a/{SEED}.nk")),
                    (format!("'{seed}' \"{seed}\" é"), format!("'{SEED}' \"{SEED}\" é")),
                ] {
                    assert_eq!(without_seeds(&text), shown);
                    assert_eq!(cut(&text), SEED);
                }
            }
            let public = pair.public_key();
            for text in [public.as_str(), "SYS", "", "é", &"S".repeat(60), "SUPER-SYSTEM"] {
                assert_eq!(without_seeds(text), text);
            }
        }
    }
}
