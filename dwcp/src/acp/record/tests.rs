use proptest::prelude::*;

use super::super::{
    HostName, MemoryStorage, Nonce, OtherSlot, PermitState, SessionId, SlotFault, Successor,
    TornWrite,
};
use super::*;

const VM: VmId = VmId::new([7; 16]).unwrap();
const A: Nonce = Nonce::new([0xa; 16]).unwrap();
const B: Nonce = Nonce::new([0xb; 16]).unwrap();
const SESSION: SessionId = SessionId::new([1; 16]).unwrap();

type Error = RecordError<TornWrite>;

fn open(storage: &MemoryStorage) -> Result<PermitRecord<MemoryStorage>, Error> {
    PermitRecord::open(storage.clone(), VM)
}

/// A machine that process A runs.
fn running() -> (MemoryStorage, PermitRecord<MemoryStorage>) {
    let storage = MemoryStorage::new();
    let mut record = open(&storage).unwrap();
    record.apply(Actor::Keeper, &Event::Create).unwrap();
    record.apply(Actor::Keeper, &Event::Start { runner: A }).unwrap();
    (storage, record)
}

/// One that process A has offered to process B.
fn offered() -> (MemoryStorage, PermitRecord<MemoryStorage>, PermitRecord<MemoryStorage>) {
    let (storage, mut of_a) = running();
    let offer = Event::Offer { session: SESSION, to: Successor::Process(B) };
    of_a.apply(Actor::Process(A), &offer).unwrap();
    let of_b = open(&storage).unwrap();
    (storage, of_a, of_b)
}

fn state(storage: &MemoryStorage) -> PermitState {
    storage::load(&storage.slots(), VM).unwrap().unwrap().record.state().clone()
}

fn whole_slots(storage: &MemoryStorage) -> usize {
    storage.slots().iter().filter(|slot| Record::decode(slot).is_ok()).count()
}

#[test]
fn of_two_processes_that_race_for_the_permit_exactly_one_wins() {
    let take = (Actor::Process(B), Event::Take { session: SESSION });
    let withdraw = (Actor::Process(A), Event::Withdraw { session: SESSION });
    for is_b_first in [true, false] {
        let (storage, mut of_a, mut of_b) = offered();
        let (won, lost) = if is_b_first {
            (of_b.apply(take.0, &take.1), of_a.apply(withdraw.0, &withdraw.1))
        } else {
            (of_a.apply(withdraw.0, &withdraw.1), of_b.apply(take.0, &take.1))
        };
        assert!(matches!(lost, Err(RecordError::Refused(_))), "{lost:?}");
        assert_eq!(*won.unwrap().state(), state(&storage));
        let expected = if is_b_first { "Taken" } else { "Held" };
        assert_eq!(state(&storage).name(), expected);
    }
}

#[test]
fn records_are_written_into_the_two_slots_in_turn() {
    let (storage, mut record) = running();
    for sequence in 3..7_u64 {
        let before = storage.slots();
        let written = record.apply(Actor::Keeper, &Event::Start { runner: A }).unwrap();
        assert_eq!(written.sequence(), sequence);
        let slot = usize::from(sequence % 2 == 1);
        assert_eq!(storage.slots()[1 - slot], before[1 - slot], "the last record stays whole");
        assert_eq!(Record::decode(&storage.slots()[slot]), Ok(written));
        assert_eq!(record.load().unwrap().unwrap().other, OtherSlot::Previous);
    }
}

#[test]
fn a_refused_event_writes_nothing() {
    let (storage, mut record) = running();
    let (writes, slots) = (storage.writes(), storage.slots());
    let refused = record.apply(Actor::Process(B), &Event::Take { session: SESSION });
    assert!(matches!(refused, Err(RecordError::Refused(_))));
    assert_eq!((storage.writes(), storage.slots()), (writes, slots));
}

