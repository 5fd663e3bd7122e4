//! Makes pages to measure with: the memory of a Debian that has run under QEMU's emulation, with a
//! database, a key-value store, a web server, arrays of numbers and a page cache in it; twice, before and
//! after a while of work. Made once a machine, and kept in the cache by the hash of its recipe.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use benches::{Stop, finish};
use build_cache::Cache;
use clap::Parser;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// The kind under which images are kept.
const IMAGES: &str = "memory-image";
/// What an image consists of: memory when it was filled and after some work, what is installed in the
/// guest, and its console.
const FILES: [&str; 4] = ["filled", "worked", "packages", "console.log"];

const FILL: &str = include_str!("../../memory-image/fill.py");
const SERVICE: &str = include_str!("../../memory-image/fill.service");

const SUITE: &str = "bookworm";
const PACKAGES: &str = "linux-image-cloud-amd64,systemd-sysv,udev,redis-server,nginx-light,python3,\
                        python3-numpy,iproute2";
/// Commands in the root file system, `$1`, which then becomes a disk. Below it are mounts, `/proc` among
/// them, which a bind leaves out.
const CUSTOMIZE: [&str; 4] = [
    r#"install -D fill.py "$1/usr/local/lib/fill.py""#,
    r#"install -D fill.service "$1/etc/systemd/system/fill.service""#,
    r#"chroot "$1" systemctl --quiet enable fill.service redis-server.service nginx.service"#,
    r#"chroot "$1" dpkg-query --show > staged/packages
cp "$1"/boot/vmlinuz-* vmlinuz
cp "$1"/boot/initrd.img-* initrd
mkdir root
mount --bind "$1" root
mke2fs -q -t ext4 -d root disk 3G
umount root"#,
];
const MEMORY_MIB: u64 = 768;
/// Everything that QEMU is told, in the folder of the build. Each serial port of the guest: its console, and what
/// this program speaks with.
const QEMU: &str = "-nodefaults -no-user-config -display none -no-reboot -M q35 -accel tcg -cpu max -smp 1 \
     -object memory-backend-file,id=ram,mem-path=ram,size=768M,share=on -M memory-backend=ram -m 768M \
     -kernel vmlinuz -initrd initrd -drive file=disk,format=raw,if=virtio,cache=unsafe \
     -serial file:staged/console.log -serial stdio";
const CMDLINE: &str = "root=/dev/vda rw console=ttyS0 fill.seed=";

/// For the guest to boot and fill its memory, or to work: several times what it takes here.
const LIMIT: Duration = Duration::from_secs(1800);
/// Copied at a time; blocks of zeros stay holes.
const BLOCK: usize = 64 << 10;

/// Prints the folder of a memory image, which has the files `filled` and `worked`; makes it if there is
/// none
#[derive(Debug, Parser)]
struct Options {
    /// All content follows from it
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u32,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Stop> {
    let cache = Cache::open(IMAGES).map_err(Stop::failed("the cache"))?;
    let name = name(options.seed);
    let folder = match cache.find(&name) {
        Some(folder) => folder,
        None => make(&cache, &name, options.seed)?,
    };
    println!("{}", folder.display());
    Ok(())
}

/// The name of the image of this seed: a hash of all that decides on its content, but for the versions of
/// packages, which are Debian's of the day and listed in the image.
fn name(seed: u32) -> String {
    let customize = CUSTOMIZE.join("\n");
    let recipe = [SUITE, PACKAGES, &customize, QEMU, CMDLINE, FILL, SERVICE].join("\0");
    let hash = blake3::hash(recipe.as_bytes()).to_hex();
    format!("{SUITE}-{}-seed-{seed}", &hash[..16])
}

fn make(cache: &Cache, name: &str, seed: u32) -> Result<PathBuf, Stop> {
    let lock = cache.lock().map_err(Stop::failed("the cache"))?;
    // Whoever held the lock before may have made this very image.
    if let Some(folder) = cache.find(name) {
        return Ok(folder);
    }
    let site = cache.site(&lock).map_err(Stop::failed("the cache"))?;
    let site = site.path();
    let prepare = || {
        fs::create_dir(site.join("staged"))?;
        fs::write(site.join("fill.py"), FILL)?;
        fs::write(site.join("fill.service"), SERVICE)
    };
    prepare().map_err(Stop::failed("the folder of the build"))?;

    eprintln!("memory-image: installing Debian {SUITE} on a disk");
    install(site)?;
    eprintln!("memory-image: booting it under emulation, and filling its memory");
    let mut guest = Guest::start(site, seed)?;
    guest.wait_for("filled")?;
    guest.copy_memory(&site.join("staged/filled"))?;
    eprintln!("memory-image: it works for a while");
    guest.go_on()?;
    guest.wait_for("worked")?;
    guest.copy_memory(&site.join("staged/worked"))?;
    drop(guest);
    cache.publish(name, &site.join("staged"), &FILES).map_err(Stop::failed("the cache"))
}

/// Makes `disk`, `vmlinuz` and `initrd` in this folder. Hooks run with the rights that the file system's
/// owners need, so that root is not needed where user namespaces are.
fn install(site: &Path) -> Result<(), Stop> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase", "--format=null", "--include", PACKAGES]);
    for hook in CUSTOMIZE {
        command.args(["--customize-hook", hook]);
    }
    let log = File::create(site.join("install.log")).map_err(Stop::failed("install.log"))?;
    let status = command
        .args([SUITE, "-"])
        .current_dir(site)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .status()
        .map_err(|error| {
            Stop::Failed(format!(
                "mmdebstrap: {error}; `cargo xtask bench memory-image` installs it"
            ))
        })?;
    if status.success() {
        return Ok(());
    }
    let said = fs::read_to_string(site.join("install.log")).unwrap_or_default();
    let lines: Vec<_> = said.lines().collect();
    let last = lines[lines.len().saturating_sub(20)..].join("\n");
    Err(Stop::Failed(format!("mmdebstrap ended with {status}:\n{last}")))
}

