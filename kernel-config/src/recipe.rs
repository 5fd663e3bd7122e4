//! The commands that make a kernel, and their execution.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Instant;

use build_cache::{Cache, CacheError};
use thiserror::Error;

use crate::kernels::{Kernel, OptionsError};
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
    kernel: Kernel,
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
    /// The fragments are not well formed.
    #[error(transparent)]
    Options(#[from] OptionsError),
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
    /// The recipe of `kernel` from `source` with this machine's compiler.
    ///
    /// # Errors
    /// Its fragments are not well formed, or there is no compiler.
    pub fn new(kernel: Kernel, source: Source) -> Result<Self, BuildError> {
        let options = kernel.options()?;
        let commands = [&UNPACK[..], &TINYCONFIG, &OLDDEFCONFIG, &COMPILE, &STRIP]
            .map(|command| command.join(" "))
            .join("\n");
        let environment = ENVIRONMENT.map(|(name, value)| format!("{name}={value}")).join("\n");
        let compiler = compiler_version()?;
        let key = Key::of(&source.version, &[&options.text(), &commands, &environment, &compiler]);
        Ok(Self { kernel, source, options, key })
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

    /// The file with the kernel's finished configuration, checked against what was asked for; from
    /// the cache or made now, which takes a minute. The kernel itself is not built for it.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn configuration(&self, cache: &Cache) -> Result<PathBuf, BuildError> {
        let name = format!("{}-configuration", self.key.as_str());
        let find = || {
            let folder = self.find(cache).map(|kernel| kernel.folder);
            folder.or_else(|| cache.find(&name)).map(|folder| folder.join(KernelFiles::CONFIG))
        };
        if let Some(found) = find() {
            return Ok(found);
        }
        let lock = cache.lock()?;
        if let Some(found) = find() {
            return Ok(found);
        }
        let site = cache.site(&lock)?;
        let build = Build::new(self, site.path(), cache.failure_log(&name))?;
        build.unpack(&self.source)?;
        build.configure(&self.options)?;
        build.stage_configuration()?;
        let folder = cache.publish(&name, &site.path().join("staged"), &[KernelFiles::CONFIG])?;
        build.forget_log()?;
        Ok(folder.join(KernelFiles::CONFIG))
    }
}

/// The kernels of these recipes, in their order, from the cache or built now; building one takes minutes
/// and tells its progress on stderr. The source is unpacked once for all of them. Any number of processes
/// may call this at once: one builds, the others wait for it.
///
/// # Errors
/// The first step that failed. Kernels that were finished before it are in the cache.
pub fn make_all(recipes: &[Recipe], cache: &Cache) -> Result<Vec<KernelFiles>, BuildError> {
    let find = || recipes.iter().map(|recipe| recipe.find(cache)).collect::<Option<Vec<_>>>();
    if let Some(found) = find() {
        return Ok(found);
    }
    let lock = cache.lock()?;
    let site = cache.site(&lock)?;
    let mut is_unpacked = false;
    let mut kernels = Vec::new();
    for recipe in recipes {
        // Whoever held the lock before us may have built this very kernel.
        if let Some(found) = recipe.find(cache) {
            kernels.push(found);
            continue;
        }
        let log = cache.failure_log(recipe.key.as_str());
        let build = Build::new(recipe, site.path(), log)?;
        if !is_unpacked {
            build.unpack(&recipe.source)?;
            is_unpacked = true;
        }
        build.configure(&recipe.options)?;
        build.compile()?;
        build.stage()?;
        let staged = site.path().join("staged");
        let folder = cache.publish(recipe.key.as_str(), &staged, &KernelFiles::ALL)?;
        build.forget_log()?;
        kernels.push(KernelFiles { folder });
    }
    Ok(kernels)
}

/// A build under way.
struct Build<'a> {
    site: &'a Path,
    jobs: usize,
    /// Kept only when the build fails.
    log: PathBuf,
}

