//! What is known of the daemon, and what the user wants to see of it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use control::api::{Event, Machine, MachineName, MachineState, Operation};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::reading::{Counters, Reading};

/// More than any screen shows.
pub(super) const EVENTS_KEPT: usize = 100;
/// Machines that a page key passes over.
const PAGE: usize = 10;
/// Two looks nearer to each other than this say nothing of a rate: the kernel counts in ticks of 10 ms.
const SHORTEST: Duration = Duration::from_millis(200);
/// A daemon that has not answered for as long, beyond the interval, is said to be silent.
const SILENCE: Duration = Duration::from_secs(3);

/// All of it.
#[derive(Debug)]
pub(super) struct State {
    socket: String,
    interval: Duration,
    live: View,
    /// What is shown instead while the display is held.
    held: Option<View>,
    order: Order,
    selected: Option<MachineName>,
    shows_help: bool,
}

/// What is known at a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// Since the first look.
    now: Duration,
    pub(super) away: Option<Away>,
    pub(super) reading: Option<Arc<Reading>>,
    rates: BTreeMap<MachineName, Rates>,
    /// The newest at the end.
    pub(super) events: VecDeque<Event>,
}

/// There is no daemon that answers.
#[derive(Clone, Debug)]
pub(super) struct Away {
    pub(super) why: String,
    /// Since when it is known.
    since: Duration,
}

/// How much a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// Processors that are busy with the machine.
    pub(super) processors: Option<f64>,
    pub(super) console_bytes: Option<f64>,
}

/// The order of machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
    Name,
    State,
    Memory,
    Processor,
}

/// Which machine is selected next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Back(usize),
    On(usize),
    ToFirst,
    ToLast,
}

/// A machine as it is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub(super) machine: &'a Machine,
    pub(super) counters: Counters,
    pub(super) rates: Rates,
    pub(super) operation: Option<&'a Operation>,
}

