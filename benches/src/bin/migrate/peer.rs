//! QEMU: two processes of its microvm, one in each namespace, over plain TCP.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use benches::{Guest, Stop};
use serde_json::{Value, json};

use crate::flow::Flow;
use crate::load::Load;
use crate::outcome::{Ended, Moved, nanoseconds};
use crate::qmp::Qmp;
use crate::site::{Site, program};
use crate::usage::{Usage, thread_ns};
use benches::network::{DESTINATION, HOSTS, Network, SOURCE, inside};

const PROGRAM: &str = "qemu-system-x86_64";
/// A microvm without what this guest does not need. Its memory is what QEMU takes by itself.
const MACHINE: &str = "microvm,accel=kvm,acpi=off,pcie=off,usb=off,ioapic2=off,pic=off,pit=off,\
                       rtc=off,auto-kernel-cmdline=off,x-option-roms=off";
const PORT: u16 = 4444;
/// No limit: QEMU's own is 1 Gbit/s.
const MAX_BANDWIDTH: u64 = 10 << 30;

/// A way in which QEMU can move a guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    capability: Option<&'static str>,
    parameters: fn() -> Value,
}

pub(crate) const WAYS: [Way; 3] = [
    Way { name: "QEMU", capability: None, parameters: || json!({}) },
    Way {
        name: "multifd 4, zstd 1",
        capability: Some("multifd"),
        parameters: || {
            json!({
                "multifd-channels": 4,
                "multifd-compression": "zstd",
                "multifd-zstd-level": 1,
            })
        },
    },
    // Its cache has 64 MiB by default: more than the guest writes again and again.
    Way { name: "xbzrle", capability: Some("xbzrle"), parameters: || json!({}) },
];

