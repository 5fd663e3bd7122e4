use super::super::{Answer, Outcome, PermitState};
use super::explore::{Explored, explore};
use super::rules::Rule;
use super::step::{
    Action::{self, *},
    actions,
};
use super::world::{Budget, Operator, Violation, World, session_id};

const NONE: Budget = Budget {
    has_local: false,
    sessions: 0,
    kills: 0,
    cuts: 0,
    lost_records: 0,
    wipes: 0,
    resolutions: 0,
};

/// Worlds in which nobody overrides anything.
const WORLDS: &[(&str, usize, Budget)] = &[
    ("processes of one host", 1, Budget { has_local: true, sessions: 3, kills: 2, ..NONE }),
    ("there and back", 2, Budget { has_local: true, sessions: 2, kills: 2, cuts: 1, ..NONE }),
    ("two kills", 2, Budget { sessions: 2, kills: 2, ..NONE }),
    ("two cuts", 2, Budget { sessions: 1, kills: 2, cuts: 2, ..NONE }),
    ("a third hop", 3, Budget { sessions: 3, ..NONE }),
    ("a third hop with a kill", 3, Budget { sessions: 2, kills: 1, cuts: 1, ..NONE }),
    ("a record is lost", 2, Budget { sessions: 2, kills: 1, cuts: 1, lost_records: 1, ..NONE }),
    ("a host is wiped", 2, Budget { sessions: 2, kills: 1, cuts: 1, wipes: 1, ..NONE }),
];

/// Wider bounds, for the long run.
const WIDER: &[(&str, usize, Budget)] = &[
    ("three moves", 2, Budget { has_local: true, sessions: 3, kills: 1, cuts: 1, ..NONE }),
    ("three hosts", 3, Budget { sessions: 3, kills: 1, ..NONE }),
    ("two losses", 2, Budget { sessions: 2, kills: 1, lost_records: 1, wipes: 1, ..NONE }),
    (
        "two statements",
        2,
        Budget { sessions: 1, kills: 1, lost_records: 1, resolutions: 2, ..NONE },
    ),
];

/// Worlds in which a person states once that the other copy is dead.
const OVERRIDDEN: &[(&str, usize, Budget)] = &[
    ("a statement", 2, Budget { sessions: 1, kills: 1, cuts: 1, resolutions: 1, ..NONE }),
    (
        "a statement after a loss",
        2,
        Budget { sessions: 1, kills: 1, lost_records: 1, wipes: 1, resolutions: 1, ..NONE },
    ),
    ("a statement among three hosts", 3, Budget { sessions: 2, resolutions: 1, ..NONE }),
];

fn holds(name: &str, start: &World, each: impl FnMut(&World)) {
    let Explored { states, steps, is_exhaustive, violation, stuck } = explore(start, None, each);
    println!("{name}: {states} states, {steps} steps");
    assert_eq!(violation, None, "{name}");
    assert_eq!(stuck, None, "{name}");
    assert!(is_exhaustive, "{name}");
}

/// Small worlds, in which every rule is needed.
const PROBES: &[(&str, usize, Budget)] = &[
    ("a move", 2, Budget { sessions: 1, kills: 1, cuts: 1, ..NONE }),
    ("processes of one host", 1, Budget { has_local: true, sessions: 2, kills: 1, ..NONE }),
    ("a record is lost", 2, Budget { sessions: 1, kills: 1, lost_records: 1, ..NONE }),
    ("a statement", 2, Budget { sessions: 1, kills: 1, resolutions: 1, ..NONE }),
];

#[test]
fn no_order_of_faults_breaks_a_promise_within_the_bounds() {
    for (name, hosts, budget) in WORLDS {
        holds(name, &World::new(*hosts, *budget), |_| ());
    }
}

/// About half a minute.
#[allow(clippy::disallowed_methods, reason = "how long a run may take is for the runner to say")]
#[test]
fn long_no_order_of_faults_breaks_a_promise_within_wider_bounds() {
    if std::env::var_os("NOVACRON_LONG").is_none() {
        let name = "long_no_order_of_faults_breaks_a_promise_within_wider_bounds";
        eprintln!("SKIPPED {name}: long run");
        return;
    }
    for (name, hosts, budget) in WIDER {
        holds(name, &World::new(*hosts, *budget), |_| ());
    }
}

