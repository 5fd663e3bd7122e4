//! How a value becomes what a field is, and how that is written again.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::types::{ListenAddress, LogFilter, SocketMode};
use super::value::Value;
use crate::access::Member;
use crate::quantity::{Size, TimeSpan};

/// Why a value is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Which item of a list it is.
    pub(super) item: Option<usize>,
    pub(super) why: String,
}

impl Refusal {
    fn new(why: impl Into<String>) -> Self {
        Self { item: None, why: why.into() }
    }

    fn kind(value: &Value) -> Self {
        Self::new(format!("{} does not fit", value.kind()))
    }
}

/// What a field can be. What is written is read as the same again.
pub(super) trait Setting: Sized {
    /// What may be written, for people.
    const FORM: &'static str;

    fn read(value: &Value) -> Result<Self, Refusal>;

    fn write(&self) -> toml::Value;

    /// For people, in a sentence.
    fn words(&self) -> String {
        self.write().to_string()
    }
}

/// Reads a value that must lie within bounds, the least and the most; without any, all are good.
pub(super) fn read<T: Setting + PartialOrd>(value: &Value, bounds: &[T]) -> Result<T, Refusal> {
    let read = T::read(value)?;
    let is_outside = match bounds {
        [least, most] => read < *least || read > *most,
        _ => false,
    };
    if is_outside { Err(Refusal::new("out of bounds")) } else { Ok(read) }
}

/// What a field with these bounds may be, for people.
pub(super) fn allowed<T: Setting>(bounds: &[T]) -> String {
    match bounds {
        [least, most] => format!("{}, from {} to {}", T::FORM, least.words(), most.words()),
        _ => T::FORM.to_owned(),
    }
}

fn parse<T: FromStr<Err = String>>(text: &str) -> Result<T, Refusal> {
    text.parse().map_err(Refusal::new)
}

fn text(value: impl Display) -> toml::Value {
    toml::Value::String(value.to_string())
}

impl Setting for u32 {
    const FORM: &'static str = "a number";

    fn read(value: &Value) -> Result<Self, Refusal> {
        match value {
            Value::Number(number) => {
                Self::try_from(*number).map_err(|_| Refusal::new("out of bounds"))
            }
            Value::Words(words) => words.parse().map_err(|_| Refusal::new("not a number")),
            other => Err(Refusal::kind(other)),
        }
    }

    fn write(&self) -> toml::Value {
        toml::Value::Integer((*self).into())
    }
}

impl Setting for bool {
    const FORM: &'static str = "true or false";

    fn read(value: &Value) -> Result<Self, Refusal> {
        match value {
            Value::Truth(truth) => Ok(*truth),
            Value::Words(words) => match words.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Ok(true),
                "false" | "no" | "off" | "0" => Ok(false),
                _ => Err(Refusal::new("neither true nor false")),
            },
            other => Err(Refusal::kind(other)),
        }
    }

    fn write(&self) -> toml::Value {
        toml::Value::Boolean(*self)
    }
}

impl Setting for Size {
    const FORM: &'static str = "a size such as \"64K\" or \"16M\"";

    fn read(value: &Value) -> Result<Self, Refusal> {
        match value {
            Value::Number(bytes) => {
                u64::try_from(*bytes).map(Self).map_err(|_| Refusal::new("out of bounds"))
            }
            Value::Text(text) | Value::Words(text) => parse(text),
            other => Err(Refusal::kind(other)),
        }
    }

    fn write(&self) -> toml::Value {
        text(self)
    }

    fn words(&self) -> String {
        self.to_string()
    }
}

impl Setting for TimeSpan {
    const FORM: &'static str = "a time such as \"300ms\", \"10s\" or \"5m\"";

    fn read(value: &Value) -> Result<Self, Refusal> {
        match value {
            Value::Text(text) | Value::Words(text) => parse(text),
            Value::Number(_) => Err(Refusal::new("a number without a unit")),
            other => Err(Refusal::kind(other)),
        }
    }

    fn write(&self) -> toml::Value {
        text(self)
    }

    fn words(&self) -> String {
        self.to_string()
    }
}

/// Of the types that are read from text and shown as the same.
macro_rules! from_text {
    ($($Type:ty, $form:literal;)+) => {
        $(impl Setting for $Type {
            const FORM: &'static str = $form;

            fn read(value: &Value) -> Result<Self, Refusal> {
                match value {
                    Value::Text(text) | Value::Words(text) => parse(text),
                    other => Err(Refusal::kind(other)),
                }
            }

            fn write(&self) -> toml::Value {
                text(self)
            }
        })+
    };
}

from_text! {
    SocketMode, "an octal mode in quotes: \"0600\", \"0660\" with the socket's group, \"0666\" with everybody";
    LogFilter, "off, error, warn, info, debug, trace, or a level by module: \"warn,control=debug\"";
    ListenAddress, "an address of this host, with a port or without: \"0.0.0.0\", \"[::]:7478\"";
    Member, "\"user:NAME\", \"user:NUMBER\", \"group:NAME\" or \"group:NUMBER\"";
}

impl Setting for PathBuf {
    const FORM: &'static str = "an absolute path";

    fn read(value: &Value) -> Result<Self, Refusal> {
        let (Value::Text(text) | Value::Words(text)) = value else {
            return Err(Refusal::kind(value));
        };
        let path = Path::new(text);
        if text.contains('\0') {
            return Err(Refusal::new("it has a zero byte"));
        }
        if !path.is_absolute() {
            return Err(Refusal::new("not absolute: what it begins in would be another each time"));
        }
        if path.components().any(|part| part == std::path::Component::ParentDir) {
            return Err(Refusal::new("it has a `..`"));
        }
        // Without what has no meaning, so that one path can be compared with another: `a//b`, `a/./b`, `a/`.
        Ok(path.components().collect())
    }

    fn write(&self) -> toml::Value {
        text(self.display())
    }
}

/// What there can be lists of.
pub(super) trait Item: Setting {
    /// What may be written for such a list, for people.
    const LIST: &'static str;
}

impl Item for PathBuf {
    const LIST: &'static str = "a list of absolute paths";
}

impl Item for ListenAddress {
    const LIST: &'static str = "a list such as [\"0.0.0.0\", \"[::1]:7478\"]";
}

impl Item for Member {
    const LIST: &'static str = "a list such as [\"user:alice\", \"group:kvm\"]";
}

/// As words, its items are separated by commas: one with a comma in it can be written in a file only.
impl<T: Item> Setting for Vec<T> {
    const FORM: &'static str = T::LIST;

    fn read(value: &Value) -> Result<Self, Refusal> {
        let words;
        let items = match value {
            Value::List(items) => items,
            Value::Words(text) => {
                words = text.split(',').map(|item| Value::Words(item.trim().to_owned())).collect();
                &words
            }
            other => return Err(Refusal::kind(other)),
        };
        let read = |(index, item): (usize, &Value)| {
            T::read(item).map_err(|refusal| Refusal { item: Some(index), ..refusal })
        };
        items.iter().enumerate().map(read).collect()
    }

    fn write(&self) -> toml::Value {
        toml::Value::Array(self.iter().map(Setting::write).collect())
    }
}
