//! One machine, as the daemon knows it.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machine::{Ender, Home, Usage};

use super::bell::Bell;
use super::command::Command;
use super::record::Record;
use super::shared::Shared;
use super::store::{Store, StoreError};
use crate::api::{
    ApiError, Ended, ErrorCode, EventKind, KeptImage, Machine, MachineName, MachineSpec,
    MachineState, Timestamp,
};
use crate::console::Console;
use crate::events::Events;
use crate::kept_images::KeptImages;
use crate::peers::PeerBook;

/// A machine that has a record.
#[derive(Debug)]
pub(crate) struct Entry {
    name: MachineName,
    store: Arc<Store>,
    events: Arc<Events>,
    peers: Arc<PeerBook>,
    kept: Arc<KeptImages>,
    /// Locked before `live`, where both are.
    record: Mutex<Record>,
    live: Mutex<Live>,
    console: Arc<Console>,
}

/// What is not written: it can be found out again.
#[derive(Debug)]
struct Live {
    state: MachineState,
    process_id: Option<u32>,
    restarts: u32,
    /// The one operation that has the machine.
    operation: Option<String>,
    mail: Option<Mail>,
    ender: Option<Ender>,
    /// The attempt of which a person says that no other copy is alive.
    resolved: Option<[u8; 16]>,
    is_deleted: bool,
}

/// How an attendant is reached.
#[derive(Debug)]
pub(super) struct Mail {
    pub(super) commands: Sender<Command>,
    /// Readable when there is a command.
    pub(super) arrived: Bell,
}

impl Entry {
    pub(super) fn new(
        name: MachineName,
        record: Record,
        store: Arc<Store>,
        shared: &Shared,
    ) -> Arc<Self> {
        let (events, peers) = (Arc::clone(&shared.events), Arc::clone(&shared.peers));
        let kept = Arc::clone(&shared.kept);
        let live = Live {
            state: at_rest(&record),
            process_id: None,
            restarts: 0,
            operation: None,
            mail: None,
            ender: None,
            resolved: None,
            is_deleted: false,
        };
        let (record, live) = (Mutex::new(record), Mutex::new(live));
        Arc::new(Self { name, store, events, peers, kept, record, live, console: Console::new() })
    }

    pub(crate) fn name(&self) -> &MachineName {
        &self.name
    }

    pub(crate) fn console(&self) -> &Arc<Console> {
        &self.console
    }

    pub(crate) fn state(&self) -> MachineState {
        self.live().state
    }

    pub(crate) fn id(&self) -> [u8; 16] {
        self.lock_record().id
    }

    /// Whether there is something to do for it, though no process of it lives.
    pub(super) fn is_unsettled(&self) -> bool {
        let record = self.lock_record();
        record.should_run || record.arrival.is_some() || record.departure.is_some()
    }

    /// The machine as it is shown.
    pub(crate) fn show(&self) -> Machine {
        let record = self.lock_record().clone();
        // Before the lock: it is asked of storage.
        let kept = record.moved.as_ref().and_then(|_| self.kept.find(record.id));
        let kept =
            kept.map(|found| KeptImage { bytes: found.bytes, made_at: Timestamp::from(found.at) });
        let live = self.live();
        let is_up = live.process_id.is_some();
        let attempts = [&record.departure, &record.arrival];
        let peer = attempts.into_iter().flatten().next().map(|attempt| &attempt.peer);
        let peer = peer.or(record.moved.as_ref().map(|moved| &moved.to));
        let peer = peer.map(|key| self.peers.name_of(key));
        Machine {
            name: self.name.clone(),
            id: record.id_text(),
            state: live.state,
            created_at: record.created_at,
            started_at: record.started_at.filter(|_| is_up),
            process_id: live.process_id,
            ended: record.ended,
            restarts: live.restarts,
            operation: live.operation.clone(),
            peer,
            kept,
            spec: record.spec,
        }
    }

    /// What its process has used; none if it has none.
    pub(crate) fn usage(&self) -> Option<Usage> {
        // With the lock held: the kernel answers from its counters, and waits for nobody.
        self.live().ender.as_ref()?.usage()
    }

    /// A copy of what is written of it.
    pub(super) fn record(&self) -> Record {
        self.lock_record().clone()
    }

    pub(super) fn home(&self) -> Home {
        self.store.home(&self.name, &self.lock_record())
    }

