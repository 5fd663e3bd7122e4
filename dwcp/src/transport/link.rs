//! [`Link`]: what a side of a session and the threads of its streams share.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::wake::Wake;
use super::{CLOSING, LinkEvent};
use crate::wire::StreamId;

/// A side of a session, and what it needs besides.
pub(super) trait Party: Send + Sized + 'static {
    /// What the session tells its caller.
    type Event: std::fmt::Debug + Send;
    /// A time that was asked for is reached.
    fn handle_timeout(&mut self, now: Duration);
    /// When that is to be called at the latest.
    fn poll_timeout(&self) -> Option<Duration>;
    /// Does what the session asks for after something has happened.
    fn follow(
        &mut self,
        link: &Arc<Link<Self>>,
        streams: &mut Streams,
        events: &mut Events<Self::Event>,
        now: Duration,
    );
}

/// What happened, for the caller.
#[derive(Debug)]
pub(super) struct Events<E> {
    waiting: VecDeque<LinkEvent<E>>,
    /// Of those, how many are for the log only.
    remarks: usize,
}

impl<E> Events<E> {
    /// A peer that makes something happen again and again, which nobody reads, gets no more memory for it.
    const REMARKS_MAX: usize = 64;

    pub(super) fn push(&mut self, event: LinkEvent<E>) {
        if !matches!(event, LinkEvent::Session(_)) {
            if self.remarks >= Self::REMARKS_MAX {
                return;
            }
            self.remarks += 1;
        }
        self.waiting.push_back(event);
    }

    fn pop(&mut self) -> Option<LinkEvent<E>> {
        let event = self.waiting.pop_front()?;
        self.remarks -= usize::from(!matches!(event, LinkEvent::Session(_)));
        Some(event)
    }
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
struct State<P: Party> {
    party: P,
    streams: Streams,
    events: Events<P::Event>,
    /// Callers that wait for a change.
    waiting: usize,
    /// When the thread of timers wakes by itself.
    alarm: Option<Duration>,
    is_closed: bool,
    /// Threads that have this link, that of the timers aside.
    threads: usize,
}

/// One end of a session's streams.
#[derive(Debug)]
pub(super) struct Link<P: Party> {
    started: Instant,
    state: Mutex<State<P>>,
    changed: Condvar,
}

/// A link that ends with this value, and its streams with it, whatever they still carry.
#[derive(Debug)]
pub(super) struct Owned<P: Party> {
    link: Arc<Link<P>>,
    timers: Option<JoinHandle<()>>,
}

impl<P: Party> Deref for Owned<P> {
    type Target = Arc<Link<P>>;

    fn deref(&self) -> &Arc<Link<P>> {
        &self.link
    }
}

impl<P: Party> Drop for Owned<P> {
    fn drop(&mut self) {
        self.link.close(CLOSING);
        if let Some(timers) = self.timers.take() {
            let _ = timers.join();
        }
    }
}

impl<P: Party> Link<P> {
    /// A link, with a thread for its timers.
    pub(super) fn start(party: P, begin: impl FnOnce() + Send + 'static) -> io::Result<Owned<P>> {
        let link = Arc::new(Self {
            started: Instant::now(),
            state: Mutex::new(State {
                party,
                streams: Streams::default(),
                events: Events { waiting: VecDeque::new(), remarks: 0 },
                waiting: 0,
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
        Ok(Owned { link, timers: Some(timers) })
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
        self.change(act, false)
    }

    /// Does something with the session, and then what it asks for.
    pub(super) fn act<T>(
        self: &Arc<Self>,
        act: impl FnOnce(&mut P, &mut Streams, Duration) -> T,
    ) -> T {
        self.change(act, true)
    }

    fn change<T>(
        self: &Arc<Self>,
        act: impl FnOnce(&mut P, &mut Streams, Duration) -> T,
        wakes_idle: bool,
    ) -> T {
        let state = &mut *self.lock();
        let done = act(&mut state.party, &mut state.streams, self.now());
        self.follow(state);
        if wakes_idle {
            state.streams.wake_idle();
        }
        done
    }

    fn follow(self: &Arc<Self>, state: &mut State<P>) {
        if !state.is_closed {
            let State { party, streams, events, .. } = state;
            party.follow(self, streams, events, self.now());
        }
        if state.waiting > 0 {
            self.changed.notify_all();
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
    fn close(&self, patience: Duration) {
        let mut state = self.lock();
        state.is_closed = true;
        state.streams.end(|_| true);
        self.changed.notify_all();
        let done = self.changed.wait_timeout_while(state, patience, |state| state.threads > 0);
        drop(done.unwrap_or_else(PoisonError::into_inner));
    }

    /// A stream's thread is done with it, for this reason.
    pub(super) fn forget(
        self: &Arc<Self>,
        stream: StreamId,
        why: String,
        tell: impl FnOnce(&mut P, Duration),
    ) {
        self.act(|party, streams, now| {
            streams.0.remove(&stream);
            tell(party, now);
        });
        self.remark(LinkEvent::StreamEnded { stream, why });
    }

    /// Something for the log.
    pub(super) fn remark(&self, event: LinkEvent<P::Event>) {
        self.lock().events.push(event);
        self.changed.notify_all();
    }

    /// Waits until there is an event, and takes it, or until `is_it`, or so long.
    pub(super) fn wait(
        &self,
        within: Duration,
        is_it: impl Fn(&P) -> bool,
    ) -> Option<LinkEvent<P::Event>> {
        let until = Instant::now() + within;
        let mut state = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if let Some(event) = state.events.pop() {
                return Some(event);
            }
            if left.is_zero() || is_it(&state.party) {
                return None;
            }
            state.waiting += 1;
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }
}
