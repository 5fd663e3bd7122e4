//! What the demonstration shows: coloured on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use control::Size;
use control::api::{
    HandOverForm, HandOverOutcome, MachineName, MigrationOutcome, Receipt, RestoreOutcome,
    SnapshotOutcome,
};
use firmware::oracle::report::{Ready, Rounds, Verdict};

use super::hosts::Hosts;
use super::moves::{Leg, MAX_DOWNTIME_MS, STOP_AFTER_ROUNDS};
use super::private::PrivateDaemon;
use crate::cli::Shape;
use crate::machines::milliseconds;
use crate::migrate::{report_behind, seconds};
use crate::progress::MoveProgress;
use crate::table::Table;
use crate::top::whole_bytes;

/// Columns of the bar that shows a blackout's causes.
const BAR_COLUMNS: u64 = 40;
/// Columns before what is said in more than a line.
const MARGIN: u16 = 6;

pub(super) struct View {
    is_coloured: bool,
    is_plain: bool,
}

impl View {
    pub(super) fn new(plain: bool) -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let is_coloured = is_terminal && !plain && std::env::var_os("NO_COLOR").is_none();
        Self { is_coloured, is_plain: plain }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.is_coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn title(&self, shape: Shape, slots: usize) {
        let memory = shape.memory;
        let title = format!(
            "The oracle guest: {} vCPUs (CPU model {}), {memory} in {slots} memory slot{}, on /dev/kvm",
            shape.cpus,
            shape.cpu,
            if slots == 1 { "" } else { "s" }
        );
        println!("{}", self.paint("1", &title));
        println!("It checks every page before it writes it again, and says what it finds.");
    }

    pub(super) fn ready(&self, ready: &Ready, took: Duration) {
        println!(
            "  filled    {} pages stamped in {:.2} s; {} of them are written again and again",
            thousands(ready.pages),
            took.as_secs_f64(),
            thousands(ready.working)
        );
    }

    pub(super) fn rate(&self, rounds: &Rounds) {
        let bytes = Size(rounds.rate * 4096);
        println!(
            "  running   round {}, dirtying {} pages/s ({} MiB/s), {} pages checked",
            rounds.rounds,
            thousands(rounds.rate),
            bytes.0 >> 20,
            thousands(rounds.checked)
        );
    }

    pub(super) fn hand_over(
        &self,
        report: &HandOverOutcome,
        form: HandOverForm,
        nth: u32,
        times: u32,
        gap: Option<Duration>,
        process: u32,
    ) {
        let is_copying = form == HandOverForm::Copying;
        let form = if is_copying { "copying" } else { "shared " };
        let blackout = format!("blackout {}", milliseconds(report.blackout_ns));
        let (blackout, gap) = (self.paint("1;32", &blackout), seen(gap));
        println!("  {form} {nth}/{times}  {blackout}  {gap}now process {process}");
        println!("      {}", self.bar(report));
        println!("      {}", causes(report));
        if is_copying {
            println!(
                "      {} pages in {} rounds and {:.2} s, {} of them while the guest stood still",
                thousands(report.pages_sent),
                report.rounds,
                Duration::from_nanos(report.total_ns).as_secs_f64(),
                thousands(report.pages_sent_paused)
            );
        }
    }

    pub(super) fn moves(&self, from: &PrivateDaemon, to: &PrivateDaemon) {
        let (from, name, address) = (from.name(), to.name(), to.address());
        println!("  moving    live from {from} to {name}, over TLS to {address}");
    }

    /// What is shown of a move that is under way.
    pub(super) fn progress(&self, to: &MachineName) -> MoveProgress {
        if self.is_plain { MoveProgress::in_lines(to) } else { MoveProgress::new(to) }
    }

    pub(super) fn moved(&self, leg: &Leg, times: u32, gap: Option<Duration>, process: u32) {
        let Leg { to, nth, outcome } = leg;
        let blackout = format!("blackout {}", milliseconds(outcome.blackout_ns));
        let (blackout, gap) = (self.paint("1;32", &blackout), seen(gap));
        println!("  {to:9} {nth}/{times}  {blackout}  {gap}in process {process}");
        if leg.is_forced() {
            println!(
                "      it writes faster than {MAX_DOWNTIME_MS} ms allow: it was stopped after \
                 {STOP_AFTER_ROUNDS} rounds, however long it would stand still"
            );
        }
    }

    /// All that is known of a move.
    pub(super) fn report(&self, outcome: &MigrationOutcome, hosts: &Hosts) {
        let report = report_behind(MARGIN, outcome, &|key| hosts.name(key));
        print!("{}", behind_margin(&report));
    }

    pub(super) fn receipt(&self, receipt: &Receipt) {
        let session = &receipt.statement.session;
        println!("  receipt   {session} verified: the same on both hosts, signed by both");
    }

    /// The moves beside each other.
    pub(super) fn legs(&self, legs: &[Leg], times: u32) {
        print!("{}", behind_margin(&table(legs, times).to_string()));
    }

