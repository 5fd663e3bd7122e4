//! [`Scenario`]: what a seed stands for.

use std::time::Duration;

use super::pipes::LinkShape;
use super::rng::Rng;
use crate::hde::Tiers;
use crate::page::{Gfn, PageRun};

/// When something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// As this frame of the run is about to arrive, of whichever stream and side; it is lost with
    /// what the fault takes down.
    Frame(u64),
    /// After this time.
    After(Duration),
}

/// What goes wrong, or is changed under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The link is cut, and heals after this time.
    Cut(Duration),
    /// One stream dies: reset by something on the way, or by TLS since a byte was changed or lost.
    StreamDies,
    /// What a stream carries is held up.
    Clog(Duration),
    /// The source's machine process is killed.
    KillSource,
    /// The destination's machine process is killed.
    KillDestination,
    /// The source's next write of its record stores so many bytes, and fails.
    TearSource(usize),
    /// The same at the destination.
    TearDestination(usize),
    /// The destination finds, when everything has arrived, that it cannot restore the machine.
    CannotRestore,
    /// The user gives the attempt up.
    Abort,
    /// So many data streams are wanted from now on.
    Streams(usize),
    /// So many bytes a second may go out from now on; 0 is any number.
    Limit(u64),
    /// So many pages of a thousand of what is kept are lost, or become others, and its list does not say so.
    RotKept(u64),
    /// What is kept cannot be read any more, by a process that has it open or by one that opens it.
    LoseKept,
}

/// What a stream is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Frames over a link: fast, and a fault can hit any of them.
    Frames,
    /// TCP over packets that are lost, reordered, doubled, damaged and cut short.
    Tcp,
}

/// A run of the simulation: everything that happens follows from it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed: of the guest's content, and of the network's moods.
    pub seed: u64,
    /// The guest's memory.
    pub memory: Vec<PageRun>,
    /// Writes of the guest a millisecond.
    pub writes_per_ms: u64,
    /// Data streams beside the control stream.
    pub data_streams: usize,
    /// Fewer of them may do, as far as AMST finds out; without, there are always so many.
    pub adapts_streams: bool,
    /// Pages a batch.
    pub batch_pages: u64,
    /// Bytes a second of the link.
    pub bytes_per_second: u64,
    /// Time from one host to the other.
    pub delay: Duration,
    /// By how much frames of a stream, or packets, may be later than others.
    pub jitter: Duration,
    /// What moves: whole frames, or packets under TCP.
    pub transport: Transport,
    /// Packets lost, of a million (TCP).
    pub loss_per_million: u64,
    /// Packets doubled, damaged or cut short, of a thousand (TCP).
    pub damage_per_thousand: u64,
    /// How long the guest may stand still, if PBA decides when it stops; without, the two rules below do.
    pub downtime: Option<Duration>,
    /// Before the guest is stopped, everything sent is acknowledged: no queue is ahead of the burst.
    pub settles_first: bool,
    /// PBA may decide that; without, it stops the guest behind whatever is on its way.
    pub may_settle: bool,
    /// The guest is stopped once a round begins with so many dirty pages, or fewer.
    pub pages_at_switch: u64,
    /// How long the guest may stand still before a switch is cancelled.
    pub switch_budget: Duration,
    /// Bytes of the machine's state.
    pub state_bytes: usize,
    /// The machine's state is sent ahead while the guest runs.
    pub speculates: bool,
    /// How pages are encoded: a step of [`Ladder`](crate::hde::Ladder).
    pub ladder_step: usize,
    /// The tiers that may be used.
    pub tiers: Tiers,
    /// What the source may keep to make deltas.
    pub shadow_bytes: usize,
    /// The destination's host has kept the guest's memory as it was before the guest wrote into so many pages of a
    /// thousand. Without, it has kept nothing.
    pub kept: Option<u64>,
    /// What goes wrong.
    pub faults: Vec<(When, Fault)>,
}

impl Scenario {
    /// A guest of 2 MiB on a link of 100 Mbit/s over TCP, as the table has it.
    #[must_use]
    pub fn wan(seed: u64, round_trip: Duration, loss_per_million: u64, writes_per_ms: u64) -> Self {
        let run = |first, pages| PageRun::known_valid(Gfn(first), pages);
        Self {
            memory: vec![run(0, 256), run(300, 256)],
            writes_per_ms,
            data_streams: 4,
            batch_pages: 64,
            // Two hosts beside each other are still a little apart.
            delay: (round_trip / 2).max(Duration::from_micros(50)),
            jitter: Duration::ZERO,
            transport: Transport::Tcp,
            loss_per_million,
            pages_at_switch: 16,
            downtime: Some(Duration::from_millis(300)),
            // However bad the link is, the table says how long it takes.
            switch_budget: Duration::from_mins(1),
            shadow_bytes: 16 << 20,
            // A guess at many vCPUs and a console that has filled its history, of text that shrinks to a fourth.
            state_bytes: 24 << 10,
            ..Self::quiet(seed)
        }
    }

    /// The same with a guest of 32 MiB, which is sent for long enough that streams differ.
    #[must_use]
    pub fn wan_of_streams(seed: u64, loss_per_million: u64, data_streams: usize) -> Self {
        let run = |first, pages| PageRun::known_valid(Gfn(first), pages);
        Self {
            memory: vec![run(0, 4096), run(5000, 4096)],
            data_streams,
            ..Self::wan(seed, Duration::from_millis(80), loss_per_million, 1)
        }
    }

