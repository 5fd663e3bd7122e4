//! Taking a snapshot: harvest → ledger → batch → archive → file.

use std::fs::File;
use std::sync::Arc;

use dwcp::archive::{ArchiveHeader, ArchiveId, ArchiveKey, ArchiveWriter};
use dwcp::digest::DigestKey;
use dwcp::hde::Batch;
use dwcp::ledger::Ledger;
use dwcp::page::Gfn;

use super::chain::Chain;
use super::description::{Description, SavedMoment};
use super::pages::{BLOCK_PAGES, PageWriter};
use super::{SnapshotError, SnapshotReport};
use crate::clock::{boot_id, monotonic_ns, realtime_ns};
use crate::dirty::DirtyLog;
use crate::fault::{Step, reached};
use crate::memory::GuestRam;
use crate::meter::{Cancelled, Meter};
use crate::state::MachineState;
use crate::vm::{Paused, Running, VmError};

/// The guest is paused when at most so many pages are owed: 2 MiB, read and compressed in some 5 ms.
const PAGES_AT_PAUSE: u64 = 512;

/// Rounds after which it is paused whatever it writes: a snapshot cannot fail for that. Each writes pages once more.
const ROUNDS: u32 = 6;

/// The machine of which a snapshot is taken, as it stands.
#[derive(Debug)]
pub(crate) enum Subject {
    Running(Running),
    Paused(Paused),
}

/// A snapshot to be taken.
#[derive(Debug)]
pub(crate) struct Taking {
    /// Where it goes: empty, and at its start.
    pub(crate) file: File,
    /// Drawn for this file.
    pub(crate) id: ArchiveId,
    pub(crate) key: Option<ArchiveKey>,
    /// What it builds on, and the name of that in the file's folder.
    pub(crate) parent: Option<(Chain, String)>,
    pub(crate) digest_key: DigestKey,
    pub(crate) meter: Arc<Meter>,
}

impl Taking {
    /// Takes the snapshot. Whatever comes of it, the machine comes back as it was, unless its guest has ended.
    pub(crate) fn run(self, subject: Subject) -> (Subject, Result<SnapshotReport, SnapshotError>) {
        let started_ns = monotonic_ns();
        reached(Step::SnapshotStart);
        match subject {
            Subject::Running(running) => self.of_running(running, started_ns),
            Subject::Paused(paused) => {
                let outcome = self.of_paused(&paused, started_ns);
                (Subject::Paused(paused), outcome)
            }
        }
    }

    fn of_paused(self, paused: &Paused, started_ns: u64) -> Result<SnapshotReport, SnapshotError> {
        let mut saver =
            self.begin(paused.parts().config, paused.parts().cpuid.saved(), paused.ram())?;
        saver.put_owed(Put::Through)?;
        let moment = saver.save(paused)?;
        saver.finish(&moment, started_ns)
    }

    fn of_running(
        self,
        running: Running,
        started_ns: u64,
    ) -> (Subject, Result<SnapshotReport, SnapshotError>) {
        let ram = Arc::clone(running.ram());
        let prepare = || {
            let parts = running.parts();
            let mut saver = self.begin(parts.config, parts.cpuid.saved(), &ram)?;
            let mut log = running.start_dirty_log()?;
            saver.put_while_running(log.as_mut())?;
            reached(Step::SnapshotCopied);
            Ok((saver, log))
        };
        let (mut saver, mut log) = match prepare() {
            Ok(prepared) => prepared,
            Err(error) => return (go_on(running), Err(error)),
        };
        let paused_ns = monotonic_ns();
        let paused = running.pause();
        if paused.exit().is_some() {
            return (Subject::Paused(paused), Err(SnapshotError::GuestEnded));
        }
        reached(Step::SnapshotPaused);
        let moment = saver.last_pages(&paused, log.as_mut());
        reached(Step::SnapshotSaved);
        let running = paused.resume();
        saver.report.paused_ns = monotonic_ns() - paused_ns;
        reached(Step::SnapshotResumed);
        // The guest runs: what is left takes the time it takes.
        let subject = go_on(running);
        (subject, moment.and_then(|moment| saver.finish(&moment, started_ns)))
    }

    /// Begins the archive, with everything owed.
    fn begin(
        self,
        config: crate::vm::MachineConfig,
        cpuid: crate::cpu::SavedCpuid,
        ram: &Arc<GuestRam>,
    ) -> Result<Saver, SnapshotError> {
        let Self { file, id, key, parent, digest_key, meter } = self;
        let limit = Gfn(config.memory.frame_limit());
        if let Some((chain, _)) = &parent {
            let (theirs, name) = (chain.description(), chain.name().to_owned());
            if theirs.digest_key != *digest_key.secret_bytes() {
                return Err(SnapshotError::OtherMachine { name });
            }
            if theirs.config != config {
                return Err(SnapshotError::OtherShape { name });
            }
        }
        let description = Description {
            config,
            cpuid,
            sections: MachineState::sections(),
            digest_key: *digest_key.secret_bytes(),
            parent_name: parent.as_ref().map(|(_, name)| name.clone()),
        };
        let header = |parent| ArchiveHeader { id, parent };
        let description = description.encode();
        let begin = |out: &mut Vec<u8>| match &parent {
            None => ArchiveWriter::new(header(None), key.as_ref(), limit, &description, out),
            Some((chain, _)) => {
                let (image, key) = (chain.image(), key.as_ref());
                ArchiveWriter::on(image, header(image.top()), key, &description, out)
            }
        };
        let pages = PageWriter::begin(Arc::clone(ram), file, digest_key, begin)?;
        let mut ledger = Ledger::new(limit);
        for region in ram.layout().regions() {
            ledger.owe(region.run())?;
        }
        Ok(Saver {
            pages,
            ledger,
            meter,
            report: SnapshotReport { bytes: 0, pages: 0, rounds: 0, paused_ns: 0, total_ns: 0 },
        })
    }
}

