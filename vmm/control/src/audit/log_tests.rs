use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::super::fixture::{Place, append, append_all, call, copy};
use super::super::problem::Damage;
use super::super::recent::{Wanted, recent};
use super::super::record::Event;
use super::*;

fn damage(error: AuditError) -> Damage {
    match error {
        AuditError::Damaged { problem, .. } => problem.damage,
        other => unreachable!("{other}"),
    }
}

#[test]
fn a_new_log_is_whole_and_goes_on_after_it_was_closed() {
    let place = Place::new();
    let log = place.open().unwrap();
    // The segment has the first record.
    assert_eq!(append(&log, 0).seq, 2);
    drop(log);
    let log = place.open().unwrap();
    let receipt = append(&log, 1);
    assert_eq!(receipt.seq, 3);
    let summary = place.verify().unwrap();
    assert_eq!((summary.records, summary.numbers), (3, Some((1, 3))));
    assert_eq!((summary.head, summary.torn), (receipt.hash, 0));
}

#[test]
fn a_log_has_one_writer() {
    let place = Place::new();
    let first = place.open().unwrap();
    let error = place.open().unwrap_err();
    assert!(matches!(error, AuditError::Taken { .. }), "{error}");
    drop(first);
    place.open().unwrap();
}

#[test]
fn segments_follow_each_other_and_the_oldest_are_deleted() {
    let place = Place::with_calls(12);
    assert_eq!(place.segments(), [1, 2, 3]);
    place.verify().unwrap();
    let log = place.open().unwrap();
    append_all(&log, 12..30);
    let segments = place.segments();
    assert_eq!(segments, [4, 5, 6]);
    let summary = place.verify().unwrap();
    assert_eq!(summary.segments, 3);
    let (first, last) = summary.numbers.unwrap();
    assert!(first > 10 && last == 30 + segments[2], "{first} {last}");
    assert!(place.lines(segments[0])[0].contains(&format!("\"seq\":{first},")));
}

#[test]
fn limits_that_are_raised_do_not_bring_back_what_is_gone() {
    let mut place = Place::with_calls(30);
    let first = place.segments()[0];
    place.limits.segments_kept = 100;
    let log = place.open().unwrap();
    append_all(&log, 0..30);
    assert_eq!(place.segments()[0], first);
    place.verify().unwrap();
    place.limits.segments_kept = 2;
    drop(log);
    let log = place.open().unwrap();
    append_all(&log, 0..10);
    assert_eq!(place.segments().len(), 2);
    place.verify().unwrap();
}

