//! `novacron demo`: a guest that checks its own memory is handed to new processes while it writes, moved to another
//! host and back, saved, killed and restored.

mod ending;
mod guest_lines;
mod hosts;
mod moves;
mod own_guest;
mod private;
mod snapshots;
mod view;

use std::time::{Duration, Instant};

use control::Size;
use control::api::{Boot, HandOverForm};
use firmware::oracle::report::Rounds;

use crate::Failure;
use crate::cli::{DemoOptions, Shape};
use crate::log::LogOptions;
use ending::Ending;
use guest_lines::{GuestLines, Line};
use hosts::Hosts;
use private::{Live, PrivateDaemon};
use view::View;

/// How long the guest may take to fill its memory, and to check it at the end. Under emulation it
/// takes a minute; where ring 3 is native, a second.
const GUEST_PATIENCE: Duration = Duration::from_secs(300);
/// How long the guest's own rate is watched before the first hand-over, and after it has come to a host or from a file.
const WARM_UP: Duration = Duration::from_millis(1500);
/// Reports of the guest after a hand-over: the first may have been written before it.
const REPORTS_AFTER: usize = 2;

pub(crate) fn demo(options: &DemoOptions, log: &LogOptions) -> Result<(), Failure> {
    let shape = Shape {
        cpus: options.cpus,
        cpu: options.cpu,
        memory: options.memory,
        hole_start: options.hole_start,
        dirty_log: options.dirty_log,
    };
    let config = crate::run::config(shape)?;
    crate::run::check_host(shape)?;
    let view = View::new(options.plain);
    let ending = Ending::begin()?;
    let mut hosts = Hosts::start(&ending, log)?;
    match &options.own_guest {
        Some(guest) => own_guest::demo(&mut hosts, options, guest, shape, &view)?,
        None => {
            view.title(shape, config.memory.regions().count());
            oracle(&mut hosts, options, shape, &view)?;
        }
    }
    drop(ending);
    println!("demo: ok");
    Ok(())
}

fn oracle(
    hosts: &mut Hosts,
    options: &DemoOptions,
    shape: Shape,
    view: &View,
) -> Result<(), Failure> {
    let working_set = Size(options.working_set.0.min(options.memory.0 / 4));
    let words =
        format!("pattern=random rate={} working_set={} report=100", options.rate, working_set.0);
    let started = Instant::now();
    let (machine, console) = hosts.here.boot(shape, Boot::Oracle { options: words })?;
    let mut guest = GuestLines::new(console)?;
    let ready = guest.wait_for(GUEST_PATIENCE, Line::ready)?;
    view.ready(&ready, started.elapsed());
    view.rate(&watch(&mut guest, WARM_UP)?);

    hand_over(&hosts.here, &machine, options, view, || gap_seen_by_guest(&mut guest).map(Some))?;

    moves::round_trips(hosts, view, options.moves, &machine, |console| {
        // What it complained of last, where it was.
        guest.pending()?;
        guest = GuestLines::new(console)?;
        let gap = gap_seen_by_guest(&mut guest)?;
        let gap_us = u64::try_from(gap.as_micros()).unwrap_or(u64::MAX);
        Ok(Some(Rounds { gap_us, ..watch(&mut guest, WARM_UP)? }))
    })?;

    let daemon = &mut hosts.here;
    let after = |_: &PrivateDaemon, _: &Live, console| {
        guest = GuestLines::new(console)?;
        watch(&mut guest, WARM_UP).map(drop)
    };
    let machine = snapshots::round_trips(daemon, view, options.snapshots, machine, after)?;

    guest.say(b"v")?;
    let verdict = guest.wait_for(GUEST_PATIENCE, Line::verdict)?;
    daemon.kill(&machine)?;
    view.verdict(&verdict);
    if !verdict.ok {
        return Err(Failure::Guest("the guest found pages that are not as it left them".into()));
    }
    Ok(())
}

/// Hands a machine over to new processes, so often in each form. `after` each, it says what the guest saw of it, if
/// that can be known.
fn hand_over(
    daemon: &PrivateDaemon,
    machine: &Live,
    options: &DemoOptions,
    view: &View,
    mut after: impl FnMut() -> Result<Option<Duration>, Failure>,
) -> Result<(), Failure> {
    let times = options.times;
    for form in [HandOverForm::Shared, HandOverForm::Copying] {
        for nth in 1..=times {
            let outcome = daemon.hand_over(machine, form);
            let outcome = outcome.map_err(|failure| daemon.why(machine, failure))?;
            let gap = after()?;
            view.hand_over(&outcome, form, nth, times, gap, daemon.process(machine)?);
        }
    }
    Ok(())
}

/// The guest's last report within a time.
fn watch(guest: &mut GuestLines, time: Duration) -> Result<Rounds, Failure> {
    let end = Instant::now() + time;
    loop {
        let rounds = guest.wait_for(GUEST_PATIENCE, Line::rounds)?;
        if Instant::now() >= end {
            return Ok(rounds);
        }
    }
}

/// The longest time that the guest's own clock jumped, in the reports around a hand-over or behind a move.
fn gap_seen_by_guest(guest: &mut GuestLines) -> Result<Duration, Failure> {
    let mut gap_us = guest.pending()?.into_iter().filter_map(Line::rounds).map(|r| r.gap_us).max();
    for _ in 0..REPORTS_AFTER {
        let rounds = guest.wait_for(GUEST_PATIENCE, Line::rounds)?;
        gap_us = gap_us.max(Some(rounds.gap_us));
    }
    Ok(Duration::from_micros(gap_us.unwrap_or(0)))
}
