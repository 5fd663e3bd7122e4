//! The screen, from top to bottom.

use std::time::Duration;

use control::api::{Check, Event, HealthState, MachineState, Operation, Timestamp};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;

use super::columns::Columns;
use super::reading::Reading;
use super::state::{Order, Row, State, View, rank};
use super::theme::Theme;
use super::words::{bytes, fit, health, progress, time_of_day, whole_bytes, wrap};
use crate::machines::{age, boots, word};
use crate::observe::what_happened;

/// Below this, nothing can be said that is worth it.
const LEAST_WIDTH: u16 = 40;
const LEAST_HEIGHT: u16 = 10;
/// Lines of an error.
const WHY_LINES: usize = 3;
/// Checks that are not met, and operations, that are shown.
const MOST_CHECKS: usize = 3;
const MOST_OPERATIONS: usize = 5;
/// Events that are shown where there is room for more.
const MOST_EVENTS: usize = 15;
/// Empty lines are for screens that have room for them.
const ROOMY: usize = 16;

const KEYS: [&str; 9] = [
    "up, k       select the machine above",
    "down, j     select the machine below",
    "page keys   ten at once; Home and End the first and the last",
    "s           order by name, state, memory, processor",
    "p           hold the display, and let it go on; machines are not touched",
    "?, h        these keys; any key leaves them",
    "q, Esc      leave, as does Ctrl-C",
    "",
    "CPU is of one processor. RESIDENT is memory that the guest has touched.",
];

/// Draws what is known. Nothing is drawn outside of `area`.
pub(super) fn draw(state: &State, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let area = area.intersection(buffer.area);
    let lines = if area.width < LEAST_WIDTH || area.height < LEAST_HEIGHT {
        let (width, height) = (area.width, area.height);
        let what = format!(
            "This terminal has {width} columns and {height} lines; novacron top needs {LEAST_WIDTH} \
             and {LEAST_HEIGHT}."
        );
        let wrapped = wrap(&what, usize::from(width), usize::from(height));
        wrapped.into_iter().map(Line::from).collect()
    } else {
        whole(state, theme, usize::from(area.width), usize::from(area.height))
    };
    for (line, row) in lines.into_iter().zip(area.rows()) {
        line.render(row, buffer);
    }
}

