//! A busy Linux that moves between two emulated hosts, over a wire that is long and loses packets.

use std::thread;
use std::time::Duration;

use qemu_tests::{
    ADDRESSES, Case, CommandRun, Ending, HostError, Link, NAMES, Program, WiredHosts,
};
use serde_json::Value;

use crate::busy_guest::{Clocks, check_clocks, check_workers};
use crate::linux_guest::{CMDLINE, host_of_guests};
use crate::support::{case, long_case};

/// Two hosts and a guest in each: far more than a move takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);
/// Reports of a guest's clocks that are waited for before a move, and after each: the quickest of so many says how they
/// stand to the host's, also where both hosts and all else share two processors.
const REPORTS: usize = 16;
/// A guest's reports are 250 ms apart, unless they come out of a buffer.
const FRESH_NS: i64 = 100_000_000;
/// How long a move has been sending memory when something is done to it. Over a wire as bad as [`worst`] it takes 9 s.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// A host that lost its power says nothing, not even that: the other one waits for as long as silence may last, then for its
/// patience of 5 s; and what it takes to look.
const DECIDED: Duration = Duration::from_secs(20);
/// How long a wire is cut.
const CUT: Duration = Duration::from_secs(4);

/// A connection between continents that loses much.
fn worst() -> Link {
    Link::new(80, 10)
}

#[test]
fn a_busy_linux_keeps_its_memory_and_its_time_when_it_moves_to_another_host_and_back() {
    let name = "a_busy_linux_keeps_its_memory_and_its_time_when_it_moves_to_another_host_and_back";
    let Some(case) = case(name) else { return };
    there_and_back(&case, worst());
}

#[test]
fn long_a_busy_linux_moves_to_another_host_and_back_over_every_wire() {
    let name = "long_a_busy_linux_moves_to_another_host_and_back_over_every_wire";
    let Some(case) = long_case(name) else { return };
    for link in [Link::new(20, 1), Link::new(20, 10), Link::new(80, 1)] {
        there_and_back(&case, link);
    }
}

fn there_and_back(case: &Case, link: Link) {
    let guest = retried(|| {
        let (mut hosts, mut guest) = busy_guest(case, link)?;
        for from in [0, 1] {
            let moved = hosts.moves(from, &[])?;
            let moved = hosts.hosts.host(from).success_of(moved)?;
            check_move(link, &moved);
            hosts.follow(1 - from, &mut guest)?;
        }
        hosts.end(0, &mut guest)?;
        Ok(guest)
    });
    guest.check(3);
}

#[test]
fn a_move_over_a_wire_that_is_cut_for_seconds_goes_on() {
    let name = "a_move_over_a_wire_that_is_cut_for_seconds_goes_on";
    let Some(case) = case(name) else { return };
    let guest = retried(|| {
        let (mut hosts, mut guest) = busy_guest(&case, worst())?;
        let moved = hosts.moves(0, &[])?;
        thread::sleep(UNDER_WAY);
        hosts.hosts.shape(Link::CUT)?;
        thread::sleep(CUT);
        // What it has said meanwhile, and says now: nothing stopped it.
        hosts.follow(0, &mut guest)?;
        hosts.hosts.shape(worst())?;
        let moved = hosts.hosts.host(0).success_of(moved)?;
        check_move(worst(), &moved);
        hosts.follow(1, &mut guest)?;
        hosts.end(1, &mut guest)?;
        Ok(guest)
    });
    guest.check(3);
}

#[test]
fn a_guest_stays_where_it_is_when_the_host_that_it_moves_to_loses_its_power() {
    let name = "a_guest_stays_where_it_is_when_the_host_that_it_moves_to_loses_its_power";
    let Some(case) = case(name) else { return };
    let (moved, state, guest) = retried(|| {
        let (mut hosts, mut guest) = busy_guest(&case, worst())?;
        let moved = hosts.moves(0, &["--timeout", "5s"])?;
        thread::sleep(UNDER_WAY);
        hosts.hosts.kill(1);
        let moved = hosts.hosts.host(0).end_of(moved)?;
        let state = hosts.json(0, &["show", "web", "--output", "json"])?["state"].clone();
        hosts.follow(0, &mut guest)?;
        hosts.end(0, &mut guest)?;
        Ok((moved, state, guest))
    });
    // It was not even stopped: no permit had been given, and the other host's copy is gone with the host.
    assert_eq!(moved.ending, Ending::Exit(1), "{moved}");
    assert!(!moved.output.iter().any(|line| line.contains("novacron: switch:")), "{moved}");
    assert_eq!(state, "running", "{moved}");
    guest.check(2);
}

