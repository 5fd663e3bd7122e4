//! Screens as text, in `screens/`. After a change of what is drawn, make them anew and look at what differs:
//! `REMAKE_SCREENS=1 cargo test -p novacron top::screen`.

use std::fs;
use std::path::Path;

use control::api::EventKind;
use proptest::prelude::*;
use ratatui::style::Color;

use super::*;
use crate::top::fixture::{self, busy, event, events, machine, press, reading};

const NONE: [&str; 0] = [];

fn observed(readings: impl IntoIterator<Item = Reading>, keys: &str) -> State {
    let mut state = fixture::state();
    for reading in readings {
        state.observe(reading);
    }
    events().into_iter().for_each(|event| state.happen(event));
    press(&mut state, keys);
    state
}

fn away(mut state: State, seconds: u64) -> State {
    let why = "no daemon answers on /run/novacron/control.sock: No such file or directory (os error 2); \
               start one with `novacron daemon`, or name its socket with --socket";
    state.miss(why.to_owned());
    state.tick(Duration::from_secs(seconds));
    state
}

fn many(taken: u64) -> Reading {
    let names = (0..40).map(|number| format!("machine-{number:02}"));
    let machines = names.map(|name| machine(&name, MachineState::Running)).collect();
    reading(taken, machines)
}

/// Every golden screen: its name, its size, and what is known.
fn scenes() -> Vec<(&'static str, u16, u16, State)> {
    let silent = || {
        let mut state = observed([reading(0, Vec::new()), reading(2, Vec::new())], "");
        state.tick(Duration::from_secs(20));
        state
    };
    let empty = || {
        let mut state = fixture::state();
        state.observe(reading(0, Vec::new()));
        state
    };
    let everything = |keys| observed([busy(0), busy(2)], keys);
    vec![
        ("empty", 100, 30, empty()),
        ("every-state", 100, 30, everything("jjjjjjj")),
        ("wide", 160, 40, everything("")),
        ("narrow", 50, 24, everything("j")),
        ("least", 40, 10, everything("")),
        ("too-small", 30, 6, everything("")),
        ("many", 100, 20, observed([many(0), many(2)], &"j".repeat(21))),
        ("help", 80, 24, everything("?")),
        ("held", 80, 12, everything("p")),
        ("asking", 80, 10, fixture::state()),
        ("never-there", 80, 10, away(fixture::state(), 7)),
        ("away", 100, 30, away(everything(""), 30)),
        ("silent", 80, 12, silent()),
    ]
}

#[test]
fn screens_are_as_they_were() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/top/screens");
    let mut stale = Vec::new();
    for (name, width, height, state) in scenes() {
        let path = folder.join(format!("{name}.txt"));
        let drawn = text(&state, Rect::new(0, 0, width, height));
        if std::env::var_os("REMAKE_SCREENS").is_some() {
            fs::write(&path, &drawn).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        if kept != drawn {
            stale.push(format!("{}, which is drawn as\n{drawn}", path.display()));
        }
    }
    assert_eq!(stale, NONE, "make them anew: REMAKE_SCREENS=1 cargo test -p novacron top::screen");
    let kept: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(kept.len(), scenes().len(), "a screen that nobody draws is left: {kept:?}");
}

#[test]
fn no_state_is_shown_by_its_colour_alone() {
    let area = Rect::new(0, 0, 160, 40);
    for (name, _, _, state) in scenes() {
        let [mut plain, mut coloured] = [Buffer::empty(area), Buffer::empty(area)];
        draw(&state, Theme::Plain, area, &mut plain);
        draw(&state, Theme::Colours, area, &mut coloured);
        let is_coloured = |buffer: &Buffer| {
            buffer.content.iter().any(|cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset))
        };
        assert!(!is_coloured(&plain), "{name}");
        let symbols = |buffer: &Buffer| {
            buffer.content.iter().map(|cell| cell.symbol().to_owned()).collect::<String>()
        };
        assert_eq!(symbols(&plain), symbols(&coloured), "{name}");
        if name == "every-state" {
            assert!(is_coloured(&coloured));
            let text = text(&state, area);
            for state in MachineState::ALL {
                assert!(text.contains(&format!("  {}  ", state.name())), "{state:?}: {text}");
            }
            assert!(text.contains("> running-1"), "{text}");
        }
    }
}

proptest! {
    #[test]
    fn no_size_and_no_content_is_too_much(
        width in 0_u16..220,
        height in 0_u16..80,
        names in prop::collection::btree_set("[a-z0-9][a-z0-9._-]{0,62}", 0..40),
        words in prop::collection::vec(any::<String>(), 8),
        figures in prop::collection::vec(prop::num::f64::POSITIVE, 8),
        numbers in prop::collection::vec(any::<u64>(), 8),
        keys in "[jks?ph]{0,9}",
        is_away in any::<bool>(),
    ) {
        let word = |at: usize| words[at % words.len()].clone();
        let number = |at: usize| numbers[at % numbers.len()];
        let look = |taken: u64| {
            let machines = names.iter().enumerate().map(|(at, name)| {
                let mut machine = machine(name, MachineState::ALL[at % MachineState::ALL.len()]);
                machine.spec.memory_bytes = number(at);
                machine.spec.cpu = word(at);
                machine.ended = fixture::ended(&word(at), at % 2 == 0);
                machine.operation = Some("op".to_owned());
                machine
            });
            let mut reading = reading(taken, machines.collect());
            for (at, counters) in reading.counters.values_mut().enumerate() {
                counters.cpu_seconds = Some(figures[at % 8]);
                counters.resident_bytes = Some(figures[(at + 1) % 8]);
            }
            let mut operation = fixture::operation("op", &word(1), "a");
            let (pages_done, pages_owed) = (number(0), number(1));
            let rounds = 7;
            operation.progress = Some(control::api::OperationProgress { rounds, pages_done, pages_owed, migration: None });
            reading.operations = vec![operation; 9];
            reading.info.kernel = word(2);
            reading.info.processor = word(3);
            reading.info.memory_bytes = number(2);
            reading.health.checks = vec![fixture::check(&word(4), HealthState::Live, &word(5)); 9];
            reading
        };
        let mut state = observed([look(0), look(1)], &keys);
        if is_away {
            state.miss(word(6));
        }
        let mut failed = fixture::operation("op", "m", "a");
        failed.error = Some(control::api::ApiError::internal(word(7).repeat(50)));
        state.happen(event(7, EventKind::OperationEnded { operation: Box::new(failed) }));
        let text = text(&state, Rect::new(0, 0, width, height));
        prop_assert_eq!(text.lines().count(), usize::from(height));
        for line in text.lines() {
            prop_assert!(!line.chars().any(char::is_control), "{line:?}");
            prop_assert!(Span::raw(line).width() <= usize::from(width), "{line:?} in {width}");
        }
        // Nothing is drawn outside of where it was asked for.
        let whole = Rect::new(0, 0, width + 4, height + 4);
        let mut buffer = Buffer::empty(whole);
        let inside = Rect::new(2, 2, width, height);
        draw(&state, Theme::Colours, inside, &mut buffer);
        for position in whole.positions().filter(|position| !inside.contains(*position)) {
            prop_assert_eq!(buffer[position].symbol(), " ");
        }
    }
}
