//! Predictive Bandwidth Allocation: what is measured while a machine moves, and what follows from it.
//!
//! | measured by | from | says |
//! |---|---|---|
//! | [`LinkEstimator`] | batches that are sent and acknowledged | bytes a second, round trip, what is on its way |
//! | [`DirtyEstimator`] | harvests of the dirty log | pages that will be dirty after some time |
//! | [`HotPages`] | harvests that follow each other closely | pages that are written all the time |
//! | [`EncoderEstimator`] | batches that were encoded | bytes that a page takes, pages a second, at each step |
//! | [`Bottleneck`] | what the streams' threads did with their time | whether the link is the limit; processors for them |
//!
//! From these [`Outlook`] forecasts how long the move and its blackout will be, [`decide()`] says whether
//! to stop the guest now, [`Outlook::fitting_speed`] how fast a guest may run for which there is no such moment, and
//! [`best_step`] how hard to compress. All are functions of their arguments:
//! whoever wants to know why a move went as it did needs no more than what they were given.

mod bottleneck;
mod converge;
mod decide;
mod dirty;
mod encode;
mod hot;
mod link;
mod outlook;
pub mod trace;

pub use bottleneck::{Bottleneck, Work};
pub use decide::{Decision, decide};
pub use dirty::DirtyEstimator;
pub use encode::{EncodedBatch, EncoderEstimator, best_step};
pub use hot::HotPages;
pub use link::{LinkEstimate, LinkEstimator, Sent};
pub use outlook::{Debt, Forecast, Outlook, Stop};
