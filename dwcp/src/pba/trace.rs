//! Recordings that forecasts are judged by: [`Trace`] of which pages a guest wrote, interval by interval, [`LinkTrace`] of
//! what a link did, [`BatchTrace`] of what encoding took.

mod batches;
mod link;

use std::num::NonZeroU64;
use std::time::Duration;

use crate::page::{Gfn, PageRun};
use crate::page_set::PageSet;

pub use batches::BatchTrace;
pub use link::{LinkEvent, LinkTrace};

/// A recording of a guest's writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The first frame beyond the guest's memory.
    pub limit: Gfn,
    /// One after the other, without a gap.
    pub intervals: Vec<Interval>,
}

/// What was written in some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// How long it was.
    pub span: Duration,
    /// The pages.
    pub dirty: PageSet,
}

impl Trace {
    /// A line with the limit, then one for each interval: microseconds, and runs of pages. Each run is the
    /// pages skipped since the one before, and, if they are more than one, `+` and its pages.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\n", self.limit.0);
        for interval in &self.intervals {
            text.push_str(&interval.span.as_micros().to_string());
            let mut end = 0;
            for run in interval.dirty.runs(NonZeroU64::MAX) {
                text.push_str(&format!(" {}", run.first().0 - end));
                if run.pages() > 1 {
                    text.push_str(&format!("+{}", run.pages()));
                }
                end = run.end().0;
            }
            text.push('\n');
        }
        text.into_bytes()
    }

    /// The recording that `bytes` are; `None` if they are none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.lines();
        let limit = Gfn(lines.next()?.parse().ok()?);
        let intervals = lines.map(|line| interval(line, limit)).collect::<Option<_>>()?;
        Some(Self { limit, intervals })
    }
}

fn interval(line: &str, limit: Gfn) -> Option<Interval> {
    let mut words = line.split(' ');
    let span = Duration::from_micros(words.next()?.parse().ok()?);
    let mut dirty = PageSet::new(limit);
    let mut end = 0u64;
    for word in words {
        let (skipped, pages) = word.split_once('+').unwrap_or((word, "1"));
        let first = end.checked_add(skipped.parse().ok()?)?;
        let run = PageRun::new(Gfn(first), pages.parse().ok()?).ok()?;
        dirty.insert(run).ok()?;
        end = run.end().0;
    }
    Some(Interval { span, dirty })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_is_read_as_it_was_written() {
        let mut dirty = PageSet::new(Gfn(1000));
        for (first, pages) in [(0, 1), (7, 3), (999, 1)] {
            dirty.insert(PageRun::new(Gfn(first), pages).unwrap()).unwrap();
        }
        let quiet = Interval { span: Duration::from_millis(3), dirty: PageSet::new(Gfn(1000)) };
        let busy = Interval { span: Duration::from_micros(20_017), dirty };
        let trace = Trace { limit: Gfn(1000), intervals: vec![quiet, busy] };
        let bytes = trace.to_bytes();
        assert_eq!(bytes, b"1000\n3000\n20017 0 6+3 989\n");
        assert_eq!(Trace::from_bytes(&bytes), Some(trace));
    }

    #[test]
    fn what_is_no_recording_is_refused() {
        for bytes in [
            "",
            "x\n",
            "10\n5 11\n",
            "10\n5 3+8\n",
            "10\n5 +1\n",
            "10\n\n",
            "10\n5 1 18446744073709551615\n",
        ] {
            assert_eq!(Trace::from_bytes(bytes.as_bytes()), None, "{bytes:?}");
        }
    }
}
