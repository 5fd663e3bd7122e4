//! Who is at the other end of a connection.

use std::io;
use std::os::fd::AsFd;

use super::peer;

/// A process that connected to the daemon's socket, as the kernel knew it at that moment.
///
/// This is who *connected*. A process that passes its connection on, or that changes its user later, lends out what it
/// was allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
    /// Its number, for people: by the time that one looks, another process may have it. None where the process is in a
    /// PID namespace that this one does not see.
    pub pid: Option<u32>,
}

impl Caller {
    /// Who connected to this end of a Unix socket.
    ///
    /// # Errors
    /// The socket is no connected Unix socket.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        peer::caller(socket)
    }

    /// Whether it was in a group, as its effective one or as a further one.
    #[must_use]
    pub fn is_in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}
