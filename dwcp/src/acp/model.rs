//! A model of the permit, checked exhaustively within bounds.
//!
//! The world of the model has two or three hosts and one machine. Its hosts change their records
//! through the table that ships ([`Record::next`]) and answer with [`Record::answer`]; around these
//! stand the rules that no single record can see: when the permit frame may be sent, what a source
//! does with an answer, when a process may be started. Everything that can be interleaved is: each
//! write, each frame and each answer is a step of its own, frames and answers arrive late or never,
//! and the faults (kill, cut, record lost, host wiped, operator wrong) happen between any two steps,
//! as often as their budgets allow. A restart is what a host does after a kill; heal follows cut.
//!
//! The two slots of a record are not modelled: that a record is the old or the new one, and nothing
//! else, is shown where they are tested. Here a write is one step.
//!
//! The explorer is our own: the established one for Rust brings an HTTP server and a thread pool
//! with it, and has no check for "from here the good state can still be reached".
//!
//! [`Record::next`]: super::Record
//! [`Record::answer`]: super::Record::answer

mod explore;
mod rules;
mod step;
mod tests;
mod world;
