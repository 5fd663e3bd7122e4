//! A machine process: one VM, told what to do over a control socket.
//!
//! The main thread is the device loop (event-manager). A hand-over or a snapshot is a job: it
//! runs on a thread of its own, which owns the machine while it does; the loop goes on with the console meanwhile.

mod console_pump;
mod control;
mod guest;
mod job;
mod machine_loop;
mod opened;
mod order;
mod start;

pub use machine_loop::{RoleError, run};
pub use order::{
    BootOrder, Greeting, GuestStatus, HandOverOrder, Order, ReceiveOrder, Report, RestoreOrder,
    SnapshotOrder,
};
