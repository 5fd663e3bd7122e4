//! A move, and something that is done to it at a step: whichever it is, the permit table holds.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use control::api::{ReceiptAudit, RestartPolicy};
use machine::Step;

use crate::harness::{has_kvm, is_long_run, shared};
use crate::hosts::Hosts;
use crate::moments::{Rest, settled, wait_until_sent};

/// What is done to a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// The machine's process is killed at this step.
    Process(Step),
    /// So is its daemon: the host goes down, and comes up again.
    Host(Step),
    /// The daemon is killed at this step, and another one comes.
    Daemon(Step),
    /// Every connection is reset so many milliseconds after the first page.
    Reset(u64),
}

impl Harm {
    /// Every one that has a step.
    fn all() -> Vec<Self> {
        let steps = || Step::OF_DEPARTURE.into_iter().chain(Step::OF_ARRIVAL);
        let daemons = Step::OF_DAEMONS.into_iter().map(Self::Daemon);
        steps().map(Self::Process).chain(steps().map(Self::Host)).chain(daemons).collect()
    }

    fn step(self) -> Option<Step> {
        match self {
            Self::Process(step) | Self::Host(step) | Self::Daemon(step) => Some(step),
            Self::Reset(_) => None,
        }
    }

    /// Which host it is done to.
    fn host(self) -> usize {
        match self.step() {
            Some(Step::DaemonDeparts | Step::DaemonMoved) | None => 0,
            Some(step) => usize::from(!step.name().starts_with("Move")),
        }
    }

    /// What may become of the machine: the permit table, seen from outside.
    fn rests(self) -> &'static [Rest] {
        match self.step() {
            None => &[Rest::Moved],
            Some(
                Step::MoveStart
                | Step::MoveCopied
                | Step::MoveOffered
                | Step::MovePaused
                | Step::MoveSaved,
            ) => &[Rest::DiedHere],
            // The frame was handed to a stream, and may have got to the socket or not.
            Some(Step::MovePermitSent) => &[Rest::DiedHere, Rest::Moved],
            Some(Step::MoveAnswered | Step::DaemonMoved | Step::DaemonCame) => &[Rest::Moved],
            Some(
                Step::ArrivalPrepared
                | Step::ArrivalReady
                | Step::ArrivalRestored
                | Step::DaemonInvited
                | Step::DaemonPrepared
                | Step::DaemonDeparts,
            ) => &[Rest::Stayed],
            Some(Step::ArrivalTaken | Step::ArrivalRunning) => &[Rest::DiedThere],
            Some(other) => panic!("{other:?} is no step of a move"),
        }
    }

    /// Moves a machine, does it, and looks what has become of that.
    fn run(self) -> Rest {
        let fault = self.step().map_or_else(String::new, |step| format!("kill:{},", step.name()));
        let fault = format!("{fault}reference");
        let faulty: &[(&str, &str)] = &[("NOVACRON_FAULT", &fault)];
        let sound: &[(&str, &str)] = &[("NOVACRON_FAULT", "reference")];
        let environments = if self.host() == 0 { [faulty, sound] } else { [sound, faulty] };
        let mut hosts = Hosts::start_with(environments);
        hosts.busy(0, RestartPolicy::Never);
        let moves = hosts.begin_move(0, "web", |request| {
            // A destination that hears nothing any more gives up soon.
            request.timeout_ms = if self.step().is_some() { 3_000 } else { 30_000 };
            request.audit = ReceiptAudit::Whole;
        });
        let operation = moves.unwrap();
        match self {
            Self::Process(_) => drop(hosts.end_of(0, &operation)),
            Self::Host(_) => {
                hosts.wait_for_death(self.host());
                hosts.daemons[self.host()].heal();
                hosts.restart(self.host());
            }
            Self::Daemon(_) => {
                hosts.daemons[self.host()].wait_for_end(Duration::from_secs(60));
                hosts.daemons[self.host()].heal();
                hosts.start_again(self.host());
            }
            Self::Reset(after) => {
                // The control channel's calls are the move's beginning, and are not tried again.
                wait_until_sent(&hosts, 0, &operation, 0);
                std::thread::sleep(Duration::from_millis(after));
                hosts.wires[1].reset();
                let ended = hosts.end_of(0, &operation);
                let outcome = ended.migration.clone().unwrap_or_else(|| panic!("{ended:?}"));
                assert!(outcome.audited_pages > 1000, "{outcome:?}");
                assert_eq!(outcome.audited_different, 0, "{outcome:?}");
            }
        }
        let rest = settled(&hosts);
        let context = || format!("{self:?}: {rest:?}\n{}", hosts.logs());
        assert!(self.rests().contains(&rest), "{}", context());
        match rest {
            Rest::Stayed => hosts.check(0, "web"),
            Rest::Moved => hosts.check(1, "web"),
            Rest::DiedHere | Rest::DiedThere => {}
        }
        let names = [0, 1].map(|host: usize| hosts.daemons[host].names().len());
        match rest {
            Rest::Stayed | Rest::DiedHere => assert_eq!(names, [1, 0], "{}", context()),
            Rest::Moved | Rest::DiedThere => assert_eq!(names, [1, 1], "{}", context()),
        }
        rest
    }
}

/// Runs them, a few at a time: most of their time they wait. Says how often each step was done, and what came of it.
fn run_all(harms: &[Harm]) {
    let next = AtomicUsize::new(0);
    let seen = Mutex::new(BTreeMap::<String, usize>::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(harm) = harms.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let rest = harm.run();
                    let name = harm.step().map_or_else(|| "Reset".to_owned(), Step::name);
                    *seen.lock().unwrap().entry(format!("{name}: {rest:?}")).or_default() += 1;
                }
            });
        }
    });
    for (what, count) in seen.into_inner().unwrap() {
        println!("{count:>5}  {what}");
    }
}

/// Of a plain generator: a seed makes the same list again.
fn resets(seed: u64) -> impl Iterator<Item = Harm> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Harm::Reset((state >> 33) % 400)
    })
}

#[test]
fn whoever_is_killed_at_whichever_step_of_50_moves_the_permit_table_holds() {
    if !has_kvm("whoever_is_killed_at_whichever_step_of_50_moves_the_permit_table_holds") {
        return;
    }
    let _shared = shared();
    let mut harms = Harm::all();
    let more = resets(1).take(50 - harms.len());
    harms.extend(more);
    run_all(&harms);
}

#[test]
fn long_1000_moves_with_every_harm_leave_one_copy_and_nothing_else() {
    let name = "long_1000_moves_with_every_harm_leave_one_copy_and_nothing_else";
    if !is_long_run(name) || !has_kvm(name) {
        return;
    }
    let _shared = shared();
    let all = Harm::all();
    let times = 1000 / all.len();
    let mut harms: Vec<_> = std::iter::repeat_n(all, times).flatten().collect();
    let more = resets(2).take(1000 - harms.len());
    harms.extend(more);
    run_all(&harms);
}
