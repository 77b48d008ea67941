//! JSON as Go's `encoding/json` reads it, except that text which two readers could understand differently is refused.
//!
//! nats-server reads claims with that library, which ignores the case of keys and lets the last duplicate win. A strict
//! reader finds other claims in the same bytes. Therefore no key may occur twice in one object, a known field must be
//! spelled in its own case, and nothing may follow the value.
//!
//! serde_json is in the tree, and `explain.rs` prints claims with it, but it cannot read them here:
//!
//! - Its `Value` keeps the last of two equal keys silently. Here a duplicate key is refused by name.
//! - It compares keys exactly, so a key in odd case would be just an unknown field. Here it is refused (`fields.rs`),
//!   because nats-server takes it for the known one.
//! - It converts numbers. Go decides by their text: it takes `1` for an int64 and refuses `1.0` and `1e0`. Here a
//!   number stays text until a field asks for a type.
//! - It refuses bytes that are not UTF-8 and half surrogate pairs. Go replaces them with U+FFFD, and so does this room.
//!
//! The parser reads the text in one pass. Depth and number of values are limited.

mod fields;

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;

use crate::jwt::quote::cut;
use crate::jwt::rejection::Rejection;

pub(super) use fields::Fields;

/// How deep values may be nested. nats-server reads nothing deeper than 8; the limit bounds the recursion.
const MAX_DEPTH: usize = 128;

/// Objects up to this size are searched for duplicates pair by pair, larger ones (such as 10,000 revocations) with a
/// set.
const SMALL_OBJECT: usize = 16;

/// A JSON value. Strings borrow from the text where they have no escapes.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::jwt) enum Json<'a> {
    Null,
    Bool(bool),
    /// The number's text, as written.
    Number(&'a str),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// The text of `bytes`, each byte that is not UTF-8 replaced, as Go does when it reads a string.
pub(in crate::jwt) fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let mut text = String::new();
        for chunk in error.as_bytes().utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
        }
        text
    })
}

impl<'a> Json<'a> {
    /// Parses `text`, which must be one value and nothing else.
    pub(in crate::jwt) fn parse(text: &'a str) -> Result<Self, Rejection> {
        let mut parser = Parser::new(text);
        let value = parser.value(0)?;
        parser.skip_blanks();
        if parser.at < text.len() {
            Err(parser.fail("the end"))
        } else {
            Ok(value)
        }
    }

    /// The number, if it is written as Go reads an int64: without point and exponent.
    pub(in crate::jwt) fn int(&self) -> Option<i64> {
        if let Self::Number(text) = self {
            text.parse().ok()
        } else {
            None
        }
    }

    /// Whether every number in it fits a float64.
    pub(in crate::jwt) fn fits_floats(&self) -> bool {
        match self {
            Self::Number(text) => text.parse::<f64>().is_ok_and(f64::is_finite),
            Self::List(list) => list.iter().all(Self::fits_floats),
            Self::Object(entries) => entries.iter().all(|(_, value)| value.fits_floats()),
            Self::Null | Self::Bool(_) | Self::Text(_) => true,
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// How often a byte was looked at: at most a small multiple of the text's length (G12), which a test checks.
    peeks: Cell<usize>,
    /// Values read so far.
    values: usize,
}

/// The most values in one set of claims. A legitimate token of the largest size has some 40,000. A value takes up to
/// 150 bytes of memory for as little as two bytes of text.
const MAX_VALUES: usize = 100_000;

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            peeks: Cell::new(0),
            values: 0,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.peeks.set(self.peeks.get() + 1);
        self.text.as_bytes().get(self.at).copied()
    }

