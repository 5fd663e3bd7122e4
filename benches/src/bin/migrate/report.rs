//! Figures of all moves over a link, side by side.

use benches::{Samples, Setting, Summary, Table, ratio};
use serde::Serialize;

use crate::outcome::{Ended, Moved};
use benches::network::Kind;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) setting: Setting,
    /// Where states and permit records were written.
    pub(crate) record: benches::FileSystem,
    pub(crate) qemu: String,
    pub(crate) congestion_control: String,
    pub(crate) memory_bytes: u64,
    /// Bytes of the guest's memory that hold pages of `content`.
    pub(crate) content_bytes: u64,
    pub(crate) content: String,
    /// The guest's own words.
    pub(crate) guest: String,
    /// What both VMMs were told that the guest may stand still.
    pub(crate) downtime_ms: u64,
    pub(crate) limit_seconds: u64,
    pub(crate) links: Vec<Link>,
}

/// All moves over one link.
#[derive(Debug, Serialize)]
pub(crate) struct Link {
    pub(crate) kind: Kind,
    /// How long it took to open a connection.
    pub(crate) round_trip_ns: u64,
    /// Packets that found a queue of the relay full, in all moves.
    pub(crate) dropped: Option<u64>,
    /// Ours first.
    pub(crate) columns: Vec<Column>,
}

/// All moves of one VMM over one link. Times are nanoseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) attempts: usize,
    /// Attempts whose time was over.
    pub(crate) late: usize,
    /// What the VMM said where it gave up.
    pub(crate) failures: Vec<String>,
    pub(crate) figures: Option<Figures>,
    /// Every move, in their order.
    pub(crate) moves: Vec<Moved>,
}

/// Of the moves that ended.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) total: Summary,
    pub(crate) pause: Summary,
    pub(crate) reported_pause: Option<Summary>,
    pub(crate) gap: Summary,
    pub(crate) wire_bytes: Summary,
    pub(crate) cpu_source: Summary,
    pub(crate) cpu_destination: Summary,
    pub(crate) cpu_guest: Summary,
    pub(crate) idle: Summary,
    pub(crate) before: Summary,
    pub(crate) full: Option<Summary>,
    pub(crate) partly: Summary,
    pub(crate) after: Summary,
    /// A cause that a move does not have counts as nothing there.
    pub(crate) causes: Vec<(String, Summary)>,
}

impl Column {
    pub(crate) fn new(name: &'static str, ended: Vec<Ended>) -> Self {
        let (attempts, mut late) = (ended.len(), 0);
        let (mut failures, mut moves) = (Vec::new(), Vec::new());
        for one in ended {
            match one {
                Ended::Moved(moved) => moves.push(moved),
                Ended::Late => late += 1,
                Ended::Failed(why) => failures.push(why),
            }
        }
        Self { name, attempts, late, failures, figures: Figures::of(&moves), moves }
    }
}

impl Figures {
    fn of(moves: &[Moved]) -> Option<Self> {
        let of = |pick: &dyn Fn(&Moved) -> Option<u64>| {
            Samples::new(moves.iter().filter_map(pick).collect()).map(|samples| samples.summary())
        };
        let mut names: Vec<&String> = Vec::new();
        for (name, _) in moves.iter().flat_map(|moved| &moved.causes) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let cause = |name: &String| {
            let parts =
                |moved: &Moved| moved.causes.clone().into_iter().filter(|part| part.0 == *name);
            let sum = of(&|moved| Some(parts(moved).map(|part| part.1).sum()));
            sum.map(|sum| (name.clone(), sum))
        };
        Some(Self {
            total: of(&|moved| Some(moved.flow.total_ns))?,
            pause: of(&|moved| Some(moved.pause_ns))?,
            reported_pause: of(&|moved| moved.reported_pause_ns),
            gap: of(&|moved| Some(moved.gap_ns))?,
            wire_bytes: of(&|moved| Some(moved.flow.wire_bytes))?,
            cpu_source: of(&|moved| Some(moved.cpu_ns[0]))?,
            cpu_destination: of(&|moved| Some(moved.cpu_ns[1]))?,
            cpu_guest: of(&|moved| Some(moved.guest_ns))?,
            idle: of(&|moved| Some(moved.flow.idle_ns))?,
            before: of(&|moved| Some(moved.flow.times.before_ns))?,
            full: of(&|moved| moved.flow.times.full_ns),
            partly: of(&|moved| Some(moved.flow.times.partly_ns))?,
            after: of(&|moved| Some(moved.flow.times.after_ns))?,
            causes: names.into_iter().filter_map(cause).collect(),
        })
    }
}

