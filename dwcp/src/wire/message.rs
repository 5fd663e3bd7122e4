//! [`Message`]: what a frame says, for every kind but `Pages`. See `SPEC.md`, "Frames".

use std::ops::Range;

use super::Kind;
use super::limits::{
    ANNOUNCE_MAX, CONTROL_MAX, KEPT_MAX, NUMBERS_MAX, STATE_HEAD, STATE_MAX, STATE_TOTAL_MAX,
    WELCOME_HEAD,
};
use super::text::Text;
use crate::acp::Answer;
use crate::digest::{Root, ShortDigest};
use crate::ledger::SendNumber;
use crate::page::{Gfn, PageRun};

/// Bytes of a range of send numbers, and of a run of pages.
const RANGE_BYTES: usize = 16;

/// Bytes of a page's digest in a `Kept`, and of what stands in front of a run of them.
const SHORT_BYTES: usize = size_of::<ShortDigest>();
const KEPT_RUN_HEAD: usize = 12;

/// Ranges that fit one `Acknowledge` or `Want`.
pub const RANGES_MAX: usize = NUMBERS_MAX as usize / RANGE_BYTES;

/// Ranges that fit a `Welcome`.
pub const WELCOME_RANGES_MAX: usize = (CONTROL_MAX - WELCOME_HEAD) as usize / RANGE_BYTES;

/// Runs that fit an `Announce`.
pub const ANNOUNCED_RUNS_MAX: usize = ANNOUNCE_MAX as usize / RANGE_BYTES;

/// How many digests fit a `Kept` that has so many runs; none if so many do not fit.
#[must_use]
pub const fn kept_room(runs: usize) -> usize {
    (KEPT_MAX as usize - 1).saturating_sub(runs * KEPT_RUN_HEAD) / SHORT_BYTES
}

/// Bytes of a state that fit one `State`.
pub const STATE_PART_MAX: usize = (STATE_MAX - STATE_HEAD) as usize;

const ASK_REFUSE: u8 = 1;
const ASK_COMPLETE: u8 = 2;

const ANSWER_RAN: u8 = 1;
const ANSWER_NEVER_RAN: u8 = 2;
const ANSWER_UNDECIDED: u8 = 3;
const ANSWER_UNKNOWN: u8 = 4;

/// Bytes that are no payload of their kind. The peer is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// More or fewer bytes than it consists of
    #[error("the peer sent a {0:?} of a length that it cannot have")]
    Length(Kind),
    /// A field with a value that it cannot have
    #[error("the peer sent a {kind:?} whose {field} makes no sense")]
    Field {
        /// The kind.
        kind: Kind,
        /// The field's name.
        field: &'static str,
    },
}

/// What a frame says. A value of this type is within every limit; what its numbers mean for the
/// session is for the session to judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// See [`Kind::Hello`].
    Hello {
        /// Every send below is settled or given up: the destination need not remember it.
        settled_below: SendNumber,
    },
    /// See [`Kind::Welcome`].
    Welcome {
        /// The number of the newest state that the destination holds whole; 0 for none.
        state: u64,
        /// Sends that are written and checked, at or above the source's `settled_below`.
        applied: Vec<Range<SendNumber>>,
    },
    /// See [`Kind::Acknowledge`].
    Acknowledge(Vec<Range<SendNumber>>),
    /// See [`Kind::Want`].
    Want(Vec<Range<SendNumber>>),
    /// See [`Kind::State`].
    State(StatePart<'a>),
    /// See [`Kind::Announce`].
    Announce(Vec<PageRun>),
    /// See [`Kind::Permit`].
    Permit(Permit),
    /// See [`Kind::Ask`].
    Ask(Ask),
    /// See [`Kind::Answer`].
    Answer {
        /// The answer.
        answer: PeerAnswer,
        /// Why, for a person.
        reason: Text,
    },
    /// See [`Kind::Limits`].
    Limits(Limits),
    /// See [`Kind::Abort`]. Why, for a person.
    Abort(Text),
    /// See [`Kind::Ping`].
    Ping {
        /// Whether it answers one.
        is_echo: bool,
        /// What the answer repeats.
        token: u64,
    },
    /// See [`Kind::Recall`].
    Recall {
        /// The first page of which it is asked.
        from: Gfn,
    },
    /// See [`Kind::Kept`].
    Kept(KeptPart),
}

