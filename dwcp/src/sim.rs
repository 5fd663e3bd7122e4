//! A simulated move: two hosts, their records, a guest that dirties its memory, and a network that
//! fails, all in virtual time. One seed gives one run, for ever.
//!
//! | module | what it holds |
//! |---|---|
//! | `world` | both hosts and what drives them; the only place where things happen |
//! | `source_host`, `destination_host` | what a machine process does with its half of the session |
//! | `scenario` | what a seed stands for: link, guest, and what goes wrong when |
//! | `network` | what the world needs of a network |
//! | `pipes` | frames over a link that delays, jitters, clogs, cuts and heals |
//! | `tcp` | smoltcp's TCP over packets that are lost, reordered, doubled, damaged, cut short |
//! | `guest` | memory, a dirty log, a program |
//! | `kept` | what the destination's host has kept of an earlier stay of the guest |
//! | `table` | what a move costs over links of many kinds, and without each part of the protocol |
//! | `checker` | what must be true at every moment, and at the end |

#![allow(clippy::cast_possible_truncation, reason = "the numbers of a simulation are small")]

mod checker;
mod destination_host;
mod guest;
mod kept;
mod network;
mod pipes;
mod rng;
mod scenario;
mod source_host;
mod storage;
mod table;
mod tcp;
mod world;

pub use checker::Violation;
pub use kept::KeptCounts;
pub use scenario::{Fault, Scenario, Transport, When};
pub use table::table;
pub use world::{Ending, Report, run};

#[cfg(test)]
mod tests;