pub(crate) fn print(outcome: &Outcome) {
    println!("{}", outcome.setting);
    println!("peer: {}; permit records: {}", outcome.qemu, outcome.record);
    if !outcome.record.is_storage() {
        println!("  that is no storage: writing the record costs nothing there; use --record");
    }
    println!(
        "guest: oracle, 1 vCPU, {} MiB, of which {} MiB hold pages of {}",
        outcome.memory_bytes >> 20,
        outcome.content_bytes >> 20,
        outcome.content
    );
    println!("  {}", outcome.guest);
    println!(
        "TCP of both: {}; ours is encrypted and digest-checked, QEMU's is plain TCP; \
         the guest may stand still for {} ms",
        outcome.congestion_control, outcome.downtime_ms
    );
    for link in &outcome.links {
        print_link(link, outcome.limit_seconds);
    }
}

/// Rows of a link's table.
const ROWS: [(&str, Pick, Show); 15] = [
    ("total, s", |figures| Some(figures.total.p50), seconds),
    ("  before the first pages", |figures| Some(figures.before.p50), seconds),
    ("  with pages, the link full", |figures| Some(figures.full?.p50), seconds),
    ("  with pages, the link not full", |figures| Some(figures.partly.p50), seconds),
    ("  after the last pages", |figures| Some(figures.after.p50), seconds),
    ("the guest's pause, ms", |figures| Some(figures.pause.p50), milliseconds),
    ("  99th percentile", |figures| percentile(&figures.pause), milliseconds),
    ("  longest of all", |figures| Some(figures.pause.max), milliseconds),
    ("  as the guest's clock jumped", |figures| Some(figures.gap.p50), milliseconds),
    ("  as QEMU reports it", |figures| Some(figures.reported_pause?.p50), milliseconds),
    ("on the wire, MB", |figures| Some(figures.wire_bytes.p50), megabytes),
    ("source's processor, s", |figures| Some(figures.cpu_source.p50), seconds),
    ("destination's processor, s", |figures| Some(figures.cpu_destination.p50), seconds),
    ("the guest's processor, s", |figures| Some(figures.cpu_guest.p50), seconds),
    ("processors idle, s", |figures| Some(figures.idle.p50), seconds),
];

fn print_link(link: &Link, limit_seconds: u64) {
    println!("\n{}: {}", link.kind.name(), link.kind.description());
    println!("  a connection is there after {} ms", milliseconds(link.round_trip_ns));
    let names = link.columns.iter().map(|column| column.name);
    let headings: Vec<_> = ["medians"].into_iter().chain(names).chain(["x QEMU's best"]).collect();
    let mut table = Table::new(&headings);
    let runs = |column: &Column| {
        let ended = column.attempts - column.late - column.failures.len();
        format!("{ended} of {}", column.attempts)
    };
    let ended = link.columns.iter().map(runs);
    table.row(["moves that ended".to_owned()].into_iter().chain(ended));
    for (name, pick, show) in ROWS {
        let values: Vec<_> =
            link.columns.iter().map(|column| column.figures.as_ref().and_then(pick)).collect();
        if values.iter().all(Option::is_none) {
            continue;
        }
        let cells = values.iter().map(|value| value.map_or_else(|| "-".to_owned(), show));
        table.row([name.to_owned()].into_iter().chain(cells).chain([compared(&values)]));
    }
    print!("{table}");
    for column in &link.columns {
        print_trouble(column, limit_seconds);
    }
    if let Some(count) = link.dropped.filter(|count| *count > 0) {
        println!("  {count} packets found a queue of the relay full, in all moves together");
    }
    let figures = link.columns.first().and_then(|column| column.figures.as_ref());
    if let Some(figures) = figures.filter(|figures| !figures.causes.is_empty()) {
        let cause = |(name, ns): &(String, Summary)| format!("{name} {}", milliseconds(ns.p50));
        let causes: Vec<_> = figures.causes.iter().map(cause).collect();
        println!("  our pause by cause, medians in ms: {}", causes.join(", "));
    }
}

