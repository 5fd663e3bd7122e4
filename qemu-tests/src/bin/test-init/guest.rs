//! A guest's init: says what kind of machine it is in, and ends it.

use std::fs;
use std::io::{self, Write as _};

use rustix::system::RebootCommand;

use crate::{kmsg, system};

const CLOCKSOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

pub(crate) fn run() -> io::Result<()> {
    system::mount_all()?;
    let clocksource = fs::read_to_string(CLOCKSOURCE)?;
    let mut console = io::stdout();
    writeln!(
        console,
        "guest: init reached {} clocksource={}",
        system::facts(),
        clocksource.trim_end()
    )?;
    for warning in kmsg::warnings()? {
        writeln!(console, "guest: warn {warning}")?;
    }
    let command = end(&fs::read_to_string("/proc/cmdline")?);
    writeln!(console, "guest: end {command:?}")?;
    console.flush()?;
    Err(system::end(command))
}

/// A guest switches itself off unless its command line says `test-init.end=reboot`: a machine model
/// may have no power-off yet. The kernel ignores parameters with a dot that it does not know.
fn end(cmdline: &str) -> RebootCommand {
    if cmdline.split_ascii_whitespace().any(|word| word == "test-init.end=reboot") {
        RebootCommand::Restart
    } else {
        RebootCommand::PowerOff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_reboots_only_when_its_command_line_says_so() {
        assert_eq!(end("console=ttyS0 test-init.end=reboot panic=-1\n"), RebootCommand::Restart);
        for other in ["", "test-init.end=reboots", "x.test-init.end=reboot"] {
            assert_eq!(end(other), RebootCommand::PowerOff);
        }
    }
}
