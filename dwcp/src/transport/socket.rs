//! Options of TCP sockets.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use socket2::SockRef;

/// Bytes that the kernel keeps unsent for a socket. What waits there is bound to its stream, and in a switch the
/// guest stands still for it.
const UNSENT_BYTES: u32 = 128 << 10;

/// How long bytes may stay unacknowledged before the kernel gives the socket up. Longer than any timer of a session:
/// that one decides, this one only sees to it that nothing stays for ever.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes a connected socket what a stream needs.
pub(super) fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    let options = SockRef::from(socket);
    options.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    options.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    // Where the kernel has no BBR, or does not let us, its default stays: that costs speed on lossy links only.
    let _ = options.set_tcp_congestion(b"bbr");
    Ok(())
}