#[test]
fn an_operator_who_is_wrong_is_the_only_way_to_two_runners_and_contact_ends_it() {
    for (name, hosts, budget) in OVERRIDDEN {
        let (mut are_two, mut was_right) = (0, 0);
        holds(name, &World::new(*hosts, *budget), |world| {
            was_right += usize::from(world.operator == Operator::Right && world.runners() == 1);
            if world.runners() < 2 {
                return;
            }
            are_two += 1;
            assert_eq!(world.operator, Operator::Wrong, "{name}");
            for contact in actions(world, None).into_iter().filter(|it| matches!(it, Contact(..))) {
                let Contact(one, other) = contact else { continue };
                let still_run = |world: &World| world.runs_on(one) && world.runs_on(other);
                if still_run(world) && world.can_reach(one, other) {
                    let after = world.step(contact, None).expect("hosts that can reach each other");
                    assert!(!still_run(&after), "{name}");
                }
            }
        });
        assert!(are_two > 0, "{name}: the operator was never wrong in earnest");
        assert!(was_right > 0, "{name}: the operator was never right");
    }
}

#[test]
fn removing_any_single_rule_breaks_a_promise() {
    for rule in Rule::ALL {
        let broken = PROBES.iter().find_map(|(name, hosts, budget)| {
            let explored = explore(&World::new(*hosts, *budget), Some(rule), |_| ());
            let stuck = explored.stuck.map(|way| ("never comes to rest".to_owned(), way));
            let violation = explored.violation.map(|(broken, way)| (format!("{broken:?}"), way));
            violation.or(stuck).map(|(broken, way)| (name, broken, way))
        });
        let (world, broken, way) =
            broken.unwrap_or_else(|| panic!("P{} ({rule:?}) can go", rule.number()));
        println!("without P{} ({rule:?}), {world}: {broken} after {way:?}", rule.number());
    }
}

#[test]
fn the_specification_numbers_the_rules_that_the_model_can_remove() {
    let text = include_str!("../../../SPEC.md");
    let numbered: Vec<usize> = text
        .lines()
        .filter_map(|line| line.strip_prefix("- **P")?.split_once('.')?.0.parse().ok())
        .collect();
    let removable: Vec<_> = Rule::ALL.into_iter().map(Rule::number).collect();
    assert_eq!(numbered, removable);
}

/// The world after these actions, each of which must be possible.
fn after(hosts: usize, budget: Budget, way: &[Action]) -> World {
    way.iter().fold(World::new(hosts, budget), |world, action| {
        world.step(*action, None).unwrap_or_else(|| panic!("{action:?} is not possible"))
    })
}

/// Attempt 0, from host 0 to host 1, up to the moment at which the guest runs there.
const MOVED: [Action; 6] =
    [Negotiate(0, 1), Offer(0), Stop(0), SendFrame(0), FrameArrives(0), Take(0)];

fn outcome(world: &World, host: usize, session: usize) -> Option<Outcome> {
    world.hosts[host].record.as_ref()?.outcome(session_id(session))
}

#[test]
fn when_the_destination_dies_after_taken_the_source_never_resumes() {
    let budget = Budget { sessions: 1, kills: 1, cuts: 1, ..NONE };
    let start = after(2, budget, &[&MOVED[..], &[Kill(1, 0)]].concat());
    let mut boots_at_destination = false;
    holds("the destination dies after Taken", &start, |world| {
        assert!(!world.runs_on(0), "the guest ran at the destination");
        boots_at_destination |= world.runs_on(1);
    });
    assert!(boots_at_destination, "it has the permit, and its disks");
}

#[test]
fn when_the_destination_has_lost_its_record_the_source_stays_in_doubt() {
    let budget = Budget { sessions: 1, kills: 1, cuts: 1, lost_records: 1, ..NONE };
    let start = after(2, budget, &[&MOVED[..], &[LoseRecord(1)]].concat());
    holds("unknown is not a refusal", &start, |world| {
        assert!(!world.runs_on(0), "no record is no refusal");
        assert!(world.hosts[1].record.is_none(), "and no record comes back by itself");
    });
}

