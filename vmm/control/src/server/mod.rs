//! The control socket.
//!
//! ```text
//!  accept ─► who is it? ─► hyper ─► router ─► guard ─► handler ─► registry
//!  limit of connections     limits   paths     role, audit, metrics
//!  a patient stream         of headers
//! ```

mod accept;
mod answer;
mod body;
mod console;
mod events;
mod guard;
mod handlers;
mod openapi;
mod pass;
mod patient;
mod router;
#[cfg(test)]
mod tests;

pub(crate) use accept::{Listener, Terms, serve};
pub(crate) use body::read as read_body;
pub(crate) use console::PROTOCOL as CONSOLE_PROTOCOL;
pub use openapi::openapi_json;
pub(crate) use pass::{Given, PROTOCOL as FILES_PROTOCOL};
pub(crate) use router::{State, router};
