//! A judge of values: the part of JSON Schema (2020-12) that the description uses.
//!
//! A keyword that it does not know is a panic, so that nobody believes something was judged that was not.

use serde_json::{Map, Value};

use super::description::Description;
use crate::api::Timestamp;

/// What is said of a value beside what it is, and decides nothing.
const ANNOTATIONS: [&str; 3] = ["description", "examples", "title"];

/// The patterns of the description, with what they mean and texts that fit.
const PATTERNS: [Pattern; 6] = [
    Pattern {
        text: "^[a-z0-9][a-z0-9._-]{0,62}$",
        fits: is_name,
        examples: &["web-1", "a", "0", "db.example_2", "x-y.z", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
    },
    Pattern {
        text: "^(host|x86-64-v[123])$",
        fits: |text| ["host", "x86-64-v1", "x86-64-v2", "x86-64-v3"].contains(&text),
        examples: &["host", "x86-64-v1", "x86-64-v3"],
    },
    Pattern {
        text: "^(bitmap|ring(:(1024|2048|4096|8192|16384|32768|65536))?)$",
        fits: is_dirty_log,
        examples: &["bitmap", "ring", "ring:1024", "ring:65536"],
    },
    Pattern {
        text: r"^[^\x00]*$",
        fits: |text| !text.contains('\0'),
        examples: &["", "garbage.nova", "fill=4M rate=200", "console=ttyS0 \u{e4}\u{1f980}"],
    },
    Pattern {
        text: "^[0-9a-fA-F]{64}$",
        fits: |text| text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit()),
        examples: &[
            "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
            "FF112233445566778899aabbccddeeff00112233445566778899aabbccddeeFF",
        ],
    },
    // What it lets pass may be no address all the same: a pattern that knows all of IPv6 would be read by nobody.
    Pattern {
        text: r"^([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$",
        fits: crate::peers::is_address,
        examples: &["127.0.0.1:9", "localhost:9", "[::1]:9"],
    },
];

#[derive(Debug)]
pub(super) struct Pattern {
    text: &'static str,
    fits: fn(&str) -> bool,
    pub(super) examples: &'static [&'static str],
}

/// The row of a pattern. The crate has no engine for regular expressions, and needs none for six of them.
pub(super) fn pattern(text: &str) -> &'static Pattern {
    PATTERNS
        .iter()
        .find(|pattern| pattern.text == text)
        .unwrap_or_else(|| panic!("the pattern {text} has no row in PATTERNS"))
}

fn is_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(is_plain)
        && text.len() <= 63
        && text.chars().all(|c| is_plain(c) || "._-".contains(c))
}

fn is_dirty_log(text: &str) -> bool {
    let entries = |text: &str| (10..=16).any(|bits| text == (1_u32 << bits).to_string());
    text == "bitmap" || text == "ring" || text.strip_prefix("ring:").is_some_and(entries)
}

impl Description {
    /// What keeps a value from being what a schema says; empty if nothing does.
    pub(super) fn problems(&self, schema: &Value, value: &Value) -> Vec<String> {
        let mut found = Vec::new();
        self.judge(schema, value, "", &mut found);
        found
    }

    fn judge(&self, schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
        let keywords = match schema {
            Value::Bool(true) => return,
            Value::Bool(false) => return found.push(format!("{place}: nothing may be here")),
            schema => schema.as_object().unwrap(),
        };
        for (keyword, operand) in keywords {
            let complaint = match keyword.as_str() {
                annotation if ANNOTATIONS.contains(&annotation) => None,
                "oneOf" => self.complain_of_choice(operand, value),
                "$ref" | "allOf" => {
                    let schemas = match operand {
                        Value::String(reference) => std::slice::from_ref(self.resolve(reference)),
                        schemas => schemas.as_array().unwrap(),
                    };
                    schemas.iter().for_each(|schema| self.judge(schema, value, place, found));
                    None
                }
                "required" | "properties" | "additionalProperties" | "propertyNames" => {
                    self.judge_object(keywords, keyword, value, place, found);
                    None
                }
                "prefixItems" | "items" => {
                    self.judge_array(keywords, keyword, value, place, found);
                    None
                }
                keyword => complain_of_plain(keyword, operand, value),
            };
            if let Some(complaint) = complaint {
                let shown: String = value.to_string().chars().take(80).collect();
                found.push(format!("{place}: {shown}: {complaint} {operand}"));
            }
        }
    }

