//! What a move did, as a table, and what the guest stood still for.

use control::api::MigrationOutcome;

use super::bar::{cells, fill};
use crate::machines::milliseconds;
use crate::output::plain;
use crate::table::Table;
use crate::top::whole_bytes;

/// What the time is filled with for which no cause is known.
const UNNAMED: char = '?';

/// A report for people, with a bar of `width` cells. `names` says what the host with a key is called here.
pub(crate) fn report(
    outcome: &MigrationOutcome,
    names: &dyn Fn(&str) -> String,
    width: usize,
) -> String {
    let mut table = Table::new(&["from", &plain(&names(&outcome.from))]);
    let mut row = |name: &str, value: String| table.row(vec![name.to_owned(), value]);
    row("to", plain(&names(&outcome.to)));
    row("total", seconds(outcome.total_ns));
    row("rounds", outcome.rounds.to_string());
    row("pages", format!("{} sent, {} of them again", outcome.pages_sent, outcome.pages_again));
    if outcome.kept_bytes > 0 {
        row("kept", kept(outcome));
    }
    row("payload", payload(outcome));
    row("state", state(outcome));
    if outcome.connections != 1 {
        row("connections", outcome.connections.to_string());
    }
    if outcome.throttle_percent > 0 {
        let speed = 100_u32.saturating_sub(outcome.throttle_percent);
        row("throttle", format!("slowed to {speed} %, for {}", seconds(outcome.throttled_ns)));
    }
    let forecast = match outcome.forecast_ns {
        Some(ns) => format!(", {} were forecast", milliseconds(ns)),
        None => String::new(),
    };
    row("blackout", format!("{}{forecast}", milliseconds(outcome.blackout_ns)));
    row("digest", format!("{}… on both", plain(outcome.root.get(..16).unwrap_or_default())));
    row("audit", audit(outcome));
    row("receipt", receipt(outcome));
    format!("{table}{}{}", plan(outcome), blackout(outcome, width))
}

/// By what it was carried, from when on.
fn plan(outcome: &MigrationOutcome) -> String {
    if outcome.plan.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["after", "link", "pages", "batch", "streams"]);
    for entry in &outcome.plan {
        let rate = format!("{}/s", whole_bytes(entry.bytes_per_second));
        let pages = entry.zstd_level.map_or("raw".to_owned(), |level| format!("zstd {level}"));
        let (batch, streams) = (entry.batch_pages.to_string(), entry.streams.to_string());
        table.row(vec![seconds(entry.at_ns), rate, pages, batch, streams]);
    }
    format!("\n{table}")
}

/// What a look at the memory that was left has shown.
fn audit(outcome: &MigrationOutcome) -> String {
    match (outcome.audited_pages, outcome.audited_different) {
        (0, _) => "no page was looked at again".to_owned(),
        (pages, 0) => format!("{pages} pages looked at again, each as it was sent"),
        (pages, different) => {
            format!("{pages} pages looked at again, {different} CHANGED AND NOT SENT AGAIN")
        }
    }
}

fn receipt(outcome: &MigrationOutcome) -> String {
    let session = plain(&outcome.session);
    if outcome.has_receipt { session } else { "none: the hosts have not both signed it".to_owned() }
}

/// What the host to which the machine came back had kept of it, and what it took to know that.
fn kept(outcome: &MigrationOutcome) -> String {
    let told = whole_bytes(outcome.kept_bytes);
    format!("{} pages were there already; {told} told which", outcome.pages_kept)
}

/// How much was sent, how fast over the whole move, and how much of it while the guest stood still.
fn payload(outcome: &MigrationOutcome) -> String {
    let MigrationOutcome { payload_bytes, payload_bytes_paused, total_ns, .. } = *outcome;
    let rate = (u128::from(payload_bytes) * 1_000_000_000).checked_div(u128::from(total_ns));
    let rate = rate.map_or_else(String::new, |rate| {
        format!(", {}/s", whole_bytes(u64::try_from(rate).unwrap_or(u64::MAX)))
    });
    let paused = whole_bytes(payload_bytes_paused);
    format!("{}{rate}; {paused} while the guest stood still", whole_bytes(payload_bytes))
}

/// How much the state was, how much of it while the guest stood still, and what it took to send some of it ahead.
fn state(outcome: &MigrationOutcome) -> String {
    let MigrationOutcome { state_bytes, state_bytes_paused, looked_ns, .. } = *outcome;
    let (all, paused) = (whole_bytes(state_bytes), whole_bytes(state_bytes_paused));
    match looked_ns {
        0 => all,
        _ => format!(
            "{all}, {paused} of them in the blackout; before it, it stood still for {} to be read",
            milliseconds(looked_ns)
        ),
    }
}

/// One part of a blackout.
struct Part {
    fill: char,
    name: String,
    ns: u64,
}

