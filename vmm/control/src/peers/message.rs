//! What daemons say to each other on the control channel (`novacron/1`): HTTP/1.1 and JSON inside of TLS. See
//! `dwcp/SPEC.md`, 12, whose examples are tested here.
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

/// By the record of the one who is asked (`dwcp/SPEC.md`, 7.4).
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

#[cfg(test)]
mod tests {
    use dwcp::transport::PublicKey;
    use serde::de::DeserializeOwned;
    use serde_json::Value;

    use super::*;
    use crate::api::{ApiError, ErrorCode, Receipt};

    const SPECIFICATION: &str = include_str!("../../../../dwcp/SPEC.md");

    /// What stands in a block of this kind behind this line of the specification.
    fn block(line: &str, kind: &str) -> &'static str {
        let (_, section) = SPECIFICATION.split_once("\n## 12 ").expect("the section");
        let (_, rest) = section.split_once(line).unwrap_or_else(|| panic!("no {line}"));
        let (head, rest) = rest.split_once("```").expect("a block");
        let rest = rest.strip_prefix(kind).unwrap_or_else(|| panic!("behind {line}: {rest:.20}"));
        assert!(head.trim().is_empty(), "between {line} and its block stands {head}");
        rest.trim_start().split_once("```").expect("its end").0
    }

    /// The specification's example of a message, which must have every field of it, and no other.
    fn example<T: Serialize + DeserializeOwned>(name: &str) -> T {
        let text = block(&format!("\n`{name}`:\n"), "json");
        let message: T =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let specified: Value = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&message).unwrap(), specified, "{name}");
        message
    }

    #[test]
    fn the_specification_has_an_example_of_each_message() {
        let hello: Hello = example("Hello");
        let invitation: Invitation = example("Invitation");
        assert_eq!([hello.version, invitation.version], [VERSION; 2]);
        let shape = crate::spec::check(&invitation.spec).unwrap();
        assert_eq!(shape.config, invitation.description.config);
        let known = serde_json::to_value(machine::MachineState::sections()).unwrap();
        assert_eq!(serde_json::to_value(&invitation.description).unwrap()["sections"], known);
        let checked: Checked = example("Checked");
        assert_eq!(checked.blockers[0].kind.name(), "memory");
        let admission: Admission = example("Admission");
        assert_ne!(admission.key, invitation.key);
        let question: Question = example("Question");
        assert_eq!(question.session, invitation.session);
        let answered: Answered = example("Answered");
        assert_eq!(answered.answer, Answer::Ran);
        let refusal: ApiError = example("Refusal");
        assert_eq!(refusal.code, ErrorCode::Blocked);
    }

    #[test]
    fn every_answer_is_in_the_specification() {
        let all = [Answer::Ran, Answer::NeverRan, Answer::Undecided, Answer::Unknown];
        let words = all.map(|answer| serde_json::to_string(&answer).unwrap().replace('"', "`"));
        let row = format!("by the record (7.4): {} |", words.join(", "));
        assert!(SPECIFICATION.contains(&row), "{row}");
    }

    #[test]
    fn the_specifications_receipt_is_signed_by_both_hosts() {
        let Offer { statement, signature, outcome } = example("Offer");
        assert!(outcome.is_of(&statement));
        let signed = block("ended by a line feed.\n", "text");
        assert_eq!(statement.signed_bytes(), signed.as_bytes());
        let key: PublicKey = statement.from.parse().unwrap();
        assert!(key.verifies(signed.as_bytes(), &signature.parse().unwrap()));
        let countersigned: Countersigned = example("Countersigned");
        Receipt::new(statement, signature, countersigned.signature).verify().unwrap();
    }

    #[test]
    fn the_limits_are_those_of_the_specification() {
        assert!(SPECIFICATION.contains("A body has at most 4,194,304 bytes"));
        assert_eq!(MESSAGE_MAX_BYTES, 4_194_304);
        let invitation: Invitation = example("Invitation");
        let late = Invitation { patience_ms: u64::MAX, ..invitation };
        assert_eq!(late.patience(), Duration::from_millis(86_400_000));
    }
}
