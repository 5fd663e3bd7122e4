//! What the vCPUs tell each other.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use super::mailbox::Mailbox;
use super::oracle::MAX_CPUS;
use super::oracle::plan::Plan;
use super::published::Published;

/// The plan of the run, published before the second vCPU starts.
pub(super) static PLAN: Published<Plan> = Published::new();

/// One a vCPU.
pub(super) static CPUS: [Cpu; MAX_CPUS as usize] = [const { Cpu::new() }; MAX_CPUS as usize];

/// Set when all memory is filled: rounds begin.
pub(super) static BEGIN: AtomicBool = AtomicBool::new(false);

/// Sweeps that vCPU 0 has asked for.
pub(super) static SWEEPS_REQUESTED: AtomicU64 = AtomicU64::new(0);

/// Sweeps that are over: the vCPUs may write again.
pub(super) static SWEEPS_RELEASED: AtomicU64 = AtomicU64::new(0);

/// Wrong pages that may still have a line of their own.
pub(super) static ERROR_LINES_LEFT: AtomicU32 = AtomicU32::new(0);

/// What one vCPU tells vCPU 0. It alone writes the fields, except where they say otherwise.
#[repr(align(64))]
pub(super) struct Cpu {
    /// Some code already acts as this vCPU. Set once.
    pub(super) claimed: AtomicBool,
    /// It runs in ring 3.
    pub(super) up: AtomicBool,
    /// Its pages are stamped.
    pub(super) filled: AtomicBool,
    pub(super) rounds: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) checked: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) tsc_backwards: AtomicU64,
    /// Longest gap since vCPU 0 last took it, in ticks; vCPU 0 sets it back to 0.
    pub(super) window_gap: AtomicU64,
    /// Longest gap of all, in ticks.
    pub(super) longest_gap: AtomicU64,
    /// Sweeps completed.
    pub(super) sweeps: AtomicU64,
    /// Pages that the last sweep checked.
    pub(super) swept: AtomicU64,
    pub(super) mailbox: Mailbox,
}

impl Cpu {
    const fn new() -> Self {
        Self {
            claimed: AtomicBool::new(false),
            up: AtomicBool::new(false),
            filled: AtomicBool::new(false),
            rounds: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            checked: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            tsc_backwards: AtomicU64::new(0),
            window_gap: AtomicU64::new(0),
            longest_gap: AtomicU64::new(0),
            sweeps: AtomicU64::new(0),
            swept: AtomicU64::new(0),
            mailbox: Mailbox::new(),
        }
    }
}
