//! [`PermitState`], and what one record says as a whole.

use std::collections::VecDeque;

use super::{Generation, HostName, Nonce, SessionId, VmId};

/// Sessions whose ends a record remembers.
pub(super) const OUTCOMES_MAX: usize = 64;

/// To whom the permit is offered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Successor {
    /// To another process on this host, which shares this record.
    Process(Nonce),
    /// To another host, which keeps a record of its own.
    Host(HostName),
}

/// Who may run a machine, as far as this host is concerned.
///
/// Between two hosts there are two records:
///
/// ```text
/// source       Held ──Offer──► Offered ──PeerTook─────────► Gone ──Prepare──► (as a destination)
///               ▲  ▲             │ │ │                       ▲ │
///               │  └──Withdraw───┘ │ │     Supersede: Held,  │ │
///               │ ──PeerRefused────┘ │     Offered, Taken ───┘ │
///               └─────Resolve────────┴──────────◄──────────────┘
///
/// destination  (no record, Gone, Refused) ──Prepare──► Prepared ──Take──► Taken ──Settle──► Held
///                                                         │
///                                                         └─Refuse─► Refused ──Resolve──► Held
/// ```
///
/// Between two processes A and B on one host there is one, so that each step is a compare-and-swap:
///
/// ```text
///              ┌───────────Withdraw by A──────────┐
///              ▼                                  │
///           Held{A} ──Offer to B by A──► Offered{A, to B} ──Take by B──► Taken{B}
///              ▲ Held{}                           │                        │
///              │   ▲──Reclaim, when both are dead─┘                        ▼
///              └──── Start ─── … ◄──────────────────────────────Settle── Held{B}
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PermitState {
    /// This host may run the machine.
    Held {
        /// The one process that may, if one was started since the record was made.
        runner: Option<Nonce>,
    },
    /// This host may run it until it has parted with the permit; whether it has, the record alone
    /// does not tell.
    Offered {
        /// The attempt.
        session: SessionId,
        /// The process that offers.
        runner: Nonce,
        /// To whom.
        to: Successor,
    },
    /// This host may come to run it. It must not yet.
    Prepared {
        /// The attempt.
        session: SessionId,
        /// The process that may take the permit.
        runner: Nonce,
        /// The source.
        from: HostName,
    },
    /// This host may run it, and the side that offered it may not know that yet.
    Taken {
        /// The attempt.
        session: SessionId,
        /// The process that took the permit.
        runner: Nonce,
        /// The source; `None` for a hand-over between processes of this host.
        from: Option<HostName>,
    },
    /// This host did not run it in this attempt, and never will.
    Refused {
        /// The attempt.
        session: SessionId,
        /// The source.
        from: HostName,
    },
    /// Another host may run it.
    Gone {
        /// The attempt in which it went; `None` if another host showed a newer generation.
        session: Option<SessionId>,
        /// The host that it went to, or that showed the newer generation.
        to: HostName,
    },
}

impl PermitState {
    /// The state's name, for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Held { .. } => "Held",
            Self::Offered { .. } => "Offered",
            Self::Prepared { .. } => "Prepared",
            Self::Taken { .. } => "Taken",
            Self::Refused { .. } => "Refused",
            Self::Gone { .. } => "Gone",
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The destination took the permit.
    Taken,
    /// The destination has never run the machine in this attempt, and never will.
    Refused,
    /// The source took the offer back before it parted with the permit.
    Withdrawn,
    /// How it ended is not known here: a person's statement or a newer generation came first.
    Overruled,
}

/// What the destination of an attempt has to say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It ran here, whether or not it still does.
    Ran,
    /// It never ran here, and never will.
    NeverRan,
    /// Its process lives and may still take the permit: ask again.
    Undecided,
    /// Its process is dead. Nothing may be answered before `Refused` is durable, since a process
    /// that was only thought dead could still take the permit.
    RefuseFirst,
    /// This host knows of no such attempt. That is **not** a refusal: its record may have been lost.
    Unknown,
}

/// What is known of one machine's permit on this host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    pub(super) vm: VmId,
    pub(super) sequence: u64,
    pub(super) generation: Generation,
    pub(super) state: PermitState,
    /// Oldest first. It stands in the same slot as the state, so that an attempt ends and is
    /// remembered in one write: there is no moment at which one of the two is true alone.
    pub(super) outcomes: VecDeque<(SessionId, Outcome)>,
}

impl Record {
    /// The machine.
    #[must_use]
    pub fn vm(&self) -> VmId {
        self.vm
    }

    /// How many times the record was written, this time included.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How new this host's knowledge of the permit is. In `Prepared` it is the generation that
    /// taking the permit will give, in `Gone` that of the host which has it.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Who may run the machine.
    #[must_use]
    pub fn state(&self) -> &PermitState {
        &self.state
    }

    /// The ends of the last 64 attempts, oldest first.
    pub fn outcomes(&self) -> impl ExactSizeIterator<Item = (SessionId, Outcome)> {
        self.outcomes.iter().copied()
    }

    /// How an attempt ended, if it has and the record still remembers.
    #[must_use]
    pub fn outcome(&self, session: SessionId) -> Option<Outcome> {
        self.outcomes().find(|(ended, _)| *ended == session).map(|(_, outcome)| outcome)
    }

    /// Whether the machine may be started or restored on this host now, given that none of its
    /// processes is alive.
    #[must_use]
    pub fn may_start(&self) -> bool {
        matches!(self.state, PermitState::Held { .. })
    }

    /// What to answer a source that asks about an attempt. `is_alive` says whether the process that
    /// was prepared for it still holds the lock on the record.
    #[must_use]
    pub fn answer(&self, session: SessionId, is_alive: bool) -> Answer {
        match (self.outcome(session), &self.state) {
            (Some(Outcome::Taken), _) => Answer::Ran,
            (Some(Outcome::Refused), _) => Answer::NeverRan,
            (_, PermitState::Prepared { session: prepared, .. }) if *prepared == session => {
                if is_alive {
                    Answer::Undecided
                } else {
                    Answer::RefuseFirst
                }
            }
            _ => Answer::Unknown,
        }
    }
}