    fn complain_of_choice(&self, choice: &Value, value: &Value) -> Option<&'static str> {
        let choice = choice.as_array().unwrap().iter();
        match choice.filter(|schema| self.problems(schema, value).is_empty()).count() {
            0 => Some("fits none of"),
            1 => None,
            _ => Some("fits several of"),
        }
    }

    fn judge_object(
        &self,
        keywords: &Map<String, Value>,
        keyword: &str,
        value: &Value,
        place: &str,
        found: &mut Vec<String>,
    ) {
        let Some(object) = value.as_object() else { return };
        let operand = &keywords[keyword];
        let known = keywords.get("properties").and_then(Value::as_object);
        match keyword {
            "required" => {
                let names = operand.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                let missing = names.filter(|name| !object.contains_key(*name));
                found.extend(missing.map(|name| format!("{place}: `{name}` is missing")));
            }
            "propertyNames" => {
                for name in object.keys() {
                    self.judge(operand, &Value::from(name.as_str()), place, found);
                }
            }
            _ => {
                for (name, value) in object {
                    let property = known.and_then(|known| known.get(name));
                    let schema = if keyword == "properties" {
                        property
                    } else {
                        property.xor(Some(operand))
                    };
                    if let Some(schema) = schema {
                        self.judge(schema, value, &format!("{place}.{name}"), found);
                    }
                }
            }
        }
    }

    fn judge_array(
        &self,
        keywords: &Map<String, Value>,
        keyword: &str,
        value: &Value,
        place: &str,
        found: &mut Vec<String>,
    ) {
        let Some(items) = value.as_array() else { return };
        let first = keywords.get("prefixItems").and_then(Value::as_array);
        for (number, value) in items.iter().enumerate() {
            let own = first.and_then(|first| first.get(number));
            let schema =
                if keyword == "prefixItems" { own } else { own.xor(Some(&keywords[keyword])) };
            if let Some(schema) = schema {
                self.judge(schema, value, &format!("{place}[]"), found);
            }
        }
    }
}

/// What a keyword says against a value, of those that look at nothing inside of it.
fn complain_of_plain(keyword: &str, operand: &Value, value: &Value) -> Option<&'static str> {
    let against = |is_against: fn(i128, i128) -> bool| {
        number(value).is_some_and(|it| is_against(it, number(operand).unwrap()))
    };
    let (is_wrong, complaint) = match keyword {
        "type" => (!has_type(operand, value), "is not of type"),
        "enum" => (!operand.as_array().unwrap().contains(value), "is not in"),
        "minProperties" => (has_fewer(value, operand), "has fewer members than"),
        "pattern" => (!is_text(value, pattern(operand.as_str().unwrap()).fits), "does not fit"),
        "maxLength" => (!is_text(value, |text| fits_in(text, operand)), "is longer than"),
        "format" => (!has_format(operand.as_str().unwrap(), value), "is no"),
        "minimum" => (against(|it, least| it < least), "is less than"),
        "maximum" => (against(|it, most| it > most), "is more than"),
        "multipleOf" => (against(|it, step| it % step != 0), "is no multiple of"),
        other => panic!("the judge of values does not know the keyword `{other}`"),
    };
    is_wrong.then_some(complaint)
}

/// A whole number, however it is written: 1.0 is one in JSON Schema. None for what is no number: other keywords
/// judge that.
fn number(value: &Value) -> Option<i128> {
    let whole = value.as_u64().map(i128::from).or_else(|| value.as_i64().map(i128::from));
    #[allow(clippy::cast_possible_truncation, reason = "it has no fraction, and saturates")]
    whole.or_else(|| value.as_f64().filter(|it| it.fract() == 0.0).map(|it| it as i128))
}

