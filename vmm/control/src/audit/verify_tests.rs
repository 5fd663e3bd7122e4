use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::super::fixture::{Place, append, append_all, copy};
use super::*;

/// A log of a few segments whose oldest were deleted, and one whose first is there.
fn logs() -> [Place; 2] {
    let logs = [Place::with_calls(26), Place::with_calls(7)];
    assert!(!logs[0].segment(1).exists() && logs[1].segment(1).exists());
    logs
}

#[test]
fn a_sound_log_is_summed_up() {
    for place in logs() {
        let summary = place.verify().unwrap();
        let segments = place.segments();
        let lines: u64 = segments.iter().map(|number| place.lines(*number).len() as u64).sum();
        assert_eq!(summary.records, lines);
        assert_eq!(summary.segments, segments.len() as u64);
        let (first, last) = summary.numbers.unwrap();
        assert_eq!(last - first + 1, lines);
        let head = fs::read_to_string(place.head()).unwrap();
        assert_eq!(head, format!("{{\"seq\":{last},\"hash\":\"{}\"}}\n", summary.head));
        assert!(summary.times.unwrap().0.starts_with("20"));
    }
}

/// The bytes of a log: its segments, and its head as segment 0.
fn bytes(place: &Place) -> Vec<(u64, Vec<u8>)> {
    let read = |number: u64| (number, fs::read(place.segment(number)).unwrap());
    let head = (0, fs::read(place.head()).unwrap());
    place.segments().into_iter().map(read).chain([head]).collect()
}

fn is_sound(log: &[(u64, Vec<u8>)]) -> bool {
    let segments = log.iter().filter(|(number, _)| *number > 0);
    let segments: Vec<_> = segments.map(|(number, bytes)| (*number, bytes.as_slice())).collect();
    let head = log.iter().find(|(number, _)| *number == 0);
    verify_bytes(head.map(|(_, bytes)| bytes.as_slice()), &segments).is_ok()
}

#[test]
fn every_altered_byte_is_found() {
    for place in logs() {
        let mut log = bytes(&place);
        assert!(is_sound(&log));
        for file in 0..log.len() {
            for at in 0..log[file].1.len() {
                let sound = log[file].1[at];
                for byte in [sound ^ 1, sound ^ 0x80, b'\n', b'0'] {
                    log[file].1[at] = byte;
                    assert_eq!(is_sound(&log), byte == sound, "{} byte {at}: {byte}", log[file].0);
                }
                log[file].1[at] = sound;
            }
        }
    }
}

#[test]
fn a_log_that_ends_earlier_is_found_at_every_byte() {
    for place in logs() {
        let mut log = bytes(&place);
        for file in 0..log.len() {
            let (number, sound) = log[file].clone();
            for end in 0..sound.len() {
                log[file].1.truncate(sound.len() - 1 - end);
                assert!(!is_sound(&log), "{number} without {} bytes", end + 1);
            }
            log[file].1 = sound;
            let mut without = log.clone();
            without.remove(file);
            assert!(!is_sound(&without), "{number} removed");
        }
        assert!(is_sound(&log));
    }
}

/// Changes the lines of a segment in some way, and checks what is said of it.
fn finds(place: &Place, segment: u64, change: impl Fn(&mut Vec<String>), expected: &str) {
    let sound = place.lines(segment);
    let mut lines = sound.clone();
    change(&mut lines);
    place.write_lines(segment, &lines);
    let said = place.verify().unwrap_err().to_string();
    assert!(said.contains(expected), "{expected}: {said}");
    place.write_lines(segment, &sound);
    place.verify().unwrap();
}