/// One screen as text: what is drawn, without colours and without spaces at the ends of lines.
pub(super) fn text(state: &State, area: Rect) -> String {
    let mut buffer = Buffer::empty(area);
    draw(state, Theme::Plain, area, &mut buffer);
    let mut text = String::new();
    for row in area.rows() {
        let mut line = String::new();
        // The cells that a wide character covers besides its own are spaces, which are not printed.
        let mut covered = 0;
        for cell in row.columns().filter_map(|column| buffer.cell(column.as_position())) {
            if covered == 0 {
                line.push_str(cell.symbol());
                covered = Span::raw(cell.symbol()).width();
            }
            covered = covered.saturating_sub(1);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn whole(state: &State, theme: Theme, width: usize, height: usize) -> Vec<Line<'static>> {
    let view = state.view();
    let mut lines = header(state, theme, width);
    let body = height.saturating_sub(lines.len() + 1);
    let rows = state.rows();
    let mut place = String::new();
    if state.shows_help() {
        lines.extend(KEYS.map(|line| Line::from(fit(line, width))).into_iter().take(body));
    } else if let Some(reading) = view.reading.as_deref() {
        let selected = state.selected_of(&rows);
        let blank = usize::from(body >= ROOMY);
        let operations = operations(reading, theme, width, (body / 4).min(MOST_OPERATIONS + 1));
        let selection = selected.filter(|_| body >= 8).map(|at| about(&rows[at], width));
        let selection = selection.unwrap_or_default();
        let taken = [operations.len(), selection.len()];
        let taken: usize =
            taken.iter().filter(|lines| **lines > 0).map(|lines| lines + blank).sum();
        let wanted = rows.len().max(1) + 1 + blank;
        let left = body.saturating_sub(taken);
        let most = left.saturating_sub(wanted).max(left / 3).min(MOST_EVENTS + 1 + blank);
        let events = events(view, theme, width, most.saturating_sub(blank));
        let for_events = if events.is_empty() { 0 } else { events.len() + blank };
        let machines = left.saturating_sub(for_events + blank);
        let (machines, shown) = machines_of(&rows, selected, reading.at, theme, width, machines);
        place = shown;
        for section in [machines, selection, operations, events] {
            if !section.is_empty() {
                lines.extend((0..blank).map(|_| Line::default()));
                lines.extend(section);
            }
        }
    }
    lines.truncate(height.saturating_sub(1));
    lines.resize(height.saturating_sub(1), Line::default());
    lines.push(footer(state.order(), &place, width));
    lines
}

/// What the daemon and its host are like, and what is wrong with them.
fn header(state: &State, theme: Theme, width: usize) -> Vec<Line<'static>> {
    let view = state.view();
    let Some(reading) = view.reading.as_deref() else {
        return without_reading(state, theme, width);
    };
    let info = &reading.info;
    let mut lines = vec![first_line(state, reading, theme, width)];
    if let Some(away) = &view.away {
        let why = wrap(&away.why, width, WHY_LINES);
        lines.extend(why.into_iter().map(|line| Line::styled(line, theme.alarm())));
        let was = format!("What follows was so at {}.", time_of_day(reading.at));
        lines.push(Line::from(fit(&was, width)));
    }
    let host = format!(
        "host      {} processors, {} of {} memory available, Linux {}, {}",
        info.processors,
        whole_bytes(info.memory_available_bytes),
        whole_bytes(info.memory_bytes),
        info.kernel,
        info.processor
    );
    lines.push(Line::from(fit(&host, width)));
    lines.push(Line::from(fit(&machines_line(view, reading), width)));
    let is_unmet = |check: &&Check| check.state != HealthState::Ready;
    let unmet: Vec<_> = reading.health.checks.iter().filter(is_unmet).collect();
    for check in unmet.iter().take(MOST_CHECKS) {
        let text = format!("{:<9} {}: {}", health(check.state), check.name, check.message);
        lines.push(Line::styled(fit(&text, width), theme.health(check.state)));
    }
    if let Some(more @ 1..) = unmet.len().checked_sub(MOST_CHECKS) {
        let text = format!("          and {more} more; `novacron health` has all");
        lines.push(Line::from(fit(&text, width)));
    }
    lines
}

fn without_reading(state: &State, theme: Theme, width: usize) -> Vec<Line<'static>> {
    let Some(away) = &state.view().away else {
        let text = match state.silence() {
            None => format!("NovaCron  asks the daemon on {}", state.socket()),
            Some(since) => format!("NovaCron  SILENT for {}: {}", for_(since), state.socket()),
        };
        return vec![Line::styled(fit(&text, width), theme.heading())];
    };
    let title =
        format!("NovaCron  NO DAEMON for {}; it is asked again and again", for_(state.away_for()));
    let mut lines = vec![Line::styled(fit(&title, width), theme.alarm())];
    lines.extend(wrap(&away.why, width, WHY_LINES).into_iter().map(Line::from));
    lines
}

fn first_line(state: &State, reading: &Reading, theme: Theme, width: usize) -> Line<'static> {
    let view = state.view();
    let (status, style) = match (&view.away, state.silence(), reading.health.state) {
        _ if state.is_held() => ("HELD; p goes on".to_owned(), theme.heading()),
        (Some(_), _, _) => (format!("NO DAEMON for {}", for_(state.away_for())), theme.alarm()),
        (None, Some(since), _) => (format!("SILENT for {}", for_(since)), theme.alarm()),
        (None, None, health @ HealthState::Ready) => ("ready".to_owned(), theme.health(health)),
        (None, None, health @ HealthState::Degraded) => {
            ("degraded: something needs a look".to_owned(), theme.health(health))
        }
        (None, None, health @ HealthState::Live) => {
            ("live, and cannot do its work".to_owned(), theme.health(health))
        }
    };
    let name = format!("NovaCron {}  ", reading.info.version);
    let status = fit(&status, width.saturating_sub(name.len()));
    let at = time_of_day(reading.at);
    let right = format!("every {} s  {at} UTC", state.interval().as_secs());
    let left = name.len() + status.len();
    let mut spans = vec![Span::styled(name, theme.heading()), Span::styled(status, style)];
    if let Some(gap @ 2..) = width.checked_sub(left + right.len()) {
        spans.push(Span::raw(" ".repeat(gap)));
        spans.push(Span::raw(right));
    }
    Line::from(spans)
}

/// What they use, and how many do what.
fn machines_line(view: &View, reading: &Reading) -> String {
    let all = reading.machines.len();
    let count = |state: &MachineState| {
        let count = reading.machines.iter().filter(|machine| machine.state == *state).count();
        (count > 0).then(|| format!("{count} {}", state.name()))
    };
    let mut states = MachineState::ALL;
    states.sort_by_key(|state| rank(*state));
    let counts: Vec<_> = states.iter().filter_map(count).collect();
    let processors = reading.info.processors;
    let busy = view.busy_processors().map(|busy| format!("{busy:.2} of {processors} processors"));
    let resident = view.resident_bytes().map(|resident| format!("{} of memory", bytes(resident)));
    let uses: Vec<_> = busy.into_iter().chain(resident).collect();
    match (counts.is_empty(), uses.is_empty()) {
        (true, _) => "machines  none".to_owned(),
        (false, true) => format!("machines  {all}: {}", counts.join(", ")),
        (false, false) => {
            format!("machines  {all} use {}: {}", uses.join(", "), counts.join(", "))
        }
    }
}

