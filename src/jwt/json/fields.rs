//! Typed access to an object's fields by name, as Go's `encoding/json` fills a struct: an absent field reads as zero.

use std::borrow::Cow;

use super::Json;
use crate::jwt::quote::cut;
use crate::jwt::rejection::Rejection;

/// An object whose fields are read by name and type. An absent or null field reads as the type's zero value, as in Go;
/// a value of another type is a [`Rejection::FieldType`] with the field's path.
pub(in crate::jwt) struct Fields<'j, 'a> {
    path: String,
    object: &'j [(Cow<'a, str>, Json<'a>)],
}

impl<'j, 'a> Fields<'j, 'a> {
    /// Reads `json`, found at `path`, as an object; null reads as an empty one. A key that is one of `known` except for
    /// its case is refused.
    pub(in crate::jwt) fn of(json: &'j Json<'a>, path: &str, known: &[&'static str]) -> Result<Self, Rejection> {
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
                    found: cut(key),
                    wanted,
                });
            }
        }
        Ok(Self {
            path: path.to_owned(),
            object,
        })
    }

    pub(in crate::jwt) fn path(&self, name: &str) -> String {
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

    /// The field's value of any type; `None` if it is absent or null.
    pub(in crate::jwt) fn get(&self, name: &str) -> Option<&'j Json<'a>> {
        let found = self.object.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        found.filter(|value| !matches!(value, Json::Null))
    }

    /// Whether the field is written, even as null.
    pub(in crate::jwt) fn is_written(&self, name: &str) -> bool {
        self.object.iter().any(|(key, _)| key == name)
    }

    pub(in crate::jwt) fn text(&self, name: &str) -> Result<&'j str, Rejection> {
        match self.get(name) {
            None => Ok(""),
            Some(Json::Text(text)) => Ok(text),
            Some(_) => self.wrong(name, "a string"),
        }
    }

    pub(in crate::jwt) fn int(&self, name: &str) -> Result<i64, Rejection> {
        match self.get(name) {
            None => Ok(0),
            Some(json) => match json.int() {
                Some(value) => Ok(value),
                None => self.wrong(name, "a whole number of 64 bits, written without point and exponent"),
            },
        }
    }

    /// A whole number that Go decodes as float64, encodes again and then decodes as int64: `1e3` is accepted, the
    /// largest int64 is not.
    pub(in crate::jwt) fn int_through_float(&self, name: &str) -> Result<i64, Rejection> {
        let written = match self.get(name) {
            Some(Json::Number(text)) => text.parse::<f64>().unwrap_or(f64::NAN).to_string(),
            Some(_) => String::new(),
            None => return Ok(0),
        };
        match written.parse() {
            Ok(value) => Ok(value),
            Err(_) => self.wrong(name, "a whole number that a float64 holds exactly"),
        }
    }

    pub(in crate::jwt) fn bool(&self, name: &str) -> Result<bool, Rejection> {
        match self.get(name) {
            None => Ok(false),
            Some(Json::Bool(value)) => Ok(*value),
            Some(_) => self.wrong(name, "true or false"),
        }
    }

    pub(in crate::jwt) fn list(&self, name: &str) -> Result<&'j [Json<'a>], Rejection> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Json::List(list)) => Ok(list),
            Some(_) => self.wrong(name, "a list"),
        }
    }

    /// A list of strings; null among them reads as an empty string, as in Go.
    pub(in crate::jwt) fn texts(&self, name: &str) -> Result<Vec<&'j str>, Rejection> {
        let text = |item: &'j Json<'a>| match item {
            Json::Text(text) => Ok(text.as_ref()),
            Json::Null => Ok(""),
            _ => self.wrong(name, "a list of strings"),
        };
        self.list(name)?.iter().map(text).collect()
    }

    /// An object whose keys are data, not names.
    pub(in crate::jwt) fn map(&self, name: &str) -> Result<&'j [(Cow<'a, str>, Json<'a>)], Rejection> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Json::Object(object)) => Ok(object),
            Some(_) => self.wrong(name, "an object"),
        }
    }

    /// The object in the field `name`, read as by [`Self::of`] with the fields `known`.
    pub(in crate::jwt) fn fields(&self, name: &str, known: &[&'static str]) -> Result<Fields<'j, 'a>, Rejection> {
        Fields::of(self.get(name).unwrap_or(&Json::Null), &self.path(name), known)
    }
}

/// Whether Go's `encoding/json` takes `key` for the field `known` (`foldName`: simple Unicode folding, which maps the
/// long s and the Kelvin sign to ASCII's s and k).
fn folds_to(key: &str, known: &str) -> bool {
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    key.chars().map(fold).eq(known.chars().map(fold))
}
