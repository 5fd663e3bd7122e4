use std::collections::{BTreeSet, VecDeque};

use PermitState::{Gone, Held, Offered, Prepared, Refused, Taken};

use super::super::Answer;
use super::*;

const VM: VmId = VmId::new([7; 16]).unwrap();
const A: Nonce = Nonce::new([0xa; 16]).unwrap();
const B: Nonce = Nonce::new([0xb; 16]).unwrap();
const STRANGER: Nonce = Nonce::new([0xc; 16]).unwrap();
const SESSION: SessionId = SessionId::new([1; 16]).unwrap();
const OTHER: SessionId = SessionId::new([2; 16]).unwrap();

const ACTORS: [Actor; 4] =
    [Actor::Keeper, Actor::Process(A), Actor::Process(B), Actor::Process(STRANGER)];

fn peer() -> HostName {
    HostName::new("peer").unwrap()
}

fn generation(resolutions: u32, moves: u32) -> Generation {
    Generation { resolutions, moves }
}

fn record(state: PermitState) -> Record {
    let (generation, outcomes) = (generation(1, 5), VecDeque::new());
    Record { vm: VM, sequence: 9, generation, state, outcomes }
}

fn offered_to_process() -> PermitState {
    Offered { session: SESSION, runner: A, to: Successor::Process(B) }
}

fn offered_to_host() -> PermitState {
    Offered { session: SESSION, runner: A, to: Successor::Host(peer()) }
}

fn prepared() -> PermitState {
    Prepared { session: SESSION, runner: A, from: peer() }
}

/// Every state, under a short name.
fn states() -> Vec<(&'static str, Option<PermitState>)> {
    vec![
        ("none", None),
        ("Held, no runner", Some(Held { runner: None })),
        ("Held", Some(Held { runner: Some(A) })),
        ("Offered to process", Some(offered_to_process())),
        ("Offered to host", Some(offered_to_host())),
        ("Prepared", Some(prepared())),
        ("Taken here", Some(Taken { session: SESSION, runner: A, from: None })),
        ("Taken", Some(Taken { session: SESSION, runner: A, from: Some(peer()) })),
        ("Refused", Some(Refused { session: SESSION, from: peer() })),
        ("Gone", Some(Gone { session: Some(SESSION), to: peer() })),
        ("Gone, superseded", Some(Gone { session: None, to: peer() })),
    ]
}

/// Every event, as it would be right in some state.
fn events() -> Vec<Event> {
    let (session, offered) = (SESSION, generation(1, 5));
    vec![
        Event::Create,
        Event::Start { runner: B },
        Event::Offer { session: OTHER, to: Successor::Process(B) },
        Event::Offer { session: OTHER, to: Successor::Host(peer()) },
        Event::Withdraw { session },
        Event::Take { session },
        Event::Settle { session },
        Event::Reclaim { session },
        Event::Prepare { session: OTHER, runner: B, from: peer(), offered },
        Event::Refuse { session },
        Event::PeerRefused { session },
        Event::PeerTook { session },
        Event::Resolve { runner: Some(B), above: generation(0, 9) },
        Event::Supersede { by: generation(2, 0), peer: peer() },
    ]
}

/// What the table allows: state, event, the actors in the order of [`ACTORS`] (`K`eeper, `A`, `B`,
/// a `S`tranger), and the state that follows. Everything else is refused.
const TABLE: &[(&str, &str, &str, &str)] = &[
    ("none", "Create", "K", "Held, no runner"),
    ("none", "Prepare", "K", "Prepared"),
    ("none", "Resolve", "K", "Held"),
    ("Held, no runner", "Start", "K", "Held"),
    ("Held, no runner", "Supersede", "K", "Gone, superseded"),
    ("Held", "Start", "K", "Held"),
    ("Held", "Offer", "A", "Offered"),
    ("Held", "Supersede", "KA", "Gone, superseded"),
    ("Offered to process", "Withdraw", "A", "Held"),
    ("Offered to process", "Take", "B", "Taken here"),
    ("Offered to process", "Reclaim", "K", "Held, no runner"),
    ("Offered to host", "Withdraw", "A", "Held"),
    ("Offered to host", "PeerRefused", "KA", "Held"),
    ("Offered to host", "PeerTook", "KA", "Gone"),
    ("Offered to host", "Resolve", "KA", "Held"),
    ("Offered to host", "Supersede", "KA", "Gone, superseded"),
    ("Prepared", "Take", "A", "Taken"),
    ("Prepared", "Refuse", "KA", "Refused"),
    ("Taken here", "Settle", "KA", "Held"),
    ("Taken here", "Supersede", "KA", "Gone, superseded"),
    ("Taken", "Settle", "KA", "Held"),
    ("Taken", "Supersede", "KA", "Gone, superseded"),
    ("Refused", "Prepare", "K", "Prepared"),
    ("Refused", "Resolve", "K", "Held"),
    ("Gone", "Prepare", "K", "Prepared"),
    ("Gone", "Resolve", "K", "Held"),
    ("Gone, superseded", "Prepare", "K", "Prepared"),
    ("Gone, superseded", "Resolve", "K", "Held"),
];

