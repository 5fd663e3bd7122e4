//! The table of simulated moves: round trip × loss × dirty rate, and what each part of the protocol is
//! worth. It is committed as `simulated-wan.md`: whatever changes it shows.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Ending, Report, Scenario, Violation, run};
use crate::hde::Tiers;

const ROUND_TRIPS_MS: [u64; 4] = [0, 20, 80, 200];
const LOSSES_PER_MILLION: [u64; 3] = [0, 1_000, 10_000];
const WRITES_PER_MS: [u64; 2] = [1, 5];

/// Each figure is the median of so many seeds.
const SEEDS: [u64; 3] = [11, 12, 13];

/// What one row says.
#[derive(Clone, Copy)]
struct Row {
    duration: Duration,
    blackout: Duration,
    /// What the blackout cannot be less than.
    floor: Duration,
    rounds: u32,
    payload_bytes: u64,
    /// What told of what is kept.
    kept_bytes: u64,
}

/// The table, as Markdown.
///
/// # Errors
/// When a move fails.
pub fn table() -> Result<String, Violation> {
    let mut text = String::from(HEAD);
    for round_trip in ROUND_TRIPS_MS.map(Duration::from_millis) {
        for loss in LOSSES_PER_MILLION {
            for writes in WRITES_PER_MS {
                let row = median(|seed| Scenario::wan(seed, round_trip, loss, writes))?;
                let cells = cells(&row);
                let (loss, rtt) = (percent(loss), round_trip.as_millis());
                line(&mut text, format_args!("| {rtt} ms | {loss} | {writes} | {cells} |"));
            }
        }
    }
    text.push_str(SLOPE_HEAD);
    for writes in WRITES_PER_MS {
        let at = |ms| median(move |seed| Scenario::wan(seed, Duration::from_millis(ms), 0, writes));
        let (near, far) = (at(0)?, at(200)?);
        let slope = |near: Duration, far: Duration| far.saturating_sub(near).as_secs_f64() / 0.2;
        let (blackout, floor) = (slope(near.blackout, far.blackout), slope(near.floor, far.floor));
        line(&mut text, format_args!("| {writes} | {blackout:.2} | {floor:.2} |"));
    }
    text.push_str(ABLATION_HEAD);
    for (link, round_trip, loss, bytes_per_second, writes) in ABLATION_LINKS {
        for (name, change) in ABLATIONS {
            let row = median(|seed| {
                let round_trip = Duration::from_millis(round_trip);
                let mut scenario = Scenario::wan(seed, round_trip, loss, writes);
                scenario.bytes_per_second = bytes_per_second;
                change(&mut scenario);
                scenario
            })?;
            line(&mut text, format_args!("| {name} | {link} | {} |", cells(&row)));
        }
    }
    text.push_str(STREAMS_HEAD);
    for loss in LOSSES_PER_MILLION {
        for (name, streams, adapts_streams) in STREAMS {
            let row = median(|seed| Scenario {
                adapts_streams,
                ..Scenario::wan_of_streams(seed, loss, streams)
            })?;
            let (cells, loss) = (cells(&row), percent(loss));
            line(&mut text, format_args!("| {loss} | {name} | {cells} |"));
        }
    }
    text.push_str(RETURNS_HEAD);
    for loss in RETURN_LOSSES_PER_MILLION {
        for (name, rewritten, is_used) in RETURNS {
            let row = median(|seed| Scenario::wan_of_returns(seed, loss, rewritten, is_used))?;
            let (total, blackout) = (row.duration.as_secs_f64(), row.blackout.as_secs_f64() * 1e3);
            let (loss, payload, told) =
                (percent(loss), row.payload_bytes >> 10, row.kept_bytes >> 10);
            line(
                &mut text,
                format_args!(
                    "| {loss} | {name} | {total:.2} s | {blackout:.1} ms | {payload} KiB | {told} KiB |"
                ),
            );
        }
    }
    Ok(text)
}

const HEAD: &str = "\
# Simulated moves

Every figure here is **simulated**: virtual time, smoltcp's TCP with CUBIC over a link of 100 Mbit/s, and no
cost for computing. A guest of 2 MiB, of which two thirds are filled; its writes go to eight hot pages seven
times of ten, and anywhere otherwise. Its state has 24 KiB that nothing makes shorter. Medians of three seeds.
`cargo run -p benches --bin simulated-wan` prints this file, and a test compares it.

*floor* is half a round trip, and the time in which the link carries the pages of the last burst: nothing can be
there sooner. *payload* is what carried pages in all. smoltcp's TCP begins with a window of 2 KiB, where Linux has
14 KiB: the first round trips are slower here than there.

| round trip | loss | writes a ms | total | blackout | floor | rounds | payload |
|---|---|---|---|---|---|---|---|
";

const SLOPE_HEAD: &str = "
## Blackout against round trip

From 0 to 200 ms, without loss: milliseconds of blackout, and of its floor, for each millisecond of round trip.
Half of one cannot be avoided; the rest of the floor is the last burst. While the sends before the stop are still
on their way, what the guest writes goes out at once, but for its hot pages: so the burst hardly grows with the
round trip.

