//! Requests made of the description: as it allows them, and as it does not; and what is to be expected of the answer.

use serde_json::Value;

use super::description::{Description, Operation, Parameter};
use super::random::Random;
use super::values::{mutate, written};
use crate::access::Role;
use crate::method::Method;
use crate::receipts::fixture;

const NAMES: [&str; 4] = ["web-1", "a", "0", "db.example_2"];
/// Parts of a path, percent-encoded where they must be.
const HOSTILE_PARTS: [&str; 14] = [
    "..",
    "%2e%2e",
    "%2e%2e%2f%2e%2e%2fetc",
    "a%2fb",
    "%00",
    "%ff%fe",
    "%c0%ae",
    "%",
    "%zz",
    "%f0%9f%a6%80",
    "A",
    "%20",
    "a;b=c",
    "%25%32%65",
];
const VERBS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"];
/// Values that no parameter of a query takes.
const HOSTILE_VALUES: [&str; 6] = ["-1", "", "A", "%00", "%ff%fe", "1%20"];
/// What follows a query, and whether nothing is wrong with that.
const TAILS: [(&str, bool); 5] =
    [("&", true), ("&&&", true), ("&colour=1", false), ("&=", false), ("&%ff=%00", false)];
/// Content types, with whether they say JSON.
const KINDS: [(Option<&str>, bool); 9] = [
    (Some("application/json"), true),
    (Some("application/json; charset=utf-8"), true),
    (Some("APPLICATION/JSON"), true),
    (None, true),
    (Some("text/plain"), false),
    (Some("application/x-www-form-urlencoded"), false),
    (Some("application/jsonx"), false),
    (Some(""), false),
    (Some("\u{e9}"), false),
];

/// A request, and what was made of which operation.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) operation: Option<Operation<'a>>,
    pub(super) is_head: bool,
    pub(super) bytes: Vec<u8>,
    pub(super) expected: Expected,
}

/// What an answer must be, beside being documented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// No error that says that the request cannot be understood.
    Understood,
    /// An error of the caller's: 4xx.
    Refused,
    /// The description does not say.
    Either,
    /// It never comes to the method: the connection's own errors, which have no body.
    NotHttp,
}

