//! A machine's console on this terminal, until its guest ends or the user leaves it.

use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use control::api::{Ended, EventKind, Machine, MachineName, MachineState, Operation, Stop};
use control::{CallError, Client};

use crate::Failure;
use crate::connect::connect;
use crate::globals::Globals;
use crate::signals::{Continue, on_request_to_end};
use crate::terminal::RawTerminal;

/// Ctrl-], as with telnet and virsh.
const ESCAPE: u8 = 0x1d;
/// What the guest printed last may still be on its way when its end is known.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How an attachment ended.
pub(crate) enum Left {
    /// The guest ended.
    Ended(Ended),
    /// The user left; the machine runs on.
    Detached,
}

/// What this process does when it is asked to end (SIGTERM, SIGINT).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnSignal {
    /// It leaves the console; the machine runs on.
    Detach,
    /// It stops the machine; asked again, it kills it.
    Stop,
}

enum Note {
    Ended(Ended),
    Detach,
}

/// Shows the console, and types what is typed. The machine must have been started by an event after `since`.
pub(crate) fn attach(
    client: &Client,
    globals: &Globals,
    name: &MachineName,
    on_signal: OnSignal,
) -> Result<Left, Failure> {
    let (notes, noted) = channel();
    // Before the console: an end between the two would be missed.
    follow(globals, name.clone(), notes.clone())?;
    let console = client.console(name)?;
    let terminal = RawTerminal::enter();
    obey_signals(globals, name.clone(), on_signal, notes.clone())?;
    let input = console.stream.try_clone().map_err(Failure::other("the console"))?;
    std::thread::spawn(move || forward_input(input, &notes));
    let (printed, prints) = channel();
    let stream = console.stream.try_clone().map_err(Failure::other("the console"))?;
    std::thread::spawn(move || forward_output(&console.first, stream, &printed));
    let note = noted.recv();
    if matches!(note, Ok(Note::Ended(_))) {
        while prints.recv_timeout(LAST_WORDS).is_ok() {}
    }
    let _ = console.stream.shutdown(std::net::Shutdown::Both);
    drop(terminal);
    match note {
        Ok(Note::Ended(ended)) => Ok(Left::Ended(ended)),
        Ok(Note::Detach) | Err(_) => Ok(Left::Detached),
    }
}

/// Says how a guest ended, and makes that this process's own end.
pub(crate) fn conclude(left: Left, name: &MachineName) -> Result<(), Failure> {
    match left {
        Left::Ended(Ended { how, failed: false, .. }) => {
            eprintln!("novacron: {how}");
            Ok(())
        }
        Left::Ended(Ended { how, .. }) => Err(Failure::Guest(how)),
        Left::Detached => {
            eprintln!("novacron: detached; the machine runs on: novacron console {name}");
            Ok(())
        }
    }
}

/// Waits for the guest's end, in a thread with a connection of its own.
fn follow(globals: &Globals, name: MachineName, notes: Sender<Note>) -> Result<(), Failure> {
    let client = connect(globals)?;
    std::thread::spawn(move || {
        let note = match wait_for_end(&client, &name) {
            Ok(ended) => Note::Ended(ended),
            Err(error) => {
                eprintln!("novacron: {error}");
                Note::Detach
            }
        };
        let _ = notes.send(note);
    });
    Ok(())
}

fn wait_for_end(client: &Client, name: &MachineName) -> Result<Ended, CallError> {
    let mut events = client.events(None)?;
    // What happened before the first event is in the machine itself.
    let machine: Machine = client.get(&format!("/v1/machines/{name}"))?;
    if let (MachineState::Stopped, Some(ended)) = (machine.state, machine.ended) {
        return Ok(ended);
    }
    while let Some(event) = events.next_event()? {
        match event.kind {
            EventKind::MachineState {
                machine,
                state: MachineState::Stopped,
                ended: Some(ended),
            } if machine == *name => {
                return Ok(ended);
            }
            _ => {}
        }
    }
    Err(CallError::Broken {
        socket: client.socket().to_owned(),
        why: "it has ended; the machine goes on".to_owned(),
    })
}

fn obey_signals(
    globals: &Globals,
    name: MachineName,
    on_signal: OnSignal,
    notes: Sender<Note>,
) -> Result<(), Failure> {
    let client = connect(globals)?;
    let act = move |asked| {
        if on_signal == OnSignal::Detach {
            let _ = notes.send(Note::Detach);
            return Continue::No;
        }
        let outcome = if asked == 1 {
            eprintln!("novacron: the guest is asked to switch itself off; ask again to end it");
            client
                .post::<Operation>(&format!("/v1/machines/{name}/stop"), &Stop::default())
                .map(drop)
        } else {
            client.post::<Machine>(&format!("/v1/machines/{name}/kill"), &()).map(drop)
        };
        if let Err(error) = outcome {
            eprintln!("novacron: {error}");
        }
        if asked == 1 { Continue::Yes } else { Continue::No }
    };
    on_request_to_end(act).map_err(Failure::other("waiting for signals"))
}

fn forward_output(first: &[u8], mut stream: UnixStream, printed: &Sender<()>) {
    let mut output = io::stdout().lock();
    let mut show = |bytes: &[u8]| output.write_all(bytes).and_then(|()| output.flush()).is_ok();
    let mut bytes = [0; 4096];
    if !show(first) {
        return;
    }
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        if !show(&bytes[..count]) || printed.send(()).is_err() {
            return;
        }
    }
}

fn forward_input(mut console: UnixStream, notes: &Sender<Note>) {
    let mut input = io::stdin().lock();
    let is_terminal = input.is_terminal();
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = Read::read(&mut input, &mut bytes) {
        let typed = &bytes[..count];
        let escape = typed.iter().position(|byte| *byte == ESCAPE).filter(|_| is_terminal);
        if console.write_all(&typed[..escape.unwrap_or(count)]).is_err() {
            return;
        }
        if escape.is_some() {
            let _ = notes.send(Note::Detach);
            return;
        }
    }
}
