//! QEMU's machine protocol: commands, answers, and events with the time at which they came here.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use benches::Stop;
use serde_json::{Value, json};

/// How long QEMU may take to start, or to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to one QEMU.
pub(crate) struct Qmp {
    stream: UnixStream,
    messages: Receiver<(Instant, Value)>,
    /// All that came and was no answer.
    events: Vec<(Instant, Value)>,
}

impl Qmp {
    /// Connects as soon as QEMU listens.
    pub(crate) fn connect(socket: &Path) -> Result<Self, Stop> {
        let end = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > end => {
                    return Err(Stop::Failed(format!("QEMU does not listen: {error}")));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let reader = BufReader::new(stream.try_clone().map_err(Stop::failed("QMP"))?);
        let (send, messages) = channel();
        std::thread::spawn(move || {
            for line in reader.lines() {
                // The time of an event is that at which it was read, nothing later.
                let came = Instant::now();
                let Ok(Ok(message)) = line.map(|line| serde_json::from_str(&line)) else { return };
                if send.send((came, message)).is_err() {
                    return;
                }
            }
        });
        let mut qmp = Self { stream, messages, events: Vec::new() };
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// What a command answers.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, Stop> {
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments}));
        self.stream.write_all(line.as_bytes()).map_err(Stop::failed(command))?;
        let end = Instant::now() + PATIENCE;
        loop {
            let Some((came, mut message)) = self.receive(end)? else {
                return Err(Stop::Failed(format!("QEMU does not answer {command}")));
            };
            if message.get("return").is_some() {
                return Ok(message["return"].take());
            }
            if message.get("error").is_some() {
                return Err(Stop::Failed(format!("{command}: {}", message["error"]["desc"])));
            }
            self.events.push((came, message));
        }
    }

    /// When an event came that `is_it`, however long ago; None if none comes until `end`.
    pub(crate) fn event(
        &mut self,
        end: Instant,
        is_it: impl Fn(&Value) -> bool,
    ) -> Result<Option<(Instant, Value)>, Stop> {
        loop {
            if let Some(found) = self.events.iter().find(|(_, event)| is_it(event)) {
                return Ok(Some(found.clone()));
            }
            match self.receive(end)? {
                Some(message) => self.events.push(message),
                None => return Ok(None),
            }
        }
    }

    fn receive(&self, end: Instant) -> Result<Option<(Instant, Value)>, Stop> {
        let left = end.saturating_duration_since(Instant::now());
        match self.messages.recv_timeout(left) {
            Ok(message) => Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Stop::Failed("QEMU has ended".into())),
        }
    }
}