/// The guest runs on at full speed.
fn go_on(running: Running) -> Subject {
    if let Err(error) = running.stop_dirty_log() {
        tracing::warn!(%error, "the dirty log stays on; the guest runs slower");
    }
    Subject::Running(running)
}

/// Whether what is encoded is written at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Put {
    /// As soon as there is enough of it.
    Through,
    /// Later: a disk that is busy must not keep the guest waiting.
    Back,
}

/// Writes pages into the archive until the ledger is settled.
struct Saver {
    pages: PageWriter,
    ledger: Ledger,
    meter: Arc<Meter>,
    report: SnapshotReport,
}

impl Saver {
    /// Rounds while the guest runs, until few enough pages are owed.
    fn put_while_running(&mut self, log: &mut dyn DirtyLog) -> Result<(), SnapshotError> {
        while self.report.rounds < ROUNDS {
            log.harvest(&mut self.ledger)?;
            if self.report.rounds > 0 && self.ledger.owed() <= PAGES_AT_PAUSE {
                break;
            }
            self.report.rounds += 1;
            self.meter.begin_round(self.report.rounds);
            self.put_owed(Put::Through)?;
        }
        Ok(())
    }

    /// While the guest stands still: its state, and the last pages.
    fn last_pages(
        &mut self,
        paused: &Paused,
        log: &mut dyn DirtyLog,
    ) -> Result<SavedMoment, SnapshotError> {
        // Before the harvest: saving makes KVM write to memory.
        let moment = self.save(paused)?;
        log.harvest(&mut self.ledger)?;
        self.put_owed(Put::Back)?;
        Ok(moment)
    }

    fn save(&self, paused: &Paused) -> Result<SavedMoment, SnapshotError> {
        let realtime_ns = realtime_ns();
        let state = paused.save()?.encode().map_err(VmError::from)?;
        Ok(SavedMoment { realtime_ns, boot_id: boot_id(), state })
    }

    /// Puts everything owed into the archive.
    fn put_owed(&mut self, put: Put) -> Result<(), SnapshotError> {
        while let Some(batch) = Batch::take_owed(&mut self.ledger, BLOCK_PAGES) {
            self.report.pages += self.pages.put(&batch)?;
            // In the file or in the buffer that goes there: either the whole becomes a snapshot, or nothing.
            self.ledger.settle(batch.numbers())?;
            let go_on = self.meter.advance(batch.pages() as u64, self.ledger.owed());
            if put == Put::Through {
                go_on.map_err(|Cancelled| SnapshotError::Cancelled)?;
                self.pages.write_some()?;
            }
        }
        Ok(())
    }

    /// Everything behind the pages. When this returns, all is on storage.
    fn finish(
        self,
        moment: &SavedMoment,
        started_ns: u64,
    ) -> Result<SnapshotReport, SnapshotError> {
        let Self { pages, mut report, .. } = self;
        let (file, bytes) = pages.finish(&moment.encode())?;
        report.bytes = bytes;
        reached(Step::SnapshotWritten);
        file.sync_all().map_err(SnapshotError::Write)?;
        reached(Step::SnapshotSynced);
        report.total_ns = monotonic_ns() - started_ns;
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::io::Seek;

    use super::*;
    use crate::cpu::CpuModel;
    use crate::kvm::Host;
    use crate::memory::MemoryLayout;
    use crate::snapshot::fuzz::read_snapshot;
    use crate::vm::{CpuCount, MachineConfig};

    #[test]
    fn a_machine_that_uses_few_pages_is_a_small_file() {
        let Some(host) = Host::of_test("a_machine_that_uses_few_pages_is_a_small_file") else {
            return;
        };
        let memory = MemoryLayout::new(32 << 20, 16 << 20).unwrap();
        let cpus = CpuCount::try_from(1_u32).unwrap();
        let config = MachineConfig { cpus, cpu: CpuModel::Host, memory };
        let paused = Paused::new(&host, config).unwrap();
        // Two pages of the first region, one of the second, and one that is written and zero all the same.
        for (address, byte) in [(0x5000, 1), (0x6000, 2), (crate::memory::HOLE_END, 3), (0x9000, 0)]
        {
            paused.ram().write(address, &[byte; 600]).unwrap();
        }
        let mut file = tempfile::tempfile().unwrap();
        let taking = Taking {
            file: file.try_clone().unwrap(),
            id: ArchiveId::new([1; 16]).unwrap(),
            key: None,
            parent: None,
            digest_key: DigestKey::new([4; 32]),
            meter: Arc::default(),
        };
        let (subject, report) = taking.run(Subject::Paused(paused));
        assert!(matches!(subject, Subject::Paused(_)));
        let report = report.unwrap();
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(report.bytes, bytes.len() as u64);
        assert!(bytes.len() < 16 << 10, "{report:?}");
        assert_eq!(read_snapshot(file).unwrap(), 3);
        assert_eq!(report.pages, 3);
    }
}
