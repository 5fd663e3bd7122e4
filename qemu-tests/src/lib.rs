//! Machines inside QEMU's emulation that run our kernels, for tests that need a real one.
//!
//! ```text
//! the test ── Case ──► HostImage: initramfs { /init = test-init, a script, files }
//!                          │ boot
//!                          ▼
//!                      QemuMachine: TCG with nested SVM, so kvm_amd works in it
//!                       ├─ console   the kernel's messages        ─► <logs>/<test>/console.log
//!                       ├─ ports     test-init's report, and more ─► <logs>/<test>/<port>.log
//!                       ├─ disks, firmware variables: files, for the next machine and for the test
//!                       └─ a wire to another host
//!                          │ power-off
//!                          ▼
//!                      HostReport: what each command of the script printed, and how it ended
//! ```
//!
//! Kernel messages and reports take different ways out of the machine: on one serial line the
//! kernel writes into the middle of other people's lines.
//!
//! What it never does: it uses no crate of the product, only its executables; it waits for nothing
//! without a limit; and no machine outlives its handle, or the process that started it.

mod accelerator;
mod artifacts;
mod case;
mod channel;
mod debian;
mod disk;
mod firmware;
mod host;
mod initramfs;
mod link;
mod machine;
mod orders;
pub mod script;
mod wire;

pub use accelerator::Accelerator;
pub use artifacts::{ArtifactError, Kernel, guest_kernel, host_kernel, novacron};
pub use case::Case;
pub use channel::{Channel, ChannelError};
pub use debian::{DebianError, DebianKernel, debian_kernel};
pub use disk::Disk;
pub use firmware::{Firmware, Variable};
pub use host::{CommandRun, Ending, HostError, HostImage, HostReport, RunningHost};
pub use initramfs::Initramfs;
pub use link::Link;
pub use machine::{MachineError, MachineSpec, QemuMachine, WireEnd};
pub use orders::{Clock, Program};
pub use wire::{ADDRESSES, NAMES, WiredHosts};
