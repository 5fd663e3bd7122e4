//! The destination's script.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dwcp::acp::{SessionId, VmId};
use dwcp::digest::{DigestKey, Root};
use dwcp::page::{Gfn, Page, PageRun};
use dwcp::session::{Agreement, DestinationEvent, DestinationTimers, KeptImage};
use dwcp::transport::{
    DestinationLink, DestinationMemory, DestinationTerms, Door, KeptReader, KeyPair, LinkEvent,
    PAGES_PROTOCOL, PublicKey, TlsServer,
};

use super::kept::{KeptMemory, PageReader};
use super::{ArrivalReport, Description, MigrateError, PrepareOrder};
use crate::clock::realtime_ns;
use crate::fault::{Step, reached};
use crate::handover::Resident;
use crate::jail::{self, ThreadKind};
use crate::kvm::{Host, HostError};
use crate::memory::GuestRam;
use crate::meter::Meter;
use crate::permit::PermitFile;
use crate::snapshot::{SavedMoment, is_same_boot};
use crate::state::MachineState;
use crate::vcpu::TimeBase;
use crate::vm::{Paused, Running, VmError};

/// How often it is looked whether somebody has cancelled.
const TURN: Duration = Duration::from_millis(50);
/// How long the source may take to hear what became of its guest, over the streams: afterwards, the record answers.
const FAREWELL: Duration = Duration::from_secs(30);

/// A machine that is built and waits for its guest.
#[derive(Debug)]
pub(crate) struct Arrival {
    paused: Paused,
    session: SessionId,
    #[cfg(feature = "fault-injection")]
    key: DigestKey,
    link: DestinationLink,
}

/// A guest that runs here now, and what still answers its source.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) running: Running,
    pub(crate) report: ArrivalReport,
    farewell: DestinationLink,
}

struct Memory {
    ram: Arc<GuestRam>,
    kept: Option<Arc<KeptMemory>>,
}

impl DestinationMemory for Memory {
    fn write(&self, run: PageRun, content: &[u8]) -> io::Result<()> {
        self.ram.write_run(run, content).map_err(io::Error::other)
    }

    fn read(&self, gfn: Gfn, content: &mut Page) -> io::Result<()> {
        let run = PageRun::new(gfn, 1).map_err(io::Error::other)?;
        self.ram.read_run(run, content).map_err(io::Error::other)
    }

    fn kept(&self) -> Option<Arc<dyn KeptImage>> {
        self.kept.clone().map(|kept| kept as Arc<dyn KeptImage>)
    }

    fn kept_reader(&self) -> Option<Box<dyn KeptReader>> {
        let kept = self.kept.clone()?;
        Some(Box::new(PageReader::new(kept)))
    }

    fn begin_thread(&self) {
        jail::narrow(ThreadKind::Stream);
    }
}

impl Arrival {
    /// Builds the whole machine, and opens the door to its source.
    ///
    /// # Errors
    /// When this host cannot run it, or the order is not usable.
    pub(crate) fn prepare(
        order: &PrepareOrder,
        permit: &PermitFile,
        host: Result<Host, HostError>,
        kept: Option<File>,
    ) -> Result<Self, MigrateError> {
        let Description { config, cpuid, sections, digest_key, .. } = order.description.clone();
        MachineState::check_sections(&sections).map_err(VmError::from)?;
        let session = SessionId::new(order.session).ok_or(MigrateError::Order("session"))?;
        let own = KeyPair::from_pkcs8(&order.keys.own)?;
        let vm = permit.vm();
        debug_assert_eq!(Some(vm), VmId::new(order.vm));
        let host = host.map_err(VmError::from)?;
        let cpuid = cpuid.accept(&host, config.cpu, config.cpus.get()).map_err(VmError::from)?;
        let ram = Arc::new(GuestRam::new(config.memory).map_err(VmError::from)?);
        let memory = config.memory.regions().map(|region| region.run()).collect();
        let terms = DestinationTerms {
            agreement: Agreement { session, key: DigestKey::new(digest_key), memory },
            timers: DestinationTimers { patience: order.patience },
            tls: TlsServer::new(&own, Arc::new(PublicKey::new(order.keys.peer)), PAGES_PROTOCOL),
        };
        let paused = Paused::around(&host, config, cpuid, Arc::clone(&ram), order.dirty_log)?;
        let (key, limit) = (DigestKey::new(digest_key), Gfn(config.memory.frame_limit()));
        let kept = kept.and_then(|file| match KeptMemory::open(file, vm, &key, limit) {
            Ok(kept) => Some(Arc::new(kept)),
            Err(error) => {
                tracing::warn!(%error, "what was kept of the machine is of no use");
                None
            }
        });
        let link = DestinationLink::start(terms, Arc::new(Memory { ram, kept }))?;
        reached(Step::ArrivalPrepared);
        Ok(Self {
            paused,
            session,
            #[cfg(feature = "fault-injection")]
            key,
            link,
        })
    }

