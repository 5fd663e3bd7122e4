//! Namespaces of its own: no network, no System V objects, and nothing mounted but an empty folder.
#![allow(unsafe_code, reason = "unshare(2) can part threads that share descriptors; there is one")]

use std::ffi::CStr;

use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_move, unmount,
};
use rustix::process::{chdir, chroot, pivot_root};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// A folder that is there wherever /dev/kvm is; what is in it is out of reach a moment later.
const MOUNT_POINT: &str = "/dev";
/// Room for its root and nothing else.
const EMPTY: &CStr = c"size=4k,nr_inodes=1,mode=555";

/// Why a process stays in its starter's namespaces.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub(super) struct NamespaceError {
    what: &'static str,
    source: Errno,
}

fn failed(what: &'static str) -> impl FnOnce(Errno) -> NamespaceError {
    move |source| NamespaceError { what, source }
}

/// Leaves the host's namespaces. Where that takes a right which this process does not have, it does so as the root of a
/// user namespace, which every user may make on most hosts.
///
/// # Errors
/// When neither is allowed. What was done before an error stays done, and holds.
pub(super) fn leave() -> Result<(), NamespaceError> {
    let own = UnshareFlags::NEWNS | UnshareFlags::NEWNET;
    match unshare(own) {
        Err(Errno::PERM) => unshare(own | UnshareFlags::NEWUSER)
            .map_err(failed("neither CAP_SYS_ADMIN nor a user namespace to make others in"))?,
        outcome => outcome.map_err(failed("unshare(2) of mounts and network"))?,
    }
    for flag in [UnshareFlags::NEWIPC, UnshareFlags::NEWUTS] {
        match unshare(flag) {
            // A kernel without System V objects and message queues has no namespaces of them.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(failed("unshare(2)")(error)),
        }
    }
    empty_root()
}

fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: descriptors stay shared: FILES is not among the flags.
    unsafe { unshare_unsafe(flags) }
}

/// Puts an empty, read-only folder in the place of everything that is mounted.
///
/// Landlock keeps names from being opened, but not from being looked at, and a socket could be reached by its name.
fn empty_root() -> Result<(), NamespaceError> {
    // Else the mounts below would be seen by the whole host.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(failed("making mounts private"))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", MOUNT_POINT, "tmpfs", flags, EMPTY).map_err(failed("mounting a tmpfs"))?;
    chdir(MOUNT_POINT).map_err(failed("going there"))?;
    match pivot_root(".", ".") {
        // Both have one name now. Detached, the host's file systems are not kept busy by this process.
        Ok(()) => unmount(".", UnmountFlags::DETACH).map_err(failed("detaching the old root"))?,
        // The first file system, which a machine that boots from an initramfs runs on, cannot be exchanged: it is covered.
        Err(Errno::INVAL) => {
            mount_move(".", "/").map_err(failed("covering the old root"))?;
            chroot(".").map_err(failed("chroot(2)"))?;
        }
        Err(error) => return Err(failed("pivot_root(2)")(error)),
    }
    chdir("/").map_err(failed("going to the new root"))
}
