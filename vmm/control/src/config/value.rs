//! A value as somebody wrote it.

use toml::de::DeValue;

/// In a file a value has a type. In the environment and in options there are words only, and what they are is decided by
/// the field.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Number(i64),
    Truth(bool),
    List(Vec<Self>),
    Words(String),
    /// What no field takes: its name.
    Other(&'static str),
}

impl Value {
    pub(super) fn of_file(value: &DeValue) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.clone().into_owned()),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .map_or(Self::Other("a number beyond 64 bits"), Self::Number),
            DeValue::Boolean(truth) => Self::Truth(*truth),
            DeValue::Array(items) => {
                Self::List(items.iter().map(|item| Self::of_file(item.get_ref())).collect())
            }
            DeValue::Float(_) => Self::Other("a fraction"),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Table(_) => Self::Other("a table"),
        }
    }

    /// Its type, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Number(_) => "a number",
            Self::Truth(_) => "true or false",
            Self::List(_) => "a list",
            Self::Words(_) => "words",
            Self::Other(kind) => kind,
        }
    }
}