/// The bar, and below it a line a cause; nothing for a guest that never stood still.
fn blackout(outcome: &MigrationOutcome, width: usize) -> String {
    let parts = parts(outcome);
    let lengths: Vec<_> = parts.iter().map(|part| part.ns).collect();
    let total: u128 = lengths.iter().copied().map(u128::from).sum();
    if total == 0 {
        return String::new();
    }
    let cells = cells(&lengths, width);
    let bar = parts.iter().zip(&cells).map(|(part, cells)| part.fill.to_string().repeat(*cells));
    let bar: String = bar.collect();
    let times: Vec<_> = parts.iter().map(|part| milliseconds(part.ns)).collect();
    let longest_name = parts.iter().map(|part| part.name.chars().count()).max().unwrap_or(0);
    let longest_time = times.iter().map(String::len).max().unwrap_or(0);
    let line = |(part, time): (&Part, &String)| {
        let Part { fill, name, ns } = part;
        let tenths = (u128::from(*ns) * 1000 + total / 2) / total;
        let (whole, tenth) = (tenths / 10, tenths % 10);
        format!("{fill}  {name:longest_name$}  {time:>longest_time$}  {whole:>3}.{tenth} %\n")
    };
    let lines: String = parts.iter().zip(&times).map(line).collect();
    format!("\n{bar}\n{lines}")
}

/// The causes, and what they do not explain.
fn parts(outcome: &MigrationOutcome) -> Vec<Part> {
    let causes = outcome.causes.iter().enumerate();
    // The names may come from the other host.
    let part = |(place, (name, ns)): (usize, &(String, u64))| (fill(place), plain(name), *ns);
    let mut parts: Vec<_> =
        causes.map(part).map(|(fill, name, ns)| Part { fill, name, ns }).collect();
    let explained = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.ns));
    let ns = outcome.blackout_ns.saturating_sub(explained);
    if ns > 0 {
        parts.push(Part { fill: UNNAMED, name: "unnamed".to_owned(), ns });
    }
    parts
}

