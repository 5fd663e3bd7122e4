//! The commands that make a kernel, and their execution.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Instant;

use build_cache::{Cache, CacheError};
use thiserror::Error;

use crate::key::{KernelFiles, Key};
use crate::options::{Deviation, Options};
use crate::source::Source;
use crate::symbols;

/// `{tarball}` and `{jobs}` are filled in when a command runs: neither changes what it makes.
/// Every path is relative to the folder that the kernel is built in.
const UNPACK: [&str; 6] =
    ["tar", "--extract", "--strip-components=1", "--directory=source", "--file", "{tarball}"];
const TINYCONFIG: [&str; 7] =
    ["make", "--silent", "-C", "source", "O=../build", "ARCH=x86_64", "tinyconfig"];
const OLDDEFCONFIG: [&str; 7] =
    ["make", "--silent", "-C", "source", "O=../build", "ARCH=x86_64", "olddefconfig"];
const COMPILE: [&str; 8] =
    ["make", "-C", "source", "O=../build", "ARCH=x86_64", "--jobs={jobs}", "bzImage", "vmlinux"];
/// Symbols are in System.map; without them the ELF is what a loader reads and nothing else.
const STRIP: [&str; 5] = ["strip", "--strip-all", "-o", "staged/vmlinux", "build/vmlinux"];

/// Of the caller's environment only PATH reaches the commands: a stray `ARCH`, `LOCALVERSION` or
/// `MAKEFLAGS` would build another kernel under the same key. The rest makes two builds equal.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("HOME", "/nonexistent"),
    ("KBUILD_BUILD_HOST", "novacron"),
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "novacron"),
    ("KBUILD_BUILD_VERSION", "1"),
    ("LC_ALL", "C"),
];

/// How many lines of a failed command's output are shown.
const LINES_SHOWN: usize = 30;

/// A kernel that can be built: what it is made of, and under which key it is kept.
#[derive(Debug)]
pub struct Recipe {
    source: Source,
    options: Options,
    key: Key,
}

/// Why there is no kernel.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A program could not be started, most likely because its package is missing.
    #[error("cannot run `{0}`; is its package installed?")]
    NotStarted(String, #[source] io::Error),
    /// A program ran and failed.
    #[error("`{command}` ended with {status}; its log is {}\n{tail}", .log.display())]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// Everything that the build printed.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// Options are not as the fragments ask.
    #[error("the kernel's configuration is not what the fragments ask for:\n{}", list(.0))]
    Deviates(Vec<Deviation>),
    /// A file of the build cannot be read or written.
    #[error("cannot {0}")]
    File(&'static str, #[source] io::Error),
}

impl Recipe {
    /// The recipe for `options` from `source` with this machine's compiler.
    ///
    /// # Errors
    /// There is no compiler.
    pub fn new(source: Source, options: Options) -> Result<Self, BuildError> {
        let commands = [&UNPACK[..], &TINYCONFIG, &OLDDEFCONFIG, &COMPILE, &STRIP]
            .map(|command| command.join(" "))
            .join("\n");
        let environment = ENVIRONMENT.map(|(name, value)| format!("{name}={value}")).join("\n");
        let compiler = compiler_version()?;
        let key = Key::of(&source.version, &[&options.text(), &commands, &environment, &compiler]);
        Ok(Self { source, options, key })
    }

    /// Under which the kernel is kept.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The kernel, if the cache has it.
    #[must_use]
    pub fn find(&self, cache: &Cache) -> Option<KernelFiles> {
        cache.find(self.key.as_str()).map(|folder| KernelFiles { folder })
    }

    /// The kernel, from the cache or built now; building takes minutes and tells its progress on
    /// stderr. Any number of processes may call this at once: one builds, the others wait for it.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn make(&self, cache: &Cache) -> Result<KernelFiles, BuildError> {
        if let Some(found) = self.find(cache) {
            return Ok(found);
        }
        let lock = cache.lock()?;
        // Whoever held the lock before us may have built this very kernel.
        if let Some(found) = self.find(cache) {
            return Ok(found);
        }
        eprintln!("kernel-config: building Linux {}", self.key.as_str());
        let site = cache.site(&lock)?;
        let build = Build {
            site: site.path(),
            tarball: &self.source.tarball,
            jobs: thread::available_parallelism().map_or(1, usize::from),
            log: cache.failure_log(self.key.as_str()),
        };
        build.unpack()?;
        build.configure(&self.options)?;
        build.compile()?;
        build.stage()?;
        let staged = build.site.join("staged");
        let folder = cache.publish(self.key.as_str(), &staged, &KernelFiles::ALL)?;
        fs::remove_file(&build.log).map_err(file("remove the log of the build"))?;
        Ok(KernelFiles { folder })
    }
}

