//! The management plane: what machines there are, who may do what with them, and the socket on which that is asked.
//!
//! This crate never touches KVM or guest memory, and it is in no guest's way: the daemon can be killed at any moment,
//! and machines run on. It opens every file that a caller names, inside of configured folders; a machine process is
//! given descriptors.

mod access;
pub mod api;
pub mod audit;
mod audit_trail;
mod client;
pub mod config;
mod console;
mod daemon;
mod events;
mod health;
mod host;
mod kept_images;
mod method;
mod metrics;
mod operations;
mod peers;
mod quantity;
mod random;
mod receipts;
mod registry;
mod server;
mod spec;
mod whole_file;

pub use access::{
    Account, Accounts, Caller, FileError, Folders, Member, MemberKind, NewFile, OpenedFile,
    PrivateFolderError, Role, Roles, make_private_folder,
};
pub use client::{CallError, Client, ConsoleStream, EventStream};
pub use daemon::{Daemon, DaemonEnder, DaemonError, DaemonOptions};
pub use method::{HttpVerb, METHODS, Method};
pub use peers::{IdentityError, PeerBookError};
pub use quantity::{Size, TimeSpan};
pub use receipts::{ReceiptError, ReceiptShelfError, ReceiptSide};
pub use registry::StoreError;
pub use server::openapi_json;
