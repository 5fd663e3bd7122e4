//! [`BatchTrace`]: what encoding took, batch by batch, as a recording.

use std::time::Duration;

use crate::hde::{Ladder, Tier, TierCounts};
use crate::pba::EncodedBatch;

/// Batches of one memory, in the order in which they went out.
#[derive(Clone, Debug, Default)]
pub struct BatchTrace {
    /// The batches.
    pub batches: Vec<EncodedBatch>,
}

impl BatchTrace {
    /// A line for each batch: the step of the ladder, bytes of payload, processor time in nanoseconds, and then for each
    /// tier that has pages its number, `:`, pages, `/`, bytes that are theirs alone.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = String::new();
        for batch in &self.batches {
            text.push_str(&format!("{} {} {}", batch.step, batch.bytes, batch.took.as_nanos()));
            for tier in Tier::ALL {
                let tally = batch.tiers.of(tier);
                if tally.pages > 0 {
                    text.push_str(&format!(" {}:{}/{}", tier as u8, tally.pages, tally.bytes));
                }
            }
            text.push('\n');
        }
        text.into_bytes()
    }

    /// The recording that `bytes` are; `None` if they are none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let batches = text.lines().map(batch).collect::<Option<_>>()?;
        Some(Self { batches })
    }
}

fn batch(line: &str) -> Option<EncodedBatch> {
    let mut words = line.split(' ');
    let step = words.next()?.parse().ok().filter(|step| *step < Ladder::STEPS.len())?;
    let bytes = words.next()?.parse().ok()?;
    let took = Duration::from_nanos(words.next()?.parse().ok()?);
    let mut tiers = TierCounts::default();
    for word in words {
        let (tier, tally) = word.split_once(':')?;
        let (pages, bytes) = tally.split_once('/')?;
        let number: u8 = tier.parse().ok()?;
        let tier = Tier::ALL.into_iter().find(|tier| *tier as u8 == number)?;
        tiers.add_pages(tier, pages.parse().ok()?);
        tiers.add_bytes(tier, bytes.parse().ok()?);
    }
    Some(EncodedBatch { step, tiers, bytes, took })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_is_read_as_it_was_written() {
        let bytes = b"1 81000 470123 0:3/0 4:40/77000 5:1/4096\n5 9 1200 0:64/0\n";
        let trace = BatchTrace::from_bytes(bytes).unwrap();
        assert_eq!(trace.to_bytes(), bytes);
        let [first, last] = &trace.batches[..] else { panic!("{trace:?}") };
        assert_eq!((first.step, first.bytes, first.tiers.total().pages), (1, 81_000, 44));
        assert_eq!((last.took, last.tiers.of(Tier::Zero).pages), (Duration::from_nanos(1200), 64));
    }

    #[test]
    fn what_is_no_recording_is_refused() {
        for bytes in ["\n", "1 2\n", "6 2 3\n", "1 2 3 4:5\n", "1 2 3 6:1/1\n", "1 2 3 4:x/1\n"] {
            assert!(BatchTrace::from_bytes(bytes.as_bytes()).is_none(), "{bytes:?}");
        }
    }
}
