//! The whole API under requests that are made of its own description, and are what it says or just not.
//!
//! ```text
//!  openapi.json ─► sound request ─► mutated ─► connection … handler ─► answer
//!        │                             └─► judged: sound, wrong, or nothing is said of it
//!        └──────────────────────────────────────────► status, content type and body are described
//! ```
//!
//! A seed is a daemon and a list of requests. A failure is one line that repeats it.

mod description;
mod exchange;
mod hosts;
mod kept;
mod random;
mod request;
mod schema;
mod values;

use std::ops::Range;

use serde_json::Value;

use crate::access::Role;
use crate::api::{ErrorCode, Operation};
use description::Description;
use exchange::{Answer, Fixture};
use random::Random;
use request::{Expected, Request, may};

/// Requests of a seed: enough for machines to be made, used and deleted.
const REQUESTS: usize = 120;

/// Answers that are of interest, counted: a run in which nothing ever succeeds proves little.
#[derive(Debug, Default)]
struct Seen {
    succeeded: std::collections::BTreeSet<String>,
    requests: usize,
}

#[test]
fn every_answer_to_whatever_is_sent_is_one_that_is_described() {
    let test = "every_answer_to_whatever_is_sent_is_one_that_is_described";
    let seeds = asked(0..40);
    let is_whole = seeds.end - seeds.start > 1;
    let seen = run_seeds(test, seeds, converse);
    println!("{} requests", seen.requests);
    if is_whole {
        let api = Description::committed();
        // A machine that never starts is never paused, saved or handed over, and a file that is garbage not restored.
        let needs_a_guest = [
            "machines.stop",
            "machines.kill",
            "machines.pause",
            "machines.resume",
            "machines.power_button",
            "machines.snapshot",
            "machines.handover",
            "machines.migrate",
            "machines.migration_check",
            "machines.resolve",
            "machines.forget",
            "snapshots.restore",
            "operations.change",
            "operations.cancel",
        ];
        let ids = api.operations().into_iter().map(|operation| operation.id.to_owned());
        let missing: Vec<_> = ids
            .filter(|id| !seen.succeeded.contains(id) && !needs_a_guest.contains(&id.as_str()))
            .collect();
        assert_eq!(missing, [""; 0], "these were never answered with success");
    }
}

#[test]
fn long_every_answer_to_whatever_is_sent_is_one_that_is_described() {
    let test = "long_every_answer_to_whatever_is_sent_is_one_that_is_described";
    if std::env::var_os("NOVACRON_LONG").is_none() {
        return eprintln!("SKIPPED {test}: long run");
    }
    let seen = run_seeds(test, asked(1000..2000), converse);
    println!("{} requests", seen.requests);
}

#[test]
fn who_has_no_role_changes_nothing_whatever_is_sent() {
    let test = "who_has_no_role_changes_nothing_whatever_is_sent";
    run_seeds(test, asked(0..6), |seed, seen| intrude(seed, seen, None));
    run_seeds(test, asked(0..6), |seed, seen| intrude(seed, seen, Some(Role::Viewer)));
}

/// Reading a body relies on that: it refuses every array.
#[test]
fn no_call_takes_an_array() {
    fn takes(api: &Description, schema: &Value) -> bool {
        match schema {
            Value::Object(keywords) => keywords.iter().any(|(keyword, operand)| match operand {
                Value::String(reference) if keyword == "$ref" => takes(api, api.resolve(reference)),
                operand => (keyword == "type" && operand == "array") || takes(api, operand),
            }),
            Value::Array(schemas) => schemas.iter().any(|schema| takes(api, schema)),
            _ => false,
        }
    }
    let api = Description::committed();
    assert!(takes(&api, api.schema("Health")), "one that has an array is seen to have it");
    for body in api.operations().iter().filter_map(|operation| operation.body) {
        assert!(!takes(&api, body.schema), "{}", body.schema);
    }
}

