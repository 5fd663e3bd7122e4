//! [`Throttle`]: holds the vCPUs of a machine outside of `KVM_RUN` for a share of the time.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::thread::VcpuThread;
use crate::jail::{self, ThreadKind};

/// In which vCPUs run once and are held once: short beside what a guest takes for a stall.
const PERIOD: Duration = Duration::from_millis(10);
/// For which vCPUs run at least: in less a guest gets nowhere, and its exits cost as much as they save.
const RUN_LEAST: Duration = Duration::from_micros(500);
/// For which they are held at most, however long they ran before that on a host that was late to hold them.
const HOLD_MOST: Duration = Duration::from_millis(100);

/// How much of its time a guest is held at most, as far as anybody may ask for it.
pub(crate) const SHARE_MOST: u8 = 99;

/// Where the vCPUs of a machine wait while they are held.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    closed_until: Mutex<Option<Instant>>,
    changed: Condvar,
}

impl Gate {
    /// Waits while it is closed and nobody wants the vCPU back.
    pub(super) fn pass(&self, pause: &AtomicBool) {
        let mut closed = lock(&self.closed_until);
        while let Some(until) = *closed
            && !pause.load(Ordering::Acquire)
        {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(closed, left);
            closed = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Has those look again who wait. Under the lock: a vCPU that has looked and does not wait yet would miss it.
    pub(super) fn look_again(&self) {
        let _closed = lock(&self.closed_until);
        self.changed.notify_all();
    }

    fn close(&self, until: Instant) {
        *lock(&self.closed_until) = Some(until);
    }

    fn open(&self) {
        *lock(&self.closed_until) = None;
        self.changed.notify_all();
    }
}

/// Slows a guest down while it exists: a thread that kicks the vCPUs out of `KVM_RUN`, and has them wait at their [`Gate`].
///
/// All vCPUs alike: a dirty bitmap does not say which of them wrote a page. The guest's clocks go on, as they do when its
/// host gives its vCPUs no time; a pause and a power-off wait for no gate, and an interrupt that is raised meanwhile is delivered
/// once it opens.
#[derive(Debug)]
pub(crate) struct Throttle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    vcpus: Arc<[VcpuThread]>,
    gate: Arc<Gate>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Of a hundred parts of the time.
    share: u8,
    held: Duration,
    /// Since when they are held, if they are.
    held_since: Option<Instant>,
    is_over: bool,
}

impl Throttle {
    /// Holds nobody yet.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(crate) fn start(vcpus: Arc<[VcpuThread]>, gate: Arc<Gate>) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { vcpus, gate, state: Mutex::default(), changed: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        let body = move || {
            jail::narrow(ThreadKind::Throttle);
            of_thread.run();
        };
        let thread = std::thread::Builder::new().name("throttle".into()).spawn(body)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// From now on holds the vCPUs for so many hundredths of the time; 0 lets them go at once.
    pub(crate) fn set(&self, share: u8) {
        let mut state = lock(&self.shared.state);
        if state.share != share {
            state.share = share.min(SHARE_MOST);
            self.shared.changed.notify_all();
        }
        if share == 0 {
            // Not when the thread comes to it: a host whose processors are taken would let the guest wait for that.
            self.shared.gate.open();
        }
    }

    /// For how long the vCPUs were held so far.
    pub(crate) fn held(&self) -> Duration {
        let state = lock(&self.shared.state);
        state.held + state.held_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.set(0);
        lock(&self.shared.state).is_over = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut state = lock(&self.state);
        while !state.is_over {
            let share = state.share;
            if share == 0 {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let began = Instant::now();
            state = self.wait(state, runs(share), share);
            if state.share != share || state.is_over {
                continue;
            }
            let closed = Instant::now();
            let hold = holds(closed - began, share);
            self.gate.close(closed + hold);
            state.held_since = Some(closed);
            for vcpu in self.vcpus.iter() {
                vcpu.interrupt();
            }
            state = self.wait(state, hold, share);
            self.gate.open();
            state.held += closed.elapsed();
            state.held_since = None;
        }
    }

    /// Waits for so long, or until it is another share.
    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        span: Duration,
        share: u8,
    ) -> MutexGuard<'a, State> {
        let is_same = |state: &mut State| state.share == share && !state.is_over;
        let waited = self.changed.wait_timeout_while(state, span, is_same);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// How long vCPUs run between two holds.
fn runs(share: u8) -> Duration {
    (PERIOD * u32::from(100 - share) / 100).max(RUN_LEAST)
}

/// How long they are held for having run so long: what they really ran, since a busy host is late to hold them.
fn holds(ran: Duration, share: u8) -> Duration {
    (ran * u32::from(share) / u32::from(100 - share)).min(HOLD_MOST)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic aborts the process, so that no lock is ever poisoned.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcpus_are_held_for_their_share_of_the_time_in_short_periods() {
        for share in 1..=SHARE_MOST {
            let runs = runs(share);
            let holds = holds(runs, share);
            let held = holds.as_secs_f64() / (runs + holds).as_secs_f64();
            assert!((held - f64::from(share) / 100.0).abs() < 1e-6, "{share}: {held}");
            assert!(runs >= RUN_LEAST && holds <= HOLD_MOST, "{share}: {runs:?} {holds:?}");
            let period = if share > 95 { 6 * PERIOD } else { PERIOD };
            assert!(runs + holds <= period, "{share}: {runs:?} {holds:?}");
        }
    }

    #[test]
    fn whoever_ran_longer_is_held_longer_and_never_for_long() {
        assert_eq!(holds(Duration::from_millis(10), 50), Duration::from_millis(10));
        assert_eq!(holds(Duration::from_millis(10), 80), Duration::from_millis(40));
        assert_eq!(holds(Duration::from_secs(1), 80), HOLD_MOST);
    }

    #[test]
    fn a_gate_that_is_closed_opens_by_itself_by_its_owner_and_for_a_pause() {
        let (gate, pause) = (Gate::default(), AtomicBool::new(false));
        let passes_in = |gate: &Gate| {
            let began = Instant::now();
            gate.pass(&pause);
            began.elapsed()
        };
        let soon = Duration::from_secs(5);
        assert!(passes_in(&gate) < soon);
        gate.close(Instant::now() + Duration::from_millis(30));
        let waited = passes_in(&gate);
        assert!(waited >= Duration::from_millis(29) && waited < soon, "{waited:?}");
        for open in [
            |gate: &Gate, _: &AtomicBool| gate.open(),
            |gate: &Gate, pause: &AtomicBool| {
                pause.store(true, Ordering::Release);
                gate.look_again();
            },
        ] {
            gate.close(Instant::now() + Duration::from_secs(60));
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| passes_in(&gate));
                std::thread::sleep(Duration::from_millis(20));
                assert!(!waiting.is_finished());
                open(&gate, &pause);
                assert!(waiting.join().unwrap() < soon);
            });
        }
    }
}