fn short_name(state: &PermitState) -> &'static str {
    match state {
        Held { runner: None } => "Held, no runner",
        Taken { from: None, .. } => "Taken here",
        Gone { session: None, .. } => "Gone, superseded",
        state => state.name(),
    }
}

#[test]
fn the_table_allows_what_it_lists_and_nothing_else() {
    let mut used = 0;
    for (name, state) in states() {
        let current = state.map(record);
        for event in events() {
            let row = TABLE.iter().find(|row| (row.0, row.1) == (name, event.name()));
            used += usize::from(row.is_some());
            for (actor, letter) in ACTORS.into_iter().zip("KABS".chars()) {
                let next = Record::next(current.as_ref(), VM, actor, &event);
                let what = format!("{name}, {} by {actor}", event.name());
                match row {
                    Some((_, _, actors, follows)) if actors.contains(letter) => {
                        let next = next.unwrap_or_else(|refusal| panic!("{what}: {refusal}"));
                        assert_eq!(short_name(&next.state), *follows, "{what}");
                        let before = current.as_ref().map_or(0, |record| record.sequence);
                        assert_eq!(next.sequence, before + 1, "{what}");
                    }
                    Some(_) => {
                        let is_about_the_actor = matches!(next, Err(Refusal::NotYours { .. }));
                        assert!(is_about_the_actor, "{what}: {next:?}");
                    }
                    None => assert!(next.is_err(), "{what}: {next:?}"),
                }
            }
        }
    }
    // Both forms of an offer stand in one row.
    assert_eq!(used, TABLE.len() + 1, "a row of the table names something that does not exist");
}

/// The rows of the specification's table: state, event, and who may say it.
fn specified() -> BTreeSet<(String, String, char)> {
    let text = include_str!("../../../SPEC.md");
    let (_, section) = text.split_once("### 7.2 The table").expect("the section");
    let rows = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let mut all = BTreeSet::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let event = cells[2].split(',').next().expect("a name");
        for state in cells[1].split(", ") {
            let states = match state {
                "Offered" => vec!["Offered to a process", "Offered to a host"],
                state => vec![state],
            };
            for (state, actor) in states
                .into_iter()
                .flat_map(|state| cells[3].split(", ").map(move |actor| (state, actor)))
            {
                let actor = match actor {
                    "K" => 'K',
                    "R" => 'A',
                    "that process" => 'B',
                    other => panic!("{other} is nobody"),
                };
                all.insert((state.to_owned(), event.to_owned(), actor));
            }
        }
    }
    all
}

#[test]
fn the_specification_has_the_same_table() {
    let spoken = |state| match state {
        "none" => "no record",
        "Held, no runner" => "Held",
        "Offered to process" => "Offered to a process",
        "Offered to host" => "Offered to a host",
        "Taken here" => "Taken",
        "Gone, superseded" => "Gone",
        state => state,
    };
    let tested: BTreeSet<_> = TABLE
        .iter()
        .flat_map(|(state, event, actors, _)| {
            let row = move |actor| (spoken(state).to_owned(), (*event).to_owned(), actor);
            actors.chars().map(row)
        })
        .collect();
    assert_eq!(specified(), tested);
}

#[test]
fn events_about_another_session_are_refused() {
    for (_, state) in states() {
        let Some(current) = state.map(record) else { continue };
        for event in [
            Event::Withdraw { session: OTHER },
            Event::Take { session: OTHER },
            Event::Settle { session: OTHER },
            Event::Reclaim { session: OTHER },
            Event::Refuse { session: OTHER },
            Event::PeerRefused { session: OTHER },
            Event::PeerTook { session: OTHER },
        ] {
            for actor in ACTORS {
                let next = Record::next(Some(&current), VM, actor, &event);
                assert!(next.is_err(), "{:?}: {event:?} by {actor}", current.state);
            }
        }
    }
    let taken = Record::next(
        Some(&record(prepared())),
        VM,
        Actor::Process(A),
        &Event::Take { session: OTHER },
    );
    assert_eq!(taken, Err(Refusal::OtherSession { named: OTHER, found: SESSION }));
}