#[test]
fn an_array_is_no_object_however_well_it_fits() {
    let daemon = Fixture::new();
    for (path, body) in [
        ("/v1/shutdown", "[]"),
        ("/v1/shutdown", "[true]"),
        ("/v1/machines", r#"["web-1"]"#),
        ("/v1/machines", r#"{"name":"web-1","spec":[]}"#),
        ("/v1/machines", r#"{"name":"web-1","spec":{"boot":["oracle",""]}}"#),
    ] {
        let length = body.len();
        let request =
            format!("POST {path} HTTP/1.1\r\nhost: n\r\ncontent-length: {length}\r\n\r\n{body}");
        let answer = daemon.exchange(Some(Role::Admin), request.as_bytes(), false).unwrap();
        assert_eq!(code(&answer), Some(ErrorCode::BadRequest), "{path} {body}: {answer:?}");
    }
    assert!(!daemon.state.is_ending() && daemon.state.registry().list().is_empty());
}

/// One daemon, and requests of an administrator.
fn converse(seed: u64, seen: &mut Seen) -> Result<(), String> {
    let (api, daemon) = (Description::committed(), Fixture::new());
    let events = &daemon.state.registry().shared().events;
    let mut place = events.now();
    let mut random = Random::new(seed);
    let mut ids = Vec::new();
    for number in 0..REQUESTS {
        let request = api.request(&mut random, &ids);
        let answer = daemon.exchange(Some(Role::Admin), &request.bytes, request.is_head);
        let judged = answer.and_then(|answer| judge(&api, &request, &answer).map(|()| answer));
        let answer =
            judged.map_err(|why| format!("request {number}: {why}: {}", shown(&request)))?;
        if let (200..300 | 101, Some(operation)) = (answer.status, &request.operation) {
            seen.succeeded.insert(operation.id.to_owned());
        }
        if let (202, Ok(operation)) =
            (answer.status, serde_json::from_slice::<Operation>(&answer.body))
        {
            ids.push(operation.id);
        }
        seen.requests += 1;
    }
    // What was told of all that.
    events.publish(events.gap().kind);
    let news = daemon.runtime.block_on(events.next(&mut place));
    for event in news.map_err(|late| format!("events: {late:?}"))? {
        let value = serde_json::to_value(&event).map_err(|error| error.to_string())?;
        none(&api.problems(api.schema("Event"), &value), "an event")?;
    }
    daemon.state.registry().leave_all();
    Ok(())
}

/// A daemon with machines, and requests of somebody who may not change them.
fn intrude(seed: u64, seen: &mut Seen, role: Option<Role>) -> Result<(), String> {
    let (api, daemon) = (Description::committed(), Fixture::new());
    for name in ["web-1", "a"] {
        let body = format!(r#"{{"name":"{name}"}}"#);
        let length = body.len();
        let create = format!(
            "POST /v1/machines HTTP/1.1\r\nhost: n\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        assert_eq!(daemon.exchange(Some(Role::Admin), create.as_bytes(), false)?.status, 201);
    }
    let before = everything(&daemon);
    let mut random = Random::new(seed);
    for number in 0..REQUESTS {
        let request = api.request(&mut random, &[]);
        let answer = daemon.exchange(role, &request.bytes, request.is_head)?;
        let complain =
            |why: &str| Err(format!("request {number}: {why}: {answer:?}: {}", shown(&request)));
        if let Some(operation) = &request.operation
            && !may(role, operation)
            && answer.status != 403
        {
            return complain("it is not refused");
        }
        if answer.status >= 500 {
            return complain("the daemon is at fault");
        }
        seen.requests += 1;
    }
    if everything(&daemon) == before { Ok(()) } else { Err("something has changed".to_owned()) }
}

/// All that a call could change: machines, their records, operations, and whether the daemon goes on.
fn everything(daemon: &Fixture) -> String {
    let registry = daemon.state.registry();
    let records: Vec<_> = registry.store().load().unwrap();
    let files: Vec<_> = daemon
        .state
        .config()
        .storage
        .folders
        .iter()
        .map(|folder| {
            std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect::<Vec<_>>()
        })
        .collect();
    let operations = registry.shared().operations.list();
    format!(
        "{:?} {records:?} {operations:?} {files:?} {}",
        registry.list(),
        daemon.state.is_ending()
    )
}

/// Whether an answer is one that the description has for the request.
fn judge(api: &Description, request: &Request<'_>, answer: &Answer) -> Result<(), String> {
    let Answer { status, body, .. } = answer;
    let text = || String::from_utf8_lossy(body).chars().take(300).collect::<String>();
    let complain = |why: &str| Err(format!("{why}: {status} {}", text()));
    if *status >= 500 {
        return complain("the daemon is at fault");
    }
    if request.expected == Expected::NotHttp {
        let is_refused = matches!(status, 0 | 400..500);
        return if is_refused { Ok(()) } else { complain("it is taken for a request") };
    }
    if *status == 0 {
        return complain("there is no answer");
    }
    match request.expected {
        Expected::Refused if !(400..500).contains(status) => return complain("it is not refused"),
        Expected::Understood if is_bad_request(answer) => return complain("it is not understood"),
        _ => {}
    }
    let content = match &request.operation {
        Some(operation) => operation.answer(*status),
        None if *status >= 400 => api.operations()[0].answer(*status),
        None => return Ok(()),
    };
    let Some(content) = content else { return complain("its status is not described") };
    if request.is_head || *status == 101 {
        return Ok(());
    }
    if content.is_null() {
        return if body.is_empty() { Ok(()) } else { complain("it has a body") };
    }
    let schema = &content[answer.kind()]["schema"];
    if schema.is_null() {
        return complain(&format!("its content type is not described: {:?}", answer.kind()));
    }
    if answer.kind() == "application/json" {
        let value: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        none(&api.problems(schema, &value), "the answer")?;
        if *status >= 400 && code(answer).map(ErrorCode::status) != Some(*status) {
            return complain("its code is another's");
        }
    }
    Ok(())
}

fn code(answer: &Answer) -> Option<ErrorCode> {
    let error: crate::api::ApiError = serde_json::from_slice(&answer.body).ok()?;
    Some(error.code)
}

fn is_bad_request(answer: &Answer) -> bool {
    code(answer) == Some(ErrorCode::BadRequest)
}

fn none(problems: &[String], of: &str) -> Result<(), String> {
    if problems.is_empty() {
        Ok(())
    } else {
        Err(format!("{of} is not as described: {problems:?}"))
    }
}

fn shown(request: &Request<'_>) -> String {
    let text = String::from_utf8_lossy(&request.bytes);
    let text: String = text.chars().take(600).collect();
    format!("{:?}, of {text:?}", request.expected)
}

/// Runs a scenario for each seed. A failure is one line that repeats it.
fn run_seeds(
    test: &str,
    seeds: Range<u64>,
    scenario: impl Fn(u64, &mut Seen) -> Result<(), String>,
) -> Seen {
    let mut seen = Seen::default();
    for seed in seeds {
        if let Err(why) = scenario(seed, &mut seen) {
            panic!("NOVACRON_SEED={seed} cargo test -p control {test}   # {why}");
        }
    }
    seen
}

/// The seeds of the run, or the one that `NOVACRON_SEED` names.
fn asked(seeds: Range<u64>) -> Range<u64> {
    let one = std::env::var("NOVACRON_SEED").ok().and_then(|seed| seed.parse().ok());
    one.map_or(seeds, |seed: u64| seed..seed + 1)
}