    fn fail(&self, wanted: &str) -> Rejection {
        let found = self.text[self.at..]
            .chars()
            .next()
            .map_or("the end".to_owned(), |c| format!("{c:?}"));
        Rejection::Json(format!(
            "not valid JSON: {found} at byte {} where {wanted} was expected",
            self.at
        ))
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json<'a>, Rejection> {
        if depth > MAX_DEPTH {
            return Err(Rejection::Json(format!("values are nested more than {MAX_DEPTH} deep")));
        }
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(Rejection::Json(format!("more than {MAX_VALUES} values")));
        }
        self.skip_blanks();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => self.string().map(Json::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                for (word, value) in [
                    ("null", Json::Null),
                    ("true", Json::Bool(true)),
                    ("false", Json::Bool(false)),
                ] {
                    if self.text[self.at..].starts_with(word) {
                        self.at += word.len();
                        return Ok(value);
                    }
                }
                Err(self.fail("a value"))
            }
        }
    }

    /// Steps over the comma or the closing bracket after a member; true if another member follows.
    fn another(&mut self, close: u8, wanted: &str) -> Result<bool, Rejection> {
        self.skip_blanks();
        let next = self.peek();
        if next != Some(b',') && next != Some(close) {
            return Err(self.fail(wanted));
        }
        self.at += 1;
        Ok(next == Some(b','))
    }

    /// Steps over an opening bracket, and over the closing one if that follows at once; true if it does.
    fn is_empty(&mut self, close: u8) -> bool {
        self.at += 1;
        self.skip_blanks();
        let empty = self.peek() == Some(close);
        self.at += usize::from(empty);
        empty
    }

    fn list(&mut self, depth: usize) -> Result<Json<'a>, Rejection> {
        let mut list = Vec::new();
        if !self.is_empty(b']') {
            loop {
                list.push(self.value(depth + 1)?);
                if !self.another(b']', "a comma or the list's end")? {
                    break;
                }
            }
        }
        Ok(Json::List(list))
    }

    fn object(&mut self, depth: usize) -> Result<Json<'a>, Rejection> {
        let mut object = Vec::new();
        if !self.is_empty(b'}') {
            loop {
                self.skip_blanks();
                if self.peek() != Some(b'"') {
                    return Err(self.fail("a key"));
                }
                let key = self.string()?;
                self.skip_blanks();
                if self.peek() != Some(b':') {
                    return Err(self.fail("a colon"));
                }
                self.at += 1;
                object.push((key, self.value(depth + 1)?));
                if !self.another(b'}', "a comma or the object's end")? {
                    break;
                }
            }
        }
        match duplicate(&object) {
            Some(key) => Err(Rejection::DuplicateKey(cut(key))),
            None => Ok(Json::Object(object)),
        }
    }

    fn number(&mut self) -> Result<Json<'a>, Rejection> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(Json::Number(&self.text[start..self.at]))
    }

    fn digits(&mut self) -> Result<(), Rejection> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.fail("a digit"));
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    /// The characters up to the next quote, backslash or control character.
    fn plain(&mut self) -> &'a str {
        let start = self.at;
        while !matches!(self.peek(), None | Some(b'"' | b'\\' | 0..=0x1f)) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Rejection> {
        self.at += 1;
        let mut text = Cow::Borrowed(self.plain());
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    self.at += 1;
                    let c = self.escape()?;
                    text.to_mut().push(c);
                    let more = self.plain();
                    text.to_mut().push_str(more);
                }
                _ => return Err(self.fail("a string's end")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Rejection> {
        let c = match self.peek() {
            Some(c @ (b'"' | b'\\' | b'/')) => char::from(c),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.fail("an escape")),
        };
        self.at += 1;
        Ok(c)
    }

    /// Reads the digits after `\u`. A surrogate without its other half becomes the replacement character, as in Go.
    fn unicode(&mut self) -> Result<char, Rejection> {
        let first = self.hex()?;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with("\\u") {
            let back = self.at;
            self.at += 2;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Result<u32, Rejection> {
        let mut code = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|byte| char::from(byte).to_digit(16)) else {
                return Err(self.fail("a hexadecimal digit"));
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }
}

fn duplicate<'o>(object: &'o [(Cow<'_, str>, Json<'_>)]) -> Option<&'o str> {
    if object.len() <= SMALL_OBJECT {
        let twice =
            |(at, (key, _)): (usize, &(Cow<'_, str>, Json<'_>))| object[..at].iter().any(|(other, _)| other == key);
        let at = object.iter().enumerate().position(twice)?;
        return Some(&object[at].0);
    }
    let mut seen = HashSet::with_capacity(object.len());
    object
        .iter()
        .map(|(key, _)| key.as_ref())
        .find(|key| !seen.insert(*key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Option<&'static str> {
        Json::parse(text).err().map(|rejection| rejection.code())
    }

    #[test]
    fn json_that_two_readers_could_understand_differently_is_refused() {
        for text in [
            "{\"sub\":1,\"sub\":2}",
            "{\"a\":{\"x\":1,\"\\u0078\":2}}",
            "[{\"k\":0,\"k\":0}]",
        ] {
            assert_eq!(code(text), Some("duplicate-key"), "{text}");
        }
        for key in ["SUB", "Sub", "\u{17f}ub"] {
            let text = format!("{{\"{key}\":1}}");
            let json = Json::parse(&text).unwrap();
            let refused = Fields::of(&json, "", &["sub"]).err().map(|rejection| rejection.code());
            assert_eq!(refused, Some("odd-case"), "{key}");
        }
    }

    #[test]
    fn a_large_object_is_searched_for_duplicates_too() {
        let mut text: String = (0..100).map(|n| format!("\"k{n}\":0,")).collect();
        text.push_str("\"k50\":1");
        assert_eq!(code(&format!("{{{text}}}")), Some("duplicate-key"), "k50 twice");
    }

    #[test]
    fn invalid_json_is_refused_with_its_position() {
        for text in [
            "",
            " ",
            "{",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "01",
            "1.",
            "1e",
            "-",
            "+1",
            ".5",
            "nul",
            "\"\\x\"",
            "\"\\u12\"",
            "\"",
            "\"a\nb\"",
            "{} {}",
            "[1 2]",
            "{\"a\":1,}",
            "\u{feff}{}",
        ] {
            assert_eq!(code(text), Some("json"), "{text:?}");
        }
        let said = Json::parse("{\"a\":x}").expect_err("x is no value").to_string();
        assert!(said.contains("'x' at byte 5"), "{said}");
        assert_eq!(code(&"[".repeat(100_000)), Some("json"));
    }

    #[test]
    fn strings_are_read_as_go_reads_them() {
        for (text, wanted) in [
            ("\"\\ud83d\\ude00\"", "\u{1f600}"),
            ("\"\\ud83d\"", "\u{fffd}"),
            ("\"\\ud83dx\"", "\u{fffd}x"),
            ("\"\\ud83d\\u0041\"", "\u{fffd}A"),
            ("\"\\ude00\"", "\u{fffd}"),
            ("\"a\\/\\n\\\"\"", "a/\n\""),
        ] {
            assert_eq!(Json::parse(text), Ok(Json::Text(Cow::Borrowed(wanted))), "{text}");
        }
        assert_eq!(text_of(b"a\xe2\x82b".to_vec()), "a\u{fffd}\u{fffd}b");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_with_a_few_looks_at_each_byte(text in "([\\[\\]{},: 0-9eE.+-]|\"|null|true|\\\\ud83d|\\\\u0041|\\\\|[a-z]|\\PC){0,300}") {
            let mut parser = Parser::new(&text);
            let _ = parser.value(0);
            proptest::prop_assert!(parser.peeks.get() <= 12 * (text.len() + 1), "{} for {} bytes", parser.peeks.get(), text.len());
        }
    }
}