#[test]
fn calls_of_many_threads_are_each_in_the_log_once() {
    const THREADS: u32 = 8;
    const CALLS: u32 = 25;
    let mut place = Place::new();
    place.limits.segments_kept = 1000;
    let log = place.open().unwrap();
    let mut receipts: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let log = &log;
                scope.spawn(move || {
                    (0..CALLS).map(|n| append(log, thread * CALLS + n)).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    receipts.sort_by_key(|receipt| receipt.seq);
    receipts.dedup();
    assert_eq!(receipts.len(), 200);
    place.verify().unwrap();
    let wanted = Wanted { most: 1000, method: Some("machine.start".to_owned()), target: None };
    let records = recent(&place.path(), &wanted).unwrap().records;
    let mut targets: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.event {
            Event::Call(call) => Some(call.target.clone()),
            _ => None,
        })
        .collect();
    targets.sort();
    let mut expected: Vec<_> = (0..200).map(|number| format!("machine-{number}")).collect();
    expected.sort();
    assert_eq!(targets, expected);
    assert!(records.iter().zip(&receipts).all(|(record, receipt)| record.seq == receipt.seq));
}

#[test]
fn calls_that_wait_for_the_disk_are_written_together_and_nobody_is_forgotten() {
    const CALLS: u32 = 8;
    let place = Place::new();
    let log = Arc::new(place.open().unwrap());
    let end = Instant::now() + Duration::from_secs(20);
    let (send, receive) = mpsc::channel();
    let disk = log.writer();
    for number in 0..CALLS {
        let (log, send) = (Arc::clone(&log), send.clone());
        thread::spawn(move || send.send(append(&log, number)));
    }
    // The first waits for the disk, all others for the first.
    while lock(&log.queue).next_ticket < u64::from(CALLS) {
        assert!(Instant::now() < end, "the calls do not come");
        thread::sleep(Duration::from_millis(1));
    }
    drop(disk);
    for _ in 0..CALLS {
        receive.recv_timeout(Duration::from_secs(20)).unwrap();
    }
    let wanted = Wanted { most: 100, method: Some("machine.start".to_owned()), target: None };
    let mut times: Vec<_> =
        recent(&place.path(), &wanted).unwrap().records.into_iter().map(|it| it.time).collect();
    assert_eq!(times.len(), 8);
    // What is written together has one time. The first write took what had come by then.
    times.dedup();
    assert!(times.len() <= 2, "{times:?}");
}

/// The states in which a process that is killed leaves a log, each in a folder of its own: what was appended last is there
/// up to every byte, and the head still knows the record before it.
fn killed_in_the_last_append(calls: u32, check: impl Fn(&Place, u64, u64)) {
    let before = Place::with_calls(calls);
    let after = Place::new();
    copy(&before.path(), &after.path());
    append(&after.open().unwrap(), calls);
    let number = *after.segments().last().unwrap();
    let whole = fs::read(after.segment(number)).unwrap();
    let length = if before.segment(number).exists() {
        fs::metadata(before.segment(number)).unwrap().len()
    } else {
        // A segment is there with its first record, or not at all.
        after.lines(number)[0].len() as u64 + 1
    };
    let killed = Place::new();
    for end in length..=whole.len() as u64 {
        copy(&before.path(), &killed.path());
        fs::write(killed.segment(number), &whole[..usize::try_from(end).unwrap()]).unwrap();
        check(&killed, end - length, whole.len() as u64 - length);
    }
}

#[test]
fn killed_at_every_byte_of_an_append_a_log_is_whole_again_and_says_so() {
    // The last of them begins a segment.
    for calls in [0, 1, 4] {
        killed_in_the_last_append(calls, |place, written, all| {
            let torn = if written == all { 0 } else { written };
            assert_eq!(place.verify().unwrap().torn, torn);
            let log = place.open().unwrap();
            append(&log, 77);
            let summary = place.verify().unwrap();
            assert_eq!(summary.torn, 0);
            // Between the two may be the beginning of a segment.
            let wanted = Wanted { most: 3, ..Wanted::default() };
            let last = recent(&place.path(), &wanted).unwrap().records;
            let cut = last.iter().find_map(|record| match &record.event {
                Event::Torn(note) => Some(note.bytes),
                _ => None,
            });
            assert_eq!(cut.unwrap_or(0), torn);
            let last = &last.last().unwrap().event;
            assert!(matches!(last, Event::Call(call) if call.target == "machine-77"), "{last:?}");
        });
    }
}

#[test]
fn killed_before_an_old_segment_is_deleted_a_log_is_whole_and_it_is_deleted_later() {
    let place = Place::with_calls(12);
    assert_eq!(place.segments(), [1, 2, 3]);
    let oldest = fs::read(place.segment(1)).unwrap();
    append_all(&place.open().unwrap(), 12..18);
    assert_eq!(place.segments(), [2, 3, 4]);
    fs::write(place.segment(1), oldest).unwrap();
    assert_eq!(place.verify().unwrap().segments, 4);
    drop(place.open().unwrap());
    assert_eq!(place.segments(), [2, 3, 4]);
    place.verify().unwrap();
}

#[test]
fn killed_while_a_log_is_begun_it_is_begun_again() {
    let place = Place::with_calls(0);
    // Its head comes first, and what was to become a segment has another name until it is whole.
    let segment = fs::read(place.segment(1)).unwrap();
    fs::remove_file(place.segment(1)).unwrap();
    fs::write(place.head(), super::super::head::Head::EMPTY.encode().unwrap()).unwrap();
    for end in 0..segment.len() {
        fs::write(place.path().join("new"), &segment[..end]).unwrap();
        assert_eq!(place.verify().unwrap().records, 0);
    }
    append(&place.open().unwrap(), 1);
    assert_eq!(place.verify().unwrap().records, 2);
}

#[test]
fn a_log_with_a_whole_record_that_nobody_acknowledged_keeps_it() {
    killed_in_the_last_append(2, |place, written, all| {
        if written == all {
            drop(place.open().unwrap());
            let records = place.verify().unwrap().records;
            assert_eq!(records, 4);
            // From now on it may not be taken away.
            let lines = place.lines(1);
            place.write_lines(1, &lines[..lines.len() - 1]);
            assert!(matches!(damage(place.open().unwrap_err()), Damage::CutOff { .. }));
        }
    });
}

#[test]
fn when_the_disk_is_full_a_call_is_refused_and_the_log_stays_as_it_was() {
    let place = Place::with_calls(1);
    let log = place.open().unwrap();
    let before = fs::read(place.segment(1)).unwrap();
    for room in [0, 1, 200] {
        log.writer().file.room = Some(room);
        let error = log.append(call(1)).unwrap_err().to_string();
        assert!(
            error.contains("No space left") && error.contains("nothing may be changed"),
            "{error}"
        );
        assert_eq!(fs::read(place.segment(1)).unwrap(), before, "{room}");
        place.verify().unwrap();
    }
    log.writer().file.room = None;
    assert_eq!(append(&log, 1).seq, 3);
    assert_eq!(place.verify().unwrap().records, 3);
}

#[test]
fn a_call_whose_acknowledgement_cannot_be_written_is_not_in_the_log() {
    let place = Place::with_calls(1);
    let log = place.open().unwrap();
    let before = fs::read(place.segment(1)).unwrap();
    // Where the new head is written first.
    fs::create_dir(place.path().join("new")).unwrap();
    log.append(call(1)).unwrap_err();
    assert_eq!(fs::read(place.segment(1)).unwrap(), before);
    fs::remove_dir(place.path().join("new")).unwrap();
    append(&log, 1);
    assert_eq!(place.verify().unwrap().records, 3);
}

#[test]
fn when_nobody_knows_what_is_on_the_disk_nothing_is_added_any_more() {
    let harms: [fn(&mut Writer); 2] = [
        |writer| writer.file.is_deaf = true,
        // Part of a line stays in the file.
        |writer| (writer.file.room, writer.file.is_stuck) = (Some(100), true),
    ];
    for harm in harms {
        let place = Place::with_calls(1);
        let log = place.open().unwrap();
        harm(&mut log.writer());
        log.append(call(1)).unwrap_err();
        {
            let file = &mut log.writer().file;
            (file.is_deaf, file.is_stuck, file.room) = (false, false, None);
        }
        let before = fs::read(place.segment(1)).unwrap();
        let error = log.append(call(1)).unwrap_err().to_string();
        assert!(error.contains("restart the daemon"), "{error}");
        assert_eq!(fs::read(place.segment(1)).unwrap(), before);
        drop(log);
        append(&place.open().unwrap(), 2);
        place.verify().unwrap();
    }
}

type Harm<'a> = &'a dyn Fn(&Place);

#[test]
fn a_damaged_log_is_neither_opened_nor_changed() {
    let sound = Place::with_calls(8);
    assert_eq!(sound.segments(), [1, 2]);
    let place = Place::new();
    let lines = sound.lines(2);
    let cases: [(&str, Harm); 9] = [
        ("Altered", &|place| {
            let altered = lines[1].replace("machine.start", "machine.pause");
            place.write_lines(2, &[&[lines[0].clone(), altered], &lines[2..]].concat());
        }),
        ("Removed", &|place| place.write_lines(2, &[&lines[..1], &lines[2..]].concat())),
        ("CutOff", &|place| place.write_lines(2, &lines[..lines.len() - 1])),
        ("CutOff", &|place| fs::remove_file(place.segment(2)).unwrap()),
        ("Empty", &|place| fs::write(place.segment(2), "").unwrap()),
        ("NoStart", &|place| place.write_lines(2, &lines[1..])),
        ("NoSegment", &|place| fs::remove_file(place.segment(1)).unwrap()),
        ("NoHead", &|place| fs::remove_file(place.head()).unwrap()),
        ("HeadAltered", &|place| fs::write(place.head(), "{}").unwrap()),
    ];
    for (expected, harm) in cases {
        copy(&sound.path(), &place.path());
        harm(&place);
        let bytes = || [1, 2].map(|number| fs::read(place.segment(number)).ok());
        let before = bytes();
        let found = damage(place.open().unwrap_err());
        assert!(format!("{found:?}").starts_with(expected), "{expected}: {found:?}");
        assert_eq!(bytes(), before, "{expected}");
    }
}

#[test]
fn a_log_of_which_only_the_head_is_left_is_not_begun_anew() {
    let place = Place::with_calls(2);
    fs::remove_file(place.segment(1)).unwrap();
    assert_eq!(damage(place.open().unwrap_err()), Damage::CutOff { last: 0, head: 3 });
    fs::remove_file(place.head()).unwrap();
    // Whoever may remove all of it may begin anew: its reader remembers a hash, or not.
    place.open().unwrap();
}

#[test]
fn a_log_in_a_folder_that_others_can_reach_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::with_calls(1);
    fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let error = place.open().unwrap_err();
    assert!(matches!(error, AuditError::Folder(_)), "{error}");
}