#[test]
fn what_happened_to_a_line_is_said_with_its_place() {
    let place = Place::with_calls(7);
    assert_eq!(place.segments(), [1, 2]);
    let all = place.lines(1).len();
    assert!(all > 4 && place.lines(2).len() >= 3);
    finds(
        &place,
        1,
        |lines| lines[2] = lines[2].replace("1000", "0"),
        "00000001.jsonl, line 3: this line was altered",
    );
    finds(
        &place,
        1,
        |lines| lines.insert(1, String::new()),
        "00000001.jsonl, line 2: this line was altered",
    );
    finds(
        &place,
        1,
        |lines| drop(lines.remove(2)),
        "00000001.jsonl, line 3: records 3 to 3 were removed",
    );
    finds(
        &place,
        1,
        |lines| drop(lines.drain(1..3)),
        "00000001.jsonl, line 2: records 2 to 3 were removed",
    );
    let end = format!("00000002.jsonl, line 1: records {all} to {all} were removed");
    finds(&place, 1, |lines| drop(lines.pop()), &end);
    finds(&place, 1, |lines| lines.swap(1, 2), "00000001.jsonl, line 2: record 3 was moved here");
    finds(
        &place,
        1,
        |lines| lines.insert(3, lines[2].clone()),
        "00000001.jsonl, line 4: record 3 was put in",
    );
    finds(&place, 1, |lines| drop(lines.remove(0)), "line 1: records 1 to 1 were removed");
    finds(&place, 2, |lines| drop(lines.pop()), "the end was cut off");
    finds(&place, 2, |lines| lines.clear(), "00000002.jsonl: the segment has no whole line");
    let second = place.lines(2);
    finds(
        &place,
        1,
        |lines| lines.push(second[0].clone()),
        "line 7: the segment does not begin with its own",
    );
}

#[test]
fn a_line_that_is_put_in_with_right_hashes_is_found_by_the_next_one() {
    let place = Place::with_calls(7);
    let forge = |line: &str| {
        let (mut record, _) = Record::decode(line.as_bytes()).unwrap();
        record.time = "2000-01-01T00:00:00.000000Z".to_owned();
        String::from_utf8(record.encode().unwrap().0).unwrap().trim_end().to_owned()
    };
    finds(
        &place,
        1,
        |lines| lines[2] = forge(&lines[2]),
        "line 4: record 4 or the one before it was replaced",
    );
    finds(
        &place,
        2,
        |lines| *lines.last_mut().unwrap() = forge(lines.last().unwrap()),
        "the head names a record",
    );
}

#[test]
fn segments_that_are_missing_or_exchanged_are_found() {
    let place = Place::with_calls(26);
    let numbers = place.segments();
    assert_eq!(numbers.len(), 3);
    let sound = Place::new();
    copy(&place.path(), &sound.path());
    let finds = |harm: &dyn Fn(), expected: &str| {
        copy(&sound.path(), &place.path());
        harm();
        let said = place.verify().unwrap_err().to_string();
        assert!(said.contains(expected), "{expected}: {said}");
    };
    let path = |index: usize| place.segment(numbers[index]);
    let remove = |index: usize| fs::remove_file(path(index)).unwrap();
    finds(&|| remove(0), &format!("segment {} is missing", numbers[0]));
    finds(&|| remove(1), &format!("segment {} is missing", numbers[1]));
    finds(&|| remove(2), "the end was cut off");
    finds(&|| [0, 1].into_iter().for_each(remove), &format!("segment {} is missing", numbers[0]));
    finds(&|| drop(fs::copy(path(1), place.segment(numbers[2] + 1))), "was put in");
    finds(&|| drop(fs::copy(path(2), path(1))), "were removed");
    finds(&|| drop(fs::copy(path(0), path(1))), "was put in");
    finds(&|| fs::rename(path(0), place.segment(numbers[0] - 1)).unwrap(), "is missing");
    let renumber =
        |index: usize| fs::rename(path(index), place.segment(numbers[index] - 1)).unwrap();
    finds(&|| (0..3).for_each(renumber), "does not begin with its own");
    finds(&|| drop(fs::remove_file(place.head())), "no file `head`");
}

#[test]
fn a_head_of_another_time_is_found() {
    let place = Place::with_calls(3);
    let early = fs::read(place.head()).unwrap();
    let log = place.open().unwrap();
    append(&log, 3);
    let late = fs::read(place.head()).unwrap();
    // One that knows less is what a killed process leaves.
    fs::write(place.head(), &early).unwrap();
    place.verify().unwrap();
    fs::write(place.head(), &late).unwrap();
    let other = Place::with_calls(4);
    fs::write(place.head(), fs::read(other.head()).unwrap()).unwrap();
    assert!(place.verify().unwrap_err().to_string().contains("the head names a record 5"));
}

#[test]
fn an_empty_log_is_sound_and_no_log_is_none() {
    let folder = tempfile::tempdir().unwrap();
    assert!(verify(folder.path(), None).unwrap_err().to_string().contains("no audit log"));
    fs::write(folder.path().join("head"), Head::EMPTY.encode().unwrap()).unwrap();
    let summary = verify(folder.path(), None).unwrap();
    assert_eq!((summary.records, summary.numbers, summary.times), (0, None, None));
    let missing = folder.path().join("missing");
    assert!(matches!(verify(&missing, None), Err(VerifyError::Io { .. })));
}