impl State {
    pub(super) fn new(socket: &Path, interval: Duration) -> Self {
        Self {
            socket: socket.display().to_string(),
            interval,
            live: View::default(),
            held: None,
            order: Order::default(),
            selected: None,
            shows_help: false,
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Duration) {
        self.live.now = self.live.now.max(now);
    }

    /// The daemon was looked at.
    pub(super) fn observe(&mut self, reading: Reading) {
        let before = self.live.reading.as_deref();
        self.live.rates = before.map_or_else(BTreeMap::new, |before| rates(before, &reading));
        self.live.now = self.live.now.max(reading.taken);
        self.live.away = None;
        self.live.reading = Some(Arc::new(reading));
    }

    /// The daemon could not be looked at, and why.
    pub(super) fn miss(&mut self, why: String) {
        let since = self.live.away.as_ref().map_or(self.live.now, |away| away.since);
        self.live.away = Some(Away { why, since });
    }

    /// Something has happened at the daemon. One that is known already is passed over.
    pub(super) fn happen(&mut self, event: Event) {
        let events = &mut self.live.events;
        if events.iter().any(|known| known.id == event.id) {
            return;
        }
        events.push_back(event);
        let excess = events.len().saturating_sub(EVENTS_KEPT);
        events.drain(..excess);
    }

    /// A key was pressed; breaks if the user leaves.
    pub(super) fn press(&mut self, key: KeyEvent) -> ControlFlow<()> {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return ControlFlow::Break(()),
            KeyCode::Char('q') => return ControlFlow::Break(()),
            _ if self.shows_help => self.shows_help = false,
            KeyCode::Esc => return ControlFlow::Break(()),
            KeyCode::Up | KeyCode::Char('k') => self.select(Step::Back(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(Step::On(1)),
            KeyCode::PageUp => self.select(Step::Back(PAGE)),
            KeyCode::PageDown => self.select(Step::On(PAGE)),
            KeyCode::Home => self.select(Step::ToFirst),
            KeyCode::End => self.select(Step::ToLast),
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('p') => {
                self.held = if self.held.is_some() { None } else { Some(self.live.clone()) };
            }
            KeyCode::Char('?' | 'h') => self.shows_help = true,
            _ => {}
        }
        ControlFlow::Continue(())
    }

    /// Selects another machine; the first if none is selected.
    fn select(&mut self, step: Step) {
        let rows = self.rows();
        let Some(last) = rows.len().checked_sub(1) else { return };
        let to = match (step, self.selected_of(&rows)) {
            (Step::ToLast, _) => last,
            (Step::ToFirst, _) | (_, None) => 0,
            (Step::Back(count), Some(at)) => at.saturating_sub(count),
            (Step::On(count), Some(at)) => at.saturating_add(count).min(last),
        };
        self.selected = Some(rows[to].machine.name.clone());
    }

    /// What is shown.
    pub(super) fn view(&self) -> &View {
        self.held.as_ref().unwrap_or(&self.live)
    }

    /// The machines in their order.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let mut rows = self.view().rows();
        // Names are the order among equals: the daemon lists by name.
        match self.order {
            Order::Name => rows.sort_by(|a, b| a.machine.name.cmp(&b.machine.name)),
            Order::State => rows.sort_by_key(|row| rank(row.machine.state)),
            Order::Memory => largest_first(&mut rows, |row| row.counters.resident_bytes),
            Order::Processor => largest_first(&mut rows, |row| row.rates.processors),
        }
        rows
    }

    /// Which of the rows is selected.
    pub(super) fn selected_of(&self, rows: &[Row<'_>]) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        rows.iter().position(|row| row.machine.name == *selected)
    }

    /// For how long the daemon has not answered, if that is long, and no error says why.
    pub(super) fn silence(&self) -> Option<Duration> {
        let view = &self.live;
        let since =
            view.now.saturating_sub(view.reading.as_ref().map_or(Duration::ZERO, |r| r.taken));
        (view.away.is_none() && since > self.interval + SILENCE).then_some(since)
    }

    /// For how long it is away.
    pub(super) fn away_for(&self) -> Duration {
        let view = self.view();
        view.away.as_ref().map_or(Duration::ZERO, |away| view.now.saturating_sub(away.since))
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    pub(super) fn shows_help(&self) -> bool {
        self.shows_help
    }

    pub(super) fn order(&self) -> Order {
        self.order
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    pub(super) fn socket(&self) -> &str {
        &self.socket
    }
}

impl View {
    fn rows(&self) -> Vec<Row<'_>> {
        let Some(reading) = self.reading.as_deref() else { return Vec::new() };
        reading.machines.iter().map(|machine| self.row(reading, machine)).collect()
    }

    fn row<'a>(&self, reading: &'a Reading, machine: &'a Machine) -> Row<'a> {
        let Machine { name, operation, .. } = machine;
        let is_its = |found: &&Operation| operation.as_ref() == Some(&found.id);
        Row {
            machine,
            counters: reading.counters.get(name.as_str()).copied().unwrap_or_default(),
            rates: self.rates.get(name).copied().unwrap_or_default(),
            operation: reading.operations.iter().find(is_its),
        }
    }

    /// Processors that are busy with machines, once that is known of one.
    pub(super) fn busy_processors(&self) -> Option<f64> {
        let known = self.rates.values().filter_map(|rates| rates.processors);
        known.fold(None, |sum, processors| Some(sum.unwrap_or(0.0) + processors))
    }

    /// Bytes of memory that are there for machine processes, if that is known of one.
    pub(super) fn resident_bytes(&self) -> Option<f64> {
        let counters = &self.reading.as_ref()?.counters;
        let known = counters.values().filter_map(|counters| counters.resident_bytes);
        known.fold(None, |sum, bytes| Some(sum.unwrap_or(0.0) + bytes))
    }
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Name => Self::State,
            Self::State => Self::Memory,
            Self::Memory => Self::Processor,
            Self::Processor => Self::Name,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::State => "state",
            Self::Memory => "memory",
            Self::Processor => "processor",
        }
    }
}

/// What runs before what does not.
pub(super) fn rank(state: MachineState) -> u8 {
    match state {
        MachineState::Running => 0,
        MachineState::Paused => 1,
        MachineState::Starting => 2,
        MachineState::Adopting => 3,
        MachineState::Stopping => 4,
        MachineState::Waiting => 5,
        MachineState::Arriving => 6,
        MachineState::InDoubt => 7,
        MachineState::Departed => 8,
        MachineState::Stopped => 9,
        MachineState::Moved => 10,
    }
}

/// What is not known comes last.
fn largest_first(rows: &mut [Row<'_>], figure: impl Fn(&Row<'_>) -> Option<f64>) {
    let key = |row: &Row<'_>| figure(row).unwrap_or(-1.0);
    rows.sort_by(|a, b| key(b).total_cmp(&key(a)));
}

/// What machines did between two looks. A counter that has begun anew says nothing of that time: that of a process with
/// another process, that of a daemon with another daemon.
fn rates(before: &Reading, now: &Reading) -> BTreeMap<MachineName, Rates> {
    let Some(time) = now.taken.checked_sub(before.taken).filter(|time| *time >= SHORTEST) else {
        return BTreeMap::new();
    };
    let is_same_daemon = before.info.started_at == now.info.started_at
        && before.info.process_id == now.info.process_id;
    let earlier: BTreeMap<_, _> = before.machines.iter().map(|m| (&m.name, m)).collect();
    let of = |machine: &Machine| {
        let earlier = earlier.get(&machine.name).filter(|earlier| earlier.id == machine.id)?;
        let name = machine.name.as_str();
        let (from, to) = (before.counters.get(name)?, now.counters.get(name)?);
        let per_second = |from: Option<f64>, to: Option<f64>| {
            let more = to? - from?;
            (more >= 0.0).then_some(more / time.as_secs_f64())
        };
        let is_same_process = earlier.process_id == machine.process_id;
        let processors = per_second(from.cpu_seconds, to.cpu_seconds);
        let console_bytes = per_second(from.console_bytes, to.console_bytes);
        Some(Rates {
            processors: processors.filter(|_| is_same_process),
            console_bytes: console_bytes.filter(|_| is_same_daemon),
        })
    };
    now.machines.iter().filter_map(|m| Some((m.name.clone(), of(m)?))).collect()
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
