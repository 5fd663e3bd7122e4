//! What the loop hears: looks at the daemon, its events, keys and signals, each from a thread of its own.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use control::api::Event;
use control::{CallError, Client};
use ratatui::crossterm::event::{self, KeyEvent, KeyEventKind};
use rustix::process::Signal;

use super::reading::Reading;
use super::state::EVENTS_KEPT;
use crate::signals::{Continue, on_signals};

/// Messages that wait for the loop; whoever has more waits, too.
const WAITING: usize = 256;
/// How soon a daemon that is not there is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Something that the loop acts on.
pub(super) enum Message {
    /// A look at the daemon, or why there is none.
    Reading(Result<Box<Reading>, CallError>),
    /// Something has happened there.
    Event(Box<Event>),
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal has another size: it is drawn anew.
    Resized,
    /// This process is to end.
    Leave,
}

/// Where the messages come out.
pub(super) struct Feed {
    send: SyncSender<Message>,
    messages: Receiver<Message>,
}

impl Feed {
    pub(super) fn new() -> Self {
        let (send, messages) = sync_channel(WAITING);
        Self { send, messages }
    }

    pub(super) fn messages(&self) -> &Receiver<Message> {
        &self.messages
    }

    /// Hears what asks this process to end: the terminal is left as it was found. Before the others, whose threads would
    /// be interrupted by it.
    pub(super) fn follow_signals(&self) -> io::Result<()> {
        let send = self.send.clone();
        // A terminal that is closed says so by SIGHUP.
        on_signals([Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT], move |_| {
            let _ = send.send(Message::Leave);
            Continue::No
        })
    }

    /// Looks at the daemon on `socket` every `interval`, and follows its events. The threads end with the process.
    pub(super) fn follow_daemon(&self, socket: &Path, interval: Duration) -> io::Result<()> {
        let (for_readings, for_events) = (Client::new(socket)?, Client::new(socket)?);
        let (readings, events) = (self.send.clone(), self.send.clone());
        spawn("readings", move || look_again_and_again(&for_readings, interval, &readings))?;
        spawn("events", move || follow_events(&for_events, &events))
    }

    /// Hears keys, once the terminal is there for them.
    pub(super) fn follow_keys(&self) -> io::Result<()> {
        let send = self.send.clone();
        spawn("keys", move || forward_keys(&send))
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

/// Ends when there is nobody any more to forward for, or nothing to read from.
fn forward_keys(send: &SyncSender<Message>) {
    while let Ok(event) = event::read() {
        let message = match event {
            event::Event::Key(key) if key.kind != KeyEventKind::Release => Message::Key(key),
            event::Event::Resize(..) => Message::Resized,
            _ => continue,
        };
        if send.send(message).is_err() {
            return;
        }
    }
    let _ = send.send(Message::Leave);
}

fn look_again_and_again(client: &Client, interval: Duration, send: &SyncSender<Message>) {
    let began = Instant::now();
    loop {
        let reading = Reading::take(client, began).map(Box::new);
        let pause = if reading.is_ok() { interval } else { interval.min(RETRY) };
        if send.send(Message::Reading(reading)).is_err() {
            return;
        }
        thread::sleep(pause);
    }
}

fn follow_events(client: &Client, send: &SyncSender<Message>) {
    loop {
        // Those that were seen before are known by their ids: it is simpler to ask for all of them again, and a daemon
        // of another life does not call its first ones a gap.
        if let Ok(mut events) = client.recent_events(EVENTS_KEPT) {
            while let Ok(Some(event)) = events.next_event() {
                if send.send(Message::Event(Box::new(event))).is_err() {
                    return;
                }
            }
        }
        // Why there are none is said by the readings.
        thread::sleep(RETRY);
    }
}
