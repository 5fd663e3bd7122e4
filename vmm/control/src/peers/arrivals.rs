//! [`Arrivals`]: which sessions are waited for here, and what those that came did.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use machine::{ArrivalDoor, ArrivalReport};

/// Reports that can still be asked for.
const REPORTS_KEPT: usize = 1000;

/// Sessions of which this host is, or was, the destination. What it has forgotten, the permit record still knows.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    inner: Mutex<Inner>,
    /// Somebody has come.
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    doors: HashMap<[u8; 16], ArrivalDoor>,
    reports: VecDeque<Came>,
}

/// A guest that came.
#[derive(Debug)]
struct Came {
    session: [u8; 16],
    /// The key of the host that it came from: nobody else is told.
    peer: String,
    /// The operation that its coming is here.
    operation: String,
    report: ArrivalReport,
}

impl Arrivals {
    /// A process waits for this session's sockets.
    pub(crate) fn opens(&self, session: [u8; 16], door: ArrivalDoor) {
        self.lock().doors.insert(session, door);
    }

    /// It does no longer.
    pub(crate) fn closes(&self, session: [u8; 16]) {
        self.lock().doors.remove(&session);
    }

    /// Where this session's sockets are brought in.
    pub(crate) fn door(&self, session: [u8; 16]) -> Option<ArrivalDoor> {
        self.lock().doors.get(&session).cloned()
    }

    /// The guest of this session runs here.
    pub(crate) fn came(
        &self,
        session: [u8; 16],
        peer: String,
        operation: String,
        report: ArrivalReport,
    ) {
        let mut inner = self.lock();
        if inner.reports.len() == REPORTS_KEPT {
            inner.reports.pop_front();
        }
        inner.reports.push_back(Came { session, peer, operation, report });
        drop(inner);
        self.arrived.notify_all();
    }

    /// What it did, for the host that it came from, while that is remembered.
    pub(crate) fn report(&self, session: [u8; 16], peer: &str) -> Option<ArrivalReport> {
        let inner = self.lock();
        let is_it = |came: &&Came| came.session == session && came.peer == peer;
        let came = inner.reports.iter().find(is_it)?;
        Some(came.report.clone())
    }

    /// The same, and waits for it so long: the process has said it to its source, and is about to say it here.
    pub(crate) fn report_within(
        &self,
        session: [u8; 16],
        peer: &str,
        limit: Duration,
    ) -> Option<ArrivalReport> {
        let is_it = |came: &Came| came.session == session && came.peer == peer;
        let waited = self
            .arrived
            .wait_timeout_while(self.lock(), limit, |inner| !inner.reports.iter().any(is_it));
        // A panic aborts the process, so that no lock is ever poisoned.
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        inner.reports.iter().find(|came| is_it(came)).map(|came| came.report.clone())
    }

    /// The operation that its coming is here, while that is remembered.
    pub(crate) fn operation(&self, session: [u8; 16]) -> Option<String> {
        let inner = self.lock();
        let came = inner.reports.iter().find(|came| came.session == session)?;
        Some(came.operation.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
