//! The daemon that a verb speaks to; one is started for those that need one.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use control::api::Info;
use control::{CallError, Client};

use crate::Failure;
use crate::globals::Globals;

/// How long a daemon that was just started may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connects to the daemon that is there.
pub(crate) fn connect(globals: &Globals) -> Result<Client, Failure> {
    Client::new(&globals.socket()?).map_err(Failure::other("a client"))
}

/// Connects to the daemon, and starts one if there is none.
pub(crate) fn connect_or_start(globals: &Globals) -> Result<Client, Failure> {
    let client = connect(globals)?;
    match client.get::<Info>("/v1/info") {
        Err(CallError::NoDaemon { .. }) => {}
        outcome => return outcome.map(|_| client).map_err(Failure::from),
    }
    let folder = client.socket().parent().unwrap_or(Path::new("/")).to_owned();
    std::fs::create_dir_all(&folder).map_err(Failure::other("the socket's folder"))?;
    let log_path = folder.join("daemon.log");
    let options = File::options().create(true).append(true).read(true).open(&log_path);
    let mut log = options.map_err(Failure::other("the daemon's log"))?;
    let start = log.seek(SeekFrom::End(0)).map_err(Failure::other("the daemon's log"))?;
    let mut command = daemon_command(client.socket(), &log)?;
    command.arg("--detached").envs(globals.log.environment()).process_group(0);
    let mut daemon = command.spawn().map_err(Failure::other("a daemon cannot be started"))?;
    let info = wait_until_it_answers(&client, &mut daemon, &mut log, start)?;
    eprintln!(
        "novacron: a daemon was started (process {}, log {}); `novacron shutdown` ends it",
        info.process_id,
        log_path.display()
    );
    Ok(client)
}

/// A daemon of this executable on a socket, whose log is `log`.
pub(crate) fn daemon_command(socket: &Path, log: &File) -> Result<Command, Failure> {
    let executable = std::env::current_exe();
    let mut command =
        Command::new(executable.map_err(Failure::other("the path of this executable"))?);
    command
        .args(["daemon", "--socket"])
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.try_clone().map_err(Failure::other("the daemon's log"))?);
    Ok(command)
}

/// Waits for a daemon that was just started; one that ends instead has said why in its log, behind `start`.
pub(crate) fn wait_until_it_answers(
    client: &Client,
    daemon: &mut Child,
    log: &mut File,
    start: u64,
) -> Result<Info, Failure> {
    let end = Instant::now() + PATIENCE;
    loop {
        match client.get::<Info>("/v1/info") {
            Err(CallError::NoDaemon { .. }) if Instant::now() < end => {}
            answered => return answered.map_err(Failure::from),
        }
        if let Ok(Some(_)) = daemon.try_wait() {
            return Err(Failure::Other(why_not(log, start)));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a daemon that has ended said last.
fn why_not(log: &mut File, start: u64) -> String {
    let mut text = String::new();
    let read = log.seek(SeekFrom::Start(start)).and_then(|_| log.read_to_string(&mut text));
    let last = text.lines().last().unwrap_or("it said nothing");
    match read {
        Ok(_) => format!("the daemon did not start: {}", last.trim_start_matches("novacron: ")),
        Err(error) => format!("the daemon did not start, and its log cannot be read: {error}"),
    }
}

/// Names a file for the daemon: by its path where the daemon takes that, else by passing it.
pub(crate) fn name_file(client: &Client, option: &str, path: &Path) -> Result<String, Failure> {
    let file = open(option, path)?;
    match named_in_folders(client, path)? {
        Some(name) => Ok(name),
        None => pass(client, &file),
    }
}

/// Names a file that may be there or not yet, in a folder that is.
pub(crate) fn name_in_folder(
    client: &Client,
    option: &str,
    path: &Path,
) -> Result<String, Failure> {
    if let Some(name) = named_in_folders(client, path)? {
        return Ok(name);
    }
    let wrong = || Failure::Other(format!("{option} {}: no name of a file", path.display()));
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(wrong)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = open(option, folder.unwrap_or(Path::new(".")))?;
    Ok(format!("{}/{name}", pass(client, &folder)?))
}

/// The absolute path, if it is inside of a folder in which the daemon takes names.
fn named_in_folders(client: &Client, path: &Path) -> Result<Option<String>, Failure> {
    let info: Info = client.get("/v1/info")?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let Ok(folder) = folder.unwrap_or(Path::new(".")).canonicalize() else { return Ok(None) };
    let Some(name) = path.file_name() else { return Ok(None) };
    let absolute = folder.join(name);
    let is_inside =
        |root: &String| Path::new(root).canonicalize().is_ok_and(|root| absolute.starts_with(root));
    Ok(info.folders.iter().any(is_inside).then(|| absolute.display().to_string()))
}

fn pass(client: &Client, file: &File) -> Result<String, Failure> {
    let names = client.pass_files(&[file.as_fd()])?;
    names.into_iter().next().ok_or_else(|| Failure::Other("the daemon gave no name".to_owned()))
}

fn open(option: &str, path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| {
        Failure::Other(format!("{option} {}: {error}; is the path right?", path.display()))
    })
}