    /// Changes what is written of it, on storage first.
    pub(super) fn change(&self, change: impl FnOnce(&mut Record)) -> Result<(), StoreError> {
        let mut record = self.lock_record();
        let mut changed = record.clone();
        change(&mut changed);
        if changed != *record {
            self.store.save(&self.name, &changed)?;
            *record = changed;
        }
        Ok(())
    }

    /// Claims a machine that has no process, for one that is about to be made.
    ///
    /// # Errors
    /// When it has one, or something else is being done with it.
    pub(super) fn claim(&self, mail: Mail, operation: Option<String>) -> Result<(), ApiError> {
        let mut live = self.live();
        self.check_idle(&live)?;
        if live.state != MachineState::Stopped {
            return Err(self.conflict(live.state, "started"));
        }
        live.mail = Some(mail);
        live.operation = operation;
        live.restarts = 0;
        Ok(())
    }

    /// Claims it for an adoption: nothing else has begun yet.
    pub(super) fn claim_alive(&self, mail: Mail) {
        self.live().mail = Some(mail);
        self.set_state(MachineState::Adopting, None);
    }

    /// Gives the machine to an operation, and tells the attendant.
    ///
    /// # Errors
    /// When another has it, or there is no process.
    pub(crate) fn begin(&self, verb: &str, id: String, command: Command) -> Result<(), ApiError> {
        let mut live = self.live();
        self.check_idle(&live)?;
        self.post(&live, verb, command)?;
        live.operation = Some(id);
        Ok(())
    }

    /// Tells the attendant something that is done at once, or within a second or two.
    ///
    /// # Errors
    /// When an operation has the machine, or there is no process.
    pub(crate) fn tell(&self, verb: &str, command: Command) -> Result<(), ApiError> {
        let live = self.live();
        self.check_idle(&live)?;
        self.post(&live, verb, command)
    }

    /// Tells the attendant to let go, whatever else it has to do.
    pub(super) fn leave(&self) {
        let live = self.live();
        // One that has gone needs not be told.
        let _ = self.post(&live, "left", Command::Leave);
    }

