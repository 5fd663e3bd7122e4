//! The machines that have a record: made, found, started, deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use machine::Form;
use tokio::sync::oneshot;

use super::attendant::{Attendant, Beginning};
use super::bell::Bell;
use super::command::{Command, Reply};
use super::entry::{Entry, Mail, not_found};
use super::record::Record;
use super::shared::Shared;
use super::store::{Found, Store, StoreError};
use crate::api::{
    ApiError, Boot, ErrorCode, EventKind, HandOverForm, Machine, MachineName, MachineSpec,
    MachineState, Migrate, RestoreSnapshot, Stop, TakeSnapshot,
};
use crate::audit_trail::CallId;
use crate::metrics::{MachineFigures, StateLabel};
use crate::operations::Pending;
use crate::spec;

/// All machines that have a record.
#[derive(Debug)]
pub(crate) struct Registry {
    store: Arc<Store>,
    shared: Arc<Shared>,
    machines: Machines,
    /// Held while a machine that comes is looked at, made and claimed: of two invitations one is the first.
    pub(super) receiving: Mutex<()>,
    /// Records that cannot be used, and why.
    unreadable: Vec<(String, String)>,
}

/// Machines by name, for everybody who may take one away.
#[derive(Clone, Debug)]
pub(super) struct Machines {
    store: Arc<Store>,
    map: Arc<RwLock<BTreeMap<MachineName, Arc<Entry>>>>,
}

