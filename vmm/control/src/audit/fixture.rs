//! Logs for tests.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::folder::file_name;
use super::log::{AuditError, AuditLog, Receipt};
use super::problem::{AuditProblem, VerifyError};
use super::record::{Call, Outcome, Phase};
use super::verify::{Summary, verify};
use crate::access::{Caller, Role};
use crate::config::AuditConfig;
use crate::quantity::Size;

/// A folder of its own for each test.
pub(super) struct Place {
    top: TempDir,
    pub(super) limits: AuditConfig,
}

impl Place {
    /// Without a log. Segments hold some five calls, and three segments are kept.
    pub(super) fn new() -> Self {
        let limits = AuditConfig { segment_size: Size(1700), segments_kept: 3 };
        // In memory if that can be: some tests wait for thousands of writes.
        let memory = tempfile::tempdir_in("/dev/shm");
        Self { top: memory.or_else(|_| tempfile::tempdir()).unwrap(), limits }
    }

    /// With a log of so many calls.
    pub(super) fn with_calls(count: u32) -> Self {
        let place = Self::new();
        let log = place.open().unwrap();
        append_all(&log, 0..count);
        place
    }

    pub(super) fn path(&self) -> PathBuf {
        self.top.path().join("audit")
    }

    pub(super) fn segment(&self, number: u64) -> PathBuf {
        self.path().join(file_name(number))
    }

    pub(super) fn head(&self) -> PathBuf {
        self.path().join("head")
    }

    pub(super) fn open(&self) -> Result<AuditLog, AuditError> {
        AuditLog::open(&self.path(), &self.limits)
    }

    pub(super) fn verify(&self) -> Result<Summary, AuditProblem> {
        verify(&self.path(), None).map_err(|error| match error {
            VerifyError::Problem { problem, .. } => problem,
            VerifyError::Io { source, .. } => unreachable!("{source}"),
        })
    }

    /// The numbers of the segments that are there.
    pub(super) fn segments(&self) -> Vec<u64> {
        (1..100).filter(|number| self.segment(*number).exists()).collect()
    }

    pub(super) fn lines(&self, segment: u64) -> Vec<String> {
        let text = fs::read_to_string(self.segment(segment)).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    pub(super) fn write_lines(&self, segment: u64, lines: &[String]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(self.segment(segment), text).unwrap();
    }
}

pub(super) fn call(number: u32) -> Call {
    let caller = Caller { uid: 1000, gid: 100, groups: Vec::new(), pid: Some(42) };
    let phase = if number.is_multiple_of(2) { Phase::Asked } else { Phase::Done(Outcome::Ok) };
    let target = format!("machine-{number}");
    Call::new(&caller, Some(Role::Admin), "machine.start", &target, Some("o-1"), phase)
}

pub(super) fn append(log: &AuditLog, number: u32) -> Receipt {
    log.append(call(number)).unwrap()
}

pub(super) fn append_all(log: &AuditLog, numbers: Range<u32>) {
    for number in numbers {
        append(log, number);
    }
}

/// Copies a log.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::remove_dir_all(to).ok();
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