type Pick = fn(&Figures) -> Option<u64>;
type Show = fn(u64) -> String;

fn print_trouble(column: &Column, limit_seconds: u64) {
    let Column { name, late, failures, .. } = column;
    if *late > 0 {
        println!("  {name}: {late} moves had not ended after {limit_seconds} s");
    }
    if let Some(why) = failures.first() {
        println!("  {name}: {} moves were given up, the first: {why}", failures.len());
    }
}

/// Ours by the least of QEMU's.
fn compared(values: &[Option<u64>]) -> String {
    let best = values.iter().skip(1).flatten().min();
    match (values.first().copied().flatten(), best) {
        (Some(ours), Some(best)) if *best > 0 => format!("{:.2}", ratio(ours, *best)),
        _ => "-".to_owned(),
    }
}

/// Of fewer values it is the largest of them, which has a row of its own.
fn percentile(summary: &Summary) -> Option<u64> {
    (summary.count >= 100).then_some(summary.p99)
}

fn seconds(ns: u64) -> String {
    format!("{:.3}", ratio(ns, 1_000_000_000))
}

fn milliseconds(ns: u64) -> String {
    format!("{:.1}", ratio(ns, 1_000_000))
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1}", ratio(bytes, 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Flowed, Times};

    fn moved(total_ns: u64, causes: &[(&str, u64)]) -> Ended {
        let causes = causes.iter().map(|(name, ns)| ((*name).to_owned(), *ns)).collect();
        let (wire_bytes, idle_ns, times) = (4, 5, Times::default());
        Ended::Moved(Moved {
            flow: Flowed { total_ns, wire_bytes, idle_ns, times },
            pause_ns: 2,
            reported_pause_ns: None,
            gap_ns: 3,
            cpu_ns: [5, 6],
            guest_ns: 7,
            causes,
            account: serde_json::Value::Null,
        })
    }

    #[test]
    fn what_did_not_end_is_counted_and_in_no_figure() {
        let ended = vec![moved(10, &[]), Ended::Late, Ended::Failed("no".into()), moved(30, &[])];
        let column = Column::new("a", ended);
        assert_eq!((column.attempts, column.late, column.failures.len()), (4, 1, 1));
        let figures = column.figures.unwrap();
        assert_eq!((figures.total.p50, figures.total.max, figures.total.count), (10, 30, 2));
        assert!(Column::new("b", vec![Ended::Late]).figures.is_none());
    }

    #[test]
    fn a_cause_that_a_move_lacks_is_nothing_there() {
        let ended = vec![moved(1, &[("wire", 7), ("wire", 1)]), moved(1, &[("record", 9)])];
        let causes = Column::new("a", ended).figures.unwrap().causes;
        let found: Vec<_> =
            causes.iter().map(|(name, ns)| (name.as_str(), ns.p50, ns.max)).collect();
        assert_eq!(found, [("wire", 0, 8), ("record", 0, 9)]);
    }

    #[test]
    fn a_percentile_is_one_of_enough_values() {
        let of = |count: u64| percentile(&Samples::new((1..=count).collect()).unwrap().summary());
        assert_eq!((of(99), of(100)), (None, Some(99)));
    }

    #[test]
    fn ours_is_compared_with_the_best_of_the_others() {
        assert_eq!(compared(&[Some(5), None, Some(20), Some(10)]), "0.50");
        assert_eq!(compared(&[None, Some(20)]), "-");
        assert_eq!(compared(&[Some(5), None]), "-");
    }
}
