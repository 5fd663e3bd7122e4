use std::time::Duration;

use super::*;

fn record(event: Event) -> Record {
    let time = "2026-01-02T03:04:05.000006Z".to_owned();
    Record { seq: 7, time, event, previous: RecordHash::of(b"before") }
}

fn caller(uid: u32) -> Caller {
    Caller { uid, gid: 100, groups: vec![4], pid: Some(42) }
}

fn call(target: &str, operation: Option<&str>, phase: Phase) -> Event {
    let role = Some(Role::Operator);
    Event::Call(Call::new(&caller(1000), role, "machine.start", target, operation, phase))
}

fn events() -> [Event; 6] {
    [
        call("web", None, Phase::Asked),
        call("web", Some("o-1"), Phase::Done(Outcome::Ok)),
        call("a\"\\\n\u{1}é\u{2028}", None, Phase::Done(Outcome::Denied)),
        call("", None, Phase::Done(Outcome::Failed("no_such_machine".to_owned()))),
        Event::Segment(SegmentStart { number: 3, oldest: 2 }),
        Event::Torn(Torn { bytes: 5, cut: RecordHash::of(b"torn") }),
    ]
}

#[test]
fn a_line_has_the_form_that_is_documented() {
    let (line, hash) = record(call("web", Some("o-1"), Phase::Done(Outcome::Ok))).encode().unwrap();
    let expected = format!(
        "{{\"seq\":7,\"time\":\"2026-01-02T03:04:05.000006Z\",\"call\":{{\"caller\":{{\"uid\":1000,\"gid\":100,\
         \"pid\":42,\"role\":\"operator\"}},\"method\":\"machine.start\",\"target\":\"web\",\"operation\":\"o-1\",\
         \"phase\":\"done\",\"outcome\":\"ok\"}},\"previous\":\"{}\",\"hash\":\"{hash}\"}}\n",
        RecordHash::of(b"before")
    );
    assert_eq!(String::from_utf8(line.clone()).unwrap(), expected);
    // With the newline 76 bytes follow what is hashed.
    assert_eq!(RecordHash::of(&line[..line.len() - 76]), hash);
}

#[test]
fn every_kind_of_record_is_read_as_it_was_written_and_is_one_line() {
    for event in events() {
        let record = record(event);
        let (line, hash) = record.encode().unwrap();
        let line = line.strip_suffix(b"\n").unwrap();
        assert!(!line.contains(&b'\n'));
        assert_eq!(Record::decode(line), Some((record, hash)));
    }
}

#[test]
fn a_line_with_any_other_byte_or_length_is_no_record() {
    for event in events() {
        let (line, _) = record(event).encode().unwrap();
        let line = line.strip_suffix(b"\n").unwrap();
        for at in 0..line.len() {
            assert_eq!(Record::decode(&line[..at]), None);
            for flip in [1, 0x20, 0x80] {
                let mut other = line.to_vec();
                other[at] ^= flip;
                assert_eq!(Record::decode(&other), None, "byte {at}, {flip:#x}");
            }
        }
        assert_eq!(Record::decode(&[line, b" "].concat()), None);
    }
}

#[test]
fn a_line_with_more_in_it_than_its_reader_sees_is_no_record_though_its_hash_is_right() {
    let (line, _) = record(events()[0].clone()).encode().unwrap();
    let line = String::from_utf8(line).unwrap();
    let hashed = line.split(",\"hash\"").next().unwrap();
    let seal = |text: &str| format!("{text},\"hash\":\"{}\"}}", RecordHash::of(text.as_bytes()));
    assert!(Record::decode(seal(hashed).as_bytes()).is_some());
    for (from, to) in [
        ("\"seq\":7", "\"seq\": 7"),
        ("\"seq\":7", "\"seq\":7,\"note\":1"),
        ("\"uid\":1000", "\"uid\":1000,\"name\":\"eve\""),
        ("\"seq\":7", "\"seq\":7,\"torn\":{\"bytes\":1}"),
        ("\"web\"", "\"\\u0077eb\""),
        ("\"phase\":\"asked\"", "\"phase\":\"done\""),
        ("operator", "root"),
    ] {
        let other = hashed.replacen(from, to, 1);
        assert_ne!(other, hashed, "{from}");
        assert_eq!(Record::decode(seal(&other).as_bytes()), None, "{to}");
    }
}

#[test]
fn the_longest_call_fits_a_line() {
    let worst = "\u{1}".repeat(10_000);
    let phase = Phase::Done(Outcome::Failed(worst.clone()));
    let longest = Who { uid: u32::MAX, gid: u32::MAX, pid: Some(u32::MAX), role: None };
    let call = Call::new(&caller(0), None, &worst, &worst, Some(&worst), phase);
    let mut call = call.of_host(Some(&"f".repeat(64)));
    call.caller = longest;
    let record = Record { seq: u64::MAX, ..record(Event::Call(call)) };
    let (line, _) = record.encode().unwrap();
    assert!(line.len() <= LINE_MOST, "{}", line.len());
}

#[test]
fn long_texts_are_cut_where_a_character_ends() {
    assert_eq!(cut(&"a".repeat(256)).len(), 256);
    let long = cut(&"é".repeat(200));
    assert!(long.len() <= TEXT_MOST && long.ends_with("é…"), "{long}");
}

#[test]
fn moments_are_written_in_utc_with_microseconds() {
    let at = |seconds, nanoseconds| {
        rfc3339(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds))
    };
    assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000Z");
    assert_eq!(at(1_709_210_096, 789_012_999), "2024-02-29T12:34:56.789012Z");
}