/// A part of the manifest of what a destination has kept. Its runs are in any order here; what that means is for the
/// session to judge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptPart {
    /// Nothing follows it.
    pub is_last: bool,
    /// Pages that are not zero there. None only in a last part.
    pub runs: Vec<KeptRun>,
}

/// Consecutive pages of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRun {
    /// The first page.
    pub first: Gfn,
    /// What each page digests to; not empty.
    pub digests: Vec<ShortDigest>,
}

/// A part of an encoded state. Parts of one state are sent in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatePart<'a> {
    /// The state's number: 1 and up, a newer one has a larger one.
    pub number: u64,
    /// The state that it is a difference to; 0 for none.
    pub base: u64,
    /// Bytes of the encoded state.
    pub total: u32,
    /// Where this part belongs.
    pub offset: u32,
    /// The part; not empty.
    pub bytes: &'a [u8],
}

/// The permit: whoever holds this, and has a machine with this root, may take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// The number of the final state.
    pub state: u64,
    /// What memory and state must come to.
    pub root: Root,
}

/// A question about the session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Refuse, unless the permit is taken.
    pub refuse: bool,
    /// Everything is acknowledged: what is not right by now never will be.
    pub is_complete: bool,
}

/// What a destination says about a session: [`Answer`] without the one that nobody may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAnswer {
    /// It ran there, whether or not it still does.
    Ran,
    /// It never ran there, and never will.
    NeverRan,
    /// It may still run there.
    Undecided,
    /// There is no such session there. That is **not** a refusal.
    Unknown,
}

impl PeerAnswer {
    /// What may be said of an answer by the record; `None` where `Refused` must be durable first.
    #[must_use]
    pub fn of(answer: Answer) -> Option<Self> {
        match answer {
            Answer::Ran => Some(Self::Ran),
            Answer::NeverRan => Some(Self::NeverRan),
            Answer::Undecided => Some(Self::Undecided),
            Answer::Unknown => Some(Self::Unknown),
            Answer::RefuseFirst => None,
        }
    }
}

/// Limits that one side asks the other to keep from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes a second on the wire; 0 for no limit.
    pub bytes_per_second: u64,
    /// Pages a batch; at least 1.
    pub batch_pages: u32,
}

impl<'a> Message<'a> {
    /// The message that a payload is; `None` for `Pages`, whose payload is another module's.
    ///
    /// # Errors
    /// When the payload is not one of this kind.
    pub fn parse(kind: Kind, payload: &'a [u8]) -> Result<Option<Self>, PayloadError> {
        let mut fields = Fields { kind, rest: payload };
        let message = match kind {
            Kind::Hello => Self::Hello { settled_below: fields.number()? },
            Kind::Welcome => Self::Welcome { state: fields.u64()?, applied: fields.ranges()? },
            Kind::Pages => return Ok(None),
            Kind::Acknowledge => Self::Acknowledge(fields.ranges()?),
            Kind::Want => Self::Want(fields.ranges()?),
            Kind::State => Self::State(fields.state_part()?),
            Kind::Announce => Self::Announce(fields.runs()?),
            Kind::Permit => Self::Permit(Permit {
                state: fields.u64()?,
                root: Root::from_bytes(&fields.take()?),
            }),
            Kind::Ask => Self::Ask(fields.ask()?),
            Kind::Answer => Self::Answer { answer: fields.answer()?, reason: fields.text()? },
            Kind::Limits => Self::Limits(fields.limits()?),
            Kind::Abort => Self::Abort(fields.text()?),
            Kind::Ping => Self::Ping { is_echo: fields.flag("echo")?, token: fields.u64()? },
            Kind::Recall => Self::Recall { from: Gfn(fields.u64()?) },
            Kind::Kept => Self::Kept(fields.kept_part()?),
        };
        if fields.rest.is_empty() { Ok(Some(message)) } else { Err(PayloadError::Length(kind)) }
    }

