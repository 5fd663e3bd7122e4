use proptest::prelude::*;

use super::*;
use crate::wire::{HEADER_BYTES, TEXT_MAX};

fn number(number: u64) -> SendNumber {
    SendNumber(number)
}

/// What the committed vectors say, those that are no error.
fn messages() -> Vec<Message<'static>> {
    let answer = |answer, reason| Message::Answer { answer, reason: Text::new(reason) };
    vec![
        Message::Hello { settled_below: number(41) },
        Message::Welcome { state: 7, applied: vec![] },
        Message::Welcome {
            state: 0,
            applied: vec![number(41)..number(44), number(90)..number(91)],
        },
        Message::Acknowledge(vec![number(1)..number(1025)]),
        Message::Want(vec![number(5)..number(6)]),
        Message::State(StatePart {
            number: 9,
            base: 7,
            total: 12,
            offset: 4,
            bytes: b"\n\x0b\x0c",
        }),
        Message::Announce(vec![PageRun::new(Gfn(0x100), 16).unwrap()]),
        Message::Permit(Permit {
            state: 9,
            root: Root::from_bytes(&std::array::from_fn(|at| if at < 32 { 0x11 } else { 0x33 })),
        }),
        Message::Ask(Ask::default()),
        Message::Ask(Ask { refuse: true, is_complete: true }),
        answer(PeerAnswer::Ran, ""),
        answer(PeerAnswer::NeverRan, "the disk is full"),
        answer(PeerAnswer::Undecided, ""),
        answer(PeerAnswer::Unknown, ""),
        Message::Limits(Limits { bytes_per_second: 1_000_000, batch_pages: 64 }),
        Message::Abort(Text::new("why")),
        Message::Abort(Text::default()),
        Message::Ping { is_echo: false, token: 0xabc },
        Message::Ping { is_echo: true, token: 0xabc },
        Message::Recall { from: Gfn(0x1000) },
        Message::Kept(KeptPart {
            is_last: false,
            runs: vec![
                KeptRun {
                    first: Gfn(0x100),
                    digests: vec![ShortDigest([0x11; 8]), ShortDigest([0x22; 8])],
                },
                KeptRun {
                    first: Gfn(0x400),
                    digests: vec![ShortDigest([0x33, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33, 0xff])],
                },
            ],
        }),
        Message::Kept(KeptPart { is_last: true, runs: vec![] }),
    ]
}

/// The committed vectors: the kind, the payload, and whether it is refused.
fn vectors() -> Vec<(Kind, Vec<u8>, &'static str)> {
    let text = include_str!("../../../vectors/frame-payloads.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let kind = Kind::from_number(words.next().unwrap().parse().unwrap()).unwrap();
            let hex = words.next().unwrap().trim_start_matches('-');
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            (kind, (0..hex.len()).step_by(2).map(byte).collect(), words.next().unwrap())
        })
        .collect()
}

#[test]
fn the_committed_vectors_are_written_and_read() {
    let (good, bad): (Vec<_>, Vec<_>) =
        vectors().into_iter().partition(|(_, _, meaning)| !meaning.starts_with("refused"));
    assert_eq!((good.len(), bad.len()), (messages().len(), 26));
    for ((kind, payload, meaning), message) in good.iter().zip(messages()) {
        assert_eq!(message.kind(), *kind, "{meaning}");
        assert_eq!(Message::parse(*kind, payload), Ok(Some(message.clone())), "{meaning}");
        let mut written = Vec::new();
        message.write_to(&mut written);
        assert_eq!(written, *payload, "{meaning}");
    }
    for (kind, payload, meaning) in bad {
        assert!(Message::parse(kind, &payload).is_err(), "{meaning}");
    }
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Pages) {
        assert!(messages().iter().any(|message| message.kind() == kind), "{kind:?} has no vector");
    }
    assert_eq!(Message::parse(Kind::Pages, b"anything"), Ok(None));
}

#[test]
fn a_payload_that_is_cut_short_is_no_payload_of_a_fixed_length() {
    for message in messages() {
        let mut payload = Vec::new();
        message.write_to(&mut payload);
        let is_fixed = message.kind().payload_bytes().count() == 1;
        for length in (0..payload.len()).filter(|_| is_fixed) {
            let error = Err(PayloadError::Length(message.kind()));
            assert_eq!(Message::parse(message.kind(), &payload[..length]), error, "{length}");
        }
    }
}

#[test]
fn the_largest_messages_fit_their_frames() {
    let ranges = |count: usize| vec![number(1)..number(2); count];
    let largest = [
        Message::Welcome { state: 1, applied: ranges(WELCOME_RANGES_MAX) },
        Message::Acknowledge(ranges(RANGES_MAX)),
        Message::Announce(vec![PageRun::new(Gfn(0), 1).unwrap(); ANNOUNCED_RUNS_MAX]),
        Message::State(StatePart {
            number: 1,
            base: 0,
            total: STATE_TOTAL_MAX,
            offset: 0,
            bytes: &vec![0; STATE_PART_MAX],
        }),
        Message::Abort(Text::new(&"x".repeat(TEXT_MAX))),
        Message::Kept(KeptPart {
            is_last: false,
            runs: vec![KeptRun { first: Gfn(0), digests: vec![ShortDigest([1; 8]); kept_room(1)] }],
        }),
    ];
    for message in largest {
        let mut payload = Vec::with_capacity(HEADER_BYTES);
        message.write_to(&mut payload);
        let length = u32::try_from(payload.len()).unwrap();
        assert!(message.kind().payload_bytes().contains(&length), "{:?}", message.kind());
        assert!(Message::parse(message.kind(), &payload).is_ok(), "{:?}", message.kind());
    }
}

#[test]
fn what_may_be_answered_follows_the_record() {
    assert_eq!(PeerAnswer::of(Answer::RefuseFirst), None);
    assert_eq!(PeerAnswer::of(Answer::Unknown), Some(PeerAnswer::Unknown));
    assert_eq!(PeerAnswer::of(Answer::Undecided), Some(PeerAnswer::Undecided));
    assert_eq!(PeerAnswer::of(Answer::Ran), Some(PeerAnswer::Ran));
    assert_eq!(PeerAnswer::of(Answer::NeverRan), Some(PeerAnswer::NeverRan));
}

proptest! {
    #[test]
    fn any_payload_is_a_message_or_an_error(
        kind in prop::sample::select(&Kind::ALL[..]),
        payload in prop::collection::vec(any::<u8>(), 0..200),
        small in any::<bool>(),
    ) {
        // Small bytes make small numbers, which are more often valid.
        let payload: Vec<_> = payload.iter().map(|byte| if small { byte % 3 } else { *byte }).collect();
        if let Ok(Some(message)) = Message::parse(kind, &payload) {
            let mut written = Vec::new();
            message.write_to(&mut written);
            prop_assert_eq!(written, payload);
        }
    }
}
