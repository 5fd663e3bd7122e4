//! Intelligent Task Placement: which host a machine should go to.
//!
//! First what must be: a host that lacks one of these is out, and every reason is named, so that a user sees
//! at once all that is to be changed. Then what is better: each term has a value from 0 to 1 and a weight, and
//! the score is their weighted mean. A [`Ranking`] is printed with all of that: what each term adds to the score, and
//! what of each host is lacking by how much.
//!
//! ```
//! use dwcp::acp::HostName;
//! use dwcp::itp::{HostFacts, MachineNeeds, Weights, rank};
//!
//! let machine = MachineNeeds { vcpus: 2, memory_bytes: 4 << 30, ..MachineNeeds::default() };
//! let host = |name, free_gib: u64| HostFacts {
//!     memory_bytes: 64 << 30,
//!     memory_free_bytes: free_gib << 30,
//!     ..HostFacts::new(HostName::new(name).unwrap())
//! };
//! let ranking = rank(&machine, &[host("a", 3), host("b", 8), host("c", 60)], &Weights::default());
//! assert_eq!(ranking.fit[0].host.as_str(), "c");
//! assert_eq!(ranking.unfit[0].reasons[0].to_string(), "1 GiB of memory too little");
//! assert_eq!(
//!     ranking.fit[1].to_string(),
//!     "b: 0.461 = memory left 0.062 × 3/8 + idle 1.000 × 3/8 + soon 0.500 × 1/8 + kept 0.000 × 1/8"
//! );
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::acp::{HostName, VmId};

/// A move that takes so long has half the value of one that takes no time.
const DURATION_HALF: f64 = 30.0;

/// A machine's TSC may be told to a host without TSC scaling if it is off by no more than this: what KVM takes,
/// too (`tsc_tolerance_ppm`).
const TSC_TOLERANCE_PPM: u64 = 250;

/// What a machine needs of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineNeeds {
    /// Where it runs now.
    pub runs_on: Option<HostName>,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// Its memory, and what its process takes.
    pub memory_bytes: u64,
    /// Features of the processor that its guest has seen, by the names of `/proc/cpuinfo`.
    pub cpu_features: BTreeSet<String>,
    /// The frequency of its TSC; `None` if its guest does not look.
    pub tsc_khz: Option<u64>,
    /// Networks, images and devices that must be there, by name.
    pub resources: BTreeSet<String>,
    /// Versions of the protocol that its process speaks.
    pub versions: RangeInclusive<u16>,
    /// Machines that it must not share a host with.
    pub apart_from: BTreeSet<VmId>,
}

impl Default for MachineNeeds {
    /// One vCPU, and nothing that could be lacking.
    fn default() -> Self {
        Self {
            runs_on: None,
            vcpus: 1,
            memory_bytes: 0,
            cpu_features: BTreeSet::new(),
            tsc_khz: None,
            resources: BTreeSet::new(),
            versions: 3..=3,
            apart_from: BTreeSet::new(),
        }
    }
}

/// What is known of a host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostFacts {
    /// Its name.
    pub name: HostName,
    /// Whether it takes machines: it is reachable, and not being emptied.
    pub accepts: bool,
    /// Whether its permit records survive a power cut.
    pub is_durable: bool,
    /// The most vCPUs that a machine may have there.
    pub vcpus_max: u32,
    /// All its memory.
    pub memory_bytes: u64,
    /// What of it no machine was promised.
    pub memory_free_bytes: u64,
    /// Features of its processor that it can give to a guest.
    pub cpu_features: BTreeSet<String>,
    /// The frequency of its TSC.
    pub tsc_khz: u64,
    /// Whether its processor can give a guest another TSC frequency than its own.
    pub scales_tsc: bool,
    /// Networks, images and devices that are there.
    pub resources: BTreeSet<String>,
    /// Versions of the protocol that it speaks.
    pub versions: RangeInclusive<u16>,
    /// Machines that run there.
    pub machines: BTreeSet<VmId>,
    /// How busy its processors are, 0 to 1.
    pub busy: f64,
    /// How long the move there would take, as [`pba`](crate::pba) forecasts it; `None` if nothing is known.
    pub duration: Option<Duration>,
    /// How much of the machine's memory it has kept from an earlier stay, 0 to 1.
    pub kept: f64,
}

impl HostFacts {
    /// A host of which nothing is known but that it takes any machine.
    #[must_use]
    pub fn new(name: HostName) -> Self {
        Self {
            name,
            accepts: true,
            is_durable: true,
            vcpus_max: u32::MAX,
            memory_bytes: 0,
            memory_free_bytes: 0,
            cpu_features: BTreeSet::new(),
            tsc_khz: 0,
            scales_tsc: true,
            resources: BTreeSet::new(),
            versions: 3..=3,
            machines: BTreeSet::new(),
            busy: 0.0,
            duration: None,
            kept: 0.0,
        }
    }
}

