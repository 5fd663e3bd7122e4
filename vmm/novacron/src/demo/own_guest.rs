//! The demonstration on a guest of the user's: it is handed over, moved, saved and restored, and then asked to switch
//! itself off.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use control::ConsoleStream;
use control::api::Boot;

use super::hosts::Hosts;
use super::private::{Live, PrivateDaemon};
use super::view::View;
use crate::Failure;
use crate::cli::{DemoOptions, OwnGuest, Shape};
use crate::connect::name_file;

/// How long the guest may take to say what is waited for, and to switch itself off.
const PATIENCE: Duration = Duration::from_secs(300);
/// What stands at the end of a line for so long is no line that is still being written.
const PROMPT: Duration = Duration::from_millis(50);

pub(super) fn demo(
    hosts: &mut Hosts,
    options: &DemoOptions,
    guest: &OwnGuest,
    shape: Shape,
    view: &View,
) -> Result<(), Failure> {
    let name = |option, path: &Path| name_file(hosts.here.client(), option, path);
    let boot = Boot::Kernel {
        kernel: name("--kernel", &guest.kernel)?,
        initrd: guest.initrd.as_deref().map(|initrd| name("--initrd", initrd)).transpose()?,
        command_line: guest.cmdline.clone(),
    };
    let (machine, console) = hosts.here.boot(shape, boot)?;
    let said = Said::on(console, &guest.after)?;
    // If it has ended, how it did says more.
    said.wait(&guest.after).map_err(|silence| match silence {
        Silence::Ended(why) => hosts.here.why(&machine, why),
        Silence::Late(why) => why,
    })?;
    super::hand_over(&hosts.here, &machine, options, view, || {
        std::thread::sleep(guest.pause());
        Ok(None)
    })?;
    super::moves::round_trips(hosts, view, options.moves, &machine, |console| {
        drop(Said::on(console, "")?);
        std::thread::sleep(guest.pause());
        Ok(None)
    })?;
    let daemon = &mut hosts.here;
    let after = |daemon: &PrivateDaemon, machine: &Live, console| {
        drop(Said::on(console, "")?);
        std::thread::sleep(guest.pause());
        // Paused and let go on: its clocks must not mind.
        let again = daemon.quick(machine, "/pause").and_then(|()| daemon.quick(machine, "/resume"));
        again.map_err(|failure| daemon.why(machine, failure))
    };
    let machine = super::snapshots::round_trips(daemon, view, options.snapshots, machine, after)?;
    switch_off(&hosts.here, &machine)
}

/// Presses the guest's power button.
fn switch_off(daemon: &PrivateDaemon, machine: &Live) -> Result<(), Failure> {
    let pressed = daemon.quick(machine, "/power-button");
    pressed.map_err(|failure| daemon.why(machine, failure))?;
    match daemon.wait_for_end(machine, PATIENCE)? {
        Some(ended) if ended.how == machine::GuestEnd::PoweredOff.to_string() => {
            // Its last lines are passed on by a thread.
            std::thread::sleep(2 * PROMPT);
            Ok(())
        }
        Some(ended) => Err(Failure::Guest(ended.how)),
        None => Err(Failure::Guest(format!(
            "the guest was asked to switch itself off, and within {PATIENCE:?} it did not"
        ))),
    }
}

/// The guest's console, which is passed on to standard output: by whole lines, so that those of the demonstration
/// do not come between; the beginning of one, such as a prompt, once nothing follows it.
struct Said(Receiver<()>);

impl Said {
    /// Passes everything on until the guest ends, and notes when it has said `awaited`.
    fn on(console: ConsoleStream, awaited: &str) -> Result<Self, Failure> {
        let ConsoleStream { stream: mut console, first } = console;
        console.set_read_timeout(Some(PROMPT)).map_err(Failure::other("the console"))?;
        let (note, said) = mpsc::channel();
        let awaited = awaited.as_bytes().to_vec();
        std::thread::spawn(move || {
            let (mut bytes, mut unsaid, mut tail) = ([0; 4096], first, Vec::new());
            loop {
                match console.read(&mut bytes) {
                    Ok(count @ 1..) => unsaid.extend_from_slice(&bytes[..count]),
                    // Nothing follows.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        tail.extend_from_slice(&pass_on(&mut unsaid, Part::All));
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(_) | Err(_) => break,
                }
                tail.extend_from_slice(&pass_on(&mut unsaid, Part::Lines));
                if tail.windows(awaited.len().max(1)).any(|window| window == awaited) {
                    let _ = note.send(());
                }
                tail.drain(..tail.len().saturating_sub(awaited.len()));
            }
            pass_on(&mut unsaid, Part::All);
        });
        Ok(Self(said))
    }

    fn wait(&self, awaited: &str) -> Result<(), Silence> {
        if awaited.is_empty() {
            return Ok(());
        }
        self.0.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => Silence::Late(Failure::Guest(format!(
                "the guest did not say `{awaited}` within {PATIENCE:?}; see --after"
            ))),
            RecvTimeoutError::Disconnected => Silence::Ended(Failure::Guest(format!(
                "the guest ended before it said `{awaited}`; see --after"
            ))),
        })
    }
}

/// What was waited for was not said.
enum Silence {
    Late(Failure),
    Ended(Failure),
}

/// Writes to standard output up to the last line's end, or all of it; returns what was written.
fn pass_on(unsaid: &mut Vec<u8>, up_to: Part) -> Vec<u8> {
    let end = match up_to {
        Part::Lines => unsaid.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1),
        Part::All => unsaid.len(),
    };
    let said: Vec<u8> = unsaid.drain(..end).collect();
    let mut output = io::stdout().lock();
    // Who reads no more has seen enough; the demonstration goes on.
    let _ = output.write_all(&said).and_then(|()| output.flush());
    said
}

/// How much is passed on.
#[derive(Clone, Copy)]
enum Part {
    Lines,
    All,
}