/// A build under way.
struct Build<'a> {
    site: &'a Path,
    tarball: &'a Path,
    jobs: usize,
    /// Kept only when the build fails.
    log: PathBuf,
}

impl Build<'_> {
    fn unpack(&self) -> Result<(), BuildError> {
        File::create(&self.log).map_err(file("create the log of the build"))?;
        for folder in ["source", "build", "staged"] {
            fs::create_dir(self.site.join(folder)).map_err(file("create the build's folders"))?;
        }
        self.run("unpacking the source", &UNPACK)
    }

    /// Tiny, plus what we ask for, plus what the kernel says must follow from that; and then the
    /// check that it followed.
    fn configure(&self, options: &Options) -> Result<(), BuildError> {
        self.run("starting from the smallest configuration", &TINYCONFIG)?;
        let config = self.site.join("build/.config");
        OpenOptions::new()
            .append(true)
            .open(&config)
            .and_then(|mut file| file.write_all(options.text().as_bytes()))
            .map_err(file("append to build/.config"))?;
        self.run("merging the fragments", &OLDDEFCONFIG)?;
        let text = fs::read_to_string(&config).map_err(file("read build/.config"))?;
        let known = symbols::defined_in(&self.site.join("source"))
            .map_err(file("read the source's Kconfig files"))?;
        let deviations = options.deviations(&text, &known);
        if deviations.is_empty() { Ok(()) } else { Err(BuildError::Deviates(deviations)) }
    }

    fn compile(&self) -> Result<(), BuildError> {
        self.run("compiling, about nine minutes on two processors", &COMPILE)
    }

    fn stage(&self) -> Result<(), BuildError> {
        self.run("stripping", &STRIP)?;
        for (from, to) in [
            ("build/arch/x86/boot/bzImage", KernelFiles::BZIMAGE),
            ("build/System.map", KernelFiles::SYSTEM_MAP),
            ("build/.config", KernelFiles::CONFIG),
        ] {
            fs::copy(self.site.join(from), self.site.join("staged").join(to))
                .map_err(file("copy a built file"))?;
        }
        Ok(())
    }

    fn run(&self, title: &str, command: &[&str]) -> Result<(), BuildError> {
        eprintln!("kernel-config: {title}");
        let started = Instant::now();
        let log = OpenOptions::new()
            .append(true)
            .open(&self.log)
            .map_err(file("open the log of the build"))?;
        let errors = log.try_clone().map_err(file("open the log of the build"))?;
        let arguments = command[1..].iter().map(|argument| match *argument {
            "{tarball}" => self.tarball.into(),
            argument => argument.replace("{jobs}", &self.jobs.to_string()).into(),
        });
        let status = hermetic(command[0])
            .args(arguments.collect::<Vec<OsString>>())
            .current_dir(self.site)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .status()
            .map_err(|error| BuildError::NotStarted(command[0].to_owned(), error))?;
        if !status.success() {
            let (command, log) = (command.join(" "), self.log.clone());
            return Err(BuildError::Failed { command, status, tail: tail(&log), log });
        }
        eprintln!("kernel-config:   {:.0} s", started.elapsed().as_secs_f64());
        Ok(())
    }
}

/// A command with our environment instead of the caller's.
fn hermetic(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(ENVIRONMENT);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// The compiler's and linker's own words about themselves: another one makes another kernel.
fn compiler_version() -> Result<String, BuildError> {
    let mut versions = String::new();
    for program in ["gcc", "ld"] {
        let output = hermetic(program)
            .arg("--version")
            .output()
            .map_err(|error| BuildError::NotStarted(program.to_owned(), error))?;
        versions.push_str(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or(""));
        versions.push('\n');
    }
    Ok(versions)
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
}

fn list(deviations: &[Deviation]) -> String {
    deviations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn file(doing: &'static str) -> impl FnOnce(io::Error) -> BuildError {
    move |error| BuildError::File(doing, error)
}