/// As people read times that are long.
pub(crate) fn seconds(ns: u64) -> String {
    format!("{}.{:02} s", ns / 1_000_000_000, ns % 1_000_000_000 / 10_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::api::{MigrationPlan, ReceiptAudit};

    const MS: u64 = 1_000_000;

    fn plan_entry(
        after_ms: u64,
        bytes_per_second: u64,
        zstd_level: Option<i32>,
        batch_pages: u64,
    ) -> MigrationPlan {
        MigrationPlan {
            at_ns: after_ms * MS,
            bytes_per_second,
            zstd_level,
            batch_pages,
            streams: 4,
        }
    }

    fn outcome(blackout_ns: u64, causes: &[(&str, u64)]) -> MigrationOutcome {
        MigrationOutcome {
            session: "5".repeat(32),
            from: "a".repeat(64),
            to: "b".repeat(64),
            generation: "0.1".to_owned(),
            root: "c".repeat(128),
            blackout_ns,
            causes: causes.iter().map(|(name, ns)| ((*name).to_owned(), *ns)).collect(),
            forecast_ns: Some(180 * MS),
            total_ns: 12_345 * MS,
            rounds: 5,
            pages_sent: 140_123,
            pages_again: 12,
            pages_kept: 0,
            kept_bytes: 0,
            state_bytes: 80 << 10,
            state_bytes_paused: 80 << 10,
            looked_ns: 0,
            payload_bytes: 500 << 20,
            payload_bytes_paused: 3 << 19,
            connections: 1,
            throttle_percent: 0,
            throttled_ns: 0,
            plan: Vec::new(),
            audit: ReceiptAudit::Sampled,
            audited_pages: 2048,
            audited_different: 0,
            has_receipt: true,
        }
    }

    fn names(key: &str) -> String {
        if key.starts_with('a') { "this host".to_owned() } else { key.to_owned() }
    }

    /// What stands below the table.
    fn bar(blackout_ns: u64, causes: &[(&str, u64)], width: usize) -> String {
        let report = report(&outcome(blackout_ns, causes), &names, width);
        report.split_once("\n\n").map_or_else(String::new, |(_, bar)| bar.to_owned())
    }

    #[test]
    fn a_move_is_reported_as_it_was() {
        let causes = [
            ("pause", 2 * MS),
            ("harvest", 10 * MS),
            ("wire", 150 * MS),
            ("restore", 30 * MS),
            ("resume", 8 * MS + 340_000),
        ];
        let report = report(&outcome(200 * MS + 340_000, &causes), &names, 40);
        let expected = "from      this host\n\
            to        bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n\
            total     12.34 s\n\
            rounds    5\n\
            pages     140123 sent, 12 of them again\n\
            payload   500 MiB, 41 MiB/s; 1.5 MiB while the guest stood still\n\
            state     80 KiB\n\
            blackout  200.34 ms, 180.00 ms were forecast\n\
            digest    cccccccccccccccc… on both\n\
            audit     2048 pages looked at again, each as it was sent\n\
            receipt   55555555555555555555555555555555\n\
            \n\
            #==++++++++++++++++++++++++++++++::::::*\n\
            #  pause      2.00 ms    1.0 %\n\
            =  harvest   10.00 ms    5.0 %\n\
            +  wire     150.00 ms   74.9 %\n\
            :  restore   30.00 ms   15.0 %\n\
            *  resume     8.34 ms    4.2 %\n";
        assert_eq!(report, expected, "\n{report}");
    }

    #[test]
    fn a_return_says_what_was_there_already() {
        let outcome = MigrationOutcome {
            pages_kept: 120_000,
            kept_bytes: 960 << 10,
            ..outcome(200 * MS, &[("wire", 200 * MS)])
        };
        let report = report(&outcome, &names, 40);
        let row = "kept      120000 pages were there already; 960 KiB told which\n";
        assert!(report.contains(row), "{report}");
    }

    #[test]
    fn a_state_that_was_sent_ahead_says_what_that_took() {
        let outcome = MigrationOutcome {
            state_bytes: 84 << 10,
            state_bytes_paused: 4 << 10,
            looked_ns: 2 * MS,
            ..outcome(200 * MS, &[("wire", 200 * MS)])
        };
        let report = report(&outcome, &names, 40);
        let row = "state     84 KiB, 4.0 KiB of them in the blackout; before it, it stood still for 2.00 ms to be read\n";
        assert!(report.contains(row), "{report}");
    }

    #[test]
    fn what_is_not_known_or_as_usual_has_no_row() {
        let outcome = MigrationOutcome {
            forecast_ns: None,
            total_ns: 0,
            connections: 3,
            throttle_percent: 70,
            throttled_ns: 4_560 * MS,
            plan: vec![
                plan_entry(200, 125 << 20, None, 64),
                plan_entry(3_140, 6 << 20, Some(6), 512),
            ],
            audited_different: 2,
            has_receipt: false,
            ..outcome(0, &[])
        };
        let report = report(&outcome, &|_| "east\x1b[2J".to_owned(), 40);
        let expected = "from         east [2J\n\
            to           east [2J\n\
            total        0.00 s\n\
            rounds       5\n\
            pages        140123 sent, 12 of them again\n\
            payload      500 MiB; 1.5 MiB while the guest stood still\n\
            state        80 KiB\n\
            connections  3\n\
            throttle     slowed to 30 %, for 4.56 s\n\
            blackout     0.00 ms\n\
            digest       cccccccccccccccc… on both\n\
            audit        2048 pages looked at again, 2 CHANGED AND NOT SENT AGAIN\n\
            receipt      none: the hosts have not both signed it\n\
            \n\
            after   link       pages   batch  streams\n\
            0.20 s  125 MiB/s  raw     64     4\n\
            3.14 s  6.0 MiB/s  zstd 6  512    4\n";
        assert_eq!(report, expected, "\n{report}");
    }

    #[test]
    fn a_cause_that_took_no_time_has_a_line_and_no_cell() {
        let expected = "#####+++++\n\
            #  pause  5.00 ms   50.0 %\n\
            =  drain  0.00 ms    0.0 %\n\
            +  wire   5.00 ms   50.0 %\n";
        assert_eq!(
            bar(10 * MS, &[("pause", 5 * MS), ("drain", 0), ("wire", 5 * MS)], 10),
            expected
        );
    }

    #[test]
    fn a_single_cause_fills_the_line() {
        let expected = "##########\n#  wire  5.00 ms  100.0 %\n";
        assert_eq!(bar(5 * MS, &[("wire", 5 * MS)], 10), expected);
    }

    #[test]
    fn a_line_that_is_too_short_has_the_largest_causes() {
        let expected = "=+\n\
            #  pause  1.00 ms   10.0 %\n\
            =  wire   6.00 ms   60.0 %\n\
            +  state  3.00 ms   30.0 %\n";
        let causes = [("pause", MS), ("wire", 6 * MS), ("state", 3 * MS)];
        assert_eq!(bar(10 * MS, &causes, 2), expected);
    }

    #[test]
    fn what_the_causes_do_not_explain_is_unnamed() {
        let expected = "###=====??\n\
            #  pause    3.00 ms   30.0 %\n\
            =  wire     5.00 ms   50.0 %\n\
            ?  unnamed  2.00 ms   20.0 %\n";
        assert_eq!(bar(10 * MS, &[("pause", 3 * MS), ("wire", 5 * MS)], 10), expected);
        let expected = "????\n?  unnamed  10.00 ms  100.0 %\n";
        assert_eq!(bar(10 * MS, &[], 4), expected);
    }

    #[test]
    fn causes_that_are_longer_than_the_whole_are_their_own_whole() {
        let expected = "###=======\n\
            #  pause  3.00 ms   30.0 %\n\
            =  wire   7.00 ms   70.0 %\n";
        assert_eq!(bar(5 * MS, &[("pause", 3 * MS), ("wire", 7 * MS)], 10), expected);
    }
}
