//! `novacron demo`: a guest that checks its own memory is handed to new processes while it writes, saved, killed and
//! restored.

mod guest_lines;
mod own_guest;
mod snapshots;
mod view;

use std::time::{Duration, Instant};

use control::Size;
use firmware::oracle::report::Rounds;
use machine::{Form, Limits, Supervised};

use crate::Failure;
use crate::cli::{DemoOptions, Shape};
use crate::log::LogOptions;
use guest_lines::{GuestLines, Line};
use snapshots::Snapshots;
use view::View;

/// How long the guest may take to fill its memory, and to check it at the end. Under emulation it
/// takes a minute; where ring 3 is native, a second.
const GUEST_PATIENCE: Duration = Duration::from_secs(300);
/// How long the guest's own rate is watched before the first hand-over.
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
    if let Some(guest) = &options.own_guest {
        return own_guest::demo(options, guest, shape, log);
    }
    let config = crate::run::config(shape)?;
    crate::run::check_host(shape)?;
    let view = View::new(options.plain);
    view.title(shape, config.memory.regions().count());

    let working_set = Size(options.working_set.0.min(options.memory.0 / 4));
    let words =
        format!("pattern=random rate={} working_set={} report=100", options.rate, working_set.0);
    let images = crate::run::oracle_images(options.cpus, &words)?;
    let started = Instant::now();
    let (mut machine, console) = crate::run::boot(config, shape.dirty_log, &images, log)?;
    let mut guest = GuestLines::new(console)?;
    let ready = guest.wait_for(GUEST_PATIENCE, Line::ready)?;
    view.ready(&ready, started.elapsed());
    view.rate(&watch(&mut guest, WARM_UP)?);

    hand_over(&mut machine, options, &view, log, || gap_seen_by_guest(&mut guest).map(Some))?;

    let machine = Snapshots::new(options, &view, log)?.round_trips(machine, |_, console| {
        guest = GuestLines::new(console)?;
        watch(&mut guest, WARM_UP).map(drop)
    })?;

    guest.say(b"v")?;
    let verdict = guest.wait_for(GUEST_PATIENCE, Line::verdict)?;
    machine.stop()?;
    view.verdict(&verdict);
    if !verdict.ok {
        return Err(Failure::Guest("the guest found pages that are not as it left them".into()));
    }
    println!("demo: ok");
    Ok(())
}

/// Hands a machine over to new processes of this executable, so often in each form. `after` each, it says what the
/// guest saw of it, if that can be known.
fn hand_over(
    machine: &mut Supervised,
    options: &DemoOptions,
    view: &View,
    log: &LogOptions,
    mut after: impl FnMut() -> Result<Option<Duration>, Failure>,
) -> Result<(), Failure> {
    let times = options.times;
    crate::run::with_executable(options.dirty_log, log, |executable| {
        for form in [Form::Shared, Form::Copying] {
            for nth in 1..=times {
                let report = machine.hand_over(executable, form, Limits::default())?;
                let gap = after()?;
                view.hand_over(&report, nth, times, gap, machine.process().id());
            }
        }
        Ok(())
    })
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

/// The longest time that the guest's own clock jumped, in the reports around a hand-over.
fn gap_seen_by_guest(guest: &mut GuestLines) -> Result<Duration, Failure> {
    let mut gap_us = guest.pending()?.into_iter().filter_map(Line::rounds).map(|r| r.gap_us).max();
    for _ in 0..REPORTS_AFTER {
        let rounds = guest.wait_for(GUEST_PATIENCE, Line::rounds)?;
        gap_us = gap_us.max(Some(rounds.gap_us));
    }
    Ok(Duration::from_micros(gap_us.unwrap_or(0)))
}