    pub(super) fn snapshot(
        &self,
        report: &SnapshotOutcome,
        is_increment: bool,
        nth: u32,
        times: u32,
    ) {
        let kind = if is_increment { "increment" } else { "snapshot " };
        let paused = self.paint("1;32", &format!("paused {}", milliseconds(report.paused_ns)));
        println!(
            "  {kind} {nth}/{times}  {paused}  {} MiB in {:.2} s, {} pages in {} rounds",
            report.bytes >> 20,
            Duration::from_nanos(report.total_ns).as_secs_f64(),
            thousands(report.pages),
            report.rounds,
        );
    }

    pub(super) fn restore(&self, report: &RestoreOutcome, nth: u32, times: u32, process: u32) {
        let kind = if report.lazy { "lazily   " } else { "restored " };
        let runs = self.paint("1;32", &format!("runs after {}", milliseconds(report.total_ns)));
        println!("  {kind} {nth}/{times}  {runs}  killed before, now process {process}");
    }

    /// One column a fortieth of the blackout, each cause in its own letter and colour.
    fn bar(&self, report: &HandOverOutcome) -> String {
        let total = report.blackout_ns.max(1);
        let mut bar = String::new();
        let (mut so_far, mut columns) = (0, 0);
        for (cause, ns) in &report.causes {
            so_far += ns;
            let end = (so_far * BAR_COLUMNS + total / 2) / total;
            let letter = cause[..1].to_ascii_uppercase();
            let width = usize::try_from(end - columns).unwrap_or(0);
            bar.push_str(&self.paint(colour(cause), &letter.repeat(width)));
            columns = end;
        }
        format!("[{bar}]")
    }

    pub(super) fn verdict(&self, verdict: &Verdict) {
        let word = if verdict.ok { self.paint("1;32", "ok") } else { self.paint("1;31", "failed") };
        println!(
            "  verdict   {word}: {} pages swept, {} checks and {} writes in {} rounds, {} wrong \
             pages, clock backwards {} times",
            thousands(verdict.pages),
            thousands(verdict.checked),
            thousands(verdict.writes),
            verdict.rounds,
            verdict.errors,
            verdict.tsc_backwards
        );
    }
}

/// What the guest saw, if that is known.
fn seen(gap: Option<Duration>) -> String {
    gap.map_or_else(String::new, |gap| {
        let gap = milliseconds(u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX));
        format!("the guest saw {gap}  ")
    })
}

fn causes(report: &HandOverOutcome) -> String {
    let part = |(name, ns): &(String, u64)| format!("{name} {}", milliseconds(*ns));
    report.causes.iter().map(part).collect::<Vec<_>>().join(", ")
}

fn table(legs: &[Leg], times: u32) -> Table {
    let headings =
        ["MOVE", "TOTAL", "BLACKOUT", "ROUNDS", "PAGES", "KEPT", "BYTES", "BYTES A SECOND"];
    let mut table = Table::new(&headings);
    for Leg { to, nth, outcome } in legs {
        let MigrationOutcome { total_ns, blackout_ns, rounds, pages_sent, pages_kept, .. } =
            *outcome;
        let payload_bytes = outcome.payload_bytes + outcome.kept_bytes;
        let rate = (u128::from(payload_bytes) * 1_000_000_000).checked_div(total_ns.into());
        table.row(vec![
            format!("{to} {nth}/{times}"),
            seconds(total_ns),
            milliseconds(blackout_ns),
            rounds.to_string(),
            thousands(pages_sent - pages_kept.min(pages_sent)),
            thousands(pages_kept),
            whole_bytes(payload_bytes),
            rate.map_or_else(String::new, |rate| {
                format!("{}/s", whole_bytes(u64::try_from(rate).unwrap_or(u64::MAX)))
            }),
        ]);
    }
    table
}

/// Every line that is not empty begins behind the margin.
fn behind_margin(text: &str) -> String {
    let margin = " ".repeat(MARGIN.into());
    let line = |line: &str| match line {
        "" => "\n".to_owned(),
        line => format!("{margin}{line}\n"),
    };
    text.lines().map(line).collect()
}

/// What the guest waits for at each end has one colour.
fn colour(cause: &str) -> &'static str {
    match cause {
        "pause" | "resume" => "44",
        "drain" | "record" => "45",
        "state" | "restore" => "46",
        "harvest" | "digest" => "43",
        _ => "42",
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::super::moves::tests::leg;
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, shown) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), shown);
        }
    }

    #[test]
    fn moves_stand_beside_each_other() {
        let legs = [leg("there", 4, 12), leg("back", 12, 1_234)];
        let expected = "MOVE       TOTAL   BLACKOUT    ROUNDS  PAGES    KEPT  BYTES    BYTES A SECOND\n\
            there 1/1  2.00 s  12.00 ms    4       140,123  0     500 MiB  250 MiB/s\n\
            back 1/1   2.00 s  1234.00 ms  12      140,123  0     500 MiB  250 MiB/s\n";
        assert_eq!(table(&legs, 1).to_string(), expected);
    }

    #[test]
    fn lines_behind_the_margin_are_as_they_were_or_empty() {
        assert_eq!(behind_margin("a\n\n b\n"), "      a\n\n       b\n");
    }

    #[test]
    fn times_are_shown_in_milliseconds() {
        assert_eq!(milliseconds(1_234_567), "1.23 ms");
        assert_eq!(milliseconds(999), "0.00 ms");
    }
}