    /// The message's kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Hello { .. } => Kind::Hello,
            Self::Welcome { .. } => Kind::Welcome,
            Self::Acknowledge(_) => Kind::Acknowledge,
            Self::Want(_) => Kind::Want,
            Self::State(_) => Kind::State,
            Self::Announce(_) => Kind::Announce,
            Self::Permit(_) => Kind::Permit,
            Self::Ask(_) => Kind::Ask,
            Self::Answer { .. } => Kind::Answer,
            Self::Limits(_) => Kind::Limits,
            Self::Abort(_) => Kind::Abort,
            Self::Ping { .. } => Kind::Ping,
            Self::Recall { .. } => Kind::Recall,
            Self::Kept(_) => Kind::Kept,
        }
    }

    /// Appends the message's payload.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello { settled_below } => out.extend(settled_below.0.to_le_bytes()),
            Self::Welcome { state, applied } => {
                out.extend(state.to_le_bytes());
                write_ranges(out, applied);
            }
            Self::Acknowledge(ranges) | Self::Want(ranges) => write_ranges(out, ranges),
            Self::State(part) => {
                out.extend(part.number.to_le_bytes());
                out.extend(part.base.to_le_bytes());
                out.extend(part.total.to_le_bytes());
                out.extend(part.offset.to_le_bytes());
                out.extend(part.bytes);
            }
            Self::Announce(runs) => {
                for run in runs {
                    out.extend(run.first().0.to_le_bytes());
                    out.extend(run.pages().to_le_bytes());
                }
            }
            Self::Permit(permit) => {
                out.extend(permit.state.to_le_bytes());
                out.extend(permit.root.to_bytes());
            }
            Self::Ask(Ask { refuse, is_complete }) => {
                let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
                out.push(bit(*refuse, ASK_REFUSE) | bit(*is_complete, ASK_COMPLETE));
            }
            Self::Answer { answer, reason } => {
                out.push(match answer {
                    PeerAnswer::Ran => ANSWER_RAN,
                    PeerAnswer::NeverRan => ANSWER_NEVER_RAN,
                    PeerAnswer::Undecided => ANSWER_UNDECIDED,
                    PeerAnswer::Unknown => ANSWER_UNKNOWN,
                });
                out.extend(reason.as_str().as_bytes());
            }
            Self::Limits(limits) => {
                out.extend(limits.bytes_per_second.to_le_bytes());
                out.extend(limits.batch_pages.to_le_bytes());
                out.extend([0; 4]);
            }
            Self::Abort(reason) => out.extend(reason.as_str().as_bytes()),
            Self::Ping { is_echo, token } => {
                out.push(u8::from(*is_echo));
                out.extend(token.to_le_bytes());
            }
            Self::Recall { from } => out.extend(from.0.to_le_bytes()),
            Self::Kept(part) => {
                out.push(u8::from(part.is_last));
                for run in &part.runs {
                    let pages = u32::try_from(run.digests.len()).expect("a run of one frame");
                    out.extend(run.first.0.to_le_bytes());
                    out.extend(pages.to_le_bytes());
                    run.digests.iter().for_each(|digest| out.extend(digest.0));
                }
            }
        }
    }
}

fn write_ranges(out: &mut Vec<u8>, ranges: &[Range<SendNumber>]) {
    for range in ranges {
        out.extend(range.start.0.to_le_bytes());
        out.extend((range.end.0 - range.start.0).to_le_bytes());
    }
}

