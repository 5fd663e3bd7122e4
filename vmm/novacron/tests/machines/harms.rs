//! A move, and something that is done to it at a step: whichever it is, the permit table holds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use control::api::{Operation, ReceiptAudit, RestartPolicy};
use machine::Step;
use rustix::process::{Pid, Signal, kill_process};

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
    /// Every connection is reset while the machine's process is at this step.
    Cut(Step),
    /// Every connection is reset so many milliseconds after the first page.
    Reset(u64),
}

impl Harm {
    /// Every one that has a step.
    fn all() -> Vec<Self> {
        let steps = || Step::OF_DEPARTURE.into_iter().chain(Step::OF_ARRIVAL);
        let daemons = Step::OF_DAEMONS.into_iter().map(Self::Daemon);
        let of_machines = [Self::Process, Self::Host, Self::Cut];
        of_machines.into_iter().flat_map(|harm| steps().map(harm)).chain(daemons).collect()
    }

    fn step(self) -> Option<Step> {
        match self {
            Self::Process(step) | Self::Host(step) | Self::Daemon(step) | Self::Cut(step) => {
                Some(step)
            }
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
            // The calls of the daemons go over the same wire, and the first of them is not tried again.
            Some(Step::ArrivalPrepared) if matches!(self, Self::Cut(_)) => {
                &[Rest::Stayed, Rest::Moved]
            }
            _ if matches!(self, Self::Cut(_)) => &[Rest::Moved],
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

    /// Does it, and waits for what follows.
    fn happen(self, hosts: &mut Hosts, operation: &Operation, token: &str) {
        match self {
            Self::Process(_) => drop(hosts.end_of(0, operation)),
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
            Self::Cut(step) => {
                let stopped = wait_for_stop(hosts, token);
                hosts.wires[1].reset();
                kill_process(stopped, Signal::CONT).unwrap();
                let ended = hosts.end_of(0, operation);
                if let Some(outcome) = ended.migration {
                    assert_eq!(outcome.audited_different, 0, "{outcome:?}");
                    // Before these there is no connection yet, and after them the daemons may say all that is left.
                    let is_cut = matches!(
                        step,
                        Step::MoveCopied | Step::MoveOffered | Step::MovePaused | Step::MoveSaved
                    );
                    assert!(!is_cut || outcome.connections > 1, "{self:?}: {outcome:?}");
                }
            }
            Self::Reset(after) => {
                // The control channel's calls are the move's beginning, and are not tried again.
                wait_until_sent(hosts, 0, operation, 0);
                std::thread::sleep(Duration::from_millis(after));
                hosts.wires[1].reset();
                let ended = hosts.end_of(0, operation);
                let outcome = ended.migration.clone().unwrap_or_else(|| panic!("{ended:?}"));
                assert!(outcome.audited_pages > 1000, "{outcome:?}");
                assert_eq!(outcome.audited_different, 0, "{outcome:?}");
            }
        }
    }

    /// Moves a machine, does it, and looks what has become of that.
    fn run(self) -> Rest {
        static TOKENS: AtomicUsize = AtomicUsize::new(0);
        let what = if matches!(self, Self::Cut(_)) { "stop" } else { "kill" };
        let fault = self.step().map_or_else(String::new, |step| format!("{what}:{},", step.name()));
        // By which the process that stops is found.
        let token =
            format!("token-{}-{}.", std::process::id(), TOKENS.fetch_add(1, Ordering::Relaxed));
        let fault = format!("{fault}reference,{token}");
        let faulty: &[(&str, &str)] = &[("NOVACRON_FAULT", &fault)];
        let sound: &[(&str, &str)] = &[("NOVACRON_FAULT", "reference")];
        let environments = if self.host() == 0 { [faulty, sound] } else { [sound, faulty] };
        let mut hosts = Hosts::start_with(environments);
        hosts.busy(0, RestartPolicy::Never);
        let moves = hosts.begin_move(0, "web", |request| {
            // A destination that hears nothing any more gives up soon.
            let is_cut = matches!(self, Self::Cut(_) | Self::Reset(_));
            request.timeout_ms = if is_cut { 30_000 } else { 3_000 };
            request.audit = ReceiptAudit::Whole;
        });
        let operation = moves.unwrap();
        self.happen(&mut hosts, &operation, &token);
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

/// Waits until a process stops that was started with this in its environment.
fn wait_for_stop(hosts: &Hosts, token: &str) -> Pid {
    let is_stopped = |process: &Path| {
        let read = |name: &str| std::fs::read(process.join(name)).unwrap_or_default();
        let has_token = read("environ").windows(token.len()).any(|part| part == token.as_bytes());
        // The state is behind the name, which is in brackets.
        has_token && String::from_utf8_lossy(&read("stat")).contains(") T ")
    };
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let mut processes = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let id: i32 = entry.file_name().to_str()?.parse().ok()?;
            is_stopped(&entry.path()).then_some(id)
        });
        if let Some(id) = processes.next() {
            return Pid::from_raw(id).unwrap();
        }
        assert!(Instant::now() < end, "{}", hosts.logs());
        std::thread::sleep(Duration::from_millis(5));
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
                    let name = match harm {
                        Harm::Reset(_) => "Reset while pages go".to_owned(),
                        harm => format!("{harm:?}"),
                    };
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