#[test]
fn a_line_that_is_being_written_is_no_problem() {
    let place = Place::with_calls(3);
    let whole = fs::read(place.segment(1)).unwrap();
    fs::write(place.segment(1), [&whole[..], b"{\"seq\":5,"].concat()).unwrap();
    assert_eq!(place.verify().unwrap().torn, 9);
}

#[test]
fn a_log_that_was_written_anew_lacks_a_hash_that_was_noted() {
    let place = Place::with_calls(3);
    let noted = place.verify().unwrap().head;
    append_all(&place.open().unwrap(), 3..9);
    verify(&place.path(), Some(noted)).unwrap();
    let anew = Place::with_calls(9);
    let error = verify(&anew.path(), Some(noted)).unwrap_err().to_string();
    assert!(error.contains("no record has the hash"), "{error}");
}

#[test]
fn bytes_are_verified_as_files_are() {
    let place = Place::with_calls(26);
    let numbers = place.segments();
    let bytes: Vec<_> =
        numbers.iter().map(|n| (*n, fs::read(place.segment(*n)).unwrap())).collect();
    let mut segments: Vec<_> = bytes.iter().map(|(n, bytes)| (*n, bytes.as_slice())).collect();
    let head = fs::read(place.head()).unwrap();
    assert_eq!(verify_bytes(Some(&head), &segments), place.verify());
    segments.remove(1);
    let problem = verify_bytes(Some(&head), &segments).unwrap_err();
    assert_eq!(problem.damage, Damage::NoSegment { number: numbers[1] });
    assert_eq!(verify_bytes(None, &segments).unwrap_err().damage, Damage::NoHead);
}

/// Something done to the lines of a log, as if it were one file.
#[derive(Clone, Debug)]
enum Harm {
    Remove(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Repeat(prop::sample::Index, prop::sample::Index),
    Alter(prop::sample::Index, prop::sample::Index, u8),
}

fn harm() -> impl Strategy<Value = Harm> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        index().prop_map(Harm::Remove),
        (index(), index()).prop_map(|(a, b)| Harm::Swap(a, b)),
        (index(), index()).prop_map(|(a, b)| Harm::Repeat(a, b)),
        (index(), index(), 1_u8..).prop_map(|(a, b, flip)| Harm::Alter(a, b, flip)),
    ]
}

/// Each with the number of its segment.
type Lines = Vec<(u64, Vec<u8>)>;

fn apply(harm: &Harm, lines: &mut Lines) {
    match harm {
        Harm::Remove(at) => drop(lines.remove(at.index(lines.len()))),
        Harm::Swap(a, b) => {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            let line = lines[a].1.clone();
            lines[a].1 = std::mem::replace(&mut lines[b].1, line);
        }
        Harm::Repeat(what, at) => {
            let line = lines[what.index(lines.len())].1.clone();
            let at = at.index(lines.len());
            lines.insert(at, (lines[at].0, line));
        }
        Harm::Alter(line, at, flip) => {
            let line = line.index(lines.len());
            let line = &mut lines[line].1;
            let at = at.index(line.len());
            line[at] ^= flip;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_lines_is_found(harms in prop::collection::vec(harm(), 1..4)) {
        static SOUND: OnceLock<(Vec<u8>, Lines)> = OnceLock::new();
        let (head, sound) = SOUND.get_or_init(|| {
            let place = Place::with_calls(26);
            let segment = |number: u64| {
                let lines = place.lines(number).into_iter();
                lines.map(move |line| (number, format!("{line}\n").into_bytes())).collect::<Vec<_>>()
            };
            (fs::read(place.head()).unwrap(), place.segments().into_iter().flat_map(segment).collect())
        });
        let mut lines = sound.clone();
        harms.iter().for_each(|harm| apply(harm, &mut lines));
        let mut files: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (number, line) in &lines {
            files.entry(*number).or_default().extend(line);
        }
        let segments: Vec<_> = files.iter().map(|(number, bytes)| (*number, bytes.as_slice())).collect();
        let verified = verify_bytes(Some(head), &segments);
        prop_assert_eq!(verified.is_ok(), lines == *sound, "{:?}", verified);
    }
}
