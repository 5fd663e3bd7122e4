//! [`Link`]: what a side of a session and the threads of its streams share.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::wake::Wake;
use crate::wire::StreamId;

/// A side of a session, and what it needs besides.
pub(super) trait Party: Send + Sized + 'static {
    /// A time that was asked for is reached.
    fn handle_timeout(&mut self, now: Duration);
    /// When that is to be called at the latest.
    fn poll_timeout(&self) -> Option<Duration>;
    /// Does what the session asks for after something has happened.
    fn follow(&mut self, link: &Arc<Link<Self>>, streams: &mut Streams, now: Duration);
}

/// The streams that have a thread each.
#[derive(Debug, Default)]
pub(super) struct Streams(BTreeMap<StreamId, Entry>);

#[derive(Debug)]
struct Entry {
    wake: Arc<Wake>,
    /// It had nothing to send when it last looked.
    is_idle: bool,
}

impl Streams {
    /// Adds one; false if it is there.
    pub(super) fn add(&mut self, stream: StreamId, wake: Arc<Wake>) -> bool {
        let is_new = !self.0.contains_key(&stream);
        if is_new {
            self.0.insert(stream, Entry { wake, is_idle: false });
        }
        is_new
    }

    /// It has nothing to send: it is woken when that may have changed.
    pub(super) fn idles(&mut self, stream: StreamId) {
        if let Some(entry) = self.0.get_mut(&stream) {
            entry.is_idle = true;
        }
    }

    /// Ends those of which this is true.
    pub(super) fn end(&self, is_over: impl Fn(StreamId) -> bool) {
        for (_, entry) in self.0.iter().filter(|(stream, _)| is_over(**stream)) {
            entry.wake.end();
        }
    }

    fn wake_idle(&mut self) {
        for entry in self.0.values_mut().filter(|entry| entry.is_idle) {
            entry.is_idle = false;
            entry.wake.wake();
        }
    }
}

#[derive(Debug)]
struct State<P> {
    party: P,
    streams: Streams,
    /// When the thread of timers wakes by itself.
    alarm: Option<Duration>,
    is_closed: bool,
    /// Threads that have this link, that of the timers aside.
    threads: usize,
}

/// One end of a session's streams.
#[derive(Debug)]
pub(super) struct Link<P> {
    started: Instant,
    state: Mutex<State<P>>,
    changed: Condvar,
}

impl<P: Party> Link<P> {
    /// A link, and the thread of its timers.
    pub(super) fn start(
        party: P,
        begin: impl FnOnce() + Send + 'static,
    ) -> io::Result<(Arc<Self>, JoinHandle<()>)> {
        let link = Arc::new(Self {
            started: Instant::now(),
            state: Mutex::new(State {
                party,
                streams: Streams::default(),
                alarm: None,
                is_closed: false,
                threads: 0,
            }),
            changed: Condvar::new(),
        });
        let of_timers = Arc::clone(&link);
        let timers = Builder::new().name("dwcp-timers".into()).spawn(move || {
            begin();
            of_timers.keep_time();
        })?;
        Ok((link, timers))
    }

    /// The session's time.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State<P>> {
        // What a thread that panicked leaves half done is the session's to find: digests and roots are compared.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the session, or does something that asks nothing of anybody.
    pub(super) fn look<T>(&self, look: impl FnOnce(&mut P, &mut Streams, Duration) -> T) -> T {
        let state = &mut *self.lock();
        look(&mut state.party, &mut state.streams, self.now())
    }

    /// Does something with the session after which no other stream has more to send, and then what it asks for.
    pub(super) fn poll<T>(
        self: &Arc<Self>,
        act: impl FnOnce(&mut P, &mut Streams, Duration) -> T,
    ) -> T {
        let state = &mut *self.lock();
        let done = act(&mut state.party, &mut state.streams, self.now());
        self.follow(state);
        done
    }

    /// Does something with the session, and then what it asks for.
    pub(super) fn act<T>(
        self: &Arc<Self>,
        act: impl FnOnce(&mut P, &mut Streams, Duration) -> T,
    ) -> T {
        let state = &mut *self.lock();
        let done = act(&mut state.party, &mut state.streams, self.now());
        self.follow(state);
        state.streams.wake_idle();
        done
    }

    fn follow(self: &Arc<Self>, state: &mut State<P>) {
        if !state.is_closed {
            state.party.follow(self, &mut state.streams, self.now());
        }
        let timeout = state.party.poll_timeout();
        let is_earlier = match (timeout, state.alarm) {
            (Some(timeout), Some(alarm)) => timeout < alarm,
            (timeout, None) => timeout.is_some(),
            (None, Some(_)) => false,
        };
        if is_earlier {
            self.changed.notify_all();
        }
    }

    fn keep_time(self: &Arc<Self>) {
        let mut state = self.lock();
        while !state.is_closed {
            let now = self.now();
            if state.party.poll_timeout().is_some_and(|at| at <= now) {
                state.party.handle_timeout(now);
                state.streams.wake_idle();
            }
            self.follow(&mut state);
            state.alarm = state.party.poll_timeout();
            state = match state.alarm {
                Some(alarm) => {
                    let left = alarm.saturating_sub(self.now());
                    let woken = self.changed.wait_timeout(state, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Runs `body` on a thread of its own, while the link is open. From within [`Party::follow`] the count is
    /// taken by the thread itself, since the lock is held.
    pub(super) fn spawn(
        self: &Arc<Self>,
        name: String,
        body: impl FnOnce(&Arc<Self>) + Send + 'static,
    ) -> io::Result<()> {
        let link = Arc::clone(self);
        Builder::new().name(name).spawn(move || {
            {
                let mut state = link.lock();
                if state.is_closed {
                    return;
                }
                state.threads += 1;
            }
            body(&link);
            link.lock().threads -= 1;
            link.changed.notify_all();
        })?;
        Ok(())
    }

    /// Ends every stream, and waits until their threads are done, but no longer than `patience`: one may be
    /// waiting for somebody to dial.
    pub(super) fn close(&self, patience: Duration) {
        let mut state = self.lock();
        state.is_closed = true;
        state.streams.end(|_| true);
        self.changed.notify_all();
        let done = self.changed.wait_timeout_while(state, patience, |state| state.threads > 0);
        drop(done.unwrap_or_else(PoisonError::into_inner));
    }

    /// A stream's thread is done with it.
    pub(super) fn forget(self: &Arc<Self>, stream: StreamId, tell: impl FnOnce(&mut P, Duration)) {
        self.act(|party, streams, now| {
            streams.0.remove(&stream);
            tell(party, now);
        });
    }
}
