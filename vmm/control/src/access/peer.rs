//! What the kernel says of the process at the other end of a connected Unix socket (socket(7), unix(7)).
#![allow(
    unsafe_code,
    reason = "rustix has no SO_PEERGROUPS, and its SO_PEERCRED has no value for a process that has no number here"
)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::Caller;

/// A user's groups are at most as many (NGROUPS_MAX of Linux).
const GROUPS_MOST: usize = 65_536;
/// How many are enough for nearly everyone.
const GROUPS_FIRST: usize = 64;

/// Who connected. The kernel noted it then: what the process has become since does not count.
///
/// # Errors
/// The socket is no connected Unix socket.
pub(super) fn caller(socket: impl AsFd) -> io::Result<Caller> {
    let socket = socket.as_fd();
    let [pid, uid, gid] = credentials(socket)?;
    // A process of another PID namespace has no number in ours: the kernel says 0.
    let pid = (pid != 0).then_some(pid);
    Ok(Caller { uid, gid, groups: groups(socket)?, pid })
}

/// `struct ucred`: process, user, group.
fn credentials(socket: BorrowedFd) -> io::Result<[u32; 3]> {
    let mut ucred = [0; 3];
    let filled = option(socket, libc::SO_PEERCRED, &mut ucred)?;
    if filled != size_of::<libc::ucred>() {
        return Err(io::Error::other("SO_PEERCRED has another size than struct ucred"));
    }
    // Of a socket that nobody is connected to, the kernel says this instead of failing.
    if ucred[1] == u32::MAX {
        return Err(io::ErrorKind::NotConnected.into());
    }
    Ok(ucred)
}

/// The further groups, for which there is little room at first, and more if the kernel says so.
fn groups(socket: BorrowedFd) -> io::Result<Vec<u32>> {
    let mut room = GROUPS_FIRST;
    loop {
        let mut groups = vec![0; room];
        match option(socket, libc::SO_PEERGROUPS, &mut groups) {
            Ok(filled) => {
                groups.truncate(filled / size_of::<u32>());
                return Ok(groups);
            }
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && room < GROUPS_MOST => {
                room *= 4;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Fills `into` with an option of the socket, and returns how many bytes it has.
fn option(socket: BorrowedFd, name: libc::c_int, into: &mut [u32]) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(size_of_val(into)).map_err(io::Error::other)?;
    // SAFETY: getsockopt(2) writes at most `length` bytes to the buffer: that many bytes are `into`, borrowed until it
    // returns, and any bytes are valid `u32`s. It writes the number of bytes to `length`, which is borrowed as long.
    let code = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            into.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    usize::try_from(length).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use rustix::process::Gid;
    use rustix::thread::set_thread_groups;

    use super::*;

    #[test]
    fn the_other_end_of_a_socket_is_this_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let _there = UnixStream::connect(&path).unwrap();
        let (here, _) = listener.accept().unwrap();
        let mut groups: Vec<u32> =
            rustix::process::getgroups().unwrap().iter().map(|group| group.as_raw()).collect();
        let mut caller = caller(&here).unwrap();
        // Their order is the kernel's own.
        groups.sort_unstable();
        caller.groups.sort_unstable();
        let expected = Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups,
            pid: Some(std::process::id()),
        };
        assert_eq!(caller, expected);
    }

    #[test]
    fn a_caller_in_more_groups_than_there_is_room_for_at_first_is_in_all_of_them() {
        let name = "a_caller_in_more_groups_than_there_is_room_for_at_first_is_in_all_of_them";
        // Groups are a thread's, as far as the kernel goes: those of the other tests stay as they are.
        let other = std::thread::spawn(|| {
            let many: Vec<u32> = (1000..1300).collect();
            let groups: Vec<_> = many.iter().map(|group| Gid::from_raw(*group)).collect();
            set_thread_groups(&groups).ok()?;
            let (here, _there) = UnixStream::pair().unwrap();
            Some((caller(&here).unwrap().groups, many))
        });
        match other.join().unwrap() {
            Some((found, many)) => assert_eq!(found, many),
            None => eprintln!("SKIPPED {name}: only root can join groups"),
        }
    }

    #[test]
    fn what_is_no_connected_socket_has_no_caller() {
        let alone = UnixDatagram::unbound().unwrap();
        assert_eq!(caller(&alone).unwrap_err().kind(), io::ErrorKind::NotConnected);
        let file = tempfile::tempfile().unwrap();
        assert_eq!(caller(&file).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }
}