    /// The same guest, which comes back to where it was, if `rewritten` says how many pages of a thousand it has written
    /// into since; that is used, if `is_used`.
    #[must_use]
    pub fn wan_of_returns(
        seed: u64,
        loss_per_million: u64,
        rewritten: Option<u64>,
        is_used: bool,
    ) -> Self {
        Self {
            kept: rewritten,
            tiers: Tiers { known: is_used, ..Tiers::ALL },
            ..Self::wan_of_streams(seed, loss_per_million, 4)
        }
    }

    /// A small guest on a good link, and nothing goes wrong.
    #[must_use]
    pub fn quiet(seed: u64) -> Self {
        let run = |first, pages| PageRun::known_valid(Gfn(first), pages);
        Self {
            seed,
            // Two slots and a hole, neither of which begins or ends at a whole word.
            memory: vec![run(0, 40), run(100, 30)],
            writes_per_ms: 2,
            data_streams: 1,
            adapts_streams: false,
            batch_pages: 4,
            bytes_per_second: 12_500_000,
            delay: Duration::from_millis(5),
            jitter: Duration::from_millis(1),
            transport: Transport::Frames,
            loss_per_million: 0,
            damage_per_thousand: 0,
            downtime: None,
            settles_first: false,
            may_settle: true,
            pages_at_switch: 6,
            switch_budget: Duration::from_secs(2),
            state_bytes: 700,
            speculates: true,
            ladder_step: 2,
            tiers: Tiers::ALL,
            shadow_bytes: 64 << 10,
            kept: None,
            faults: Vec::new(),
        }
    }

    /// The same of a guest that comes back to where it was, and has written into a fifth of its pages since.
    #[must_use]
    pub fn returning(seed: u64) -> Self {
        Self { kept: Some(200), ..Self::quiet(seed) }
    }

    /// The scenario of a seed: any link, any guest, any faults.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut scenario = Self::quiet(seed);
        let run = |first, pages| PageRun::known_valid(Gfn(first), pages);
        let (low, high) = (rng.below(1..70), rng.below(1..70));
        scenario.memory = vec![run(0, low), run(low + rng.below(1..100), high)];
        scenario.writes_per_ms = [0, 1, 2, 5][rng.below(0..4) as usize];
        scenario.data_streams = rng.below(0..4) as usize;
        scenario.batch_pages = [1, 4, 16, 64][rng.below(0..4) as usize];
        scenario.bytes_per_second = [2_000_000, 12_500_000, 125_000_000][rng.below(0..3) as usize];
        scenario.delay = Duration::from_micros([50, 5_000, 50_000][rng.below(0..3) as usize]);
        scenario.jitter = scenario.delay * [0, 1, 3][rng.below(0..3) as usize] / 2;
        scenario.settles_first = rng.chance(300);
        scenario.downtime = rng.chance(500).then_some(Duration::from_millis(300));
        scenario.speculates = rng.chance(800);
        scenario.ladder_step = rng.below(0..4) as usize;
        for _ in 0..rng.below(0..7) {
            let when = match rng.below(0..3) {
                0 => When::After(Duration::from_micros(rng.below(0..3_000_000))),
                _ => When::Frame(rng.below(0..120)),
            };
            scenario.faults.push((when, random_fault(&mut rng)));
        }
        // Drawn last: a seed means for the rest what it meant before anything was kept.
        if rng.chance(400) {
            scenario.come_back(&mut rng);
        }
        scenario
    }

    /// The same over TCP: fewer streams and faults, since packets fail by themselves.
    #[must_use]
    pub fn random_tcp(seed: u64) -> Self {
        let mut scenario = Self::random(seed);
        let mut rng = Rng::new(!seed);
        scenario.transport = Transport::Tcp;
        // With one packet of fifty lost, the last burst takes longer than a user would allow.
        scenario.switch_budget = Duration::from_mins(1);
        scenario.loss_per_million = [0, 1_000, 10_000, 20_000][rng.below(0..4) as usize];
        scenario.damage_per_thousand = [0, 0, 5, 30][rng.below(0..4) as usize];
        scenario
    }

    /// Something is kept of the guest, and may not be what its list says; something may go wrong while it is told of.
    fn come_back(&mut self, rng: &mut Rng) {
        self.kept = Some([0, 50, 250, 900][rng.below(0..4) as usize]);
        if rng.chance(300) {
            self.faults.push((When::Frame(rng.below(0..8)), random_fault(rng)));
        }
        // Before it is told of, or after.
        let when = |rng: &mut Rng| When::Frame([0, rng.below(0..60)][rng.below(0..2) as usize]);
        if rng.chance(400) {
            let fault = Fault::RotKept([20, 200, 1000][rng.below(0..3) as usize]);
            self.faults.push((when(rng), fault));
        }
        if rng.chance(100) {
            self.faults.push((when(rng), Fault::LoseKept));
        }
    }

    pub(super) fn link(&self) -> LinkShape {
        LinkShape {
            bytes_per_second: self.bytes_per_second,
            delay: self.delay,
            jitter: self.jitter,
        }
    }
}

fn random_fault(rng: &mut Rng) -> Fault {
    let pause =
        |rng: &mut Rng| Duration::from_millis([1, 200, 3_000, 20_000][rng.below(0..4) as usize]);
    match rng.below(0..20) {
        0..4 => Fault::Cut(pause(rng)),
        4..8 => Fault::StreamDies,
        8 | 9 => Fault::Clog(pause(rng) / 2),
        10 => Fault::KillSource,
        11 => Fault::KillDestination,
        12 => Fault::TearSource(rng.below(0..4097) as usize),
        13 => Fault::TearDestination(rng.below(0..4097) as usize),
        14 => Fault::CannotRestore,
        15..17 => Fault::Streams(rng.below(0..5) as usize),
        17..19 => Fault::Limit([0, 20_000, 500_000][rng.below(0..3) as usize]),
        _ => Fault::Abort,
    }
}