/// The parts of a request, before they are bytes.
struct Parts {
    verb: String,
    path: String,
    query: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Description {
    /// Some request. `ids` are those of operations that there are.
    pub(super) fn request<'a>(&'a self, random: &mut Random, ids: &[String]) -> Request<'a> {
        if random.percent(3) {
            return no_http(random);
        }
        let operation = random.pick(&self.operations()).clone();
        let (mut parts, mut expected) = self.parts(&operation, random, ids);
        let mut made_of = Some(operation);
        if random.percent(6) {
            // Whatever there is or is not at that path for that verb: it is no longer known which operation this is.
            parts.verb = (*random.pick(&VERBS)).to_owned();
            (made_of, expected) = (None, Expected::Either);
        }
        if random.percent(3) {
            parts.path.push_str(random.pick::<&str>(&["/", "//", "/x", "/../info", "#x"]));
            (made_of, expected) = (None, Expected::Either);
        }
        let is_head = parts.verb == "HEAD";
        Request { operation: made_of, is_head, bytes: parts.bytes(), expected }
    }

    fn parts(
        &self,
        operation: &Operation<'_>,
        random: &mut Random,
        ids: &[String],
    ) -> (Parts, Expected) {
        let mut expected = Expected::Understood;
        let mut path = operation.path.to_owned();
        let mut query = String::new();
        for parameter in &operation.parameters {
            if !parameter.is_in_path {
                expected = expected.and(self.add_to_query(&mut query, *parameter, random));
                continue;
            }
            let hostile = random.percent(15);
            let text = match (hostile, parameter.name, ids.is_empty()) {
                (true, ..) => (*random.pick(&HOSTILE_PARTS)).to_owned(),
                (_, "id", false) => random.pick(ids).clone(),
                (_, "session", _) if random.percent(50) => fixture::SESSION.to_owned(),
                _ => (*random.pick(&NAMES)).to_owned(),
            };
            if hostile {
                expected = Expected::Refused;
            }
            path = path.replace(&format!("{{{}}}", parameter.name), &text);
        }
        if random.percent(10) && operation.parameters.iter().any(|it| !it.is_in_path) {
            let (tail, is_sound) = random.pick(&TAILS);
            query.push_str(tail);
            expected = if *is_sound { expected } else { Expected::Refused };
        }
        if !query.is_empty() || random.percent(5) {
            query.insert(0, '?');
        }
        let mut parts = Parts {
            verb: operation.verb.clone(),
            path,
            query,
            headers: Vec::new(),
            body: Vec::new(),
        };
        if let Some(body) = operation.body {
            let of_body = self.write_body(&mut parts, body.schema, body.is_required, random);
            expected = expected.and(of_body);
        } else if random.percent(5) {
            // Nobody asked for it.
            parts.body = b"{\"colour\":1}".to_vec();
        }
        self.write_headers(&mut parts, operation, random, &mut expected);
        (parts, expected)
    }

    /// Says something of a parameter after the path, or nothing.
    fn add_to_query(
        &self,
        query: &mut String,
        parameter: Parameter<'_>,
        random: &mut Random,
    ) -> Expected {
        let Parameter { name, is_required, schema, .. } = parameter;
        if random.percent(if is_required { 5 } else { 60 }) {
            return if is_required { Expected::Refused } else { Expected::Understood };
        }
        let is_sound = random.percent(90);
        let value = match self.sound(schema, random) {
            _ if !is_sound => (*random.pick(&HOSTILE_VALUES)).to_owned(),
            // Nobody has so much time.
            Value::Number(_) if schema["maximum"].is_null() => {
                let more = u64::from(random.percent(50)) * 20;
                (schema["minimum"].as_u64().unwrap_or(0) + more).to_string()
            }
            Value::String(text) => text,
            value => value.to_string(),
        };
        let times = if random.percent(3) { 2 } else { 1 };
        for _ in 0..times {
            let separator = if query.is_empty() { "" } else { "&" };
            query.push_str(&format!("{separator}{name}={value}"));
        }
        if is_sound && times == 1 { Expected::Understood } else { Expected::Refused }
    }

    fn write_body(
        &self,
        parts: &mut Parts,
        schema: &Value,
        is_required: bool,
        random: &mut Random,
    ) -> Expected {
        let mut value = self.sound(schema, random);
        if random.percent(55) {
            (0..=random.below(3)).for_each(|_| mutate(&mut value, random));
        }
        parts.body = if random.percent(5) { Vec::new() } else { written(&value, random) };
        let (kind, is_json) = if random.percent(85) { KINDS[0] } else { *random.pick(&KINDS) };
        parts.headers.extend(kind.map(|kind| ("content-type", kind.to_owned())));
        if is_json { self.of_body(&parts.body, schema, is_required) } else { Expected::Refused }
    }

    /// What a body must come to.
    fn of_body(&self, body: &[u8], schema: &Value, is_required: bool) -> Expected {
        if body.is_empty() {
            return if is_required { Expected::Refused } else { Expected::Understood };
        }
        let Ok(value) = serde_json::from_slice::<Value>(body) else { return Expected::Refused };
        if !self.problems(schema, &value).is_empty() {
            return Expected::Refused;
        }
        // A member twice is the last one to some and an error to others; 1.0 is a whole number to JSON Schema alone;
        // the daemon counts a text's bytes, JSON Schema its characters.
        let as_written = value.to_string();
        let is_plain = as_written.as_bytes() == body && !has_fraction(&value) && body.len() < 4096;
        if is_plain { Expected::Understood } else { Expected::Either }
    }

    fn write_headers(
        &self,
        parts: &mut Parts,
        operation: &Operation<'_>,
        random: &mut Random,
        expected: &mut Expected,
    ) {
        let protocol = match operation.id {
            "machines.console" => Some("novacron-console"),
            "files.pass" => Some("novacron-files"),
            _ => None,
        };
        if let Some(protocol) = protocol {
            if random.percent(50) {
                parts.headers.push(("connection", "upgrade".to_owned()));
                parts.headers.push(("upgrade", protocol.to_owned()));
            } else {
                // JSON Schema has no word for headers of the connection.
                *expected = expected.and(Expected::Refused);
            }
        }
        if random.percent(10) {
            let id = random.pick(&["", "0-0", "x", "\u{e9}", "99999999999999999999-1", "-"]);
            parts.headers.push(("last-event-id", (*id).to_owned()));
        }
        if random.percent(5) {
            parts.headers.push(("x-much", "y".repeat(2000)));
        }
    }
}

impl Expected {
    /// What both together come to.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Refused, _) | (_, Self::Refused) => Self::Refused,
            (Self::Either, _) | (_, Self::Either) => Self::Either,
            _ => Self::Understood,
        }
    }
}

fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_fraction),
        Value::Object(members) => members.values().any(has_fraction),
        _ => false,
    }
}

impl Parts {
    fn bytes(&self) -> Vec<u8> {
        let Self { verb, path, query, headers, body } = self;
        let mut text = format!("{verb} {path}{query} HTTP/1.1\r\nhost: n\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }
}

/// What is no request, or one that the connection itself refuses.
fn no_http<'a>(random: &mut Random) -> Request<'a> {
    const STARTS: [&[u8]; 7] = [
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET /v1/info HTTP/9.9\r\n\r\n",
        b"GET  /v1/info\r\n\r\n",
        b"GET /v1/\xff HTTP/1.1\r\nhost: n\r\n\r\n",
        b"POST /v1/machines HTTP/1.1\r\nhost: n\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /v1/machines HTTP/1.1\r\nhost: n\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/info HTTP/1.1\r\nhost: n\r\nbad header: x\r\n\r\n",
    ];
    let bytes = random.pick(&STARTS).to_vec();
    Request { operation: None, is_head: false, bytes, expected: Expected::NotHttp }
}

/// Whether a caller of this role may make the call.
pub(super) fn may(role: Option<Role>, operation: &Operation<'_>) -> bool {
    role.is_some_and(|role| role >= Method::named(operation.id).role)
}
