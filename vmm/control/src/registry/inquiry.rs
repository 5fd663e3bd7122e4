//! [`Inquiry`]: a frozen source's keeper asks the other host's, while the streams may be gone for good.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use machine::PeerWord;

use super::departures::{Departure, ask};
use crate::api::ApiError;
use crate::peers::message::{Answer, Answered};

/// A source that has been in doubt for so long has its keeper ask.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// How often that is asked again.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// After so long it is asked to refuse, unless the guest runs there already.
const REFUSE_AFTER: Duration = Duration::from_secs(30);

/// Asks the other host's daemon what became of a session, without making anybody wait.
#[derive(Default)]
pub(super) struct Inquiry {
    since: Option<Instant>,
    asked_at: Option<Instant>,
    answer: Option<Receiver<Result<Answered, ApiError>>>,
}

impl Inquiry {
    /// Whether the doubt is more than what every move is in, for a round trip.
    pub(super) fn is_in_earnest(&mut self) -> bool {
        self.has_lasted(ASK_AFTER)
    }

    fn has_lasted(&mut self, limit: Duration) -> bool {
        self.since.get_or_insert_with(Instant::now).elapsed() >= limit
    }

    /// What is known since the last turn.
    pub(super) fn turn(&mut self, departure: &Departure<'_>) -> Option<PeerWord> {
        if let Some(answer) = &self.answer {
            match answer.try_recv() {
                Ok(answered) => {
                    self.answer = None;
                    return word(answered);
                }
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => self.answer = None,
            }
        }
        let is_due = self.asked_at.is_none_or(|at| at.elapsed() >= ASK_EVERY);
        if !self.is_in_earnest() || !is_due {
            return None;
        }
        self.asked_at = Some(Instant::now());
        let refuse = self.has_lasted(REFUSE_AFTER);
        let shared = Arc::clone(&departure.attendant.shared);
        let (key, session) = (departure.key.clone(), departure.session);
        let machine = departure.attendant.entry.record().id;
        let (send, answer) = channel();
        let ask = move || {
            let answered =
                shared.peer(&key).and_then(|peer| Ok(ask(&peer, machine, session, refuse)?));
            // The move may have ended meanwhile.
            let _ = send.send(answered);
        };
        // Without a thread it is asked again in a moment.
        let asking = std::thread::Builder::new().name("inquiry".into()).spawn(ask);
        self.answer = asking.ok().map(|_| answer);
        None
    }
}

fn word(answered: Result<Answered, ApiError>) -> Option<PeerWord> {
    match answered {
        Ok(Answered { answer: Answer::Ran, .. }) => Some(PeerWord::Ran),
        Ok(Answered { answer: Answer::NeverRan, .. }) => Some(PeerWord::NeverRan),
        Ok(Answered { answer: Answer::Unknown, .. }) => Some(PeerWord::Unknown),
        Ok(Answered { answer: Answer::Undecided, .. }) => None,
        Err(error) => {
            tracing::debug!(%error, "in doubt");
            None
        }
    }
}