impl Machines {
    /// Takes away a machine that nobody has made here: it was to come from another host. Its permit answers on.
    pub(super) fn discard(&self, entry: &Arc<Entry>) {
        entry.note_discarded();
        if let Err(error) = self.store.delete(entry.name(), &entry.record()) {
            tracing::error!(%error, name = %entry.name(), "what was made for a machine that did not come is left");
        }
        let mut machines = self.write();
        // The name may be another machine's already.
        if machines.get(entry.name()).is_some_and(|there| Arc::ptr_eq(there, entry)) {
            machines.remove(entry.name());
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<MachineName, Arc<Entry>>> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<MachineName, Arc<Entry>>> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// Reads the records, and finds the machines that live.
    ///
    /// # Errors
    /// When the records cannot be listed.
    pub(crate) fn open(store: Store, shared: Arc<Shared>) -> Result<Self, StoreError> {
        let store = Arc::new(store);
        let (mut machines, mut unreadable) = (BTreeMap::new(), Vec::new());
        for found in store.load()? {
            match found {
                Found::Record(name, record) => {
                    let entry = Entry::new(name.clone(), *record, Arc::clone(&store), &shared);
                    machines.insert(name, entry);
                }
                Found::Unreadable { name, why } => {
                    tracing::error!(name, why, "a record cannot be used; it is left alone");
                    unreadable.push((name, why));
                }
            }
        }
        let known: BTreeSet<_> = machines.values().map(|entry: &Arc<Entry>| entry.id()).collect();
        // Whoever deletes a machine wants nothing of it to be kept. What cannot be read may be any of them.
        if unreadable.is_empty() {
            shared.kept.retain(|machine| known.contains(&machine));
        }
        let map = Arc::new(RwLock::new(machines));
        let machines = Machines { store: Arc::clone(&store), map };
        Ok(Self { store, shared, machines, receiving: Mutex::default(), unreadable })
    }

    /// Becomes the keeper of every machine that lives, and does with the others what their records ask. Returns how many
    /// live.
    pub(crate) fn adopt_all(&self) -> u64 {
        let mut adopted = 0;
        for entry in self.entries() {
            match entry.home().is_alive() {
                Ok(true) => match self.attend(&entry, None, Beginning::Adopt) {
                    Ok(()) => adopted += 1,
                    Err(error) => tracing::error!(%error, name = %entry.name(), "not adopted"),
                },
                Ok(false) if entry.is_unsettled() => self.settle(&entry),
                Ok(false) => {}
                // It was to come, and the daemon died before it had a permit.
                Err(_) if entry.record().arrival.is_some() => self.settle(&entry),
                Err(error) => {
                    tracing::error!(%error, name = %entry.name(), "whether it lives is not known");
                }
            }
        }
        adopted
    }

    /// A machine that should run, and does not: its guest ended while no daemon was there, or the host went down.
    fn settle(&self, entry: &Arc<Entry>) {
        // Adopting what is not there finds that out, says how it ended, and does what its policy asks.
        if let Err(error) = self.attend(entry, None, Beginning::Adopt) {
            tracing::error!(%error, name = %entry.name(), "not started again");
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn unreadable(&self) -> &[(String, String)] {
        &self.unreadable
    }

    pub(crate) fn list(&self) -> Vec<Machine> {
        self.entries().iter().map(|entry| entry.show()).collect()
    }

    pub(crate) fn find(&self, name: &MachineName) -> Result<Arc<Entry>, ApiError> {
        self.read().get(name).cloned().ok_or_else(|| not_found(name.as_str()))
    }

    /// How many machines do what.
    pub(crate) fn counts(&self) -> Vec<(MachineState, u64)> {
        let mut counts: Vec<_> = MachineState::ALL.iter().map(|state| (*state, 0)).collect();
        for entry in self.entries() {
            let state = entry.state();
            if let Some((_, count)) = counts.iter_mut().find(|(found, _)| *found == state) {
                *count += 1;
            }
        }
        counts
    }

    /// The metrics, with those that are counted when somebody looks.
    ///
    /// # Errors
    /// When their text cannot be made.
    pub(crate) fn metrics(&self) -> Result<String, std::fmt::Error> {
        let metrics = &self.shared.metrics;
        for (state, count) in self.counts() {
            let label = StateLabel { state: state.name() };
            metrics.machines.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let running = self.shared.operations.running();
        metrics.operations_running.set(i64::try_from(running).unwrap_or(i64::MAX));
        let figures = |entry: &Arc<Entry>| MachineFigures {
            machine: entry.name().to_string(),
            usage: entry.usage(),
            console_output: entry.console().length(),
        };
        let machines: Vec<_> = self.entries().iter().map(figures).collect();
        metrics.text(&machines)
    }

    /// Makes a machine.
    pub(crate) fn create(
        &self,
        name: &MachineName,
        spec: MachineSpec,
    ) -> Result<Machine, ApiError> {
        spec::check(&spec)?;
        let mut machines = self.write();
        self.check_room(machines.len())?;
        let record = self.store.create(name, spec).map_err(|error| match error {
            StoreError::Exists(_) => ApiError::new(ErrorCode::AlreadyExists, error.to_string())
                .with_hint("take another name, or delete that machine first"),
            error => ApiError::internal(error),
        })?;
        let entry = self.add(&mut machines, name, record);
        drop(machines);
        self.shared.events.publish(EventKind::MachineCreated { machine: name.clone() });
        Ok(entry.show())
    }

    fn check_room(&self, count: usize) -> Result<(), ApiError> {
        let most = self.shared.limits.machines;
        if count < most {
            return Ok(());
        }
        let message = format!("there are {most} machines already");
        Err(ApiError::new(ErrorCode::Limit, message)
            .with_hint("delete some, or raise limits.machines in the configuration"))
    }

    fn add(
        &self,
        machines: &mut BTreeMap<MachineName, Arc<Entry>>,
        name: &MachineName,
        record: Record,
    ) -> Arc<Entry> {
        let entry = Entry::new(name.clone(), record, Arc::clone(&self.store), &self.shared);
        machines.insert(name.clone(), Arc::clone(&entry));
        entry
    }

    /// Makes the record of a machine that is to come from another host.
    pub(super) fn make_arriving(
        &self,
        name: &MachineName,
        record: Record,
    ) -> Result<Arc<Entry>, ApiError> {
        let mut machines = self.write();
        self.check_room(machines.len())?;
        self.store.create_arriving(name, &record).map_err(|error| match error {
            StoreError::Exists(_) => ApiError::new(ErrorCode::Blocked, error.to_string()),
            error => ApiError::internal(error),
        })?;
        let entry = self.add(&mut machines, name, record);
        drop(machines);
        self.shared.events.publish(EventKind::MachineCreated { machine: name.clone() });
        Ok(entry)
    }

    /// Bytes of memory of the machines that are still to come.
    pub(super) fn coming_bytes(&self) -> u64 {
        let machines = self.read();
        let coming = machines.values().filter(|entry| entry.state() == MachineState::Arriving);
        coming.map(|entry| entry.record().spec.memory_bytes).sum()
    }

    /// The machine with this id.
    pub(super) fn find_by_id(&self, id: [u8; 16]) -> Option<Arc<Entry>> {
        self.read().values().find(|entry| entry.id() == id).cloned()
    }

    pub(super) fn receiving(&self) -> MutexGuard<'_, ()> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes away what was made for a machine that did not come.
    pub(super) fn discard(&self, entry: &Arc<Entry>) {
        self.machines.discard(entry);
        self.shared.events.publish(EventKind::MachineDeleted { machine: entry.name().clone() });
    }

    /// Moves a machine to another host.
    pub(crate) fn migrate(
        &self,
        name: &MachineName,
        request: Migrate,
        id: CallId,
    ) -> Result<Arc<Pending>, ApiError> {
        self.shared.peers.find(&request.to)?;
        request.check()?;
        self.operate(name, id, "machines.migrate", "moved", true, |operation| Command::Migrate {
            operation,
            request,
        })
    }

    /// A person says that no other copy of a machine is alive.
    pub(crate) fn resolve(&self, name: &MachineName) -> Result<Machine, ApiError> {
        let entry = self.find(name)?;
        match entry.state() {
            MachineState::InDoubt => entry.resolve()?,
            MachineState::Moved => {
                // No machine comes meanwhile.
                let _receiving = self.receiving();
                entry.check_at_rest("resolved")?;
                let resolved = entry
                    .home()
                    .keeper()
                    .and_then(|mut keeper| Ok(keeper.resolve(dwcp::acp::Generation::default())?));
                resolved.map_err(|error| ApiError::new(ErrorCode::Conflict, error.to_string()))?;
                entry.change(|record| record.moved = None).map_err(ApiError::internal)?;
                entry.show_at_rest();
            }
            state => {
                let why =
                    format!("machine {name} is {}; there is no doubt to be ended", state.name());
                return Err(ApiError::new(ErrorCode::Conflict, why));
            }
        }
        Ok(entry.show())
    }

    /// Drops what is kept of the memory of a machine that has left.
    pub(crate) fn forget(&self, name: &MachineName) -> Result<(), ApiError> {
        let entry = self.find(name)?;
        match self.shared.kept.remove(entry.id()) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let why = format!("nothing is kept of the memory of machine {name}");
                Err(ApiError::new(ErrorCode::NotFound, why))
            }
            Err(error) => Err(ApiError::internal(format!(
                "what is kept of the memory of machine {name} cannot be removed: {error}"
            ))),
        }
    }

    /// Deletes a machine that is stopped.
    pub(crate) fn delete(&self, name: &MachineName) -> Result<(), ApiError> {
        let entry = self.find(name)?;
        entry.delete()?;
        self.shared.kept.discard(entry.id());
        self.write().remove(name);
        self.shared.events.publish(EventKind::MachineDeleted { machine: name.clone() });
        Ok(())
    }

    /// Starts a machine that is stopped.
    pub(crate) fn start(&self, name: &MachineName, id: CallId) -> Result<Arc<Pending>, ApiError> {
        let entry = self.find(name)?;
        let operation = self.begin(id, "machines.start", name, false);
        self.start_as(&entry, operation)
    }

    /// Makes a machine of a snapshot, and starts it.
    pub(crate) fn restore(
        &self,
        request: RestoreSnapshot,
        id: CallId,
    ) -> Result<Arc<Pending>, ApiError> {
        let RestoreSnapshot { file, name, key_file, lazy, restart } = request;
        // Before there is a record: a file that is not there is the commonest mistake.
        let opened = self.shared.files.open(&file)?;
        let key = super::images::key(&self.shared.files, key_file.as_deref())?;
        let config = machine::describe_snapshot(&opened.path, key.as_ref())
            .map_err(|error| ApiError::new(ErrorCode::File, error.to_string()))?;
        let spec = MachineSpec {
            cpus: config.cpus.get().into(),
            cpu: config.cpu.to_string(),
            memory_bytes: config.memory.size(),
            hole_start_bytes: config.memory.hole_start(),
            boot: Boot::Snapshot { file, key_file, lazy },
            restart,
            ..MachineSpec::default()
        };
        self.create(&name, spec)?;
        let entry = self.find(&name)?;
        let operation = self.begin(id, "snapshots.restore", &name, false);
        self.start_as(&entry, operation)
    }

    fn start_as(
        &self,
        entry: &Arc<Entry>,
        operation: Arc<Pending>,
    ) -> Result<Arc<Pending>, ApiError> {
        let beginning = Beginning::Start(Arc::clone(&operation));
        let begun = self.attend(entry, Some(operation.id()), beginning);
        self.unless(begun, operation)
    }

    pub(crate) fn stop(
        &self,
        name: &MachineName,
        stop: &Stop,
        id: CallId,
    ) -> Result<Arc<Pending>, ApiError> {
        let timeout =
            stop.timeout_ms.map_or(self.shared.limits.stop_timeout, Duration::from_millis);
        self.operate(name, id, "machines.stop", "stopped", false, |operation| Command::Stop {
            operation,
            timeout,
        })
    }

    pub(crate) fn snapshot(
        &self,
        name: &MachineName,
        request: TakeSnapshot,
        id: CallId,
    ) -> Result<Arc<Pending>, ApiError> {
        self.operate(name, id, "machines.snapshot", "saved", true, |operation| Command::Snapshot {
            operation,
            request,
        })
    }

    pub(crate) fn hand_over(
        &self,
        name: &MachineName,
        form: HandOverForm,
        id: CallId,
    ) -> Result<Arc<Pending>, ApiError> {
        let form = match form {
            HandOverForm::Shared => Form::Shared,
            HandOverForm::Copying => Form::Copying,
        };
        self.operate(name, id, "machines.handover", "handed over", true, |operation| {
            Command::HandOver { operation, form }
        })
    }

    pub(super) fn operate(
        &self,
        name: &MachineName,
        id: CallId,
        method: &str,
        verb: &str,
        can_be_cancelled: bool,
        command: impl FnOnce(Arc<Pending>) -> Command,
    ) -> Result<Arc<Pending>, ApiError> {
        let entry = self.find(name)?;
        let operation = self.begin(id, method, name, can_be_cancelled);
        let begun = entry.begin(verb, operation.id(), command(Arc::clone(&operation)));
        self.unless(begun, operation)
    }

    pub(super) fn begin(
        &self,
        id: CallId,
        method: &str,
        name: &MachineName,
        can_be_cancelled: bool,
    ) -> Arc<Pending> {
        self.shared.operations.begin(id.0, method, Some(name.clone()), can_be_cancelled)
    }

    /// An operation that did not come to anything has failed, too: it was announced.
    pub(super) fn unless(
        &self,
        begun: Result<(), ApiError>,
        operation: Arc<Pending>,
    ) -> Result<Arc<Pending>, ApiError> {
        match begun {
            Ok(()) => Ok(operation),
            Err(error) => {
                operation.end(Err(error.clone()));
                Err(error)
            }
        }
    }

    pub(crate) async fn pause(&self, name: &MachineName) -> Result<Machine, ApiError> {
        self.tell(name, "paused", Command::Pause).await
    }

    pub(crate) async fn resume(&self, name: &MachineName) -> Result<Machine, ApiError> {
        self.tell(name, "resumed", Command::Resume).await
    }

    pub(crate) async fn press_power_button(&self, name: &MachineName) -> Result<Machine, ApiError> {
        self.tell(name, "asked to switch itself off", Command::PressPowerButton).await
    }

    async fn tell(
        &self,
        name: &MachineName,
        verb: &str,
        command: impl FnOnce(Reply) -> Command,
    ) -> Result<Machine, ApiError> {
        let entry = self.find(name)?;
        let (reply, answer) = oneshot::channel();
        entry.tell(verb, command(reply))?;
        match answer.await {
            Ok(answer) => answer.map(|()| entry.show()),
            Err(_) => Err(ApiError::new(
                ErrorCode::MachineFailed,
                format!("the guest of machine {name} has ended"),
            )),
        }
    }

    /// Gives a machine its attendant.
    pub(super) fn attend(
        &self,
        entry: &Arc<Entry>,
        operation: Option<String>,
        beginning: Beginning,
    ) -> Result<(), ApiError> {
        let (send, commands) = channel();
        let arrived = Bell::new().map_err(ApiError::internal)?;
        let mail =
            Mail { commands: send, arrived: arrived.try_clone().map_err(ApiError::internal)? };
        match &beginning {
            Beginning::Adopt => entry.claim_alive(mail),
            Beginning::Arrive(_) => entry.claim_arriving(mail, operation.unwrap_or_default())?,
            Beginning::Start(_) | Beginning::Restart => {
                entry.claim(mail, operation)?;
                // On storage before there is a process: a daemon that comes later knows that it was wanted.
                if let Err(error) = entry.change(|record| record.should_run = true) {
                    entry.retire(None);
                    return Err(ApiError::internal(error));
                }
            }
        }
        let attendant = Attendant {
            entry: Arc::clone(entry),
            shared: Arc::clone(&self.shared),
            machines: self.machines.clone(),
            commands,
            arrived,
        };
        let thread = std::thread::Builder::new()
            .name("attendant".into())
            // Nothing in it recurses or holds buffers; there may be a thousand.
            .stack_size(256 << 10)
            .spawn(move || attendant.run(beginning));
        thread.map(drop).map_err(|error| {
            entry.retire(None);
            ApiError::internal(format!("no thread for the machine: {error}"))
        })
    }

    /// Lets go of every machine: they live on.
    pub(crate) fn leave_all(&self) {
        self.shared.kept.give_up_all();
        for entry in self.entries() {
            entry.leave();
        }
    }

    /// Stops every machine that has a process, all at once, and waits until they have ended.
    pub(crate) async fn stop_all(&self) {
        let mut stops = Vec::new();
        for entry in self.entries() {
            if entry.state() == MachineState::Stopped {
                continue;
            }
            let Ok(id) = CallId::new() else { continue };
            match self.stop(entry.name(), &Stop::default(), id) {
                Ok(operation) => stops.push(operation),
                // Something else is being done with it: it is ended as it is.
                Err(error) => {
                    tracing::warn!(%error, name = %entry.name(), "a machine is killed");
                    let _ = entry.kill();
                }
            }
        }
        for operation in stops {
            // Its own limit ends it.
            operation.wait(self.shared.limits.stop_timeout + Duration::from_secs(10)).await;
        }
    }

    /// The names of files that specs have.
    pub(crate) fn files_named(&self) -> Vec<String> {
        self.entries().iter().flat_map(|entry| spec::files(&entry.record().spec.boot)).collect()
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.read().values().cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<MachineName, Arc<Entry>>> {
        self.machines.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<MachineName, Arc<Entry>>> {
        self.machines.write()
    }
}