/// A running QEMU, killed when it is dropped.
struct Guest {
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    memory: File,
    console: PathBuf,
}

impl Guest {
    fn start(site: &Path, seed: u32) -> Result<Self, Stop> {
        let process = Command::new("qemu-system-x86_64")
            .args(QEMU.split_whitespace())
            .args(["-append", &format!("{CMDLINE}{seed}")])
            .current_dir(site)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut process = process.map_err(Stop::failed("qemu-system-x86_64"))?;
        let (input, output) = (process.stdin.take(), process.stdout.take());
        let (Some(input), Some(output)) = (input, output) else {
            return Err(Stop::Failed("QEMU without its streams".to_owned()));
        };
        let lines = lines(output);
        let console = site.join("staged/console.log");
        // QEMU has made the file before the guest says a word; until then, this is an empty one.
        let memory = site.join("ram");
        let memory =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(memory);
        let memory = memory.map_err(Stop::failed("the guest's memory"))?;
        Ok(Self { process, input, lines, memory, console })
    }

    /// Waits for this line.
    fn wait_for(&mut self, line: &str) -> Result<(), Stop> {
        let end = Instant::now() + LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let why = match self.lines.recv_timeout(left) {
                Ok(said) if said.trim() == line => return Ok(()),
                Ok(_) => continue,
                Err(RecvTimeoutError::Timeout) => format!("the guest did not say `{line}` in time"),
                Err(RecvTimeoutError::Disconnected) => "QEMU has ended".to_owned(),
            };
            let console = fs::read(&self.console).unwrap_or_default();
            let console = String::from_utf8_lossy(&console);
            let lines: Vec<_> = console.lines().collect();
            let last = lines[lines.len().saturating_sub(20)..].join("\n");
            return Err(Stop::Failed(format!("{why}; the end of its console:\n{last}")));
        }
    }

    fn go_on(&mut self) -> Result<(), Stop> {
        self.input.write_all(b"\n").map_err(Stop::failed("the guest's terminal"))
    }

    /// Writes down the memory as it is at one instant: QEMU stands still meanwhile.
    fn copy_memory(&self, to: &Path) -> Result<(), Stop> {
        let id = Pid::from_child(&self.process);
        let signal = |signal| kill_process(id, signal).map_err(Stop::failed("QEMU"));
        signal(Signal::STOP)?;
        waitpid(Some(id), WaitOptions::UNTRACED).map_err(Stop::failed("QEMU"))?;
        copy_sparse(&self.memory, to).map_err(Stop::failed("copying the guest's memory"))?;
        signal(Signal::CONT)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn lines(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

fn copy_sparse(from: &File, to: &Path) -> io::Result<()> {
    let to = File::create_new(to)?;
    let bytes = MEMORY_MIB << 20;
    to.set_len(bytes)?;
    let mut block = vec![0; BLOCK];
    for offset in (0..bytes).step_by(BLOCK) {
        from.read_exact_at(&mut block, offset)?;
        if block.iter().any(|byte| *byte != 0) {
            to.write_all_at(&block, offset)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_for_its_seed_and_its_recipe() {
        assert_ne!(name(1), name(2));
        assert_eq!(name(1), name(1));
        assert!(QEMU.contains(&format!("size={MEMORY_MIB}M,")));
    }

    #[test]
    fn holes_stay_holes_and_content_is_content() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(from);
        let file = file.unwrap();
        file.set_len(MEMORY_MIB << 20).unwrap();
        file.write_all_at(b"content", 5 << 20).unwrap();
        copy_sparse(&file, &to).unwrap();
        let copy = File::open(&to).unwrap();
        let mut found = [1; 9];
        copy.read_exact_at(&mut found, (5 << 20) - 1).unwrap();
        assert_eq!(&found, b"\0content\0");
        let metadata = copy.metadata().unwrap();
        assert_eq!(metadata.len(), MEMORY_MIB << 20);
        assert!(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512 <= BLOCK as u64);
    }
}