/// Its own words.
pub(crate) fn version() -> Result<String, Stop> {
    let output = Command::new(PROGRAM).arg("--version").output().map_err(|error| {
        Stop::Skipped(format!("{PROGRAM}: {error}; Debian's qemu-system-x86 has it"))
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or("QEMU of an unknown version").to_owned())
}

/// Starts a new guest, moves it, looks at it, and ends both processes.
pub(crate) fn move_one(
    site: &Site,
    load: &Load,
    rate: Option<u64>,
    way: Way,
) -> Result<Ended, Stop> {
    let mut source = Process::start(site, SOURCE, load, &[])?;
    let writes_before = load.warm_up(&mut source.guest)?;
    let mut destination = Process::start(site, DESTINATION, load, &["-incoming", "defer"])?;
    for process in [&mut source, &mut destination] {
        process.prepare(way, load.downtime_ms)?;
    }
    let uri = json!({"uri": format!("tcp:{}:{PORT}", Network::address(DESTINATION))});
    destination.qmp.execute("migrate-incoming", &uri)?;

    let cpu_before = [source.usage_ns()?, destination.usage_ns()?];
    let guest_before = source.guest_ns()?;
    let flow = Flow::start(rate)?;
    source.qmp.execute("migrate", &uri)?;
    let end = flow.began() + load.limit;
    let is_over = |event: &Value| {
        event["event"] == "MIGRATION"
            && (event["data"]["status"] == "completed" || event["data"]["status"] == "failed")
    };
    let Some((_, over)) = source.qmp.event(end, is_over)? else { return Ok(Ended::Late) };
    if over["data"]["status"] != "completed" {
        let info = source.qmp.execute("query-migrate", &json!({}))?;
        return Ok(Ended::Failed(info["error-desc"].to_string()));
    }
    let resume = destination.qmp.event(end, |event| event["event"] == "RESUME")?;
    let flow = flow.end()?;
    let cpu_after = [source.usage_ns()?, destination.usage_ns()?];
    let stop = source.qmp.event(end, |event| event["event"] == "STOP")?;
    let (Some((resumed, _)), Some((stopped, _))) = (resume, stop) else {
        return Ok(Ended::Late);
    };
    let info = source.qmp.execute("query-migrate", &json!({}))?;
    let gap_ns = load.inspect(&mut destination.guest, writes_before)?;
    Ok(Ended::Moved(Moved {
        flow,
        pause_ns: nanoseconds(resumed.saturating_duration_since(stopped)),
        reported_pause_ns: info["downtime"].as_u64().map(|ms| ms * 1_000_000),
        gap_ns,
        cpu_ns: [0, 1].map(|host| cpu_after[host].saturating_sub(cpu_before[host])),
        guest_ns: source.guest_ns()? - guest_before,
        causes: Vec::new(),
        account: info,
    }))
}

/// A running QEMU, killed when it is dropped.
struct Process {
    child: Child,
    qmp: Qmp,
    guest: Guest,
    vcpu: u32,
}

impl Process {
    fn start(site: &Site, host: usize, load: &Load, more: &[&str]) -> Result<Self, Stop> {
        let socket = site.sockets().join(format!("{}.qmp", HOSTS[host]));
        let _ = std::fs::remove_file(&socket);
        let log = site.sockets().join(format!("{}.qemu", HOSTS[host]));
        let log = File::create(log).map_err(Stop::failed("a log"))?;
        let (console, theirs) = UnixStream::pair().map_err(Stop::failed("the console"))?;
        let theirs = OwnedFd::from(theirs);
        let input = theirs.try_clone().map_err(Stop::failed("the console"))?;
        let mut command = program(PROGRAM);
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-M", MACHINE, "-cpu", "host,-arch-capabilities"])
            .args(["-m", &format!("{}M", load.memory_bytes >> 20), "-smp", "1"])
            .args(["-append", &load.command_line, "-serial", "stdio", "-qmp"])
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .arg("-kernel")
            .arg(&load.kernel)
            .arg("-initrd")
            .arg(&load.initrd)
            .args(more)
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(theirs))
            .stderr(log);
        let child = inside(host, || command.spawn())?.map_err(Stop::failed(PROGRAM))?;
        // Its ends of the console are the child's alone from here on.
        drop(command);
        let mut child = Killed(Some(child));
        let mut qmp = Qmp::connect(&socket)?;
        let cpus = qmp.execute("query-cpus-fast", &json!({}))?;
        let vcpu = cpus[0]["thread-id"].as_u64().and_then(|id| u32::try_from(id).ok());
        let vcpu = vcpu.ok_or_else(|| Stop::Failed("QEMU has no vCPU".into()))?;
        let guest = Guest::new(console)?;
        let child = child.0.take().ok_or_else(|| Stop::Failed(PROGRAM.into()))?;
        Ok(Self { child, qmp, guest, vcpu })
    }

    /// The capabilities and parameters of a way, the same on both sides.
    fn prepare(&mut self, way: Way, downtime_ms: u64) -> Result<(), Stop> {
        let on = |name| json!({"capability": name, "state": true});
        let capabilities: Vec<_> = ["events"].into_iter().chain(way.capability).map(on).collect();
        let capabilities = json!({"capabilities": capabilities});
        self.qmp.execute("migrate-set-capabilities", &capabilities)?;
        let limits = json!({"max-bandwidth": MAX_BANDWIDTH, "downtime-limit": downtime_ms});
        for parameters in [limits, (way.parameters)()] {
            self.qmp.execute("migrate-set-parameters", &parameters)?;
        }
        Ok(())
    }

    fn usage_ns(&self) -> Result<u64, Stop> {
        let usage = Usage::of(self.child.id());
        let usage = usage.ok_or_else(|| Stop::Failed("QEMU has ended".into()))?;
        Ok(usage.own_ns.saturating_sub(self.guest_ns()?))
    }

    fn guest_ns(&self) -> Result<u64, Stop> {
        let ns = thread_ns(self.child.id(), self.vcpu);
        ns.ok_or_else(|| Stop::Failed("QEMU has ended".into()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// A child that is killed unless it is taken out.
struct Killed(Option<Child>);

impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
