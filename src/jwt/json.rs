//! JSON read so that nobody can read it differently: no key twice, no key in odd case, no trailing data.
//!
//! nats-server reads claims with Go's `encoding/json`, which matches keys without regard to case and lets the last
//! duplicate win. What such a reader and a strict one could disagree about is refused.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::rejection::Rejection;

/// A JSON value. Strings borrow from the text where they have no escapes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    /// A number that fits Go's int64 as written.
    Int(i64),
    /// Any other number.
    Number(f64),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// Marks the message of a duplicate key on its way through serde_json's error.
const DUPLICATE: &str = "\u{1}duplicate\u{1}";

impl<'a> Json<'a> {
    /// Reads all of `text`.
    pub(super) fn parse(text: &'a [u8]) -> Result<Self, Rejection> {
        serde_json::from_slice(text).map_err(|error| {
            let said = error.to_string();
            match said
                .split_once(DUPLICATE)
                .and_then(|(_, rest)| rest.split_once(DUPLICATE))
            {
                Some((key, _)) => Rejection::DuplicateKey(key.to_owned()),
                None => Rejection::Json(format!("they are no valid JSON: {said}")),
            }
        })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Json<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(i64::try_from(value).map_or(Json::Number(value as f64), Json::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let mut object: Vec<(Cow<'de, str>, Json<'de>)> = Vec::new();
        while let Some((Key(key), value)) = map.next_entry::<Key<'de>, Json<'de>>()? {
            object.push((key, value));
        }
        if let Some(key) = duplicate(&object) {
            return Err(A::Error::custom(format!("{DUPLICATE}{key:?}{DUPLICATE}")));
        }
        Ok(Json::Object(object))
    }
}

/// A small object is compared pair by pair; a large one, such as 10,000 revocations, through a set.
fn duplicate<'o>(object: &'o [(Cow<'_, str>, Json<'_>)]) -> Option<&'o str> {
    if object.len() <= 16 {
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

struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match from.deserialize_str(JsonVisitor)? {
            Json::Text(text) => Ok(Key(text)),
            _ => Err(D::Error::custom("a key must be a string")),
        }
    }
}

/// An object whose fields are known by name. An absent one reads as empty, as Go leaves a zero value.
pub(super) struct Fields<'j, 'a> {
    path: String,
    object: &'j [(Cow<'a, str>, Json<'a>)],
}

impl<'j, 'a> Fields<'j, 'a> {
    /// The object `json`, found at `path`, in which a reader knows the fields `known`.
    pub(super) fn of(json: &'j Json<'a>, path: &str, known: &[&'static str]) -> Result<Self, Rejection> {
        let object: &[_] = match json {
            Json::Object(object) => object,
            Json::Null => &[],
            _ => {
                return Err(Rejection::FieldType {
                    field: if path.is_empty() {
                        "(all of it)".to_owned()
                    } else {
                        path.to_owned()
                    },
                    wanted: "an object",
                });
            }
        };
        for (key, _) in object {
            if !known.contains(&key.as_ref())
                && let Some(wanted) = known.iter().find(|known| folds_to(key, known))
            {
                return Err(Rejection::OddCase {
                    found: key.to_string(),
                    wanted,
                });
            }
        }
        Ok(Self {
            path: path.to_owned(),
            object,
        })
    }

    pub(super) fn path(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    fn wrong<T>(&self, name: &str, wanted: &'static str) -> Result<T, Rejection> {
        Err(Rejection::FieldType {
            field: self.path(name),
            wanted,
        })
    }

    /// The field as it is; null and absent are the same.
    pub(super) fn get(&self, name: &str) -> Option<&'j Json<'a>> {
        let found = self.object.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        found.filter(|value| !matches!(value, Json::Null))
    }

    /// Whether the field is written, even as null.
    pub(super) fn is_written(&self, name: &str) -> bool {
        self.object.iter().any(|(key, _)| key == name)
    }

    pub(super) fn text(&self, name: &str) -> Result<&'j str, Rejection> {
        match self.get(name) {
            None => Ok(""),
            Some(Json::Text(text)) => Ok(text),
            Some(_) => self.wrong(name, "a string"),
        }
    }

    pub(super) fn int(&self, name: &str) -> Result<i64, Rejection> {
        match self.get(name) {
            None => Ok(0),
            Some(Json::Int(value)) => Ok(*value),
            Some(_) => self.wrong(name, "a whole number of 64 bits"),
        }
    }

    pub(super) fn bool(&self, name: &str) -> Result<bool, Rejection> {
        match self.get(name) {
            None => Ok(false),
            Some(Json::Bool(value)) => Ok(*value),
            Some(_) => self.wrong(name, "true or false"),
        }
    }

    pub(super) fn list(&self, name: &str) -> Result<&'j [Json<'a>], Rejection> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Json::List(list)) => Ok(list),
            Some(_) => self.wrong(name, "a list"),
        }
    }

    /// A list of strings; null among them reads as an empty string, as in Go.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<&'j str>, Rejection> {
        let text = |item: &'j Json<'a>| match item {
            Json::Text(text) => Ok(text.as_ref()),
            Json::Null => Ok(""),
            _ => self.wrong(name, "a list of strings"),
        };
        self.list(name)?.iter().map(text).collect()
    }

    /// An object whose keys are data, not names.
    pub(super) fn map(&self, name: &str) -> Result<&'j [(Cow<'a, str>, Json<'a>)], Rejection> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Json::Object(object)) => Ok(object),
            Some(_) => self.wrong(name, "an object"),
        }
    }

    /// The object in the field `name`, in which a reader knows the fields `known`.
    pub(super) fn fields(&self, name: &str, known: &[&'static str]) -> Result<Fields<'j, 'a>, Rejection> {
        Fields::of(self.get(name).unwrap_or(&Json::Null), &self.path(name), known)
    }
}

/// Whether Go's `encoding/json` takes `key` for the field `known` (`foldName`: simple Unicode folding, under which
/// the long s and the Kelvin sign are letters of ASCII).
fn folds_to(key: &str, known: &str) -> bool {
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    key.chars().map(fold).eq(known.chars().map(fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_readers_could_disagree_about_is_refused() {
        for text in [
            "{\"sub\":1,\"sub\":2}",
            "{\"a\":{\"x\":1,\"\\u0078\":2}}",
            "[{\"k\":0,\"k\":0}]",
        ] {
            assert_eq!(Json::parse(text.as_bytes()).expect_err(text).code(), "duplicate-key");
        }
        for key in ["SUB", "Sub", "\u{17f}ub"] {
            let text = format!("{{\"{key}\":1}}");
            let json = Json::parse(text.as_bytes()).unwrap();
            let refused = Fields::of(&json, "", &["sub"]).err().map(|rejection| rejection.code());
            assert_eq!(refused, Some("odd-case"), "{key}");
        }
        assert_eq!(Json::parse(b"{} {}").expect_err("trailing data").code(), "json");
    }

    #[test]
    fn a_large_object_is_searched_for_duplicates_too() {
        let mut text: String = (0..100).map(|n| format!("\"k{n}\":0,")).collect();
        text.push_str("\"k50\":1");
        assert_eq!(
            Json::parse(format!("{{{text}}}").as_bytes())
                .expect_err("k50 twice")
                .code(),
            "duplicate-key"
        );
    }
}