/// As many machines as there are lines for, the selected one among them; and which they are, if they are not all.
fn machines_of(
    rows: &[Row<'_>],
    selected: Option<usize>,
    now: Timestamp,
    theme: Theme,
    width: usize,
    height: usize,
) -> (Vec<Line<'static>>, String) {
    let longest = rows.iter().map(|row| row.machine.name.as_str().len()).max().unwrap_or(0);
    let columns = Columns::fitting(width, longest);
    let mut lines = vec![columns.headings(theme)];
    if rows.is_empty() {
        lines.push(Line::from(fit("  no machines; `novacron run NAME` makes one", width)));
    }
    let room = height.saturating_sub(1);
    // The selected one is in the middle, but at both ends.
    let first = selected.unwrap_or(0).saturating_sub(room / 2).min(rows.len().saturating_sub(room));
    let shown = rows.iter().enumerate().skip(first).take(room);
    lines.extend(shown.map(|(at, row)| columns.line(row, selected == Some(at), now, theme)));
    lines.truncate(height);
    let place = if rows.len() > room {
        format!("{} to {} of {}", first + 1, (first + room).min(rows.len()), rows.len())
    } else {
        String::new()
    };
    (lines, place)
}

/// What the table has no column for.
fn about(row: &Row<'_>, width: usize) -> Vec<Line<'static>> {
    let machine = row.machine;
    let process =
        machine.process_id.map_or_else(|| "no process".to_owned(), |id| format!("process {id}"));
    let (cpu, restart) = (&machine.spec.cpu, word(&machine.spec.restart));
    let first = format!(
        "{}: {process}, CPU {cpu}, restart {restart} ({} so far), boots {}",
        machine.name,
        machine.restarts,
        boots(machine)
    );
    let second = machine.ended.as_ref().map(|ended| {
        let how = if ended.failed { "failed" } else { "ended" };
        format!("last guest {how} {}: {}", time_of_day(ended.at), ended.how)
    });
    let lines = std::iter::once(first).chain(second);
    lines.map(|line| Line::from(fit(&line, width))).collect()
}

fn operations(reading: &Reading, theme: Theme, width: usize, most: usize) -> Vec<Line<'static>> {
    let count = reading.operations.len();
    if count == 0 || most < 2 {
        return Vec::new();
    }
    let title = format!("OPERATIONS  {count} under way");
    let line = |operation: &Operation| {
        let machine = operation.machine.as_ref().map_or("", |machine| machine.as_str());
        let time = age(operation.began_at.seconds_until(reading.at));
        let how_far =
            progress(operation).map_or_else(String::new, |how_far| format!(", {how_far}"));
        format!("  {} {machine}  {time}{how_far}", operation.method)
    };
    // Those that wait longest are at the front.
    let shown = reading.operations.iter().take(most - 1).map(line);
    titled(&title, shown, theme, width)
}

/// The newest first.
fn events(view: &View, theme: Theme, width: usize, most: usize) -> Vec<Line<'static>> {
    if most < 2 || view.events.is_empty() {
        return Vec::new();
    }
    let line =
        |event: &Event| format!("  {}  {}", time_of_day(event.at), what_happened(&event.kind));
    let newest = view.events.iter().rev().take(most - 1).map(line);
    titled("EVENTS  the newest first, in UTC", newest, theme, width)
}

fn titled(
    title: &str,
    lines: impl Iterator<Item = String>,
    theme: Theme,
    width: usize,
) -> Vec<Line<'static>> {
    let title = std::iter::once(Line::styled(fit(title, width), theme.heading()));
    title.chain(lines.map(|line| Line::from(fit(&line, width)))).collect()
}

fn footer(order: Order, place: &str, width: usize) -> Line<'static> {
    let keys = format!("q leave  j k select  s by {}  p hold  ? keys", order.name());
    let keys = fit(&keys, width);
    let gap = width.checked_sub(keys.chars().count() + place.len()).filter(|gap| *gap >= 2);
    let text = match gap {
        Some(gap) if !place.is_empty() => format!("{keys}{}{place}", " ".repeat(gap)),
        _ => keys,
    };
    Line::styled(text, Style::new())
}

fn for_(time: Duration) -> String {
    age(time.as_secs())
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