#[test]
fn a_refusal_is_durable_before_anybody_can_hear_it() {
    let budget = Budget { sessions: 2, kills: 1, cuts: 1, ..NONE };
    let mut heard = 0;
    holds("a refusal is durable first", &World::new(2, budget), |world| {
        for (index, session) in world.sessions.iter().enumerate() {
            if session.never_ran || outcome(world, session.source, index) == Some(Outcome::Refused)
            {
                heard += 1;
                let said = outcome(world, session.destination, index);
                assert_eq!(said, Some(Outcome::Refused));
            }
        }
    });
    assert!(heard > 0, "nobody ever refused");
}

#[test]
fn when_the_source_dies_after_offered_it_boots_only_after_a_refusal() {
    let budget = Budget { sessions: 1, kills: 1, cuts: 1, ..NONE };
    for offered_until in 2..=4 {
        let start = after(2, budget, &[&MOVED[..offered_until], &[Kill(0, 0)]].concat());
        assert_eq!(start.step(Start(0), None), None, "in doubt");
        let mut boots = false;
        holds("the source dies after Offered", &start, |world| {
            boots |= world.runs_on(0);
            if world.runs_on(0) {
                assert_eq!(outcome(world, 0, 0), Some(Outcome::Refused));
            }
        });
        assert!(boots, "a refusal lets it boot");
    }
}

#[test]
fn a_source_that_asks_after_a_third_hop_hears_that_it_ran() {
    let onward = [Settle(0), Negotiate(1, 2), Offer(1), Stop(1), SendFrame(1), FrameArrives(1)];
    let budget = Budget { sessions: 2, ..NONE };
    let start =
        after(3, budget, &[&MOVED[..], &onward, &[Take(1), Ask(1), RanArrives(1)]].concat());
    assert_eq!(start.state(1).map(PermitState::name), Some("Gone"));
    let record = start.hosts[1].record.as_ref().unwrap();
    assert_eq!(record.answer(session_id(0), false), Answer::Ran, "though it runs elsewhere by now");
    holds("a third hop", &start, |world| {
        assert!(world.runs_on(2) && !world.runs_on(0) && !world.runs_on(1));
    });
}

#[test]
fn a_host_that_lost_its_record_runs_on_and_never_starts_again() {
    let budget = Budget { sessions: 1, kills: 1, lost_records: 1, ..NONE };
    let start = after(2, budget, &[LoseRecord(0)]);
    assert!(start.runs_on(0), "what runs with the permit still has it");
    holds("a record lost while the machine runs", &start, |world| {
        assert!(world.sessions.is_empty(), "nothing can be offered without a record");
        assert!(!world.has_killed || world.runners() == 0, "nothing starts without a record");
    });
}

#[test]
fn when_a_destination_is_wiped_after_taken_only_a_person_brings_the_machine_back() {
    let budget = Budget { sessions: 1, wipes: 1, resolutions: 1, ..NONE };
    let start = after(2, budget, &[&MOVED[..], &[Wipe(1)]].concat());
    let mut came_back = false;
    holds("a destination is wiped", &start, |world| {
        assert!(world.runners() == 0 || world.operator != Operator::Silent);
        came_back |= world.operator == Operator::Right && world.runs_on(0);
    });
    assert!(came_back);
}

#[test]
fn after_a_wrong_statement_the_copy_with_the_older_generation_stops_at_first_contact() {
    let budget = Budget { sessions: 1, resolutions: 1, ..NONE };
    let both = after(2, budget, &[&MOVED[..], &[Resolve(0)]].concat());
    assert_eq!((both.operator, both.runners()), (Operator::Wrong, 2));
    let met = both.step(Contact(0, 1), None).unwrap();
    assert!(met.runs_on(0) && !met.runs_on(1), "the statement has the newer generation");
    assert_eq!(met.state(1).map(PermitState::name), Some("Gone"));
}

#[test]
fn the_promises_can_be_broken() {
    // The ghosts see what they are there to see: a guest that is resumed by force is found.
    let mut start = after(2, Budget { sessions: 1, ..NONE }, &MOVED);
    let frozen = start.hosts[0].processes[0].nonce;
    start.run(0, frozen);
    assert_eq!(start.violation, Some(Violation::TwoRunners));
}