#[test]
fn a_torn_write_leaves_the_old_state_or_the_new_one() {
    for bytes in [0, 1, 8, 11, 512, 4063, 4064, 4095, 4096] {
        let (storage, mut of_a, mut of_b) = offered();
        storage.tear_next_write(bytes);
        let taken = of_b.apply(Actor::Process(B), &Event::Take { session: SESSION });
        assert_eq!(taken, Err(RecordError::Uncertain(TornWrite(bytes))), "{bytes}");
        let expected = if bytes == 4096 { "Taken" } else { "Offered" };
        assert_eq!(state(&storage).name(), expected, "after {bytes} bytes");

        // Whatever it was, a restart makes it durable, and the next event finds one truth.
        let withdrawn = of_a.apply(Actor::Process(A), &Event::Withdraw { session: SESSION });
        assert_eq!(withdrawn.is_ok(), bytes != 4096, "after {bytes} bytes");
        drop(open(&storage).unwrap());
        assert_eq!(whole_slots(&storage), 2, "after {bytes} bytes");
    }
}

#[test]
fn after_a_failed_write_nothing_is_decided_before_a_write_succeeds() {
    let (storage, _, mut of_b) = offered();
    storage.tear_next_write(SLOT_BYTES);
    let take = Event::Take { session: SESSION };
    assert!(of_b.apply(Actor::Process(B), &take).is_err());
    let writes = storage.writes();
    storage.tear_next_write(0);
    let settle = Event::Settle { session: SESSION };
    let settled = of_b.apply(Actor::Process(B), &settle);
    assert_eq!(settled, Err(RecordError::Uncertain(TornWrite(0))), "the confirming write");
    assert_eq!(state(&storage).name(), "Taken");
    of_b.apply(Actor::Process(B), &settle).unwrap();
    assert_eq!(storage.writes(), writes + 3, "a failed confirmation, a good one, the event's");
}

#[test]
fn opening_puts_the_state_into_both_slots() {
    let (storage, ..) = offered();
    drop(open(&storage).unwrap());
    for damaged in 0..2 {
        let mut slots = storage.slots();
        slots[damaged][2000] ^= 1;
        let other = storage::load(&slots, VM).unwrap().unwrap();
        assert_eq!(other.record.state().name(), "Offered", "slot {damaged} has rotted");
        assert_eq!(other.other, OtherSlot::Nothing(SlotFault::Torn));
    }
}

#[test]
fn slots_that_do_not_say_what_the_permit_is_are_errors_and_never_an_absence() {
    let (storage, mut record) = running();
    let good = storage.slots();
    let [even, odd] = good;
    let garbage = [0x5a; SLOT_BYTES];
    let mut torn = odd;
    torn[100] ^= 1;
    let mut future = odd;
    future[8] = 2;
    let sum = *blake3::hash(&future[..SLOT_BYTES - 32]).as_bytes();
    future[SLOT_BYTES - 32..].copy_from_slice(&sum);
    let empty = [0; SLOT_BYTES];

    let nothing_whole = |first, second| Err(LoadError::NothingWhole { first, second });
    let not_understood = SlotFault::UnknownVersion(2);
    for (slots, expected) in [
        ([garbage, torn], nothing_whole(SlotFault::Garbage, SlotFault::Torn)),
        ([empty, torn], nothing_whole(SlotFault::Empty, SlotFault::Torn)),
        ([even, future], Err(LoadError::NotUnderstood { slot: 1, fault: not_understood })),
        ([odd, even], Err(LoadError::Misplaced { slot: 0, sequence: 1, vm: VM })),
        ([even, torn], Ok(OtherSlot::Nothing(SlotFault::Torn))),
        ([even, garbage], Ok(OtherSlot::Nothing(SlotFault::Garbage))),
        ([even, empty], Ok(OtherSlot::Nothing(SlotFault::Empty))),
        ([even, odd], Ok(OtherSlot::Previous)),
    ] {
        storage.set_slots(slots);
        let loaded = record.load().map(|loaded| loaded.unwrap().other);
        assert_eq!(loaded, expected.map_err(RecordError::Unreadable));
        if let Err(error) = expected {
            let event = Event::Start { runner: B };
            let refused = record.apply(Actor::Keeper, &event);
            assert_eq!(refused, Err(RecordError::Unreadable(error)));
            assert_eq!(storage.slots(), slots, "nothing is overwritten");
        }
    }
    storage.set_slots([empty, empty]);
    assert_eq!(record.load(), Ok(None));
}

#[test]
fn a_slot_from_further_back_is_named() {
    let (storage, mut record) = running();
    let old = storage.slots()[1];
    record.confirm().unwrap();
    record.confirm().unwrap();
    storage.set_slots([storage.slots()[0], old]);
    assert_eq!(record.load().unwrap().unwrap().other, OtherSlot::Stale { sequence: 1 });
}

