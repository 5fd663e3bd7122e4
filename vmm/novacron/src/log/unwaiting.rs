//! A machine process's log: a line is written at once or not at all.
//!
//! A guest must not stand still because nobody reads what its process logs. The daemon's way, a thread that waits
//! instead, would be a thread more in every jail, and in the way of the namespaces, which a process with one thread alone
//! can leave. So standard error is made non-blocking, for this process only where that is possible; the calls that its
//! threads make stay the same.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use rustix::fs::{FileType, Mode, OFlags};

/// Lines lost that nobody was told of.
static LOST: AtomicU64 = AtomicU64::new(0);
/// Whether a line was cut off in its middle.
static TORN: AtomicBool = AtomicBool::new(false);

/// Makes writes to standard error fail where they would wait. Before the jail, in which no name opens.
///
/// # Errors
/// When the system refuses: then a log that nobody reads can hold this process up.
pub(super) fn unblock() -> io::Result<()> {
    let stderr = rustix::stdio::stderr();
    match FileType::from_raw_mode(rustix::fs::fstat(stderr)?.st_mode) {
        // Opened anew, it has flags of its own: with the old ones whoever shares it would not wait either. That may not be
        // for a pipe of another user's, who made it for the daemon and its machines.
        FileType::Fifo => open_anew().or_else(|_| set_flag()),
        // Of a terminal, a shell would be the one.
        FileType::CharacterDevice => open_anew(),
        // It cannot be opened. It is a service manager's, for the daemon, which waits when it must, and its machines.
        FileType::Socket => set_flag(),
        // A file: its reader is storage.
        _ => Ok(()),
    }
}

fn open_anew() -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let own = rustix::fs::open("/proc/self/fd/2", flags, Mode::empty())?;
    Ok(rustix::stdio::dup2_stderr(own)?)
}

fn set_flag() -> io::Result<()> {
    let stderr = rustix::stdio::stderr();
    let flags = rustix::fs::fcntl_getfl(stderr)?;
    Ok(rustix::fs::fcntl_setfl(stderr, flags | OFlags::NONBLOCK)?)
}

/// Writes a line; `told` makes one about lines that were lost before it.
pub(super) fn write(line: &[u8], told: impl Fn(u64) -> String) {
    // Held from the first byte to the last, so that threads do not write into each other's lines.
    write_to(&mut io::stderr().lock(), line, told);
}

fn write_to(sink: &mut impl Write, line: &[u8], told: impl Fn(u64) -> String) {
    let lost = LOST.swap(0, Relaxed);
    let is_told = lost == 0 || is_written(sink, told(lost).as_bytes());
    if !is_told {
        LOST.fetch_add(lost, Relaxed);
    }
    if !is_told || !is_written(sink, line) {
        LOST.fetch_add(1, Relaxed);
    }
}

/// Whether the whole line was taken. A pipe takes up to 4096 bytes as a whole or not at all (pipe(7)); of a longer line
/// the beginning may be there: then the next begins a line of its own.
fn is_written(sink: &mut impl Write, mut line: &[u8]) -> bool {
    if TORN.load(Relaxed) && sink.write(b"\n").is_err() {
        return false;
    }
    TORN.store(false, Relaxed);
    let whole = line.len();
    while !line.is_empty() {
        match sink.write(line) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(count @ 1..) => line = &line[count..],
            _ => {
                TORN.store(line.len() < whole, Relaxed);
                return false;
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, then says that it would wait.
    struct Sink {
        room: usize,
        text: Vec<u8>,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = bytes.len().min(self.room);
            self.room -= count;
            self.text.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_full_sink_does_not_take_is_counted_and_told_of_before_the_next_line() {
        let mut sink = Sink { room: 7, text: Vec::new() };
        let told = |lost| format!("{lost} lost\n");
        for line in ["one\n", "second\n", "third\n"] {
            write_to(&mut sink, line.as_bytes(), told);
        }
        // Not even the words about it find room.
        sink.room = 2;
        write_to(&mut sink, b"fourth\n", told);
        sink.room = 1000;
        write_to(&mut sink, b"fifth\n", told);
        write_to(&mut sink, b"sixth\n", told);
        let text = String::from_utf8(sink.text).unwrap();
        assert_eq!(text, "one\nsec\n2\n3 lost\nfifth\nsixth\n");
    }
}