| writes a ms | slope | of the floor |
|---|---|---|
";

const ABLATION_HEAD: &str = "
## Without a part of the protocol

5 writes a millisecond, and 1 where the link has 10 Mbit/s. Without the tier for zero pages nothing is larger or later
here: zstd makes as little of them, and what the tier saves is the time that zstd takes, which costs nothing in this
simulation (`benches/profiles/hde.md` has it). On the slow link, settling and deltas do not pay: there the guest's pages
are what limits, and a plan that waits for less is as good.

| without | link | total | blackout | floor | rounds | payload |
|---|---|---|---|---|---|---|
";

const STREAMS_HEAD: &str = "
## Streams

A guest of 32 MiB that writes once a millisecond, 80 ms away. The control stream carries pages, too. *Adaptive* begins
with 4 data streams and doubles them while that delivers a tenth more.

| loss | data streams | total | blackout | floor | rounds | payload |
|---|---|---|---|---|---|---|
";

/// How many data streams there are at most, and whether fewer may do.
const STREAMS: [(&str, usize, bool); 4] =
    [("none", 0, false), ("4", 4, false), ("16", 16, false), ("adaptive, at most 16", 16, true)];

/// A link with what a guest does that it can follow: round trip in milliseconds, packets lost of a million, bytes a second,
/// and writes a millisecond.
const ABLATION_LINKS: [(&str, u64, u64, u64, u64); 3] = [
    ("0 ms, 0 %", 0, 0, 12_500_000, 5),
    ("80 ms, 0.1 %", 80, 1_000, 12_500_000, 5),
    ("20 ms, 0 %, 10 Mbit/s", 20, 0, 1_250_000, 1),
];

/// A part that is turned off.
type Ablation = (&'static str, fn(&mut Scenario));

const ABLATIONS: [Ablation; 9] = [
    ("nothing", |_| {}),
    ("AMST: one stream", |scenario| scenario.data_streams = 0),
    ("PBA: stop at 16 pages or after 12 rounds", |scenario| scenario.downtime = None),
    ("PBA: it does not settle before it stops", |scenario| scenario.may_settle = false),
    ("ASS: the state goes in the blackout", |scenario| scenario.speculates = false),
    ("HDE: zero pages", |scenario| scenario.tiers.zero = false),
    ("HDE: delta", |scenario| scenario.tiers.delta = false),
    ("HDE: zstd", |scenario| scenario.tiers.zstd = false),
    ("HDE", |scenario| scenario.tiers = Tiers::NONE),
];

fn median(scenario: impl Fn(u64) -> Scenario) -> Result<Row, Violation> {
    let mut reports = Vec::new();
    let link = scenario(SEEDS[0]);
    for seed in SEEDS {
        let report = run(&scenario(seed))?;
        if (report.ending, report.attempts) != (Ending::Moved, 1) {
            return Err(Violation(format!("a quiet link, and yet {report:?}")));
        }
        reports.push(report);
    }
    Ok(Row {
        duration: middle(&reports, |report| report.duration),
        blackout: middle(&reports, |report| report.blackout.unwrap_or_default()),
        floor: middle(&reports, |report| floor(&link, report)),
        rounds: middle(&reports, |report| report.rounds),
        payload_bytes: middle(&reports, |report| report.counts.payload_bytes),
        kept_bytes: middle(&reports, |report| report.counts.kept_bytes),
    })
}

/// Half a round trip, and the time in which the link carries the last pages.
fn floor(link: &Scenario, report: &Report) -> Duration {
    let carrying = report.burst_bytes as f64 / link.bytes_per_second as f64;
    link.delay + Duration::from_secs_f64(carrying)
}

fn middle<T: Ord + Copy>(reports: &[Report], of: impl Fn(&Report) -> T) -> T {
    let mut values: Vec<T> = reports.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

fn cells(row: &Row) -> String {
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let (total, blackout, floor) = (row.duration.as_secs_f64(), ms(row.blackout), ms(row.floor));
    let (rounds, kib) = (row.rounds, row.payload_bytes >> 10);
    format!("{total:.2} s | {blackout:.1} ms | {floor:.1} ms | {rounds} | {kib} KiB")
}

fn percent(per_million: u64) -> String {
    format!("{} %", per_million as f64 / 10_000.0)
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a string takes every line");
}

const RETURNS_HEAD: &str = "
## A machine that comes back

The guest of 32 MiB again, with 4 data streams. The destination's host has kept its memory from an earlier stay, and the
guest has written into so many of its pages since. *told* is the list of what is kept, which comes from the destination
before the first page goes out.

| loss | return | total | blackout | payload | told |
|---|---|---|---|---|---|
";

const RETURN_LOSSES_PER_MILLION: [u64; 2] = [0, 1_000];

/// How many pages of a thousand were written into since the guest was last here, if it was, and whether what is kept is
/// used.
const RETURNS: [(&str, Option<u64>, bool); 5] = [
    ("it was never here", None, true),
    ("5 % written", Some(50), true),
    ("5 % written, without the tier", Some(50), false),
    ("25 % written", Some(250), true),
    ("25 % written, without the tier", Some(250), false),
];
