//! One line of the log.
//!
//! `{"seq":7,"time":"…","call":{…},"previous":"…","hash":"…"}`. The hash is that of the line's bytes before `,"hash":`, as
//! they are: whoever checks it needs no opinion on how JSON is written, and `head -c -76 | b3sum` is enough.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use time::UtcDateTime;

use super::hash::RecordHash;
use crate::access::{Caller, Role};

/// Between a record's bytes and its hash.
const HASH: &[u8] = b",\"hash\":\"";
const END: &[u8] = b"\"}";
/// Most bytes of a line with its newline. Of a call's texts the longest is [`TEXT_MOST`] bytes, and JSON may need six for
/// one.
pub(super) const LINE_MOST: usize = 8 << 10;
/// Longer texts of a caller are cut.
const TEXT_MOST: usize = 256;

/// What happened, in its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number, from 1.
    pub seq: u64,
    /// When it was written: UTC with microseconds, RFC 3339. The host's clock may have been set back between two.
    pub time: String,
    /// What it is about.
    #[serde(flatten)]
    pub event: Event,
    /// The hash of the record before it.
    pub previous: RecordHash,
}

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// Somebody asked for a change.
    Call(Call),
    /// A segment begins. Each begins so, and has this nowhere else.
    Segment(SegmentStart),
    /// A last line was cut short when a process was killed, and has been taken off.
    Torn(Torn),
}

/// A call that changes something, when it is asked for and when it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Who asked. If it was another host, that is the daemon's own user, without a role.
    pub caller: Who,
    /// The key of the host that asked, if it was one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<String>,
    /// The method's id.
    pub method: String,
    /// What it is to change, such as a machine's name.
    pub target: String,
    /// The operation that does it, if it takes time: what joins the two ends.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub operation: Option<String>,
    /// Which of its ends this is.
    #[serde(flatten)]
    pub phase: Phase,
}

/// The ends of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", content = "outcome", rename_all = "lowercase")]
pub enum Phase {
    /// It is about to be tried.
    Asked,
    /// It is over, or was not tried.
    Done(Outcome),
}

/// What came of a call: `ok`, `denied`, or the code of its error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Outcome {
    /// It was done.
    Ok,
    /// The caller's role may not.
    Denied,
    /// It failed, with this code.
    Failed(String),
}

/// Who asked: the kernel's word for it, and the role that followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Who {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process.
    pub pid: Option<u32>,
    /// None for those who may do nothing.
    pub role: Option<Role>,
}

/// The beginning of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentStart {
    /// Its number, from 1.
    pub number: u64,
    /// The oldest segment that is kept from now on. Those before it may be there no longer.
    pub oldest: u64,
}

/// What was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Torn {
    /// How many bytes.
    pub bytes: u64,
    /// Their BLAKE3 hash.
    pub cut: RecordHash,
}

impl Call {
    /// A call of this caller, who has this role. Texts that are longer than any sound one are cut.
    #[must_use]
    pub fn new(
        caller: &Caller,
        role: Option<Role>,
        method: &str,
        target: &str,
        operation: Option<&str>,
        phase: Phase,
    ) -> Self {
        let phase = match phase {
            Phase::Done(Outcome::Failed(code)) => Phase::Done(Outcome::Failed(cut(&code))),
            short => short,
        };
        Self {
            caller: Who { uid: caller.uid, gid: caller.gid, pid: caller.pid, role },
            host: None,
            method: cut(method),
            target: cut(target),
            operation: operation.map(cut),
            phase,
        }
    }

    /// The same, asked by the host with this key.
    #[must_use]
    pub fn of_host(self, key: Option<&str>) -> Self {
        Self { host: key.map(cut), ..self }
    }
}

fn cut(text: &str) -> String {
    const MARK: &str = "…";
    if text.len() <= TEXT_MOST {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(TEXT_MOST - MARK.len());
    format!("{}{MARK}", &text[..end])
}

impl From<Outcome> for String {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Ok => "ok".to_owned(),
            Outcome::Denied => "denied".to_owned(),
            Outcome::Failed(code) => code,
        }
    }
}

impl From<String> for Outcome {
    fn from(text: String) -> Self {
        match text.as_str() {
            "ok" => Self::Ok,
            "denied" => Self::Denied,
            _ => Self::Failed(text),
        }
    }
}

impl Record {
    /// The line of this record, with its newline, and its hash.
    pub(super) fn encode(&self) -> serde_json::Result<(Vec<u8>, RecordHash)> {
        let mut line = serde_json::to_vec(self)?;
        // The closing bracket: the hash comes before it.
        line.pop();
        let hash = RecordHash::of(&line);
        line.extend(HASH);
        line.extend(hash.to_string().into_bytes());
        line.extend(END);
        line.push(b'\n');
        Ok((line, hash))
    }

    /// Reads a line, without its newline. None if its hash is not that of its bytes, or it is in no form that this program
    /// writes.
    pub(super) fn decode(line: &[u8]) -> Option<(Self, RecordHash)> {
        let (hashed, hash) = split(line)?;
        if RecordHash::of(hashed) != hash {
            return None;
        }
        let record: Self = serde_json::from_slice(line).ok()?;
        let (again, _) = record.encode().ok()?;
        // So that nothing stands in a line that its reader does not see: a field twice, a field too many.
        (again.strip_suffix(b"\n") == Some(line)).then_some((record, hash))
    }
}

/// The bytes that are hashed, and the hash.
fn split(line: &[u8]) -> Option<(&[u8], RecordHash)> {
    let (rest, end) = line.split_at_checked(line.len().checked_sub(END.len())?)?;
    let (rest, digits) = rest.split_at_checked(rest.len().checked_sub(RecordHash::DIGITS)?)?;
    let (hashed, name) = rest.split_at_checked(rest.len().checked_sub(HASH.len())?)?;
    let hash = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (name == HASH && end == END).then_some((hashed, hash))
}

/// A moment as records have it.
pub(super) fn rfc3339(moment: SystemTime) -> String {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let nanoseconds = i128::try_from(since.as_nanos()).unwrap_or(i128::MAX);
    let moment = UtcDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap_or(UtcDateTime::MAX);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        moment.year(),
        u8::from(moment.month()),
        moment.day(),
        moment.hour(),
        moment.minute(),
        moment.second(),
        moment.microsecond()
    )
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
