//! DWCP v3, the protocol that moves a running virtual machine between two hosts: its pure core, and, as a feature, the
//! sockets that carry it. **Without the feature `transport` this crate reads no clock, opens no socket or file, spawns no
//! thread and draws no randomness**: times, seeds, keys and identifiers are arguments, storage is a trait that the caller
//! implements. It knows nothing of KVM, of TLS or of an operating system. What it decides therefore depends on its
//! arguments alone, and one seed reproduces any run. `clippy.toml` beside this crate's manifest turns a violation into an
//! error.
//!
//! | module | what it holds |
//! |---|---|
//! | [`page`] | frame numbers and runs of pages |
//! | [`page_set`] | a set of guest pages, as a flat bitmap |
//! | [`digest`] | one digest a page, their sum, and the root that both sides must agree on |
//! | [`hde`] | batches of pages as payloads, by the cheapest tier that fits each page |
//! | [`ledger`] | the pages a migration owes, and those in flight under send numbers |
//! | [`numbers`] | a set of send numbers |
//! | [`ass`] | a machine's state as its difference to one that was sent ahead |
//! | [`acp`] | the permit: which one process, on which one host, may run the machine |
//! | [`pba`] | what is measured during a move, and forecasts: when to stop, how hard to compress |
//! | [`archive`] | a machine at rest: its pages, state and index as the bytes of a file |
//! | [`amst`] | how pages are spread over streams |
//! | [`itp`] | which host a machine should go to, and why |
//! | [`wire`] | frames: their headers, what they say, and the limits on what a peer may send |
//! | [`session`] | one attempt to move a machine: the source and the destination |
//! | `transport` (feature) | sockets, TLS and threads that carry a session: the one part that is not pure |
//! | `sim` (feature) | a simulated move over a network that fails, in virtual time |

#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, reason = "a lossy cast of a test fails that test")
)]

pub mod acp;
pub mod amst;
pub mod archive;
pub mod ass;
pub mod digest;
pub mod hde;
pub mod itp;
pub mod ledger;
pub mod numbers;
pub mod page;
pub mod page_set;
pub mod pba;
pub mod session;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "transport")]
pub mod transport;
pub mod wire;