    /// Kills the machine's process, whatever it is doing.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn kill(&self) -> Result<(), ApiError> {
        let live = self.live();
        match &live.ender {
            Some(ender) => {
                ender.kill();
                Ok(())
            }
            None => Err(self.conflict(live.state, "killed")),
        }
    }

    /// The operation that had the machine has ended.
    pub(super) fn is_free(&self) {
        self.live().operation = None;
    }

    /// Notes the machine's process, or that there is none.
    pub(super) fn has_process(&self, process: Option<(u32, Ender)>) {
        let mut live = self.live();
        (live.process_id, live.ender) = match process {
            Some((id, ender)) => (Some(id), Some(ender)),
            None => (None, None),
        };
    }

    /// Counts a start by the restart policy.
    pub(super) fn was_restarted(&self) {
        self.live().restarts += 1;
    }

    /// Notes what the machine does now, and says so.
    pub(super) fn set_state(&self, state: MachineState, ended: Option<Ended>) {
        {
            let mut live = self.live();
            if live.state == state && ended.is_none() {
                return;
            }
            live.state = state;
        }
        let machine = self.name.clone();
        self.events.publish(EventKind::MachineState { machine, state, ended });
    }

    /// The attendant goes: whoever speaks to the machine from now on finds it at rest.
    pub(super) fn retire(&self, ended: Option<Ended>) {
        let state = at_rest(&self.lock_record());
        {
            let mut live = self.live();
            live.mail = None;
            live.ender = None;
            live.process_id = None;
            live.operation = None;
        }
        self.console.disconnect();
        self.set_state(state, ended);
    }

    /// Deletes the record of a machine that is stopped.
    ///
    /// # Errors
    /// When it is not, or the record cannot be deleted.
    pub(super) fn delete(&self) -> Result<(), ApiError> {
        let record = self.lock_record();
        let mut live = self.live();
        self.check_idle(&live)?;
        let is_at_rest = matches!(live.state, MachineState::Stopped | MachineState::Moved);
        if !is_at_rest || live.mail.is_some() {
            return Err(self
                .conflict(live.state, "deleted")
                .with_hint("stop it, or kill it, first"));
        }
        self.store.delete(&self.name, &record).map_err(ApiError::internal)?;
        live.is_deleted = true;
        Ok(())
    }

    /// Claims a machine that comes from another host, for the one that receives it.
    ///
    /// # Errors
    /// When it is here, or something else is being done with it.
    pub(super) fn claim_arriving(&self, mail: Mail, operation: String) -> Result<(), ApiError> {
        let mut live = self.live();
        self.check_idle(&live)?;
        if live.mail.is_some() {
            return Err(self.conflict(live.state, "received"));
        }
        live.mail = Some(mail);
        live.operation = Some(operation);
        live.restarts = 0;
        Ok(())
    }

    /// Whether it has a process, or is about to.
    pub(super) fn is_attended(&self) -> bool {
        self.live().mail.is_some()
    }

    /// Why it cannot come here from another host; none if it can. The permit record has the last word.
    pub(super) fn keeps_from_coming(&self, spec: &MachineSpec) -> Option<String> {
        let record = self.lock_record();
        let live = self.live();
        let (name, state) = (&self.name, live.state.name());
        if record.moved.is_none() || live.mail.is_some() || live.operation.is_some() {
            return Some(format!("the machine is on this host, as {name}, and is {state}"));
        }
        // A machine keeps what it is made of, wherever it goes.
        (record.spec != *spec).then(|| {
            format!("the machine that went from here, as {name}, was made of something else")
        })
    }

    /// A person says that no other copy of it is alive, of the attempt that is in doubt.
    ///
    /// # Errors
    /// When none is.
    pub(super) fn resolve(&self) -> Result<(), ApiError> {
        let record = self.lock_record();
        let mut live = self.live();
        match &record.departure {
            Some(attempt) if live.state == MachineState::InDoubt => {
                live.resolved = Some(attempt.session);
                Ok(())
            }
            _ => Err(self.conflict(live.state, "resolved")),
        }
    }

    /// Whether somebody has said so of this attempt since the last call. What was said of another one is forgotten.
    pub(crate) fn take_resolution(&self, session: [u8; 16]) -> bool {
        self.live().resolved.take() == Some(session)
    }

    /// As if a move of it were in doubt.
    #[cfg(test)]
    pub(crate) fn put_in_doubt(&self, session: [u8; 16]) {
        let attempt = super::record::Attempt {
            session,
            peer: "f".repeat(64),
            operation: "1".to_owned(),
            is_new: false,
        };
        self.change(|record| record.departure = Some(attempt)).unwrap();
        self.set_state(MachineState::InDoubt, None);
    }

    /// A machine that is at rest is shown as what its record says now.
    pub(super) fn show_at_rest(&self) {
        let state = at_rest(&self.lock_record());
        if !self.is_attended() {
            self.set_state(state, None);
        }
    }

    /// Whether nobody attends to it, and nothing is being done with it.
    ///
    /// # Errors
    /// Says what is.
    pub(super) fn check_at_rest(&self, verb: &str) -> Result<(), ApiError> {
        let live = self.live();
        self.check_idle(&live)?;
        if live.mail.is_some() { Err(self.conflict(live.state, verb)) } else { Ok(()) }
    }

    /// Notes that it is gone from here, without having been deleted by anybody.
    pub(super) fn note_discarded(&self) {
        self.live().is_deleted = true;
    }

    fn check_idle(&self, live: &Live) -> Result<(), ApiError> {
        if live.is_deleted {
            return Err(not_found(self.name.as_str()));
        }
        match &live.operation {
            None => Ok(()),
            Some(id) => Err(ApiError::new(
                ErrorCode::Conflict,
                format!("operation {id} is under way on machine {}", self.name),
            )
            .with_hint(format!("wait for it, or cancel it: novacron operation {id} --cancel"))),
        }
    }

    fn post(&self, live: &Live, verb: &str, command: Command) -> Result<(), ApiError> {
        let Some(mail) = &live.mail else { return Err(self.conflict(live.state, verb)) };
        // An attendant that has gone has taken its mail box with it, under the same lock.
        mail.commands.send(command).map_err(|_| self.conflict(live.state, verb))?;
        mail.arrived.ring();
        Ok(())
    }

    fn conflict(&self, state: MachineState, verb: &str) -> ApiError {
        let message = format!("machine {} is {}; it cannot be {verb} now", self.name, state.name());
        ApiError::new(ErrorCode::Conflict, message)
    }

    fn lock_record(&self) -> MutexGuard<'_, Record> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn not_found(name: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no machine {name}"))
        .with_hint("`novacron list` shows those that there are")
}

/// What a machine does that has no process.
fn at_rest(record: &Record) -> MachineState {
    if record.moved.is_some() { MachineState::Moved } else { MachineState::Stopped }
}

/// Notes when a guest was started.
pub(super) fn started(record: &mut Record) {
    record.started_at = Some(Timestamp::now());
}
