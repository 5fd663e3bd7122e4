use proptest::prelude::*;

use super::*;

fn bytes() -> impl Strategy<Value = [u8; 16]> {
    any::<[u8; 16]>().prop_filter("zeros name nobody", |bytes| *bytes != [0; 16])
}

fn nonce() -> impl Strategy<Value = Nonce> {
    bytes().prop_map(|bytes| Nonce::new(bytes).unwrap())
}

fn session() -> impl Strategy<Value = SessionId> {
    bytes().prop_map(|bytes| SessionId::new(bytes).unwrap())
}

fn host() -> impl Strategy<Value = HostName> {
    prop_oneof!["[a-z]{1,128}", "[äöü]{1,64}"].prop_map(|name| HostName::new(&name).unwrap())
}

fn state() -> impl Strategy<Value = PermitState> {
    let successor =
        prop_oneof![nonce().prop_map(Successor::Process), host().prop_map(Successor::Host)];
    prop_oneof![
        prop::option::of(nonce()).prop_map(|runner| PermitState::Held { runner }),
        (session(), nonce(), successor).prop_map(|(session, runner, to)| PermitState::Offered {
            session,
            runner,
            to
        }),
        (session(), nonce(), host()).prop_map(|(session, runner, from)| PermitState::Prepared {
            session,
            runner,
            from
        }),
        (session(), nonce(), prop::option::of(host()))
            .prop_map(|(session, runner, from)| PermitState::Taken { session, runner, from }),
        (session(), host()).prop_map(|(session, from)| PermitState::Refused { session, from }),
        (prop::option::of(session()), host())
            .prop_map(|(session, to)| PermitState::Gone { session, to }),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    let outcome = prop_oneof![
        Just(Outcome::Taken),
        Just(Outcome::Refused),
        Just(Outcome::Withdrawn),
        Just(Outcome::Overruled),
    ];
    let outcomes = prop::collection::vec_deque((session(), outcome), 0..=OUTCOMES_MAX);
    (bytes(), any::<u64>(), any::<u32>(), any::<u32>(), state(), outcomes).prop_map(
        |(vm, sequence, resolutions, moves, state, outcomes)| Record {
            vm: VmId::new(vm).unwrap(),
            sequence,
            generation: Generation { resolutions, moves },
            state,
            outcomes,
        },
    )
}

fn example() -> Record {
    let session = SessionId::new([0x22; 16]).unwrap();
    Record {
        vm: VmId::new([0x11; 16]).unwrap(),
        sequence: 0x0102_0304_0506_0708,
        generation: Generation { resolutions: 1, moves: 2 },
        state: PermitState::Taken {
            session,
            runner: Nonce::new([0x33; 16]).unwrap(),
            from: HostName::new("host-a"),
        },
        outcomes: [(session, Outcome::Taken)].into(),
    }
}

/// Makes the checksum right again after a change.
fn seal(slot: &mut Slot) {
    let sum = checksum(slot);
    slot[CHECKSUM].copy_from_slice(&sum);
}

proptest! {
    #[test]
    fn a_record_survives_its_slot(record in record()) {
        prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn a_torn_slot_is_never_taken_for_either_record(
        old in record(), new in record(), torn_after in 0..SLOT_BYTES,
    ) {
        let (old, new) = (*old.encode(), *new.encode());
        let mut torn = old;
        torn[..torn_after].copy_from_slice(&new[..torn_after]);
        prop_assume!(torn != old && torn != new);
        prop_assert_eq!(Record::decode(&torn), Err(SlotFault::Torn));
    }

    #[test]
    fn no_sealed_bytes_panic_and_what_is_accepted_is_canonical(
        record in record(),
        changes in prop::collection::vec((8..CHECKSUM.start, any::<u8>()), 0..6),
    ) {
        let mut slot = *record.encode();
        for (at, byte) in changes {
            slot[at] = byte;
        }
        seal(&mut slot);
        if let Ok(decoded) = Record::decode(&slot) {
            prop_assert_eq!(*decoded.encode(), slot);
        }
    }
}

#[test]
fn every_flipped_byte_is_found() {
    let slot = *example().encode();
    for at in 0..SLOT_BYTES {
        let mut flipped = slot;
        flipped[at] ^= 0x40;
        let fault = if MAGIC.contains(&at) { SlotFault::Garbage } else { SlotFault::Torn };
        assert_eq!(Record::decode(&flipped), Err(fault), "byte {at}");
    }
}

#[test]
fn whole_slots_that_make_no_sense_are_named() {
    for (at, byte, fault) in [
        (8, 2, SlotFault::UnknownVersion(2)),
        (STATE, 0, SlotFault::Senseless("state")),
        (STATE, 7, SlotFault::Senseless("state")),
        (STATE, HELD, SlotFault::Senseless("padding")),
        (STATE, REFUSED, SlotFault::Senseless("padding")),
        (PEER_LENGTH, 129, SlotFault::Senseless("length of the peer")),
        (PEER_LENGTH, 5, SlotFault::Senseless("padding")),
        (PEER.start, 0xff, SlotFault::Senseless("peer")),
        (PEER.start, b'\n', SlotFault::Senseless("peer")),
        (OUTCOME_COUNT, 0, SlotFault::Senseless("padding")),
        (OUTCOME_COUNT, 2, SlotFault::Senseless("list of outcomes")),
        (OUTCOME_COUNT, 65, SlotFault::Senseless("list of outcomes")),
        (OUTCOMES.start + 16, 9, SlotFault::Senseless("list of outcomes")),
        (SUCCESSOR.start, 1, SlotFault::Senseless("padding")),
        (CHECKSUM.start - 1, 1, SlotFault::Senseless("padding")),
    ] {
        let mut slot = *example().encode();
        slot[at] = byte;
        seal(&mut slot);
        assert_eq!(Record::decode(&slot), Err(fault), "byte {at} = {byte}");
        assert!(!fault.holds_nothing(), "a whole slot is never passed over");
    }
    for (field, fault) in [
        (VM, SlotFault::Senseless("machine")),
        (SESSION, SlotFault::Senseless("session")),
        (RUNNER, SlotFault::Senseless("runner")),
    ] {
        let mut slot = *example().encode();
        slot[field].fill(0);
        seal(&mut slot);
        assert_eq!(Record::decode(&slot), Err(fault));
    }
}

#[test]
fn the_layout_is_what_the_specification_says() {
    let slot = *example().encode();
    let mut expected = [0; SLOT_BYTES];
    expected[..8].copy_from_slice(b"NVCPRMIT");
    expected[8] = 1;
    expected[10] = 4;
    expected[11] = 6;
    expected[12] = 1;
    expected[16..24].copy_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
    expected[24] = 1;
    expected[28] = 2;
    expected[32..48].fill(0x11);
    expected[48..64].fill(0x22);
    expected[64..80].fill(0x33);
    expected[96..102].copy_from_slice(b"host-a");
    expected[224..240].fill(0x22);
    expected[240] = 1;
    assert_eq!(slot[..4064], expected[..4064]);
    let sum = blake3::hash(&expected[..4064]);
    assert_eq!(slot[4064..], *sum.as_bytes());
    assert_eq!(
        sum.to_hex().as_str(),
        "389f485051a0b822031fc4bf4894007bd6c682c703e5a8f6670067557a88cd2b",
        "a second implementation writes these very bytes"
    );
}