/// Why a host cannot take a machine. Each says what would have to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The machine runs there already.
    IsThere,
    /// It takes no machines now.
    DoesNotAccept,
    /// Its permit records do not survive a power cut: after one, two copies could run.
    NotDurable,
    /// Too many vCPUs for it.
    Vcpus {
        /// What the machine has.
        needed: u32,
        /// What it may have there.
        most: u32,
    },
    /// Too little memory, by so many bytes.
    Memory {
        /// What is lacking.
        lacking: u64,
    },
    /// Its processor lacks features that the guest uses.
    CpuFeatures(BTreeSet<String>),
    /// Its TSC runs at another frequency and cannot be scaled.
    Tsc {
        /// The machine's, in kHz.
        needed: u64,
        /// The host's.
        has: u64,
    },
    /// Networks, images or devices are not there.
    Resources(BTreeSet<String>),
    /// It speaks no version of the protocol that the machine's process speaks.
    Versions {
        /// The machine's.
        needed: RangeInclusive<u16>,
        /// The host's.
        has: RangeInclusive<u16>,
    },
    /// A machine runs there that this one must be apart from.
    Together(VmId),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
        match self {
            Self::IsThere => f.write_str("the machine runs there already"),
            Self::DoesNotAccept => f.write_str("it takes no machines now"),
            Self::NotDurable => f.write_str("its permit records would not survive a power cut"),
            Self::Vcpus { needed, most } => {
                let over = needed.saturating_sub(*most);
                write!(f, "{needed} vCPUs, and at most {most} there: {over} too many")
            }
            Self::Memory { lacking } => {
                write!(f, "{} of memory too little", Bytes(*lacking))
            }
            Self::CpuFeatures(lacking) => write!(f, "its processor lacks {}", list(lacking)),
            Self::Tsc { needed, has } => {
                let off = u128::from(needed.abs_diff(*has)) * 1_000_000;
                let ppm = off.div_ceil(u128::from(*needed).max(1));
                write!(f, "its TSC runs at {has} kHz and not at {needed}, and cannot be scaled: ")?;
                write!(f, "{ppm} ppm off, {TSC_TOLERANCE_PPM} at most")
            }
            Self::Resources(lacking) => write!(f, "it has no {}", list(lacking)),
            Self::Versions { needed, has } => {
                let (from, to) = (needed.start(), needed.end());
                let (its, own) = (has.start(), has.end());
                write!(f, "it speaks DWCP {its} to {own}, and the machine {from} to {to}")
            }
            Self::Together(machine) => {
                write!(f, "it runs the machine {machine}, which must be elsewhere")
            }
        }
    }
}

/// Bytes, rounded up, in the largest unit that leaves a number of at least 1.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.into_iter().find(|(unit, _)| self.0 >= *unit) {
            Some((unit, name)) => write!(f, "{} {name}", self.0.div_ceil(unit)),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// What makes one host better than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// Memory that is left when the machine is there, of all its memory.
    MemoryLeft,
    /// Processors that are idle.
    Idle,
    /// How soon the machine is there.
    Soon,
    /// Memory of the machine that is there from an earlier stay, and need not go again.
    Kept,
}

impl Term {
    const ALL: [Self; 4] = [Self::MemoryLeft, Self::Idle, Self::Soon, Self::Kept];
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MemoryLeft => "memory left",
            Self::Idle => "idle",
            Self::Soon => "soon",
            Self::Kept => "kept",
        })
    }
}

/// How much each term counts. Only their proportions matter; what is negative or no number counts nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Of [`Term::MemoryLeft`].
    pub memory_left: f64,
    /// Of [`Term::Idle`].
    pub idle: f64,
    /// Of [`Term::Soon`].
    pub soon: f64,
    /// Of [`Term::Kept`].
    pub kept: f64,
}

impl Default for Weights {
    /// Where it will run counts more than how it gets there, once.
    fn default() -> Self {
        Self { memory_left: 3.0, idle: 3.0, soon: 1.0, kept: 1.0 }
    }
}

impl Weights {
    fn of(&self, term: Term) -> f64 {
        let weight = match term {
            Term::MemoryLeft => self.memory_left,
            Term::Idle => self.idle,
            Term::Soon => self.soon,
            Term::Kept => self.kept,
        };
        if weight.is_finite() { weight.max(0.0) } else { 0.0 }
    }
}

/// What a term says of a host, and what that is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factor {
    /// The term.
    pub term: Term,
    /// From 0 to 1: the more, the better.
    pub value: f64,
    /// Its weight, as it counts: 0 or more.
    pub weight: f64,
    /// What it adds to the score: the value times the weight's part of all weights.
    pub contribution: f64,
}

/// A host that can take the machine, and how good it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// The host.
    pub host: HostName,
    /// From 0 to 1: the weighted mean of the terms, which is the sum of their contributions.
    pub score: f64,
    /// Each term.
    pub factors: [Factor; 4],
}