fn has_type(operand: &Value, value: &Value) -> bool {
    let is = |name: &Value| match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "integer" => number(value).is_some(),
        "number" => value.is_number(),
        other => panic!("the judge of values does not know the type `{other}`"),
    };
    operand.as_array().map_or_else(|| is(operand), |names| names.iter().any(is))
}

fn has_fewer(value: &Value, least: &Value) -> bool {
    value.as_object().is_some_and(|object| (object.len() as u64) < least.as_u64().unwrap())
}

fn is_text(value: &Value, fits: impl FnOnce(&str) -> bool) -> bool {
    value.as_str().is_none_or(fits)
}

fn fits_in(text: &str, most: &Value) -> bool {
    u64::try_from(text.chars().count()).unwrap() <= most.as_u64().unwrap()
}

/// Formats bind, here: they are what the daemon's types are.
fn has_format(format: &str, value: &Value) -> bool {
    let within = |least: i128, most: i128| {
        number(value).is_none_or(|number| (least..=most).contains(&number))
    };
    match format {
        "uint32" => within(0, u32::MAX.into()),
        "uint64" => within(0, u64::MAX.into()),
        "date-time" => is_text(value, |text| Timestamp::try_from(text.to_owned()).is_ok()),
        other => panic!("the judge of values does not know the format `{other}`"),
    }
}

#[test]
fn a_value_is_judged_by_every_keyword() {
    let api = Description::committed();
    let fits = |schema: &str, value: &str| {
        let value = serde_json::from_str(value).unwrap();
        api.problems(api.schema(schema), &value).is_empty()
    };
    for (schema, sound, wrong) in [
        ("CreateMachine", r#"{"name":"a"}"#, r"{}"),
        ("CreateMachine", r#"{"name":"a","spec":{}}"#, r#"{"name":"a","colour":1}"#),
        ("MachineName", r#""web-1""#, r#""Web""#),
        ("MachineName", r#""a""#, "7"),
        ("MachineSpec", r#"{"cpus":64}"#, r#"{"cpus":65}"#),
        ("MachineSpec", r#"{"cpus":1.0}"#, r#"{"cpus":1.5}"#),
        ("MachineSpec", r#"{"memory_bytes":8388608}"#, r#"{"memory_bytes":8388609}"#),
        ("MachineSpec", r#"{"memory_bytes":8392704}"#, r#"{"memory_bytes":4096}"#),
        ("MachineSpec", r#"{"dirty_log":"ring:2048"}"#, r#"{"dirty_log":"ring:2049"}"#),
        (
            "Stop",
            r#"{"timeout_ms":18446744073709551615}"#,
            r#"{"timeout_ms":18446744073709551616}"#,
        ),
        ("Stop", r#"{"timeout_ms":null}"#, r#"{"timeout_ms":"1"}"#),
        ("Boot", r#"{"type":"oracle"}"#, r#"{"type":"oracle","kernel":"k"}"#),
        ("Boot", r#"{"type":"kernel","kernel":"k"}"#, r#"{"type":"kernel"}"#),
        ("Boot", r#"{"type":"oracle","options":"x"}"#, r#"{"type":"oracle","options":"\u0000"}"#),
        ("Timestamp", r#""2026-11-29T17:35:36.1Z""#, r#""yesterday""#),
        ("BTreeMap", r#"{"running":1}"#, r#"{"running":-1}"#),
        ("HandOverForm", r#""shared""#, r#""Shared""#),
    ] {
        assert!(fits(schema, sound), "{schema}: {sound}");
        assert!(!fits(schema, wrong), "{schema}: {wrong}");
    }
    let long = format!(r#"{{"type":"oracle","options":"{}"}}"#, "x".repeat(4097));
    assert!(!fits("Boot", &long));
}
