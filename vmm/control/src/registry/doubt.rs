//! A machine whose process died after it had offered its guest to another host: nobody knows whether it runs there, until
//! that host's record has said so.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use dwcp::acp::{Generation, SessionId};
use machine::SuperviseError;

use super::attendant::Attendant;
use super::command::Command;
use super::departures::ask;
use super::record::Moved;
use crate::api::{ApiError, ErrorCode, MachineState, Timestamp};
use crate::peers::message::{Answer, Answered};

/// How often it is looked whether somebody wants something.
const TURN: Duration = Duration::from_millis(500);
/// The first pause between two questions; it doubles.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The longest.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(30);

/// How a doubt has ended.
pub(super) enum Doubted {
    /// It runs there, or has.
    Ran(Moved),
    /// It never ran there, or a person says that nothing of it is alive there: the permit is here.
    Here,
    /// This daemon ends; the next one goes on.
    Left,
}

impl Attendant {
    /// Waits until it is known who has the machine.
    pub(super) fn doubt(&self, session: [u8; 16], peer: &str) -> Doubted {
        self.entry.has_process(None);
        self.entry.set_state(MachineState::InDoubt, None);
        tracing::warn!(machine = %self.entry.name(), peer, "it is not known who has the machine");
        let mut pause = ASK_AGAIN;
        let mut ask_at = Instant::now();
        loop {
            if self.entry.take_resolution(session) {
                match self.resolve() {
                    Ok(()) => return Doubted::Here,
                    Err(error) => tracing::error!(%error, "the doubt is not ended"),
                }
            }
            if Instant::now() >= ask_at {
                if let Some(doubted) = self.ask_peer(session, peer) {
                    return doubted;
                }
                ask_at = Instant::now() + pause;
                pause = (2 * pause).min(ASK_AGAIN_MAX);
            }
            match self.commands.recv_timeout(TURN) {
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) | Ok(Command::Leave) => return Doubted::Left,
                Ok(command) => {
                    self.entry.is_free();
                    let message = format!(
                        "it is not known whether machine {} runs on {peer}",
                        self.entry.name()
                    );
                    let error = ApiError::new(ErrorCode::Conflict, message).with_hint(
                        "it is asked again and again; `novacron migrate resolve` says what a person knows",
                    );
                    command.refuse(error, &self.shared);
                }
            }
        }
    }

    /// Asks the other host, and writes down what it says.
    fn ask_peer(&self, session: [u8; 16], peer: &str) -> Option<Doubted> {
        let asked = self
            .shared
            .peer(peer)
            .and_then(|client| Ok(ask(&client, self.entry.record().id, session, true)?));
        let Answered { answer, .. } =
            asked.inspect_err(|error| tracing::info!(%error, "in doubt")).ok()?;
        let session = SessionId::new(session)?;
        let keeper = self.entry.home().keeper();
        let (written, doubted) = match answer {
            Answer::Ran => {
                let moved = Moved { to: peer.to_owned(), at: Timestamp::now() };
                let written = keeper.and_then(|mut keeper| Ok(keeper.peer_took(session)?));
                (written, Doubted::Ran(moved))
            }
            Answer::NeverRan => {
                let written = keeper.and_then(|mut keeper| Ok(keeper.peer_refused(session)?));
                (written, Doubted::Here)
            }
            Answer::Undecided | Answer::Unknown => return None,
        };
        if let Err(error) = written {
            tracing::error!(%error, "what the other host says is not written");
            return None;
        }
        self.note_no_departure();
        Some(doubted)
    }

    fn resolve(&self) -> Result<(), SuperviseError> {
        self.entry.home().keeper()?.resolve(Generation::default())?;
        self.note_no_departure();
        Ok(())
    }
}
