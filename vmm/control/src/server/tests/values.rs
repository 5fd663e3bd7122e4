//! Values that a schema allows, and what is made of them so that it does not.

use serde_json::{Map, Value, json};

use super::description::Description;
use super::random::Random;
use super::schema::pattern;

/// Texts that have been somebody's undoing: paths that lead elsewhere, ends of strings, text that is longer than it looks,
/// other people's syntax.
const HOSTILE: [&str; 18] = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "/proc/self/mem",
    "/dev/zero",
    "images/../../lock",
    "fd:0",
    "passed:0",
    "a\0b",
    "a\r\nx-role: admin",
    "\u{202e}nova",
    "\u{feff}\u{1f980}\u{e9}e\u{301}",
    "%00%2e%2e%2f",
    "${jndi:ldap://x}{{7*7}}$(id)`id`",
    "'; DROP TABLE machines; --",
    "\u{10ffff}\u{ffff}\u{1}",
];

/// Numbers at the edges of types.
const EDGES: [&str; 16] = [
    "0",
    "-0",
    "1",
    "-1",
    "64",
    "65",
    "4096",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "1e308",
];

impl Description {
    /// A value that the schema allows.
    pub(super) fn sound(&self, schema: &Value, random: &mut Random) -> Value {
        if let Some(reference) = schema["$ref"].as_str() {
            return self.sound(self.resolve(reference), random);
        }
        if let Some(values) = schema["enum"].as_array() {
            return random.pick(values).clone();
        }
        if let Some(schemas) = schema["oneOf"].as_array() {
            return self.sound(random.pick(schemas), random);
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => random.pick(kinds).as_str().unwrap(),
            kind => kind.as_str().unwrap(),
        };
        match kind {
            "null" => Value::Null,
            "boolean" => Value::Bool(random.percent(50)),
            "integer" => sound_integer(schema, random),
            "string" => sound_text(schema, random),
            "object" => self.sound_object(schema, random),
            other => panic!("requests have no {other} yet: {schema}"),
        }
    }

    fn sound_object(&self, schema: &Value, random: &mut Random) -> Value {
        let required = schema["required"].as_array();
        let is_required =
            |name: &str| required.is_some_and(|names| names.iter().any(|it| it == name));
        let least = schema["minProperties"].as_u64().unwrap_or(0);
        let mut object = Map::new();
        let mut left = schema["properties"].as_object().map_or(0, |all| all.len() as u64);
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            let is_needed = is_required(name) || object.len() as u64 + left <= least;
            left -= 1;
            if is_needed || random.percent(50) {
                object.insert(name.clone(), self.sound(schema, random));
            }
        }
        Value::Object(object)
    }
}

fn sound_integer(schema: &Value, random: &mut Random) -> Value {
    let bound = |name: &str, default: u64| schema[name].as_u64().unwrap_or(default);
    let most = if schema["format"] == "uint32" { u32::MAX.into() } else { u64::MAX };
    let (least, most, step) = (bound("minimum", 0), bound("maximum", most), bound("multipleOf", 1));
    let steps = (most - least) / step;
    let number = match random.below(4) {
        0 => least,
        1 => least + steps * step,
        2 => least + (random.next() % steps.clamp(1, 8)) * step,
        _ => least + (random.next() % steps.max(1)) * step,
    };
    json!(number)
}

fn sound_text(schema: &Value, random: &mut Random) -> Value {
    match schema["pattern"].as_str() {
        Some(text) => json!(random.pick(pattern(text).examples)),
        None if random.percent(50) => json!("garbage.nova"),
        None => json!(random.pick(&HOSTILE)),
    }
}

/// Changes something, somewhere in a value. What comes of it may still be allowed.
pub(super) fn mutate(value: &mut Value, random: &mut Random) {
    let place = somewhere(value, random);
    match random.below(8) {
        0 => remove_or_add(place, random),
        1 => *place = wrong_type(random),
        2 | 3 => *place = edge(random),
        4 => *place = json!(random.pick(&HOSTILE)),
        5 => *place = json!("x".repeat(*random.pick(&[63, 64, 255, 4096, 4097, 20_000]))),
        6 => *place = nested(*random.pick(&[2, 60, 126, 127, 128, 200])),
        _ => *place = json!([place.clone()]),
    }
}

fn edge(random: &mut Random) -> Value {
    serde_json::from_str(EDGES[random.below(EDGES.len())]).unwrap()
}

fn somewhere<'a>(value: &'a mut Value, random: &mut Random) -> &'a mut Value {
    let inner = value.as_object().is_some_and(|object| !object.is_empty()) && random.percent(80);
    if !inner {
        return value;
    }
    let object = value.as_object_mut().unwrap();
    let number = random.below(object.len());
    somewhere(object.values_mut().nth(number).unwrap(), random)
}

fn remove_or_add(place: &mut Value, random: &mut Random) {
    let Some(object) = place.as_object_mut() else { return *place = Value::Null };
    if object.is_empty() || random.percent(50) {
        object
            .insert(random.pick(&["colour", "", "Name", "__proto__", "\0"]).to_string(), json!(1));
    } else {
        let name = object.keys().nth(random.below(object.len())).unwrap().clone();
        object.remove(&name);
    }
}

fn wrong_type(random: &mut Random) -> Value {
    let all = [json!(null), json!(true), json!(7), json!(0.5), json!("7"), json!([]), json!({})];
    random.pick(&all).clone()
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(null), |inner, level| {
        if level % 2 == 0 { json!([inner]) } else { json!({ "spec": inner }) }
    })
}

/// A value as bytes, now and then as no serialiser writes it.
pub(super) fn written(value: &Value, random: &mut Random) -> Vec<u8> {
    let mut text = value.to_string().into_bytes();
    if random.percent(85) {
        return text;
    }
    match random.below(8) {
        0 => text.truncate(random.below(text.len() + 1)),
        1 => text.extend_from_slice(b" {}"),
        2 => text.splice(0..0, *b"\xef\xbb\xbf").for_each(drop),
        3 => {
            let place = random.below(text.len());
            text[place] = *random.pick(&[0x00, 0xff, 0xc0, 0x80, b'"', b'{', b'\\']);
        }
        4 => text = duplicated(value, random),
        5 => text = br#"{"name":"\ud800"}"#.to_vec(),
        6 => text = br#"{"timeout_ms":1e999,"name":"a"}"#.to_vec(),
        _ => text = "[".repeat(50_000).into_bytes(),
    }
    text
}

/// An object with one of its members twice.
fn duplicated(value: &Value, random: &mut Random) -> Vec<u8> {
    let Some(object) = value.as_object().filter(|object| !object.is_empty()) else {
        return value.to_string().into_bytes();
    };
    let (name, again) = object.iter().nth(random.below(object.len())).unwrap();
    let mut text = value.to_string();
    text.pop();
    format!("{text},{}:{again}}}", json!(name)).into_bytes()
}
