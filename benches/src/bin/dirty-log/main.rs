//! KVM's two dirty logs side by side: what a harvest costs whoever copies, what starting and stopping a log costs, and
//! how much slower a guest writes meanwhile.

mod guest;

use std::num::NonZeroU64;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use benches::{Samples, Setting, Stop, Table, finish, median, milliseconds, processor_ns, ratio};
use clap::Parser;
use dwcp::ledger::Ledger;
use dwcp::page::Gfn;
use machine::{DirtyLog, DirtyLogKind, Host, Paused, Running};

use guest::{Progress, progress, stamped, vcpu_ns};

const MIB: u64 = 1 << 20;
/// From one harvest to the next.
const INTERVAL: Duration = Duration::from_millis(20);
/// How long a guest runs in each of its turns.
const TURN: Duration = Duration::from_millis(400);

/// Harvests of guests of several sizes, and a guest that writes as fast as it can, with each dirty log by turns
#[derive(Debug, Parser)]
struct Options {
    /// Harvests of each guest, and turns of each that writes
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Sizes of the guests whose log is harvested
    #[arg(long, value_name = "MIB", value_delimiter = ',', default_values_t = [256, 2048, 8192])]
    mib: Vec<u64>,
    /// Pages that those write a second
    #[arg(long, value_name = "PAGES", default_value_t = 2000)]
    rate: u64,
    /// Size of the guest whose log is started and stopped, all of it written
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    written: u64,
    /// Memory that the guest writes again and again that does nothing else
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    working_set: u64,
    /// The logs
    #[arg(long, value_name = "KIND", value_delimiter = ',', default_values = ["bitmap", "ring:1024", "ring:4096", "ring:65536"])]
    kinds: Vec<DirtyLogKind>,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Stop> {
    let host = Host::open().map_err(|error| Stop::Skipped(error.to_string()))?;
    for kind in &options.kinds {
        kind.check(&host).map_err(|error| Stop::Skipped(error.to_string()))?;
    }
    let mut setting = Setting::now(concat!("benches ", env!("CARGO_PKG_VERSION")));
    println!("one vCPU; medians of {}; a harvest each {INTERVAL:?}", options.times);
    println!("\na harvest of a guest that writes {} pages/s", options.rate);
    println!("{}", harvests(&host, options)?);
    println!("a log of {} MiB, all of it written before", options.written);
    println!("{}", starts(&host, options)?);
    println!("a guest that writes {} MiB as fast as it can", options.working_set);
    println!("{}", slowdowns(&host, options)?);
    setting.end();
    println!("{setting}");
    Ok(())
}

/// A guest with one of the logs.
struct Guest {
    kind: DirtyLogKind,
    /// None only while it runs.
    paused: Option<Paused>,
}

impl Guest {
    /// One for each kind of log, or more.
    fn all(host: &Host, options: &Options, memory: u64, words: &str) -> Result<Vec<Self>, Stop> {
        let guest = |kind: &DirtyLogKind| {
            Ok(Self { kind: *kind, paused: Some(stamped(host, *kind, memory, words)?) })
        };
        options.kinds.iter().map(guest).collect()
    }

    /// Lets it run for as long as `turn` takes.
    fn run<T>(&mut self, turn: impl FnOnce(&Running) -> Result<T, Stop>) -> Result<T, Stop> {
        let paused = self.paused.take();
        let running = paused.ok_or_else(|| Stop::Failed("the guest is gone".into()))?.resume();
        let outcome = turn(&running);
        self.paused = Some(running.pause());
        outcome
    }
}

/// A log, and the ledger that it is harvested into: kept, as a hand-over keeps it.
struct Harvester {
    log: Box<dyn DirtyLog + Send>,
    ledger: Ledger,
}

impl Harvester {
    fn start(running: &Running) -> Result<Self, Stop> {
        let limit = Gfn(running.config().memory.frame_limit());
        let log = running.start_dirty_log().map_err(Stop::failed("the dirty log"))?;
        let mut harvester = Self { log, ledger: Ledger::new(limit) };
        // A new bitmap has every page, and our own marks are those of the loader.
        harvester.harvest()?;
        Ok(harvester)
    }

