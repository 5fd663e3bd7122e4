//! How long a Linux guest takes to its init on our VMM, and on QEMU's microvm in the same host, by turns:
//! `compare-boot [TIMES]`. Needs the QEMU of this machine, which is put into the host with all its libraries.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use qemu_tests::{Case, Ending, HostImage, Initramfs, guest_kernel, novacron};

type Failure = Box<dyn std::error::Error>;

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// What QEMU reads for a microvm that boots a kernel; it is found here as well when it runs in the host.
const FIRMWARE: &str = "/usr/share/qemu";
const FIRMWARE_FILES: [&str; 4] =
    ["bios-microvm.bin", "linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin"];
/// What init says when it runs.
const REACHED: &str = "guest: init reached";
/// As the tests start their guests; `reboot=t` ends QEMU's microvm, which has no power-off, by a triple fault.
const CMDLINE: &str = "console=ttyS0 quiet noxsave panic=-1 reboot=t";
/// Emulation is slow.
const TIME_LIMIT: Duration = Duration::from_secs(900);

fn main() -> ExitCode {
    let times = std::env::args().nth(1).map_or(Ok(5), |times| times.parse());
    let outcome = times.map_err(Failure::from).and_then(run);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare-boot: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(times: u32) -> Result<(), Failure> {
    let logs = tempfile::tempdir()?;
    let Some(case) = Case::begin("compare-boot", logs.path()) else { return Err("no QEMU".into()) };
    let test_init = beside("test-init")?;
    let mut initrd = Initramfs::new();
    initrd.add_program("/init", &test_init)?;
    let mut host = HostImage::new(&test_init)?
        .memory_mib(1536)
        .program("/bin/novacron", &novacron()?)?
        .file("/guest/vmlinux", &guest_kernel()?.vmlinux)?
        .content("/guest/initrd", &initrd.finish()?)?
        .program(QEMU, Path::new(QEMU))?
        .time_limit(TIME_LIMIT);
    for library in libraries()? {
        let path = library.to_str().ok_or("a library's path is no UTF-8")?;
        host = host.program(path, &library)?;
    }
    for name in FIRMWARE_FILES {
        let path = format!("{FIRMWARE}/{name}");
        host = host.file(&path, Path::new(&path))?;
    }
    let [ours, theirs] = [novacron_command(), qemu_command()];
    for _ in 0..times {
        host = host.run(&ours).run(&theirs);
    }
    let report = host.boot(&case)?.finish()?;
    let (mut novacron_ms, mut qemu_ms) = (Vec::new(), Vec::new());
    for run in &report.runs {
        let said = run.output.iter().find_map(|line| line.strip_prefix("time: "));
        let ms: Option<u64> = said.and_then(|ms| ms.strip_suffix(" ms")?.parse().ok());
        match ms.filter(|_| run.ending == Ending::Exit(0)) {
            Some(ms) if run.command.contains(QEMU) => qemu_ms.push(ms),
            Some(ms) => novacron_ms.push(ms),
            None => return Err(run.to_string().into()),
        }
    }
    print("novacron", &mut novacron_ms);
    print("QEMU microvm", &mut qemu_ms);
    let percent = median(&novacron_ms) * 100 / median(&qemu_ms).max(1);
    println!("novacron takes {percent} % of QEMU's time, at the medians");
    Ok(())
}

fn novacron_command() -> Vec<String> {
    let command =
        ["/init", "time", REACHED, "/bin/novacron", "run", "linux", "--rm", "--memory", "256M"];
    let guest = ["--kernel", "/guest/vmlinux", "--initrd", "/guest/initrd", "--cmdline", CMDLINE];
    command.into_iter().chain(guest).map(str::to_owned).collect()
}

fn qemu_command() -> Vec<String> {
    let machine = "microvm,pit=off,pic=off,rtc=on,acpi=on";
    let command = ["/init", "time", REACHED, QEMU, "-M", machine, "-accel", "kvm", "-cpu", "host"];
    let bare = ["-m", "256M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"];
    let guest = ["-serial", "stdio", "-kernel", "/guest/vmlinux", "-initrd", "/guest/initrd"];
    let all = command.into_iter().chain(bare).chain(guest).chain(["-append", CMDLINE]);
    all.map(str::to_owned).collect()
}

/// The shared libraries of QEMU, and the loader that loads them.
fn libraries() -> Result<BTreeSet<PathBuf>, Failure> {
    let output = Command::new("ldd").arg(QEMU).output()?;
    let text = String::from_utf8(output.stdout)?;
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    let libraries: BTreeSet<_> = paths.map(PathBuf::from).collect();
    if libraries.is_empty() {
        Err(format!("ldd finds no library of {QEMU}").into())
    } else {
        Ok(libraries)
    }
}

fn beside(name: &str) -> Result<PathBuf, Failure> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.is_file() { Ok(path) } else { Err(format!("{} is missing", path.display()).into()) }
}

fn median(sorted: &[u64]) -> u64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

fn print(name: &str, ms: &mut [u64]) {
    ms.sort_unstable();
    println!("{name}: {} ms to the guest's init at the median of {ms:?}", median(ms));
}
