//! What may happen to a permit, and who may say so.

use std::fmt;

use super::{Generation, HostName, Nonce, SessionId, Successor};

/// Who changes a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// The machine process with this nonce.
    Process(Nonce),
    /// Whoever has just taken the lock that a machine's processes hold for their whole lives. That
    /// the lock was free proves that all of them are dead, and only that does: claiming to be the
    /// keeper without it breaks every promise of this module.
    Keeper,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(nonce) => write!(f, "process {nonce}"),
            Self::Keeper => f.write_str("the keeper"),
        }
    }
}

/// A change of a permit. Each names what it expects, and is refused where the record says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A new machine, which no other host can know. By the keeper.
    Create,
    /// A process is about to start the machine, or to restore it. By the keeper, which gives the
    /// lock to that process afterwards.
    Start {
        /// The process.
        runner: Nonce,
    },
    /// The runner offers the permit. The guest may run on.
    Offer {
        /// A new attempt.
        session: SessionId,
        /// To whom.
        to: Successor,
    },
    /// The runner takes its offer back. To another host that is allowed only while no byte of the
    /// permit frame was given to a socket: the record cannot know, the runner does. To another
    /// process it is always allowed, since that one takes the permit from this very record.
    Withdraw {
        /// The attempt.
        session: SessionId,
    },
    /// The process that the permit was offered to, or that was prepared for it, takes it: it holds
    /// the permit frame, the root matches, the disks are open and locked.
    Take {
        /// The attempt.
        session: SessionId,
    },
    /// What was taken is simply held from now on, and may move on.
    Settle {
        /// The attempt.
        session: SessionId,
    },
    /// An offer between processes of which none is alive: nobody has the guest's memory any more,
    /// and nobody else can have the permit. By the keeper.
    Reclaim {
        /// The attempt.
        session: SessionId,
    },
    /// This host gets ready to receive the machine. By the keeper.
    Prepare {
        /// A new attempt.
        session: SessionId,
        /// The process that may take the permit.
        runner: Nonce,
        /// The source.
        from: HostName,
        /// The source's generation.
        offered: Generation,
    },
    /// This host will never run the machine in this attempt.
    Refuse {
        /// The attempt.
        session: SessionId,
    },
    /// The destination has said that it never ran the machine and never will.
    PeerRefused {
        /// The attempt.
        session: SessionId,
    },
    /// The destination has said that it took the permit.
    PeerTook {
        /// The attempt.
        session: SessionId,
    },
    /// A person states that no other copy of the machine is alive.
    Resolve {
        /// The process that may run it from now on: the one that waits in doubt, if there is one.
        runner: Option<Nonce>,
        /// The newest generation that the person or another host knows of.
        above: Generation,
    },
    /// A host with a credible claim to the machine has shown a generation that is not older than
    /// ours. The guest was stopped before this is said.
    Supersede {
        /// Its generation.
        by: Generation,
        /// That host.
        peer: HostName,
    },
}

impl Event {
    /// The event's name, for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create => "Create",
            Self::Start { .. } => "Start",
            Self::Offer { .. } => "Offer",
            Self::Withdraw { .. } => "Withdraw",
            Self::Take { .. } => "Take",
            Self::Settle { .. } => "Settle",
            Self::Reclaim { .. } => "Reclaim",
            Self::Prepare { .. } => "Prepare",
            Self::Refuse { .. } => "Refuse",
            Self::PeerRefused { .. } => "PeerRefused",
            Self::PeerTook { .. } => "PeerTook",
            Self::Resolve { .. } => "Resolve",
            Self::Supersede { .. } => "Supersede",
        }
    }
}
