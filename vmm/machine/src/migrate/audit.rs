//! The audit of a move: whether what was sent is what the guest's memory was when it stopped.
//!
//! The root proves that the destination holds what the source last read. That nothing was written after that reading
//! and missed by the dirty log, only the frozen memory can show.

use dwcp::acp::SessionId;
use dwcp::digest::DigestKey;
use dwcp::page::{Gfn, PAGE_SIZE, PageRun};
use dwcp::transport::SourceLink;
use serde::{Deserialize, Serialize};

use super::MigrateError;
use crate::memory::GuestRam;
use crate::vm::VmError;

/// Pages of which one is looked at in a sample.
const SAMPLE: u64 = 64;

/// How much of the memory is digested again once the guest runs at the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Audit {
    /// Nothing.
    None,
    /// One page of 64, others each time.
    #[default]
    Sampled,
    /// Every page.
    Whole,
}

/// What an audit has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Pages that were looked at.
    pub pages: u64,
    /// Of those, pages that were not sent as they were: the guest runs on with what they were before.
    pub different: u64,
}

/// Digests frozen memory again, and compares that with what the destination has acknowledged.
pub(super) fn audit(
    how: Audit,
    session: SessionId,
    link: &SourceLink,
    key: &DigestKey,
    ram: &GuestRam,
) -> Result<AuditReport, MigrateError> {
    let (step, offset, length) = match how {
        Audit::None => return Ok(AuditReport::default()),
        // A session's id is drawn, so that no page is always passed over.
        Audit::Sampled => (SAMPLE, u64::from(session.bytes()[0]) % SAMPLE, 1),
        Audit::Whole => (SAMPLE, 0, SAMPLE),
    };
    let mut report = AuditReport::default();
    let mut content = vec![0; usize::try_from(length * PAGE_SIZE).unwrap_or(0)];
    let mut now = Vec::new();
    for region in ram.layout().regions() {
        let (first, end) = (region.run().first().0, region.run().end().0);
        let starts = (first..end).filter(|frame| frame % step == offset);
        for start in starts {
            let pages = length.min(end - start);
            let run = PageRun::new(Gfn(start), pages).map_err(std::io::Error::other)?;
            let content = &mut content[..usize::try_from(run.bytes()).unwrap_or(0)];
            ram.read_run(run, content).map_err(VmError::from)?;
            let _ = key.digest_run(run, content, &mut now);
            link.with(|source, _| {
                for (frame, now) in (start..).zip(&now) {
                    report.pages += 1;
                    if source.digest(Gfn(frame)) != Some(*now) {
                        tracing::error!(
                            frame,
                            "a page was changed after it was sent, and not sent again"
                        );
                        report.different += 1;
                    }
                }
            });
        }
    }
    Ok(report)
}