impl<'a> Build<'a> {
    /// Begins with an empty log and empty folders beside the source, which may be there already.
    fn new(recipe: &Recipe, site: &'a Path, log: PathBuf) -> Result<Self, BuildError> {
        eprintln!("kernel-config: {}, Linux {}", recipe.kernel.name(), recipe.key.as_str());
        File::create(&log).map_err(file("create the log of the build"))?;
        for folder in ["build", "staged"] {
            let folder = site.join(folder);
            // What the build before left: an object of another configuration must not be taken for ours.
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(BuildError::File("clear the build's folders", error));
                }
                _ => fs::create_dir(&folder).map_err(file("create the build's folders"))?,
            }
        }
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { site, jobs, log })
    }

    fn unpack(&self, source: &Source) -> Result<(), BuildError> {
        fs::create_dir(self.site.join("source")).map_err(file("create the source's folder"))?;
        let command = UNPACK.map(|argument| match argument {
            "{tarball}" => source.tarball.as_os_str(),
            argument => argument.as_ref(),
        });
        self.run("unpacking the source", &command)
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
        let jobs = self.jobs.to_string();
        let command = COMPILE.map(|argument| argument.replace("{jobs}", &jobs));
        self.run("compiling, which takes minutes", &command)
    }

    fn stage(&self) -> Result<(), BuildError> {
        self.run("stripping", &STRIP)?;
        self.copy("build/arch/x86/boot/bzImage", KernelFiles::BZIMAGE)?;
        self.copy("build/System.map", KernelFiles::SYSTEM_MAP)?;
        self.stage_configuration()
    }

    fn stage_configuration(&self) -> Result<(), BuildError> {
        self.copy("build/.config", KernelFiles::CONFIG)
    }

    fn copy(&self, from: &str, to: &str) -> Result<(), BuildError> {
        fs::copy(self.site.join(from), self.site.join("staged").join(to))
            .map_err(file("copy a built file"))?;
        Ok(())
    }

    fn forget_log(&self) -> Result<(), BuildError> {
        fs::remove_file(&self.log).map_err(file("remove the log of the build"))
    }

    fn run(&self, title: &str, command: &[impl AsRef<OsStr>]) -> Result<(), BuildError> {
        eprintln!("kernel-config: {title}");
        let started = Instant::now();
        let log = OpenOptions::new()
            .append(true)
            .open(&self.log)
            .map_err(file("open the log of the build"))?;
        let errors = log.try_clone().map_err(file("open the log of the build"))?;
        let words: Vec<_> = command.iter().map(AsRef::as_ref).collect();
        let spelled = || words.join(OsStr::new(" ")).to_string_lossy().into_owned();
        let status = hermetic(words[0])
            .args(&words[1..])
            .current_dir(self.site)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .status()
            .map_err(|error| {
                BuildError::NotStarted(words[0].to_string_lossy().into_owned(), error)
            })?;
        if !status.success() {
            let (command, log) = (spelled(), self.log.clone());
            return Err(BuildError::Failed { command, status, tail: tail(&log), log });
        }
        eprintln!("kernel-config:   {:.0} s", started.elapsed().as_secs_f64());
        Ok(())
    }
}

