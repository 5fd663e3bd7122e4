//! The demonstration on a guest of the user's: it is handed over, and then asked to switch itself off.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use machine::{Executable, Form, GuestEnd, Host, Limits};

use super::view::View;
use crate::Failure;
use crate::cli::{DemoOptions, OwnGuest, Shape};
use crate::log::LogOptions;

/// How long the guest may take to say what is waited for, and to switch itself off.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) fn demo(
    options: &DemoOptions,
    guest: &OwnGuest,
    shape: Shape,
    log: &LogOptions,
) -> Result<(), Failure> {
    let images = crate::run::images(&guest.kernel, guest.initrd.as_deref(), &guest.cmdline)?;
    let config = crate::run::config(shape)?;
    drop(Host::open()?);
    let view = View::new(options.plain);
    let (mut machine, console) = crate::run::boot(config, &images, log)?;
    let said = Said::on(console, &guest.after);
    said.wait(&guest.after)?;

    let path = std::env::current_exe().map_err(Failure::other("the path of this executable"))?;
    let environment = log.environment();
    let executable = Executable { path: &path, environment: &environment };
    for form in [Form::Shared, Form::Copying] {
        for nth in 1..=options.times {
            let report = machine.hand_over(executable, form, Limits::default())?;
            view.hand_over(&report, nth, options.times, None, machine.process().id());
            std::thread::sleep(guest.pause());
        }
    }
    machine.press_power_button()?;
    let ender = machine.process().ender().map_err(Failure::other("the control socket"))?;
    // A guest that does not hear its button is ended.
    let (ended, alarm) = mpsc::channel::<()>();
    let alarm = std::thread::spawn(move || {
        let is_late = alarm.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
        if is_late {
            ender.stop();
        }
    });
    let end = machine.wait();
    drop(ended);
    let _ = alarm.join();
    match end? {
        GuestEnd::PoweredOff => {
            println!("demo: ok");
            Ok(())
        }
        end => Err(Failure::Guest(format!(
            "the guest was asked to switch itself off, and within {PATIENCE:?} it did not: {end}"
        ))),
    }
}

/// The guest's console, which is passed on to standard output.
struct Said(Receiver<()>);

impl Said {
    /// Passes everything on until the guest ends, and notes when it has said `awaited`.
    fn on(mut console: UnixStream, awaited: &str) -> Self {
        let (note, said) = mpsc::channel();
        let awaited = awaited.as_bytes().to_vec();
        std::thread::spawn(move || {
            let (mut bytes, mut tail) = ([0; 4096], Vec::new());
            while let Ok(count @ 1..) = console.read(&mut bytes) {
                let mut output = io::stdout().lock();
                let _ = output.write_all(&bytes[..count]).and_then(|()| output.flush());
                tail.extend_from_slice(&bytes[..count]);
                if tail.windows(awaited.len().max(1)).any(|window| window == awaited) {
                    let _ = note.send(());
                }
                tail.drain(..tail.len().saturating_sub(awaited.len()));
            }
        });
        Self(said)
    }

    fn wait(&self, awaited: &str) -> Result<(), Failure> {
        let started = Instant::now();
        if awaited.is_empty() {
            return Ok(());
        }
        self.0.recv_timeout(PATIENCE).map_err(|error| {
            let took = started.elapsed().as_secs();
            Failure::Guest(match error {
                RecvTimeoutError::Timeout => {
                    format!("the guest did not say `{awaited}` within {took} s; see --after")
                }
                RecvTimeoutError::Disconnected => {
                    format!("the guest ended before it said `{awaited}`; see --after")
                }
            })
        })
    }
}
