//! What the measurements share: machine processes, peers, statistics, tables.
//!
//! Each measurement is a binary of its own (`src/bin`), run by hand; `README.md` has the commands.
//! Nothing here is part of a test: a figure depends on the machine that it was measured on, and on
//! what else that machine did.

mod bare;
mod connection;
mod executable;
mod guest;
pub mod network;
mod processor;
mod qemu;
pub mod relay;
mod scheduled;
mod setting;
mod smaps;
mod statistics;
mod stop;
mod supervisor;
mod table;
mod tun;

pub use bare::{BareStart, start_bare};
pub use connection::{Connection, attach};
pub use executable::Executable;
pub use guest::{Guest, read_hello, tsc_khz};
pub use processor::{median, processor_ns, rate, timed};
pub use qemu::Qemu;
pub use scheduled::Scheduled;
pub use setting::{FileSystem, Setting, load_average};
pub use smaps::{Kind, ProcessMemory};
pub use statistics::{Samples, Summary, ratio};
pub use stop::{Stop, finish, show};
pub use supervisor::{Launched, Machine, Shape, Supervisor, oracle_file, wait_until_it_answers};
pub use table::{Table, Verdict, milliseconds};
