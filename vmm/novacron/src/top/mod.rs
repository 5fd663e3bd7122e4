//! `novacron top`: a screen that shows what the daemon and its machines do, and changes nothing.
//!
//! [`State`] is what is known, and [`screen`] draws it; neither has a clock, a socket or a terminal. What the daemon says
//! comes from threads of its own ([`feed`]), so that no key waits for a daemon that is slow, or not there.

mod columns;
mod feed;
#[cfg(test)]
mod fixture;
mod reading;
mod screen;
mod state;
mod terminal;
mod theme;
mod words;

use std::io::{IsTerminal, stdin, stdout};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::layout::Rect;

use self::feed::{Feed, Message};
use self::state::State;
use self::terminal::Screen;
use self::theme::Theme;
pub(crate) use self::words::whole_bytes;
use crate::Failure;
use crate::globals::Globals;
use crate::output::print;

/// The screen is drawn this often at least: how long a daemon has said nothing is on it.
const TICK: Duration = Duration::from_secs(1);
/// Messages between two drawings: a flood of them does not keep the screen as it was.
const AT_ONCE: usize = 256;

#[derive(Debug, Args)]
#[command(
    after_help = "Keys: arrows or j and k select, s changes the order, p holds the display, ? shows \
    all keys, q leaves.\n\nExamples:\n  \
    novacron top --interval 5\n  \
    COLUMNS=120 novacron top --once        one screen as text, for a file or a mail"
)]
pub(crate) struct TopOptions {
    /// Seconds between two looks at the daemon, 1 to 60
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=60))]
    interval: u64,
    /// Print one screen as text, after two looks at the daemon, and end
    #[arg(long)]
    once: bool,
}

pub(crate) fn top(options: &TopOptions, globals: &Globals) -> Result<(), Failure> {
    let (socket, interval) = (globals.socket()?, Duration::from_secs(options.interval));
    let (state, feed) = (State::new(&socket, interval), Feed::new());
    if !options.once {
        refuse_what_is_no_screen()?;
        feed.follow_signals().map_err(Failure::other("waiting for signals"))?;
    }
    feed.follow_daemon(&socket, interval).map_err(Failure::other("threads for the daemon"))?;
    if options.once { once(state, &feed) } else { follow(state, &feed) }
}

fn refuse_what_is_no_screen() -> Result<(), Failure> {
    let instead = "`novacron top --once` prints one screen as text";
    if !stdin().is_terminal() || !stdout().is_terminal() {
        let why = "standard input and output are not both a terminal";
        return Err(Failure::Other(format!("{why}; {instead}")));
    }
    match std::env::var("TERM").as_deref() {
        Ok("") | Ok("dumb") | Err(_) => {
            let why = "the terminal cannot be drawn on, as TERM says";
            Err(Failure::Other(format!("{why}; {instead}")))
        }
        Ok(_) => Ok(()),
    }
}

/// Draws, until the user leaves, or this process is asked to end.
fn follow(mut state: State, feed: &Feed) -> Result<(), Failure> {
    let theme = Theme::from_environment();
    let began = Instant::now();
    let mut screen = Screen::enter().map_err(Failure::other("the terminal"))?;
    feed.follow_keys().map_err(Failure::other("a thread for keys"))?;
    loop {
        screen
            .draw(|area, buffer| screen::draw(&state, theme, area, buffer))
            .map_err(Failure::other("the terminal"))?;
        #[cfg(feature = "fault-injection")]
        panic_if_asked();
        let first = match feed.messages().recv_timeout(TICK) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        state.tick(began.elapsed());
        let more = feed.messages().try_iter().take(AT_ONCE);
        for message in first.into_iter().chain(more) {
            match message {
                Message::Reading(Ok(reading)) => state.observe(*reading),
                Message::Reading(Err(error)) => state.miss(error.to_string()),
                Message::Event(event) => state.happen(*event),
                Message::Key(key) if state.press(key).is_break() => return Ok(()),
                Message::Key(_) | Message::Resized => {}
                Message::Leave => return Ok(()),
            }
        }
    }
}

/// One screen as text. Rates take two looks at the daemon.
fn once(mut state: State, feed: &Feed) -> Result<(), Failure> {
    let mut readings = 0;
    while readings < 2 {
        match feed.messages().recv() {
            Ok(Message::Reading(reading)) => {
                state.observe(*reading?);
                readings += 1;
            }
            Ok(Message::Event(event)) => state.happen(*event),
            Ok(_) => {}
            Err(_) => return Err(Failure::Other("nobody looks at the daemon any more".to_owned())),
        }
    }
    let (width, height) = terminal::size_of_text();
    print(&screen::text(&state, Rect::new(0, 0, width, height)))
}

/// A test wants to see what a panic leaves behind.
#[cfg(feature = "fault-injection")]
fn panic_if_asked() {
    let asked = std::env::var("NOVACRON_FAULT").unwrap_or_default();
    assert!(asked != "panic:top", "a test has asked for a panic");
}
