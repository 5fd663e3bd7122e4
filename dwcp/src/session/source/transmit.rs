//! What goes on a stream next: the order is that of [`Source::poll_transmit`].

use std::time::Duration;

use super::link;
use super::pages::Haste;
use super::phase::Phase;
use super::{Draft, Source, SourceEvent};
use crate::digest::Root;
use crate::session::Transmit;
use crate::wire::{Ask, Message, Permit, StreamId};

impl Source {
    /// What to put on a stream whose socket takes bytes. After it is written, and not before, the
    /// stream gets the next ([`Source::handle_written`]).
    pub fn poll_transmit(&mut self, now: Duration, stream: StreamId) -> Option<Transmit> {
        let outgoing = self.link.outgoing(stream).filter(|outgoing| !outgoing.is_busy())?;
        if let Some(frame) = outgoing.pop() {
            self.spoke(now, stream);
            return Some(Transmit::Frame(frame));
        }
        let carries_pages = self.link.connection().is_some_and(link::Connection::carries_pages);
        if !carries_pages || self.pages.kept.waits_until().is_some() {
            return None;
        }
        if stream.is_control()
            && !matches!(self.phase, Phase::Over)
            && let Some(frame) = self.state_part(stream)
        {
            self.spoke(now, stream);
            return Some(Transmit::Frame(frame));
        }
        if self.link.is_surplus(stream, self.data_streams) {
            self.retire(stream);
            return None;
        }
        if matches!(self.phase, Phase::Live(_)) {
            self.pacing.held_until = self.pacing.opens_at(now);
            if self.pacing.held_until.is_some() && self.pages.ledger().owed() > 0 {
                return None;
            }
        }
        if let Some(draft) = self.draft(now, stream) {
            self.link.outgoing(stream)?.start();
            return Some(Transmit::Pages(draft));
        }
        self.pacing.held_until = None;
        self.pages.link.idle();
        if stream.is_control() { self.permit(now, stream) } else { None }
    }

    /// Ends a data stream that is one too many, if it carries nothing any more.
    fn retire(&mut self, stream: StreamId) {
        let is_quiet = self.link.connection().is_some_and(|link| link.is_quiet(stream));
        if is_quiet && !self.pages.is_carried_by(stream) && self.link.data_closed(stream) {
            self.pages.stream_lost(stream);
            self.tell(SourceEvent::StreamDead(stream));
        }
    }

    fn draft(&mut self, now: Duration, stream: StreamId) -> Option<Draft> {
        let haste = match &self.phase {
            Phase::Live(live) if !live.is_draining => {
                Haste::Waits { hot: live.hot.as_ref(), may_recall: live.hot.is_none() }
            }
            Phase::Switch(_) | Phase::Parted(_) => {
                Haste::Burst(self.link.connection()?.streams(self.data_streams))
            }
            Phase::Live(_) | Phase::Over => return None,
        };
        self.pages.draft(now, stream, haste)
    }

    fn state_part(&mut self, stream: StreamId) -> Option<Vec<u8>> {
        let outgoing = self.link.outgoing(stream)?;
        let (frame, bytes) = self.states.next_part(|part| outgoing.frame(part))?;
        self.pages.counts.state_bytes += bytes;
        Some(frame)
    }

    /// The permit frame, if everything else is out: the last of the burst.
    fn permit(&mut self, now: Duration, stream: StreamId) -> Option<Transmit> {
        let asked_complete_on = match &self.phase {
            Phase::Parted(parted) => parted.asked_complete_on,
            _ => None,
        };
        let is_out = self.pages.ledger().owed() == 0
            && self.states.is_sent()
            && self.link.connection()?.data_is_idle();
        if !is_out {
            return None;
        }
        let connection = stream.connection;
        let permit = match &mut self.phase {
            Phase::Parted(parted) if parted.permit_on != Some(connection) => {
                let (number, _) = self.states.newest()?;
                parted.permit.state = number;
                parted.permit_on = Some(connection);
                parted.permit
            }
            Phase::Parted(_) => return self.ask_complete(stream, asked_complete_on),
            Phase::Switch(_) => {
                let (number, state) = self.states.newest()?;
                let root = Root::new(&self.key, self.pages.sum(), state);
                let permit = Permit { state: number, root };
                self.phase = Phase::Parted(self.take_switch()?.part(now, connection, permit));
                self.root = Some(root);
                self.tell(SourceEvent::Parted);
                permit
            }
            Phase::Live(_) | Phase::Over => return None,
        };
        self.spoke(now, stream);
        Some(Transmit::Frame(self.link.outgoing(stream)?.frame(&Message::Permit(permit))))
    }

    /// Tells the destination, once a connection, that everything is acknowledged.
    fn ask_complete(&mut self, stream: StreamId, asked_on: Option<u16>) -> Option<Transmit> {
        if asked_on == Some(stream.connection) || !self.pages.ledger().is_settled() {
            return None;
        }
        if let Phase::Parted(parted) = &mut self.phase {
            parted.asked_complete_on = Some(stream.connection);
        }
        let ask = Message::Ask(Ask { refuse: false, is_complete: true });
        Some(Transmit::Frame(self.link.outgoing(stream)?.frame(&ask)))
    }
}
