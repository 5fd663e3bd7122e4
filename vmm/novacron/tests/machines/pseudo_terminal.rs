//! A terminal on which a program runs: what it shows, and how it leaves it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// Far more than anything takes on a loaded host.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct PseudoTerminal {
    keyboard: File,
    /// The side on which the program is: its modes can be asked for when the program has gone.
    program_side: OwnedFd,
    /// Its modes before the program ran.
    found: String,
    child: Child,
    shown: Arc<Mutex<Shown>>,
}

/// What is on the screen, and all that was written.
#[derive(Default)]
struct Shown {
    cells: BTreeMap<(usize, usize), char>,
    at: (usize, usize),
    written: String,
}

impl PseudoTerminal {
    /// Runs a program in a session of its own, on a terminal of so many columns and lines.
    pub(crate) fn run(command: &Command, columns: u16, lines: u16) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let program_side = ioctl_tiocgptpeer(&keyboard, flags).unwrap();
        let size = size(columns, lines);
        tcsetwinsize(&program_side, size).unwrap();
        let found = modes(&program_side);
        let side = || program_side.as_fd().try_clone_to_owned().unwrap();
        // In the place of the program, which keeps its process id: it is no leader of a group.
        // It has no controlling terminal: at its end, that would be hung up, and could not be looked at.
        let mut in_session = Command::new("setsid");
        in_session.arg(command.get_program()).args(command.get_args());
        in_session.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        in_session.env("TERM", "xterm-256color").env_remove("COLUMNS").env_remove("LINES");
        let child = in_session.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        let keyboard = File::from(keyboard);
        let shown = Arc::new(Mutex::new(Shown::default()));
        let (mut screen, show) = (keyboard.try_clone().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 65_536];
            let mut begun = Vec::new();
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                begun.extend_from_slice(&bytes[..count]);
                let whole = whole(&begun);
                let text =
                    String::from_utf8_lossy(&begun.drain(..whole).collect::<Vec<_>>()).into_owned();
                show.lock().unwrap().write(&text);
            }
        });
        Self { keyboard, program_side, found, child, shown }
    }

    pub(crate) fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    pub(crate) fn resize(&self, columns: u16, lines: u16) {
        tcsetwinsize(&self.program_side, size(columns, lines)).unwrap();
        // As the kernel tells whom it has as the terminal's foreground.
        self.signal(Signal::WINCH);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether its modes are those that it had before the program ran.
    pub(crate) fn is_as_it_was(&self) -> bool {
        modes(&self.program_side) == self.found
    }

    pub(crate) fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.program_side).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// Waits until the screen has these words on it, side by side.
    pub(crate) fn wait_for(&mut self, words: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.screen().contains(words) {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < end,
                "{words:?} is not in\n{}",
                self.screen()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What is on it now.
    pub(crate) fn screen(&self) -> String {
        let shown = self.shown.lock().unwrap();
        let (mut text, mut line) = (String::new(), 0);
        for ((row, column), symbol) in &shown.cells {
            while line < *row {
                text.push('\n');
                line += 1;
            }
            let length = text.rsplit('\n').next().unwrap_or_default().chars().count();
            text.extend(std::iter::repeat_n(' ', column.saturating_sub(length)));
            text.push(*symbol);
        }
        text
    }

    /// Waits for the program's end; returns how it ended, and all that it has written.
    pub(crate) fn end(&mut self) -> (ExitStatus, String) {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "it does not end\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(5));
        };
        // What it wrote last is on its way, in order.
        File::from(self.program_side.try_clone().unwrap()).write_all(b"the end").unwrap();
        while !self.shown.lock().unwrap().written.ends_with("the end") {
            assert!(Instant::now() < end, "what it wrote does not come");
            std::thread::sleep(Duration::from_millis(5));
        }
        (status, self.shown.lock().unwrap().written.clone())
    }
}

impl Drop for PseudoTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Shown {
    /// As a terminal does, as far as programs of ours ask for it.
    fn write(&mut self, text: &str) {
        self.written.push_str(text);
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if let Some(sequence) = rest.strip_prefix("\u{1b}[") {
                let end = sequence.find(|c: char| c.is_ascii_alphabetic()).unwrap();
                self.obey(&sequence[..end], &sequence[end..=end]);
                rest = &sequence[end + 1..];
                continue;
            }
            rest = &rest[c.len_utf8()..];
            let (row, column) = self.at;
            match c {
                '\r' => self.at.1 = 0,
                '\n' => self.at.0 += 1,
                _ => {
                    self.cells.insert((row, column), c);
                    self.at.1 += 1;
                }
            }
        }
    }

    fn obey(&mut self, parameters: &str, command: &str) {
        match command {
            "H" => {
                let mut numbers =
                    parameters.split(';').map(|n| n.parse::<usize>().unwrap_or(1) - 1);
                self.at = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
            }
            "J" => self.cells.clear(),
            _ => {}
        }
    }
}

/// As far as a shell needs them as they were.
fn modes(terminal: &OwnedFd) -> String {
    let modes = tcgetattr(terminal).unwrap();
    format!("{:?} {:?} {:?}", modes.input_modes, modes.output_modes, modes.local_modes)
}

fn size(columns: u16, lines: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: lines, ws_xpixel: 0, ws_ypixel: 0 }
}

/// How many of the bytes are not a sequence or a character that was cut.
fn whole(bytes: &[u8]) -> usize {
    let escape = bytes.iter().rposition(|byte| *byte == 0x1b);
    let is_cut = |at: &usize| !bytes[*at..].iter().skip(1).any(u8::is_ascii_alphabetic);
    if let Some(at) = escape.filter(is_cut) {
        return at;
    }
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => bytes.len(),
    }
}