/// A payload that is read field by field.
struct Fields<'a> {
    kind: Kind,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], PayloadError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(PayloadError::Length(self.kind))?;
        self.rest = rest;
        Ok(*field)
    }

    fn u32(&mut self) -> Result<u32, PayloadError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, PayloadError> {
        self.take().map(u64::from_le_bytes)
    }

    fn wrong(&self, field: &'static str) -> PayloadError {
        PayloadError::Field { kind: self.kind, field }
    }

    fn number(&mut self) -> Result<SendNumber, PayloadError> {
        match self.u64()? {
            0 => Err(self.wrong("send number")),
            number => Ok(SendNumber(number)),
        }
    }

    fn flag(&mut self, field: &'static str) -> Result<bool, PayloadError> {
        match self.take()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(self.wrong(field)),
        }
    }

    /// All that is left, as ranges that are not empty.
    fn ranges(&mut self) -> Result<Vec<Range<SendNumber>>, PayloadError> {
        let mut ranges = Vec::with_capacity(self.rest.len() / RANGE_BYTES);
        while !self.rest.is_empty() {
            let (start, count) = (self.number()?, self.u64()?);
            let end = start.0.checked_add(count).filter(|_| count > 0);
            ranges.push(start..SendNumber(end.ok_or(self.wrong("range of send numbers"))?));
        }
        Ok(ranges)
    }

    fn runs(&mut self) -> Result<Vec<PageRun>, PayloadError> {
        let mut runs = Vec::with_capacity(self.rest.len() / RANGE_BYTES);
        while !self.rest.is_empty() {
            let run = PageRun::new(Gfn(self.u64()?), self.u64()?);
            runs.push(run.map_err(|_| self.wrong("run of pages"))?);
        }
        Ok(runs)
    }

    fn kept_part(&mut self) -> Result<KeptPart, PayloadError> {
        let mut part = KeptPart { is_last: self.flag("last")?, runs: Vec::new() };
        while !self.rest.is_empty() {
            let (first, pages) = (Gfn(self.u64()?), self.u32()?);
            PageRun::new(first, pages.into()).map_err(|_| self.wrong("run of pages"))?;
            // Nothing is allocated for pages that are not there.
            let bytes =
                usize::try_from(pages).ok().and_then(|pages| pages.checked_mul(SHORT_BYTES));
            let digests = bytes.and_then(|bytes| self.rest.split_at_checked(bytes));
            let (digests, rest) = digests.ok_or(PayloadError::Length(self.kind))?;
            self.rest = rest;
            let digests = digests.as_chunks().0.iter().map(|bytes| ShortDigest(*bytes)).collect();
            part.runs.push(KeptRun { first, digests });
        }
        if part.runs.is_empty() && !part.is_last {
            return Err(self.wrong("run of pages"));
        }
        Ok(part)
    }

    fn state_part(&mut self) -> Result<StatePart<'a>, PayloadError> {
        let (number, base) = (self.u64()?, self.u64()?);
        let (total, offset) = (self.u32()?, self.u32()?);
        let bytes = std::mem::take(&mut self.rest);
        if base >= number {
            return Err(self.wrong("base"));
        }
        let end = u64::from(offset) + bytes.len() as u64;
        if total > STATE_TOTAL_MAX || bytes.is_empty() || end > u64::from(total) {
            return Err(self.wrong("extent"));
        }
        Ok(StatePart { number, base, total, offset, bytes })
    }

    fn ask(&mut self) -> Result<Ask, PayloadError> {
        let [flags] = self.take()?;
        if flags & !(ASK_REFUSE | ASK_COMPLETE) != 0 {
            return Err(self.wrong("flags"));
        }
        Ok(Ask { refuse: flags & ASK_REFUSE != 0, is_complete: flags & ASK_COMPLETE != 0 })
    }

    fn answer(&mut self) -> Result<PeerAnswer, PayloadError> {
        match self.take()? {
            [ANSWER_RAN] => Ok(PeerAnswer::Ran),
            [ANSWER_NEVER_RAN] => Ok(PeerAnswer::NeverRan),
            [ANSWER_UNDECIDED] => Ok(PeerAnswer::Undecided),
            [ANSWER_UNKNOWN] => Ok(PeerAnswer::Unknown),
            _ => Err(self.wrong("answer")),
        }
    }

    fn limits(&mut self) -> Result<Limits, PayloadError> {
        let (bytes_per_second, batch_pages) = (self.u64()?, self.u32()?);
        if batch_pages == 0 || self.u32()? != 0 {
            return Err(self.wrong("batch size"));
        }
        Ok(Limits { bytes_per_second, batch_pages })
    }

    fn text(&mut self) -> Result<Text, PayloadError> {
        let text = std::str::from_utf8(std::mem::take(&mut self.rest)).ok();
        text.and_then(Text::checked).ok_or(self.wrong("text"))
    }
}

#[cfg(test)]
mod tests;