/// A command with our environment instead of the caller's.
fn hermetic(program: impl AsRef<OsStr>) -> Command {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel's own, as far as we use it: its configuration is what it was asked for, and its image
    /// is its configuration. An object that an earlier build left ends it.
    const MAKEFILE: &str = "\
tinyconfig:
\ttest ! -e $(O)/object
\techo '# tiny' > $(O)/.config
olddefconfig:
\ttrue
bzImage:
\ttouch $(O)/object $(O)/System.map
\tmkdir -p $(O)/arch/x86/boot
\tcp $(O)/.config $(O)/arch/x86/boot/bzImage
vmlinux:
\tcp /bin/true $(O)/vmlinux
";

    /// A cache, and a source that defines every option but those without which it is made.
    struct Place {
        folder: tempfile::TempDir,
        cache: Cache,
        source: Source,
    }

    impl Place {
        fn new(without: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let tree = folder.path().join("linux");
            fs::create_dir(&tree).unwrap();
            fs::write(tree.join("Makefile"), MAKEFILE).unwrap();
            let asked = Kernel::ALL.map(|kernel| kernel.options().unwrap().text()).concat();
            let names = asked.lines().filter_map(|line| crate::fragment::setting(line));
            let names = names.map(|(name, _)| name).filter(|name| *name != without);
            let kconfig: String =
                names.map(|name| name.replace("CONFIG_", "config ") + "\n").collect();
            fs::write(tree.join("Kconfig"), kconfig).unwrap();
            let tarball = folder.path().join("linux.tar");
            let mut tar = Command::new("tar");
            tar.current_dir(folder.path()).args(["--create", "--file", "linux.tar", "linux"]);
            assert!(tar.status().unwrap().success());
            let cache = Cache::at(&folder.path().join("cache"), "kernel").unwrap();
            Self { folder, cache, source: Source { version: "1".to_owned(), tarball } }
        }

        fn recipe(&self, kernel: Kernel) -> Recipe {
            Recipe::new(kernel, self.source.clone()).unwrap()
        }

        /// What is in the cache beside its lock, sorted.
        fn kept(&self) -> Vec<String> {
            let entries = fs::read_dir(self.folder.path().join("cache/kernel")).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.filter(|name| name != "lock").collect();
            names.sort();
            names
        }
    }

    #[test]
    fn kernels_are_built_from_one_unpacked_source_and_kept_apart() {
        let place = Place::new("");
        let recipes = [place.recipe(Kernel::TestHost), place.recipe(Kernel::Guest)];
        let built = make_all(&recipes, &place.cache).unwrap();
        for (kernel, files) in [Kernel::TestHost, Kernel::Guest].iter().zip(&built) {
            let image = fs::read_to_string(files.folder.join(KernelFiles::BZIMAGE)).unwrap();
            assert_eq!(image, format!("# tiny\n{}", kernel.options().unwrap().text()));
            for file in KernelFiles::ALL {
                assert!(files.folder.join(file).is_file(), "{file}");
            }
        }
        // Nor is there a site or a log of a build that is over.
        assert_eq!(place.kept().len(), 2);

        // Without its source nothing can be built, but what was built is there.
        fs::remove_file(&place.source.tarball).unwrap();
        assert_eq!(make_all(&recipes, &place.cache).unwrap(), built);
        let more = [place.recipe(Kernel::Guest), place.recipe(Kernel::Host)];
        assert!(matches!(make_all(&more, &place.cache), Err(BuildError::Failed { .. })));
    }

    #[test]
    fn a_configuration_is_made_without_a_kernel_and_is_that_of_the_kernel() {
        let place = Place::new("");
        let recipe = place.recipe(Kernel::Host);
        let path = recipe.configuration(&place.cache).unwrap();
        assert_eq!(place.kept(), [format!("{}-configuration", recipe.key.as_str())]);
        let alone = fs::read_to_string(&path).unwrap();
        assert_eq!(recipe.configuration(&place.cache).unwrap(), path);
        assert_eq!(recipe.find(&place.cache), None);

        let [kernel] = &make_all(&[recipe], &place.cache).unwrap()[..] else { panic!() };
        let path = place.recipe(Kernel::Host).configuration(&place.cache).unwrap();
        assert_eq!(path, kernel.folder.join(KernelFiles::CONFIG));
        assert_eq!(fs::read_to_string(path).unwrap(), alone);
    }

    #[test]
    fn a_kernel_without_an_option_that_was_asked_for_is_neither_built_nor_kept() {
        let place = Place::new("CONFIG_KVM_AMD");
        let recipes = [place.recipe(Kernel::Guest), place.recipe(Kernel::TestHost)];
        let error = make_all(&recipes, &place.cache).unwrap_err();
        assert!(error.to_string().contains("CONFIG_KVM_AMD: this kernel has no such"), "{error}");
        // The guest's, which was finished before it, is kept, and the log of what failed.
        let [guest, host] = recipes.each_ref().map(|recipe| recipe.key.as_str());
        assert_eq!(place.kept(), [guest.to_owned(), format!("failed-{host}.log")]);
        assert!(recipes[1].configuration(&place.cache).is_err());
    }

    #[test]
    fn each_kernel_has_a_key_of_its_own() {
        let place = Place::new("");
        let keys = Kernel::ALL.map(|kernel| place.recipe(kernel).key.as_str().to_owned());
        assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2], "{keys:?}");
    }
}