impl fmt::Display for Placement {
    /// The score as the sum that it is, to three decimals: whoever checks it needs nothing else.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:.3} =", self.host, self.score)?;
        let all: f64 = self.factors.iter().map(|factor| factor.weight).sum();
        for (index, Factor { term, value, weight, .. }) in self.factors.iter().enumerate() {
            let plus = if index == 0 { "" } else { " +" };
            write!(f, "{plus} {term} {value:.3} × {weight}/{all}")?;
        }
        Ok(())
    }
}

/// A host that cannot, and all the reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The host.
    pub host: HostName,
    /// At least one.
    pub reasons: Vec<Reason>,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: no, ", self.host)?;
        for (index, reason) in self.reasons.iter().enumerate() {
            let sign = if index == 0 { "" } else { "; " };
            write!(f, "{sign}{reason}")?;
        }
        Ok(())
    }
}

/// All hosts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranking {
    /// The best first; equals by name, so that the same question has the same answer.
    pub fit: Vec<Placement>,
    /// In the order in which they were given.
    pub unfit: Vec<Misfit>,
}

impl fmt::Display for Ranking {
    /// A line for each host.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fit.iter().try_for_each(|placement| writeln!(f, "{placement}"))?;
        self.unfit.iter().try_for_each(|misfit| writeln!(f, "{misfit}"))
    }
}

/// Ranks hosts for a machine.
#[must_use]
pub fn rank(machine: &MachineNeeds, hosts: &[HostFacts], weights: &Weights) -> Ranking {
    let mut ranking = Ranking::default();
    for host in hosts {
        let reasons = reasons(machine, host);
        if reasons.is_empty() {
            ranking.fit.push(placement(machine, host, weights));
        } else {
            ranking.unfit.push(Misfit { host: host.name.clone(), reasons });
        }
    }
    let by_score = |a: &Placement, b: &Placement| {
        b.score.total_cmp(&a.score).then_with(|| a.host.as_str().cmp(b.host.as_str()))
    };
    ranking.fit.sort_by(by_score);
    ranking
}

fn reasons(machine: &MachineNeeds, host: &HostFacts) -> Vec<Reason> {
    let lacking = |needed: &BTreeSet<String>, has: &BTreeSet<String>| {
        let lacking: BTreeSet<String> = needed.difference(has).cloned().collect();
        (!lacking.is_empty()).then_some(lacking)
    };
    let memory = machine.memory_bytes.checked_sub(host.memory_free_bytes).filter(|n| *n > 0);
    let speaks = machine.versions.start() <= host.versions.end()
        && host.versions.start() <= machine.versions.end();
    let (needed, has) = (machine.versions.clone(), host.versions.clone());
    let single = [
        (machine.runs_on.as_ref() == Some(&host.name)).then_some(Reason::IsThere),
        (!host.accepts).then_some(Reason::DoesNotAccept),
        (!host.is_durable).then_some(Reason::NotDurable),
        (machine.vcpus > host.vcpus_max)
            .then_some(Reason::Vcpus { needed: machine.vcpus, most: host.vcpus_max }),
        memory.map(|lacking| Reason::Memory { lacking }),
        lacking(&machine.cpu_features, &host.cpu_features).map(Reason::CpuFeatures),
        machine.tsc_khz.and_then(|needed| tsc(needed, host)),
        lacking(&machine.resources, &host.resources).map(Reason::Resources),
        (!speaks).then_some(Reason::Versions { needed, has }),
    ];
    let together = machine.apart_from.intersection(&host.machines).copied().map(Reason::Together);
    single.into_iter().flatten().chain(together).collect()
}

fn tsc(needed: u64, host: &HostFacts) -> Option<Reason> {
    let off = u128::from(needed.abs_diff(host.tsc_khz)) * 1_000_000;
    let is_close = off <= u128::from(needed) * u128::from(TSC_TOLERANCE_PPM);
    (!host.scales_tsc && !is_close).then_some(Reason::Tsc { needed, has: host.tsc_khz })
}

fn placement(machine: &MachineNeeds, host: &HostFacts, weights: &Weights) -> Placement {
    let left = host.memory_free_bytes.saturating_sub(machine.memory_bytes);
    let all: f64 = Term::ALL.iter().map(|term| weights.of(*term)).sum();
    let factors = Term::ALL.map(|term| {
        let value = match term {
            Term::MemoryLeft => left as f64 / host.memory_bytes.max(1) as f64,
            Term::Idle => 1.0 - host.busy,
            // What is not known is taken to be neither good nor bad.
            Term::Soon => host
                .duration
                .map_or(0.5, |duration| DURATION_HALF / (DURATION_HALF + duration.as_secs_f64())),
            Term::Kept => host.kept,
        };
        let value = if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) };
        let weight = weights.of(term);
        let part = if all > 0.0 { weight / all } else { 0.0 };
        Factor { term, value, weight, contribution: value * part }
    });
    let score = factors.iter().map(|factor| factor.contribution).sum();
    Placement { host: host.name.clone(), score, factors }
}

#[cfg(test)]
mod tests;
