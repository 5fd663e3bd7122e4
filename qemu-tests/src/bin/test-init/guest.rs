//! A guest's init: says what kind of machine it is in, and ends it.

use std::fs;
use std::io::{self, Write as _};

use rustix::system::RebootCommand;

use crate::{cpuid, kmsg, system};

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
    let cmdline = fs::read_to_string("/proc/cmdline")?;
    if says(&cmdline, "test-init.cpuid") {
        for line in cpuid::lines()? {
            writeln!(console, "guest: cpuid {line}")?;
        }
    }
    let command = end(&cmdline);
    writeln!(console, "guest: end {command:?}")?;
    console.flush()?;
    Err(system::end(command))
}

/// A guest switches itself off unless its command line says `test-init.end=reboot`: a machine model
/// may have no power-off yet. The kernel ignores parameters with a dot that it does not know.
fn end(cmdline: &str) -> RebootCommand {
    if says(cmdline, "test-init.end=reboot") {
        RebootCommand::Restart
    } else {
        RebootCommand::PowerOff
    }
}

fn says(cmdline: &str, word: &str) -> bool {
    cmdline.split_ascii_whitespace().any(|said| said == word)
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