    /// Returns how many pages were found; takes them as delivered.
    fn harvest(&mut self) -> Result<Harvest, Stop> {
        let (wall, processor) = (Instant::now(), processor_ns());
        self.log.harvest(&mut self.ledger).map_err(Stop::failed("a harvest"))?;
        let processor_ns = processor_ns() - processor;
        let wall_ns = u64::try_from(wall.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let pages = self.ledger.owed();
        while let Some(send) = self.ledger.next_run(NonZeroU64::MAX) {
            self.ledger.settle(send.numbers()).map_err(Stop::failed("the ledger"))?;
        }
        Ok(Harvest { pages, wall_ns, processor_ns })
    }
}

struct Harvest {
    pages: u64,
    wall_ns: u64,
    processor_ns: u64,
}

fn harvests(host: &Host, options: &Options) -> Result<Table, Stop> {
    let headings =
        ["guest", "log", "vCPU ran ms", "pages", "wall us", "processor us", "of the first"];
    let mut table = Table::new(&headings);
    // Most of a large guest's memory is never written here: a log costs by the size of its slots.
    let words = format!("fill=64M working_set=8M pattern=random rate={}", options.rate);
    for mib in &options.mib {
        let mut first = None;
        for mut guest in Guest::all(host, options, mib * MIB, &words)? {
            let mut ran = Vec::new();
            let harvests = guest.run(|running| {
                let mut harvester = Harvester::start(running)?;
                let harvests = (0..options.times).map(|_| {
                    let before = vcpu_ns()?;
                    thread::sleep(INTERVAL);
                    ran.push(vcpu_ns()? - before);
                    harvester.harvest()
                });
                harvests.collect::<Result<Vec<_>, _>>()
            })?;
            let of = |what: fn(&Harvest) -> u64| median(harvests.iter().map(what).collect());
            let processor_ns = of(|harvest| harvest.processor_ns);
            let first = *first.get_or_insert(processor_ns);
            table.row([
                format!("{mib} MiB"),
                guest.kind.to_string(),
                milliseconds(median(ran)),
                of(|harvest| harvest.pages).to_string(),
                microseconds(of(|harvest| harvest.wall_ns)),
                microseconds(processor_ns),
                format!("{:.2}", ratio(processor_ns, first)),
            ]);
        }
    }
    Ok(table)
}

fn starts(host: &Host, options: &Options) -> Result<Table, Stop> {
    let mut table = Table::new(&["log", "start ms", "stop ms", "processor: start", "stop"]);
    let words = "working_set=8M pattern=random rate=2000";
    for mut guest in Guest::all(host, options, options.written * MIB, words)? {
        let mut figures = [const { Vec::new() }; 4];
        guest.run(|running| {
            for _ in 0..options.times.min(10) {
                let (wall, processor) = (Instant::now(), processor_ns());
                let log = running.start_dirty_log().map_err(Stop::failed("the dirty log"))?;
                figures[0].push(u64::try_from(wall.elapsed().as_nanos()).unwrap_or(u64::MAX));
                figures[2].push(processor_ns() - processor);
                thread::sleep(INTERVAL);
                drop(log);
                let (wall, processor) = (Instant::now(), processor_ns());
                running.stop_dirty_log().map_err(Stop::failed("the dirty log"))?;
                figures[1].push(u64::try_from(wall.elapsed().as_nanos()).unwrap_or(u64::MAX));
                figures[3].push(processor_ns() - processor);
                thread::sleep(INTERVAL);
            }
            Ok(())
        })?;
        let [start, stop, start_ns, stop_ns] = figures.map(|figures| milliseconds(median(figures)));
        table.row([guest.kind.to_string(), start, stop, start_ns, stop_ns]);
    }
    Ok(table)
}

/// How a guest gets on beside a log.
#[derive(Default)]
struct Slowed {
    /// Processor time of its vCPU for a page, in picoseconds.
    page_ps: Vec<u64>,
    /// Pages of each harvest, and the processor time that each took.
    pages: Vec<u64>,
    harvest_ns: Vec<u64>,
}

fn slowdowns(host: &Host, options: &Options) -> Result<Table, Stop> {
    let headings = [
        "log",
        "us a page",
        "of no log",
        "min",
        "max",
        "pages a harvest",
        "harvest us",
        "ns a page",
    ];
    let mut table = Table::new(&headings);
    let words = format!("working_set={}M pattern=sequential write=byte", options.working_set);
    let mut guests = Guest::all(host, options, 4 * options.working_set * MIB, &words)?;
    let mut unlogged = Vec::new();
    let mut slowed: Vec<Slowed> = guests.iter().map(|_| Slowed::default()).collect();
    // By turns: what else this host does then befalls all alike.
    for turn in 0..options.times {
        let nth = turn as usize % guests.len();
        unlogged.push(guests[nth].run(|running| page_ps(running, || Ok(())))?);
        for (guest, slowed) in guests.iter_mut().zip(&mut slowed) {
            guest.run(|running| with_log(running, slowed))?;
        }
    }
    let unlogged = median(unlogged);
    let none = ["none", &microseconds_of_ps(unlogged), "1.00", "-", "-", "-", "-", "-"];
    table.row(none.map(str::to_owned));
    for (guest, slowed) in guests.iter().zip(slowed) {
        let (pages, harvest_ns) = (median(slowed.pages), median(slowed.harvest_ns));
        let summary = Samples::new(slowed.page_ps).map(|samples| samples.summary());
        let summary = summary.ok_or_else(|| Stop::Failed("nothing was measured".into()))?;
        table.row([
            guest.kind.to_string(),
            microseconds_of_ps(summary.p50),
            format!("{:.2}", ratio(summary.p50, unlogged)),
            format!("{:.2}", ratio(summary.min, unlogged)),
            format!("{:.2}", ratio(summary.max, unlogged)),
            pages.to_string(),
            microseconds(harvest_ns),
            format!("{:.0}", ratio(harvest_ns, pages.max(1))),
        ]);
    }
    Ok(table)
}

/// A turn of a guest whose log is harvested all the while.
fn with_log(running: &Running, slowed: &mut Slowed) -> Result<(), Stop> {
    let mut harvester = Harvester::start(running)?;
    let harvest = || {
        let harvest = harvester.harvest()?;
        slowed.pages.push(harvest.pages);
        slowed.harvest_ns.push(harvest.processor_ns);
        Ok(())
    };
    let page_ps = page_ps(running, harvest)?;
    slowed.page_ps.push(page_ps);
    running.stop_dirty_log().map_err(Stop::failed("the dirty log"))
}

/// What a page costs the guest in a turn, with `each` done at every interval.
fn page_ps(running: &Running, mut each: impl FnMut() -> Result<(), Stop>) -> Result<u64, Stop> {
    let start: Progress = progress(running)?;
    let end = Instant::now() + TURN;
    while Instant::now() < end {
        thread::sleep(INTERVAL);
        each()?;
    }
    let end: Progress = progress(running)?;
    let pages = end.writes - start.writes;
    if pages == 0 {
        return Err(Stop::Failed("the guest wrote nothing in its turn".into()));
    }
    Ok((end.vcpu_ns - start.vcpu_ns) * 1000 / pages)
}

fn microseconds(ns: u64) -> String {
    format!("{:.1}", ratio(ns, 1000))
}

fn microseconds_of_ps(ps: u64) -> String {
    format!("{:.3}", ratio(ps, 1_000_000))
}