#[test]
fn the_record_of_another_machine_is_refused() {
    let (storage, _) = running();
    let other = VmId::new([8; 16]).unwrap();
    let opened = PermitRecord::open(storage, other);
    let misplaced = LoadError::Misplaced { slot: 0, sequence: 2, vm: VM };
    assert_eq!(opened.unwrap_err(), RecordError::Unreadable(misplaced));
}

#[test]
fn a_lost_record_stops_every_event_that_is_not_a_beginning() {
    let (storage, mut record) = running();
    storage.set_slots([[0; SLOT_BYTES]; 2]);
    let offer = Event::Offer { session: SESSION, to: Successor::Host(HostName::new("h").unwrap()) };
    let refused = record.apply(Actor::Process(A), &offer);
    assert_eq!(refused, Err(RecordError::Refused(Refusal::NoRecord { event: "Offer" })));
}

/// What one of two processes tries, and after how many bytes its write is torn, if it is.
#[derive(Clone, Copy, Debug)]
struct Try {
    is_a: bool,
    step: Step,
    torn_after: Option<usize>,
    reopens: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Offer,
    Withdraw,
    Take,
    Settle,
}

fn attempt() -> impl Strategy<Value = Try> {
    let step =
        prop_oneof![Just(Step::Offer), Just(Step::Withdraw), Just(Step::Take), Just(Step::Settle)];
    let torn_after = prop_oneof![
        6 => Just(None),
        1 => (0..=SLOT_BYTES).prop_map(Some),
        1 => Just(Some(SLOT_BYTES)),
    ];
    (any::<bool>(), step, torn_after, any::<bool>())
        .prop_map(|(is_a, step, torn_after, reopens)| Try { is_a, step, torn_after, reopens })
}

proptest! {
    #[test]
    fn torn_writes_never_let_two_processes_believe_that_they_may_run(
        tries in prop::collection::vec(attempt(), 1..80),
    ) {
        let (storage, mut of_a) = running();
        let mut of_b = open(&storage).unwrap();
        // Who may execute the guest, as far as each knows: A, then B.
        let mut may_run = [true, false];
        let mut sessions = (2..=u8::MAX).map(|n| SessionId::new([n; 16]).unwrap());
        let mut session = SESSION;
        for Try { is_a, step, torn_after, reopens } in tries {
            let (record, me, other) = if is_a { (&mut of_a, A, B) } else { (&mut of_b, B, A) };
            if reopens {
                *record = open(&storage).unwrap();
            }
            let event = match step {
                Step::Offer => {
                    let new = sessions.next().expect("more sessions than tries");
                    Event::Offer { session: new, to: Successor::Process(other) }
                }
                Step::Withdraw => Event::Withdraw { session },
                Step::Take => Event::Take { session },
                Step::Settle => Event::Settle { session },
            };
            torn_after.into_iter().for_each(|bytes| storage.tear_next_write(bytes));
            let outcome = record.apply(Actor::Process(me), &event);
            storage.heal();
            if let (Event::Offer { session: new, .. }, Ok(_) | Err(RecordError::Uncertain(_))) =
                (&event, &outcome)
            {
                session = *new;
            }
            match outcome {
                Ok(written) => {
                    prop_assert_eq!(&state(&storage), written.state());
                    // The guest stops before the permit can be taken: at the offer, here.
                    let runs = !matches!(written.state(), PermitState::Offered { .. });
                    may_run[usize::from(!is_a)] = runs;
                }
                Err(RecordError::Uncertain(_)) => may_run[usize::from(!is_a)] = false,
                Err(RecordError::Refused(_)) => {}
                Err(error) => prop_assert!(false, "{}", error),
            }
            prop_assert!(may_run != [true, true], "after {:?} by A: {}", step, is_a);
        }
    }
}

#[test]
fn a_record_with_the_last_sequence_number_is_refused_and_left_alone() {
    let (storage, _) = running();
    let mut record = storage::load(&storage.slots(), VM).unwrap().unwrap().record;
    record.sequence = u64::MAX;
    let mut slots = storage.slots();
    slots[storage::slot_of(u64::MAX)] = *record.encode();
    storage.set_slots(slots);
    assert_eq!(open(&storage).map(drop), Err(RecordError::Refused(Refusal::LastRecord)));
    assert_eq!(storage.slots(), slots);
}
