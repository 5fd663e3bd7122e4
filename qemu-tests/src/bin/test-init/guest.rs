//! A guest's init: says what kind of machine it is in, and ends it.

use std::fs;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::system::RebootCommand;
use rustix::termios::tcdrain;

use crate::{busy, cpuid, kmsg, platform, system};

const CLOCKSOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// Who loaded the kernel, as the boot protocol numbers it: a kernel that was entered through PVH writes its own number.
const LOADER: &str = "/proc/sys/kernel/bootloader_type";

/// Waits for the power button before it ends.
const WAIT: &str = "test-init.wait=power-button";
/// Works while it waits.
const BUSY: &str = "test-init.busy";
/// Ends by a reboot; else it switches itself off.
const REBOOT: &str = "test-init.end=reboot";

pub(crate) fn run() -> io::Result<()> {
    system::mount_all()?;
    let cmdline = fs::read_to_string("/proc/cmdline")?;
    let clocksource = fs::read_to_string(CLOCKSOURCE)?;
    let loader = fs::read_to_string(LOADER)?;
    let mut console = io::stdout();
    writeln!(
        console,
        "guest: init reached {} clocksource={} loader={}",
        system::facts(),
        clocksource.trim_end(),
        loader.trim_end()
    )?;
    for line in platform::lines()? {
        writeln!(console, "guest: {line}")?;
    }
    if says(&cmdline, WAIT) {
        let mut button = platform::PowerButton::open()?;
        writeln!(console, "guest: waits for its power button")?;
        console.flush()?;
        if says(&cmdline, BUSY) {
            work_until(|| button.wait())?;
        } else {
            button.wait()?;
        }
        writeln!(console, "guest: power button was pressed")?;
    }
    for warning in kmsg::warnings()? {
        writeln!(console, "guest: warn {warning}")?;
    }
    if says(&cmdline, "test-init.cpuid") {
        for line in cpuid::lines()? {
            writeln!(console, "guest: cpuid {line}")?;
        }
    }
    let command = end(&cmdline);
    writeln!(console, "guest: end {command:?}")?;
    console.flush()?;
    // The kernel's last words do not wait for what the terminal still has, and would cut a line in two.
    tcdrain(&console)?;
    Err(system::end(command))
}

/// Keeps the machine busy until `wait` returns.
fn work_until(wait: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let workers = busy::Workers::start()?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let clocks = scope.spawn(|| busy::watch_clocks(&done));
        let waited = wait();
        done.store(true, Ordering::Relaxed);
        let watched = clocks.join().map_err(|_| io::Error::other("the watch of the clocks"))?;
        waited.and(watched)
    })?;
    workers.end()
}

fn end(cmdline: &str) -> RebootCommand {
    if says(cmdline, REBOOT) { RebootCommand::Restart } else { RebootCommand::PowerOff }
}

/// Whether the command line has this word. The kernel ignores parameters with a dot that it does not
/// know.
fn says(cmdline: &str, wanted: &str) -> bool {
    cmdline.split_ascii_whitespace().any(|word| word == wanted)
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