/// Applies events one after another.
fn follow(start: Option<Record>, steps: &[(Actor, Event)]) -> Record {
    let mut current = start;
    for (actor, event) in steps {
        let next = Record::next(current.as_ref(), VM, *actor, event);
        current = Some(next.unwrap_or_else(|refusal| panic!("{}: {refusal}", event.name())));
    }
    current.unwrap()
}

#[test]
fn every_end_of_a_session_is_remembered_and_an_ended_session_never_begins_again() {
    let to = Successor::Host(peer());
    for (start, actor, event, outcome, answer) in [
        (prepared(), A, Event::Take { session: SESSION }, Outcome::Taken, Answer::Ran),
        (prepared(), A, Event::Refuse { session: SESSION }, Outcome::Refused, Answer::NeverRan),
        (
            offered_to_host(),
            A,
            Event::PeerRefused { session: SESSION },
            Outcome::Refused,
            Answer::NeverRan,
        ),
        (offered_to_host(), A, Event::PeerTook { session: SESSION }, Outcome::Taken, Answer::Ran),
        (
            offered_to_host(),
            A,
            Event::Withdraw { session: SESSION },
            Outcome::Withdrawn,
            Answer::Unknown,
        ),
        (
            offered_to_host(),
            A,
            Event::Supersede { by: generation(2, 0), peer: peer() },
            Outcome::Overruled,
            Answer::Unknown,
        ),
        (
            offered_to_host(),
            A,
            Event::Resolve { runner: Some(A), above: generation(0, 0) },
            Outcome::Overruled,
            Answer::Unknown,
        ),
        (offered_to_process(), B, Event::Take { session: SESSION }, Outcome::Taken, Answer::Ran),
    ] {
        let ended = follow(Some(record(start)), &[(Actor::Process(actor), event.clone())]);
        assert_eq!(ended.outcome(SESSION), Some(outcome), "{event:?}");
        assert_eq!(ended.outcome(OTHER), None, "{event:?}");
        for is_alive in [true, false] {
            assert_eq!(ended.answer(SESSION, is_alive), answer, "{event:?}");
            assert_eq!(ended.answer(OTHER, is_alive), Answer::Unknown, "{event:?}");
        }
        let offered = generation(9, 0);
        let again = match ended.state {
            Held { .. } => (A, Event::Offer { session: SESSION, to: to.clone() }),
            Taken { runner, .. } => {
                let settle = (Actor::Process(runner), Event::Settle { session: SESSION });
                let held = follow(Some(ended), &[settle]);
                let offer = Event::Offer { session: SESSION, to: to.clone() };
                let again = Record::next(Some(&held), VM, Actor::Process(runner), &offer);
                assert_eq!(again, Err(Refusal::SessionEnded(SESSION)), "{event:?}");
                continue;
            }
            _ => (B, Event::Prepare { session: SESSION, runner: B, from: peer(), offered }),
        };
        let actor = match again.1 {
            Event::Prepare { .. } => Actor::Keeper,
            _ => Actor::Process(again.0),
        };
        let again = Record::next(Some(&ended), VM, actor, &again.1);
        assert_eq!(again, Err(Refusal::SessionEnded(SESSION)), "{event:?}");
    }
}

#[test]
fn the_last_64_sessions_are_remembered() {
    let mut current = follow(
        None,
        &[(Actor::Keeper, Event::Create), (Actor::Keeper, Event::Start { runner: A })],
    );
    let sessions: Vec<_> = (1..=70).map(|n| SessionId::new([n; 16]).unwrap()).collect();
    for session in &sessions {
        let offer = Event::Offer { session: *session, to: Successor::Host(peer()) };
        let back = Event::PeerRefused { session: *session };
        current = follow(Some(current), &[(Actor::Process(A), offer), (Actor::Process(A), back)]);
    }
    let remembered: Vec<_> = current.outcomes().map(|(session, _)| session).collect();
    assert_eq!(remembered, sessions[70 - OUTCOMES_MAX..]);
}

#[test]
fn a_prepared_host_is_undecided_while_its_process_lives_and_refuses_first_when_it_is_dead() {
    let current = record(prepared());
    assert_eq!(current.answer(SESSION, true), Answer::Undecided);
    assert_eq!(current.answer(SESSION, false), Answer::RefuseFirst);
    assert_eq!(current.answer(OTHER, false), Answer::Unknown);
}