#[test]
fn the_last_records_are_found_by_method_and_target_over_segments() {
    let place = Place::with_calls(12);
    let find = |most, method: Option<&str>, target: Option<&str>| {
        let [method, target] = [method, target].map(|text| text.map(str::to_owned));
        let found = recent(&place.path(), &Wanted { most, method, target }).unwrap();
        found.records.iter().map(|record| record.seq).collect::<Vec<_>>()
    };
    let last = place.verify().unwrap().numbers.unwrap().1;
    assert_eq!(find(3, None, None), [last - 2, last - 1, last]);
    assert!(find(0, None, None).is_empty());
    assert_eq!(find(100, None, None).len() as u64, place.verify().unwrap().records);
    assert_eq!(find(100, Some("machine.start"), None).len() as u64, 12 - missing(&place));
    assert!(find(100, Some("machine.stop"), None).is_empty());
    assert_eq!(find(100, None, Some("machine-11")), [last]);
    let mut file =
        OpenOptions::new().append(true).open(place.segment(place.segments()[0])).unwrap();
    file.write_all(b"no record\n").unwrap();
    let wanted = Wanted { most: 100, ..Wanted::default() };
    assert_eq!(recent(&place.path(), &wanted).unwrap().unreadable, 1);
}

/// Calls in segments that have been deleted.
fn missing(place: &Place) -> u64 {
    let (first, _) = place.verify().unwrap().numbers.unwrap();
    // As many records of segments as segments came before.
    (first - 1).saturating_sub(place.segments()[0] - 1)
}