#[test]
fn a_guest_that_is_lost_with_its_host_in_a_move_does_not_run_on_the_other() {
    let name = "a_guest_that_is_lost_with_its_host_in_a_move_does_not_run_on_the_other";
    let Some(case) = case(name) else { return };
    let shown = retried(|| {
        let (mut hosts, _) = busy_guest(&case, worst())?;
        hosts.moves(0, &["--timeout", "5s"])?;
        thread::sleep(UNDER_WAY);
        let before = hosts.json(1, &["list", "--output", "json"])?;
        hosts.hosts.kill(0);
        // Its patience, and what it takes to look.
        thread::sleep(Duration::from_secs(8));
        let after = hosts.json(1, &["list", "--output", "json"])?;
        Ok([before, after])
    });
    for machines in &shown {
        let machines = machines.as_array().unwrap();
        assert!(machines.iter().all(|machine| machine["state"] != "running"), "{shown:#?}");
    }
}

#[test]
fn long_a_guest_runs_once_at_most_when_a_host_loses_its_power_in_the_switch() {
    let name = "long_a_guest_runs_once_at_most_when_a_host_loses_its_power_in_the_switch";
    let Some(case) = long_case(name) else { return };
    let guest = retried(|| {
        let (mut hosts, mut guest, moved) = killed_in_the_switch(&case, 1)?;
        // Where its permit was not on its way yet, it runs on. Else only somebody who knows that the other host is dead can say
        // so; and where its answer was, it died there.
        let state = hosts.json(0, &["show", "web", "--output", "json"])?["state"].clone();
        eprintln!("the destination died in the switch: {state}");
        if state == "moved" {
            return Ok(None);
        }
        if state == "in_doubt" {
            hosts.novacron(0, &["migrate", "resolve", "web", "--run-here", "--yes"])?;
        }
        let moved = hosts.hosts.host(0).end_of(moved)?;
        assert_eq!(moved.ending, Ending::Exit(1), "{moved}");
        hosts.follow(0, &mut guest)?;
        hosts.end(0, &mut guest)?;
        Ok(Some(guest))
    });
    if let Some(guest) = guest {
        guest.check(2);
    }

    let guest = retried(|| {
        let (mut hosts, mut guest, _) = killed_in_the_switch(&case, 0)?;
        let machines = hosts.json(1, &["list", "--output", "json"])?;
        let states: Vec<_> = machines.as_array().unwrap().iter().map(|one| &one["state"]).collect();
        eprintln!("the source died in the switch: {states:?}");
        // Either the permit came, and the guest with it, or neither did, and nothing of it is left.
        if states.is_empty() {
            return Ok(None);
        }
        assert!(states.len() == 1 && *states[0] == "running", "{machines:#}");
        hosts.follow(1, &mut guest)?;
        hosts.end(1, &mut guest)?;
        Ok(Some(guest))
    });
    if let Some(guest) = guest {
        guest.check(2);
    }
}

/// Moves a busy guest, and ends the power of one of the hosts in the switch; when the other one has decided what that means.
fn killed_in_the_switch(case: &Case, host: usize) -> Result<(Hosts, Guest, Program), HostError> {
    let (mut hosts, guest) = busy_guest(case, worst())?;
    let mut moved = hosts.moves(0, &["--timeout", "5s"])?;
    hosts.hosts.host(0).wait_for(&mut moved, "novacron: switch:")?;
    hosts.hosts.kill(host);
    thread::sleep(DECIDED);
    Ok((hosts, guest, moved))
}

/// Two hosts on a wire, with a daemon each, that know each other.
struct Hosts {
    hosts: WiredHosts,
    _daemons: [Program; 2],
}

/// What a guest has said on whichever host it was, beside that host's time.
#[derive(Default)]
struct Guest {
    /// As long as it had not moved.
    unmoved: Vec<Clocks>,
    clocks: Vec<Clocks>,
    lines: Vec<String>,
}

impl Hosts {
    fn boot(case: &Case) -> Result<Self, HostError> {
        // One processor each: a guest's triple faults (see `Accelerator`) come where two of a host run at the same time,
        // as they do for sure when the other host has lost its power.
        let image = || host_of_guests().cpus(1).time_limit(LIMIT);
        let mut hosts = WiredHosts::boot(case, [image(), image()])?;
        let mut start = |host: usize| {
            let host = hosts.host(host);
            // As hosts that ask a time server: where their clocks differ, a guest's moves with it.
            host.set_clock()?;
            let settings = ["--set", "peers.listen=0.0.0.0", "--set", LOG_LEVEL];
            let mut daemon = host.start(&[&["/bin/novacron", "daemon"][..], &settings].concat())?;
            host.wait_for(&mut daemon, "the daemon is ready")?;
            Ok::<_, HostError>(daemon)
        };
        let daemons = [start(0)?, start(1)?];
        let mut hosts = Self { hosts, _daemons: daemons };
        for host in [0, 1] {
            let other = 1 - host;
            let info = hosts.json(other, &["info", "--output", "json"])?;
            let (address, key) = (ADDRESSES[other].to_string(), info["host_key"].as_str().unwrap());
            let peer = ["peers", "add", &address, "--name", NAMES[other], "--key", key];
            hosts.novacron(host, &peer)?;
        }
        Ok(hosts)
    }

