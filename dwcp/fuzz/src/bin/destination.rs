//! Any frames in any order, and anything that a caller may do between them, as a script for the
//! destination.
//!
//! Checked: memory is written where the guest has some, and no longer once everything was there; what
//! was there had the root that the permit frame named; a refusal is asked for once, and nothing becomes
//! ready after it; frames on control streams only.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use dwcp::digest::PageDigest;
use dwcp::hde::{Decoder, Held};
use dwcp::ledger::SendNumber;
use dwcp::page::{Gfn, Page};
use dwcp::session::{DecodedPages, Destination, DestinationEvent, DestinationTimers, KeptImage};
use dwcp::wire::{Kind, StreamId};
use dwcp_fuzz::{Memory, Script, agreement, header};

fn main() -> ExitCode {
    fuzzing::main(|input| {
        run(input);
    })
}

/// What the caller knows.
struct Caller {
    now: Duration,
    destination: Destination,
    memory: Memory,
    decoder: Decoder,
    sequences: BTreeMap<StreamId, u64>,
    ready: Option<Memory>,
    refuses: bool,
    is_decided: bool,
}

struct Holdings<'a>(&'a Destination, &'a Memory);

impl Held for Holdings<'_> {
    fn copy_base(&self, gfn: Gfn, number: SendNumber, into: &mut Page) -> bool {
        let holds = self.0.holds(gfn, number);
        if holds {
            *into = *self.1.page(gfn);
        }
        holds
    }

    fn copy_kept(&self, gfn: Gfn, into: &mut Page) -> bool {
        into.fill(7);
        gfn.0 % 2 == 1
    }
}

/// Every other page is kept, and can be read.
#[derive(Debug)]
struct Kept;

impl KeptImage for Kept {
    fn digest(&self, gfn: Gfn) -> PageDigest {
        if gfn.0.is_multiple_of(2) { PageDigest::ZERO } else { PageDigest([1; 32]) }
    }
}

/// Returns whether everything arrived where nothing is kept.
fn run(input: &[u8]) -> bool {
    play(input, true);
    play(input, false)
}

/// The same; something may be kept.
fn play(input: &[u8], keeps: bool) -> bool {
    let mut script = Script::new(input);
    let now = Duration::from_secs(1);
    let mut caller = Caller {
        now,
        destination: Destination::new(now, &agreement(), DestinationTimers::default()),
        memory: Memory::new(),
        decoder: Decoder::new(),
        sequences: BTreeMap::new(),
        ready: None,
        refuses: false,
        is_decided: false,
    };
    if keeps {
        caller.destination.keep(Arc::new(Kept));
    }
    while !script.is_over() {
        caller.step(&mut script);
        caller.check();
    }
    caller.ready.is_some()
}

impl Caller {
    fn step(&mut self, script: &mut Script<'_>) {
        let what = script.byte();
        let stream = StreamId { connection: u16::from(what >> 4 & 3), place: u16::from(what >> 6) };
        match what & 15 {
            0..10 => self.frame(stream, script),
            10 => self.destination.handle_closed(self.now, stream),
            11 => {
                self.now += Duration::from_millis(u64::from(script.byte()) * 100);
                self.destination.handle_timeout(self.now);
            }
            12 => self.transmit(stream),
            13 => self.destination.refuse("the caller's disk is full"),
            _ => self.decide(what & 15 == 14),
        }
    }

    fn frame(&mut self, stream: StreamId, script: &mut Script<'_>) {
        let (kind, payload) = (script.byte() & 15, script.payload());
        let is_new = kind == Kind::Hello as u8;
        let sequence = if is_new { 0 } else { self.sequences.get(&stream).copied().unwrap_or(0) };
        let Some(bytes) = header(kind, stream, sequence, payload) else { return };
        if is_new {
            if self.destination.handle_hello(self.now, &bytes, payload).is_ok() {
                self.sequences.insert(stream, 1);
            }
            return;
        }
        let Ok(header) = self.destination.handle_header(stream, &bytes) else { return };
        *self.sequences.entry(stream).or_default() += 1;
        if header.kind() != Kind::Pages {
            let _ = self.destination.handle_frame(self.now, header, payload);
            return;
        }
        let holdings = Holdings(&self.destination, &self.memory);
        match self.decoder.decode(&agreement().key, payload, &holdings) {
            Ok(decoded) => {
                let pages = DecodedPages::from(decoded);
                let _ = self.destination.handle_pages(self.now, header, &pages, &mut self.memory);
            }
            Err(error) => match error.wanted() {
                Some(numbers) => {
                    let _ = self.destination.handle_missing(header, numbers);
                }
                None => self.destination.handle_undecodable(&error.to_string()),
            },
        }
    }

    fn transmit(&mut self, stream: StreamId) {
        if self.destination.poll_transmit(self.now, stream).is_some() {
            assert!(stream.is_control(), "a frame on {stream}");
            self.destination.handle_written(stream);
        }
    }

    /// The caller has made the record say so.
    fn decide(&mut self, takes: bool) {
        if self.is_decided || !(self.refuses || self.ready.is_some()) {
            return;
        }
        self.is_decided = true;
        if takes && self.ready.is_some() {
            self.destination.taken();
        } else {
            self.destination.refused("decided so");
        }
    }

    fn check(&mut self) {
        while let Some(event) = self.destination.poll_event() {
            match event {
                DestinationEvent::Ready { .. } => {
                    assert!(
                        self.ready.is_none() && !self.refuses,
                        "ready twice, or after a refusal"
                    );
                    self.ready = Some(self.memory.clone());
                }
                DestinationEvent::Refuse(_) => {
                    assert!(
                        !self.refuses && self.ready.is_none(),
                        "refuses twice, or what is ready"
                    );
                    self.refuses = true;
                }
                DestinationEvent::Disconnected { .. } | DestinationEvent::Populate(_) => {}
            }
        }
        if let Some(ready) = &self.ready {
            assert!(*ready == self.memory, "memory was written after everything was there");
        }
        if let Some(at) = self.destination.poll_timeout() {
            assert!(at < self.now + Duration::from_hours(1), "a timer beyond all limits");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn no_script_of_the_corpus_breaks_anything_and_a_sound_one_moves_a_guest() {
        static READY: Mutex<Vec<bool>> = Mutex::new(Vec::new());
        fn remember(input: &[u8]) {
            READY.lock().unwrap().push(run(input));
        }
        fuzzing::replay(&dwcp_fuzz::corpus("destination"), remember).unwrap();
        let ready = READY.lock().unwrap();
        assert!(ready.contains(&true) && ready.contains(&false), "{ready:?}");
    }
}
