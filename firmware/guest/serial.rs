//! The 16550 at 0x3f8, polled.

use core::fmt;

use super::oracle::report::Report;
use super::oracle::tempo::Watch;
use super::{clock, port};

const DATA: u16 = 0x3f8;
const LINE_STATUS: u16 = 0x3fd;
const DATA_READY: u8 = 1 << 0;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// Looks at the line status before a byte is sent anyway: a port that is never ready loses bytes,
/// it does not stop the guest.
const PATIENCE: u32 = 10_000;

/// A byte that the host sent, if any.
pub(super) fn receive() -> Option<u8> {
    (port::read(LINE_STATUS) & DATA_READY != 0).then(|| port::read(DATA))
}

/// Prints a line.
pub(super) fn print(report: &Report<'_>) {
    print_watched(report, &mut Watch::new(clock::now()));
}

/// Prints a line, and lets `watch` take a reading at each byte: a slow console is no blackout.
pub(super) fn print_watched(report: &Report<'_>, watch: &mut Watch) {
    use fmt::Write;
    // The port takes everything, so only a formatter of ours could fail, and none does.
    let _ = writeln!(Port { watch }, "{report}");
}

/// Ends a line that another vCPU may have left unfinished.
pub(super) fn end_line() {
    send(b'\n');
}

struct Port<'a> {
    watch: &'a mut Watch,
}

impl fmt::Write for Port<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            send(byte);
            clock::read(self.watch);
        }
        Ok(())
    }
}

fn send(byte: u8) {
    for _ in 0..PATIENCE {
        if port::read(LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
            break;
        }
    }
    port::write(DATA, byte);
}
