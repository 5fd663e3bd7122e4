//! Any frames in any order, and anything that a caller may do between them, as a script for the source.
//!
//! Checked: the permit frame comes only after a durable offer and a switch, and from then on only an
//! answer ends the attempt; an attempt ends once; no page of the guest is forgotten, by a count of those
//! that are owed, in flight, or acknowledged.

use std::process::ExitCode;
use std::time::Duration;

use dwcp::hde::{Encoder, Ladder, Sending};
use dwcp::page::{Gfn, PAGE_BYTES, PageRun};
use dwcp::page_set::PageSet;
use dwcp::session::{Source, SourceEnd, SourceEvent, SourceTimers, Transmit};
use dwcp::wire::{Kind, PeerAnswer, StreamId, Text};
use dwcp_fuzz::{FRAMES, Script, agreement, header};

fn main() -> ExitCode {
    fuzzing::main(|input| {
        run(input);
    })
}

/// What the caller knows.
struct Caller {
    now: Duration,
    source: Source,
    encoder: Encoder,
    /// Frames that were heard on the newest control stream.
    heard: u64,
    control: StreamId,
    offered: bool,
    switched: bool,
    parted: bool,
    /// A correct answer was given that may end the doubt.
    answered: bool,
    end: Option<SourceEnd>,
}

/// Returns whether the permit frame went out, where nothing was said to be kept.
fn run(input: &[u8]) -> bool {
    play(input, true);
    play(input, false)
}

/// The same; the destination may be said to have kept something.
fn play(input: &[u8], recalls: bool) -> bool {
    let mut script = Script::new(input);
    let now = Duration::from_secs(1);
    let mut source = Source::new(now, &agreement(), SourceTimers::default());
    if recalls {
        source.recall();
    }
    source.set_data_streams(2);
    let mut caller = Caller {
        now,
        source,
        encoder: Encoder::new(),
        heard: 0,
        control: StreamId::control(0),
        offered: false,
        switched: false,
        parted: false,
        answered: false,
        end: None,
    };
    while !script.is_over() {
        caller.step(&mut script);
        caller.check();
    }
    caller.parted
}

impl Caller {
    fn step(&mut self, script: &mut Script<'_>) {
        let what = script.byte();
        let place = u16::from(what >> 6);
        let stream = StreamId { place, ..self.control };
        match what & 15 {
            0..5 => self.frame(script),
            5 => {
                if let Some(stream) = self.source.poll_connect(self.now) {
                    self.source.handle_connected(self.now, stream);
                    if stream.is_control() {
                        (self.control, self.heard) = (stream, 0);
                    }
                }
            }
            6..9 => self.transmit(stream),
            9 => {
                self.now += Duration::from_millis(u64::from(script.byte()) * 40);
                self.source.handle_timeout(self.now);
            }
            10 => self.source.handle_closed(self.now, stream),
            11 => {
                let run = PageRun::new(Gfn(u64::from(script.byte()) % FRAMES), 1);
                self.source.owe(run.expect("a page")).expect("a page below the limit");
            }
            12 => {
                self.source.offered();
                self.offered = true;
            }
            13 => self.switched |= self.source.switch(self.now, vec![script.byte(); 40]).is_ok(),
            14 => match script.byte() % 5 {
                0 => self.source.speculate(vec![1; 50]),
                1 => self.source.drain(),
                2 => {
                    let mut hot = PageSet::new(Gfn(FRAMES));
                    let page = PageRun::new(Gfn(u64::from(script.byte()) % FRAMES), 1);
                    hot.insert(page.expect("a page")).expect("a page below the limit");
                    self.source.hurry(hot);
                }
                3 => drop(self.source.abort("the user gave up")),
                _ => self.answer(script.byte()),
            },
            _ => {}
        }
    }

    /// A daemon answers in the place of a process.
    fn answer(&mut self, answer: u8) {
        let answer = match answer % 4 {
            0 => PeerAnswer::Ran,
            1 => PeerAnswer::NeverRan,
            2 => PeerAnswer::Undecided,
            _ => PeerAnswer::Unknown,
        };
        self.answered |= matches!(answer, PeerAnswer::Ran | PeerAnswer::NeverRan);
        let _ = self.source.answered(answer, Text::default());
    }

    fn frame(&mut self, script: &mut Script<'_>) {
        let (kind, payload) = (script.byte() & 15, script.payload());
        let Some(bytes) = header(kind, self.control, self.heard, payload) else { return };
        let Ok(header) = self.source.handle_header(self.now, self.control, &bytes) else { return };
        self.heard += 1;
        self.answered |= header.kind() == Kind::Answer;
        let _ = self.source.handle_frame(self.now, header, payload);
    }

    fn transmit(&mut self, stream: StreamId) {
        let Some(transmit) = self.source.poll_transmit(self.now, stream) else { return };
        if let Transmit::Pages(draft) = transmit {
            let content = vec![7; draft.batch.pages() * PAGE_BYTES];
            let key = agreement().key;
            let sending = Sending {
                key: &key,
                batch: &draft.batch,
                content: &content,
                settled_below: draft.settled_below,
            };
            let mut payload = Vec::new();
            let encoded = self.encoder.encode(&sending, &Ladder::step(1), &(), &mut payload);
            let bytes = payload.len();
            let header = self.source.handle_encoded(self.now, &draft, encoded.digests, bytes);
            assert!(header.is_some(), "the stream is open");
        }
        self.source.handle_written(self.now, stream);
    }

    fn check(&mut self) {
        while let Some(event) = self.source.poll_event() {
            assert!(self.end.is_none(), "{event:?} after the end");
            match event {
                SourceEvent::Parted => {
                    assert!(self.offered && self.switched && !self.parted, "parted too early");
                    self.parted = true;
                }
                SourceEvent::SwitchCancelled => {
                    assert!(!self.parted, "the guest runs on while in doubt");
                    self.switched = false;
                }
                SourceEvent::Over(end) => {
                    if self.parted {
                        assert!(self.answered, "doubt ends by an answer: {end:?}");
                        assert!(!matches!(end, SourceEnd::Aborted(_)), "{end:?} in doubt");
                    } else {
                        assert!(end != SourceEnd::Ran, "it cannot run there");
                    }
                    self.end = Some(end);
                }
                SourceEvent::Connected
                | SourceEvent::Disconnected
                | SourceEvent::StreamDead(_)
                | SourceEvent::Unknown => {}
            }
        }
        let ledger = self.source.ledger();
        for gfn in (0..FRAMES).map(Gfn) {
            let is_known = ledger.held_send(gfn).is_some() || ledger.owed_pages().contains(gfn);
            let was_sent = ledger.latest_send(gfn).is_some();
            let in_flight = ledger.in_flight() > 0;
            assert!(is_known || !was_sent || in_flight, "{gfn} was forgotten");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn no_script_of_the_corpus_breaks_anything_and_a_sound_one_parts_with_the_permit() {
        static PARTED: Mutex<Vec<bool>> = Mutex::new(Vec::new());
        fn remember(input: &[u8]) {
            PARTED.lock().unwrap().push(run(input));
        }
        fuzzing::replay(&dwcp_fuzz::corpus("source"), remember).unwrap();
        let parted = PARTED.lock().unwrap();
        assert!(parted.contains(&true) && parted.contains(&false), "{parted:?}");
    }
}
