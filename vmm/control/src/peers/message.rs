//! What daemons say to each other on the control channel (`novacron/1`): HTTP/1.1 and JSON inside of TLS.
//!
//! | request | what it asks | answer |
//! |---|---|---|
//! | `GET /v1/hello` | who are you? | [`Hello`] |
//! | `POST /v1/trial` | nothing; its body shows what the link takes | nothing |
//! | `POST /v1/check` | could this machine come? | [`Checked`] |
//! | `POST /v1/invitations` | this machine is to come: prepare for it | [`Admission`] |
//! | `POST /v1/answers` | what became of this session? | [`Answered`] |
//! | `POST /v1/receipts` | this is what was done; sign it, too | [`Countersigned`] |

use std::time::Duration;

use machine::{ArrivalReport, Description};
use serde::{Deserialize, Serialize};

use crate::api::{Blocker, MachineName, MachineSpec, MigrationOutcome, ReceiptStatement};

/// Of these messages. Raised whenever one changes in a way that an older daemon would misread.
pub(crate) const VERSION: u32 = 1;

/// The longest message: a description has the CPUID of up to 64 vCPUs.
pub(crate) const MESSAGE_MAX_BYTES: usize = 4 << 20;

/// Who a daemon is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The newest version of these messages that it knows.
    pub(crate) version: u32,
    /// The version of its executable, for people.
    pub(crate) release: String,
}

/// A machine that is to come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Invitation {
    pub(crate) version: u32,
    /// The attempt, drawn by the source: 32 hexadecimal digits.
    pub(crate) session: String,
    /// The machine's id: 32 hexadecimal digits.
    pub(crate) machine: String,
    /// What it is called at its source.
    pub(crate) name: MachineName,
    /// What it was made of, for the time after its guest has ended there.
    pub(crate) spec: MachineSpec,
    /// What it is.
    pub(crate) description: Description,
    /// The public key that the source has in this session: 64 hexadecimal digits.
    pub(crate) key: String,
    /// How long the source may be out of reach.
    pub(crate) patience_ms: u64,
}

impl Invitation {
    pub(crate) fn patience(&self) -> Duration {
        // A day, as for whoever asks for a move.
        Duration::from_millis(self.patience_ms.min(24 * 3600 * 1000))
    }
}

/// What is in the way of a machine's coming.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Checked {
    pub(crate) blockers: Vec<Blocker>,
}

/// The destination has prepared: its record says so.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Admission {
    /// The public key that it has in this session.
    pub(crate) key: String,
    /// Whether it has kept an image of the machine, so that the source asks what is in it.
    #[serde(default)]
    pub(crate) has_kept: bool,
}

/// What became of a session?
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Question {
    pub(crate) session: String,
    pub(crate) machine: String,
    /// Refuse, unless it has come already.
    pub(crate) refuse: bool,
    /// It has come: wait a moment for the report of it.
    #[serde(default)]
    pub(crate) report: bool,
}

/// By the record of the one who is asked (SPEC.md, 7.4).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    /// What it did there, while that is remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) arrival: Option<ArrivalReport>,
}

/// The rows of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// It ran there, whether or not it still does.
    Ran,
    /// It never ran there, and never will.
    NeverRan,
    /// It may still come to run there.
    Undecided,
    /// Nothing is known of it there. That is no refusal.
    Unknown,
}

/// What a move did, as its source says, and has signed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) statement: ReceiptStatement,
    pub(crate) signature: String,
    /// The whole report, which is not signed.
    pub(crate) outcome: MigrationOutcome,
}

/// The destination has signed it, too.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Countersigned {
    pub(crate) signature: String,
}
