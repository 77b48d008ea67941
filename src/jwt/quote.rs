//! Foreign text and times, made safe to repeat in a sentence: short, and never a private key.

/// A time in Unix seconds, for people and for programs: RFC 3339, then the seconds in parentheses.
pub fn time(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(at) => format!("{at} ({seconds})"),
        Err(_) => seconds.to_string(),
    }
}

/// Foreign text, shortened so that a sentence can repeat it. If a word of it looks like a seed, none of it is repeated.
pub(super) fn cut(text: &str) -> String {
    const MOST: usize = 80;
    if text.split_whitespace().any(|word| looks_like_seed(word.as_bytes())) {
        return "(a private seed)".to_owned();
    }
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}...", &text[..at]),
    }
}

/// A seed is `S`, the letter of a kind, and base32; 58 characters (nkeys `strkey.go`).
pub(super) fn looks_like_seed(text: &[u8]) -> bool {
    (50..80).contains(&text.len())
        && text.first() == Some(&b'S')
        && matches!(text.get(1), Some(b'O' | b'A' | b'U' | b'N' | b'C' | b'X'))
        && text
            .iter()
            .all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'2'..=b'7'))
}