    /// Where its streams are brought in.
    pub(crate) fn door(&self) -> Door {
        self.link.door()
    }

    /// The attempt.
    pub(crate) fn session(&self) -> [u8; 16] {
        self.session.bytes()
    }

    /// Takes pages until the permit frame, then the guest.
    ///
    /// # Errors
    /// When it does not come to that; the record says `Refused` then, and the source was told.
    pub(crate) fn run(
        mut self,
        resident: &mut Resident,
        meter: &Meter,
    ) -> Result<Arrived, MigrateError> {
        loop {
            let applied = self.link.with(|destination, _| destination.counts().pages_applied);
            let done = meter.progress().pages_done;
            if meter.advance(applied.saturating_sub(done), 0).is_err() {
                self.link.with(|destination, _| destination.refuse("it was cancelled there"));
            }
            match self.link.next_event(TURN) {
                None => {}
                Some(LinkEvent::Session(DestinationEvent::Ready { state })) => {
                    reached(Step::ArrivalReady);
                    let began = Instant::now();
                    return match self.restore(&state) {
                        Ok(()) => self.take(resident, began.elapsed()),
                        Err(why) => Err(self.refuse(resident, why)),
                    };
                }
                Some(LinkEvent::Session(DestinationEvent::Refuse(why))) => {
                    let why = MigrateError::Refused(why.to_string());
                    return Err(self.refuse(resident, why));
                }
                Some(event) => tracing::debug!(?event, "migration"),
            }
        }
    }

    /// The state, where its source stood still.
    fn restore(&mut self, state: &[u8]) -> Result<(), MigrateError> {
        let moment = SavedMoment::decode(state, "the source's state")?;
        let cpus = self.paused.config().cpus.get();
        let saved = MachineState::decode(&moment.state, cpus).map_err(VmError::from)?;
        let time = TimeBase::Later {
            elapsed: Duration::from_nanos(realtime_ns().saturating_sub(moment.realtime_ns)),
            is_same_boot: is_same_boot(moment.boot_id),
        };
        self.paused.restore(&saved, time)?;
        #[cfg(feature = "fault-injection")]
        {
            let memory = self.link.with(|destination, _| destination.root());
            let memory = memory.map(|root| root.memory());
            crate::fault::compare_arrival(&self.paused, &saved, &self.key, memory)?;
        }
        Ok(())
    }

    /// The guest runs here from here on, and nowhere else.
    fn take(self, resident: &mut Resident, restore: Duration) -> Result<Arrived, MigrateError> {
        reached(Step::ArrivalRestored);
        let began = Instant::now();
        // Without the record there is no guest: the source stays in doubt, and asks.
        resident.permit.take(self.session)?;
        let record = began.elapsed();
        reached(Step::ArrivalTaken);
        let running = self.paused.resume();
        let resume = began.elapsed().saturating_sub(record);
        let (root, pages) = self.link.with(|destination, _| {
            destination.taken();
            (destination.root(), destination.counts().pages_applied)
        });
        reached(Step::ArrivalRunning);
        let root = root.map_or([0; 64], Root::to_bytes);
        let report = ArrivalReport { root, pages, restore, record, resume };
        // Once more if it fails: while the record stays at Taken, the guest cannot be offered again.
        let settled = resident.permit.settle(self.session);
        if let Err(error) = settled.or_else(|_| resident.permit.settle(self.session)) {
            tracing::error!(%error, "the record stays at Taken");
        }
        Ok(Arrived { running, report, farewell: self.link })
    }

    /// Writes it down, and only then says so.
    fn refuse(&self, resident: &mut Resident, why: MigrateError) -> MigrateError {
        match resident.permit.refuse(self.session) {
            Ok(()) => {
                self.link.with(|destination, _| destination.refused(&why.to_string()));
                until_heard(&self.link);
                why
            }
            Err(error) => error.into(),
        }
    }
}

impl Arrived {
    /// The guest; and what answers its source, until that has heard it.
    pub(crate) fn part(self) -> (Running, ArrivalReport, impl FnOnce() + Send) {
        let Self { running, report, farewell } = self;
        (running, report, move || until_heard(&farewell))
    }
}

/// Waits until the source has closed its connection: it has its answer then.
fn until_heard(link: &DestinationLink) {
    let end = Instant::now() + FAREWELL;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || link.with(|destination, _| destination.waiting_since().is_some()) {
            return;
        }
        drop(link.next_event(left.min(TURN)));
    }
}