#[test]
fn a_machine_starts_only_where_the_permit_is_held() {
    for (name, state) in states() {
        let Some(current) = state.map(record) else { continue };
        let start = Record::next(Some(&current), VM, Actor::Keeper, &Event::Start { runner: B });
        assert_eq!(current.may_start(), name.starts_with("Held"), "{name}");
        assert_eq!(start.is_ok(), current.may_start(), "{name}");
    }
}

#[test]
fn a_move_raises_the_generation_on_both_sides_alike() {
    let (session, from) = (SESSION, peer());
    let source = follow(
        Some(record(offered_to_host())),
        &[(Actor::Process(A), Event::PeerTook { session })],
    );
    let offered = record(offered_to_host()).generation;
    let destination = follow(
        None,
        &[
            (Actor::Keeper, Event::Prepare { session, runner: B, from, offered }),
            (Actor::Process(B), Event::Take { session }),
            (Actor::Process(B), Event::Settle { session }),
        ],
    );
    assert_eq!(source.generation, generation(1, 6));
    assert_eq!(destination.generation, source.generation);
    let handed_over =
        follow(Some(record(offered_to_process())), &[(Actor::Process(B), Event::Take { session })]);
    assert_eq!(handed_over.generation, offered, "a hand-over on one host is not a move");
}

#[test]
fn a_host_that_gave_the_machine_away_takes_it_back_from_its_new_home_only() {
    let gone = record(Gone { session: Some(SESSION), to: peer() });
    let prepare = |offered| {
        let event = Event::Prepare { session: OTHER, runner: B, from: peer(), offered };
        Record::next(Some(&gone), VM, Actor::Keeper, &event)
    };
    let old = generation(1, 4);
    let refused = Refusal::OldGeneration { shown: old, known: gone.generation };
    assert_eq!(prepare(old), Err(refused), "the copy that this host itself once held");
    assert_eq!(prepare(gone.generation).unwrap().generation, generation(1, 6));

    // After a refusal the same source, no newer than before, may try again.
    let refused = record(Refused { session: SESSION, from: peer() });
    let event = Event::Prepare { session: OTHER, runner: B, from: peer(), offered: old };
    assert!(Record::next(Some(&refused), VM, Actor::Keeper, &event).is_ok());
}

#[test]
fn a_persons_statement_beats_every_generation_known() {
    for (above, expected) in
        [(generation(0, 9), generation(2, 0)), (generation(3, 1), generation(4, 0))]
    {
        for state in [offered_to_host(), Gone { session: None, to: peer() }] {
            let resolve = (Actor::Keeper, Event::Resolve { runner: None, above });
            let resolved = follow(Some(record(state)), &[resolve]);
            assert_eq!(resolved.generation, expected);
        }
    }
}

#[test]
fn an_older_generation_supersedes_nothing_and_an_equal_one_stops_both() {
    let held = record(Held { runner: Some(A) });
    let superseded = |by| {
        let event = Event::Supersede { by, peer: peer() };
        Record::next(Some(&held), VM, Actor::Process(A), &event)
    };
    let old = generation(1, 4);
    assert_eq!(superseded(old), Err(Refusal::OldGeneration { shown: old, known: held.generation }));
    for by in [generation(1, 5), generation(1, 6), generation(2, 0)] {
        assert_eq!(superseded(by).unwrap().generation, by);
    }
}

#[test]
fn a_generation_never_wraps() {
    let last = generation(u32::MAX, u32::MAX);
    let mut offered = record(offered_to_host());
    offered.generation = last;
    for event in [
        Event::PeerTook { session: SESSION },
        Event::Resolve { runner: None, above: Generation::default() },
    ] {
        let next = Record::next(Some(&offered), VM, Actor::Keeper, &event);
        assert_eq!(next, Err(Refusal::LastGeneration(last)));
    }
    let prepare = Event::Prepare { session: OTHER, runner: B, from: peer(), offered: last };
    let next = Record::next(None, VM, Actor::Keeper, &prepare);
    assert_eq!(next, Err(Refusal::LastGeneration(last)));
}

#[test]
fn a_process_does_not_succeed_itself() {
    let held = record(Held { runner: Some(A) });
    let offer = Event::Offer { session: SESSION, to: Successor::Process(A) };
    let next = Record::next(Some(&held), VM, Actor::Process(A), &offer);
    assert_eq!(next, Err(Refusal::ToItself(A)));
}