    fn novacron(&mut self, host: usize, arguments: &[&str]) -> Result<CommandRun, HostError> {
        let host = self.hosts.host(host);
        let program = host.start(&[&["/bin/novacron"], arguments].concat())?;
        host.success_of(program)
    }

    fn json(&mut self, host: usize, arguments: &[&str]) -> Result<Value, HostError> {
        let run = self.novacron(host, arguments)?;
        Ok(serde_json::from_str(&run.output.join("\n")).unwrap())
    }

    /// Begins to move the guest to the other host, and waits until memory is sent.
    fn moves(&mut self, from: usize, more: &[&str]) -> Result<Program, HostError> {
        let to = NAMES[1 - from];
        // It writes as fast as these wires carry, so that it would never be stopped.
        let order = ["/bin/novacron", "migrate", "web", "--to", to, "--stop-after-rounds=12"];
        let host = self.hosts.host(from);
        let mut program = host.start(&[&order, more].concat())?;
        host.wait_for(&mut program, "novacron: live:")?;
        Ok(program)
    }

    /// Listens to the guest on this host until it has said some things that it had not said before.
    fn follow(&mut self, host: usize, guest: &mut Guest) -> Result<(), HostError> {
        let host = self.hosts.host(host);
        let mut console = host.start(&["/init", "attend", "/bin/novacron", "console", "web"])?;
        let last = guest.clocks.last().map_or(0, |clocks| clocks.monotonic);
        let is_new = |clocks: &Clocks| clocks.monotonic > last;
        // A console begins with its past, all of it at once.
        let is_fresh = |two: &[Clocks]| is_new(&two[1]) && two[1].host - two[0].host > FRESH_NS;
        while Clocks::all(console.output()).windows(2).filter(|two| is_fresh(two)).count() < REPORTS
        {
            host.wait_for(&mut console, "attend: clocks ")?;
        }
        let lines = console.output();
        let known = lines.iter().rposition(|line| Clocks::parse(line).is_some_and(|c| !is_new(&c)));
        let new = &lines[known.map_or(0, |at| at + 1)..];
        guest.clocks.extend(Clocks::all(new));
        guest.lines.extend(new.iter().cloned());
        Ok(())
    }

    /// Presses the guest's power button, and switches the hosts off.
    fn end(mut self, host: usize, guest: &mut Guest) -> Result<(), HostError> {
        self.novacron(host, &["stop", "web"])?;
        guest.lines.extend(self.novacron(host, &["logs", "web"])?.output);
        self.hosts.finish().map(drop)
    }
}

/// Where the guest's vCPUs were whenever it was saved, and what happens.
const LOG_LEVEL: &str = "log.level=info,machine::vm=debug";

/// Two hosts that this wire joins, and a busy guest on the first of them.
fn busy_guest(case: &Case, link: Link) -> Result<(Hosts, Guest), HostError> {
    let mut hosts = Hosts::boot(case)?;
    let cmdline = format!("{CMDLINE} test-init.busy test-init.wait=power-button");
    let options = ["--detach", "--cpus=1", "--memory=256M", "--kernel=/guest/vmlinux"];
    let boot = ["--initrd=/guest/initrd", "--cmdline", &cmdline];
    hosts.novacron(0, &[&["run", "web"][..], &options, &boot].concat())?;
    hosts.hosts.shape(link)?;
    let mut guest = Guest::default();
    hosts.follow(0, &mut guest)?;
    guest.unmoved = guest.clocks.clone();
    Ok((hosts, guest))
}

/// Panics unless the guest has arrived, as both hosts have signed; shows the report.
fn check_move(link: Link, run: &CommandRun) {
    let says = |words: &str| run.output.iter().any(|line| line.contains(words));
    assert!(says("pages looked at again, each as it was sent"), "{run}");
    assert!(!says("none: the hosts have not both signed it"), "{run}");
    eprintln!("over {link}: {run}");
}

impl Guest {
    /// Panics unless it has worked on in each of so many stays, its memory is as it was, its clocks have never run back nor
    /// lost time, and it was well when it was asked to end.
    fn check(&self, stays: usize) {
        check_workers(&self.lines, stays);
        check_clocks(&self.unmoved, &self.clocks, REPORTS);
        let pressed = self.lines.iter().any(|line| line == "guest: power button was pressed");
        assert!(pressed, "{:#?}", self.lines);
    }
}

/// Does it, and once more, twice at most, when the emulator failed, as [`crate::support::run_guests`] has it: a triple fault, a host
/// that was reset, or one that came to no end.
fn retried<T>(attempt: impl Fn() -> Result<T, HostError>) -> T {
    for nth in 1..=2 {
        match attempt() {
            Ok(done) => return done,
            Err(error) if is_fault_of_emulator(&error) => eprintln!("attempt {nth}: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
    attempt().unwrap_or_else(|error| panic!("{error}"))
}

fn is_fault_of_emulator(error: &HostError) -> bool {
    matches!(error, HostError::Machine { .. } | HostError::Report { .. })
        || error.to_string().contains("triple fault on vCPU")
}
