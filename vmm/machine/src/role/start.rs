//! From an order to a guest that can run, or to a snapshot that can be taken: what came with it is looked at here.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use dwcp::acp::{Nonce, VmId};
use dwcp::archive::{ArchiveId, ArchiveKey};
use dwcp::digest::DigestKey;

use super::opened::Opened;
use super::order::{BootOrder, RestoreOrder, SnapshotOrder};
use crate::boot::{BootError, BootSource};
use crate::devices::ConsoleLink;
use crate::handover::{HandOverError, Resident};
use crate::ipc::{Channel, exactly};
use crate::meter::Meter;
use crate::migrate::{Arrival, MigrateError, PrepareOrder};
use crate::permit::{PermitFile, PermitFileError};
use crate::snapshot::{self, Chain, Loader, RestoreReport, Restored, SnapshotError, Taking};
use crate::vm::{Paused, VmError};

/// Largest kernel or initrd that is read into memory.
const MAX_IMAGE_BYTES: u64 = 1 << 30;

/// An order that could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    #[error(transparent)]
    Vm(#[from] VmError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Permit(#[from] PermitFileError),
    #[error(transparent)]
    HandOver(#[from] HandOverError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    #[error("an image of more than {MAX_IMAGE_BYTES} bytes; is it really a kernel or an initrd?")]
    ImageTooLarge,
    #[error("the order came with {0} descriptors, which is not what it needs")]
    Descriptors(usize),
    #[error("this process has had its machine; each has one")]
    Used,
    #[error("the order names a machine or a process by an id of zeros")]
    NoId,
    #[error("there is no guest that this process may touch")]
    NoGuest,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A guest that can run, and what its process has for it.
pub(super) struct Start {
    pub(super) paused: Paused,
    pub(super) resident: Resident,
    /// What fetches its pages, if that is done lazily.
    pub(super) loader: Option<Loader>,
}

/// Boots a guest, if the record says that this process may run it.
pub(super) fn boot(
    order: &BootOrder,
    descriptors: Vec<OwnedFd>,
    opened: Opened,
) -> Result<Start, OrderError> {
    let count = descriptors.len();
    let mut descriptors = descriptors.into_iter();
    let (Some(record), Some(console), Some(kernel)) =
        (descriptors.next(), descriptors.next(), descriptors.next())
    else {
        return Err(OrderError::Descriptors(count));
    };
    let initrd = descriptors.next();
    if initrd.is_some() != order.has_initrd {
        return Err(OrderError::Descriptors(count));
    }
    let permit = permit(record, order.vm, order.runner)?;
    #[cfg(feature = "fault-injection")]
    crate::fault::open_by_name()?;
    let host = opened.host.map_err(VmError::from)?;
    let mut paused = Paused::with_dirty_log(&host, order.config, order.dirty_log)?;
    let kernel = read_image(kernel)?;
    let initrd = initrd.map(read_image).transpose()?;
    let tsc_khz = paused.parts().tsc_khz.to_string();
    let command_line = order.command_line.replace("{tsc_khz}", &tsc_khz);
    paused.boot(&BootSource {
        kernel: &kernel,
        initrd: initrd.as_deref(),
        command_line: &command_line,
    })?;
    let console = ConsoleLink::new(console)?;
    let resident = Resident { permit, console, digest_key: DigestKey::new(order.digest_key) };
    Ok(Start { paused, resident, loader: None })
}

/// Becomes the machine of a snapshot. The report's time is the caller's to fill in, when the guest runs.
pub(super) fn restore(
    order: &RestoreOrder,
    descriptors: Vec<OwnedFd>,
    opened: Opened,
) -> Result<(Start, RestoreReport), OrderError> {
    let count = descriptors.len();
    let mut descriptors = descriptors.into_iter();
    let (Some(record), Some(console)) = (descriptors.next(), descriptors.next()) else {
        return Err(OrderError::Descriptors(count));
    };
    let permit = permit(record, order.vm, order.runner)?;
    let chain = open_chain(descriptors, &order.names, order.key)?;
    let (bytes, pages, is_lazy) = (chain.bytes(), chain.pages(), order.is_lazy);
    let Opened { host, userfault } = opened;
    let lazily = is_lazy.then_some(userfault).transpose().map_err(SnapshotError::Userfault)?;
    let restored = snapshot::restore(chain, host, lazily, order.dirty_log)?;
    let Restored { paused, digest_key, loader } = restored;
    let resident = Resident { permit, console: ConsoleLink::new(console)?, digest_key };
    let report = RestoreReport { bytes, pages, total_ns: 0, is_lazy };
    Ok((Start { paused, resident, loader }, report))
}

/// Becomes the destination of a move. Besides the machine, the socket on which its streams come.
pub(super) fn prepare(
    order: &PrepareOrder,
    descriptors: Vec<OwnedFd>,
    opened: Opened,
) -> Result<(Arrival, Resident, Channel), OrderError> {
    let count = descriptors.len();
    let mut descriptors = descriptors;
    let kept = if order.has_kept { descriptors.pop().map(File::from) } else { None };
    let [record, console, sockets] =
        exactly(descriptors).map_err(|_| OrderError::Descriptors(count))?;
    let vm = VmId::new(order.vm).ok_or(OrderError::NoId)?;
    let runner = Nonce::new(order.runner).ok_or(OrderError::NoId)?;
    let permit = PermitFile::from_descriptor(record, vm, runner)?;
    let console = ConsoleLink::new(console)?;
    let arrival = Arrival::prepare(order, &permit, opened.host, kept)?;
    let digest_key = DigestKey::new(order.description.digest_key);
    Ok((arrival, Resident { permit, console, digest_key }, Channel::from(sockets)))
}

/// The record, if it says that this process may run the machine.
fn permit(record: OwnedFd, vm: [u8; 16], runner: [u8; 16]) -> Result<PermitFile, OrderError> {
    let vm = VmId::new(vm).ok_or(OrderError::NoId)?;
    let runner = Nonce::new(runner).ok_or(OrderError::NoId)?;
    let mut permit = PermitFile::from_descriptor(record, vm, runner)?;
    permit.check_held()?;
    Ok(permit)
}

/// What a snapshot shall be.
pub(super) fn taking(
    order: &SnapshotOrder,
    descriptors: Vec<OwnedFd>,
    digest_key: DigestKey,
    meter: Arc<Meter>,
) -> Result<Taking, OrderError> {
    let mut descriptors = descriptors.into_iter();
    let file = descriptors.next().ok_or(OrderError::Descriptors(0))?.into();
    let id = ArchiveId::new(order.id).ok_or(OrderError::NoId)?;
    let parent = match &order.parent_name {
        Some(name) => {
            Some((open_chain(descriptors, &order.parent_names, order.key)?, name.clone()))
        }
        None => None,
    };
    Ok(Taking { file, id, key: order.key.map(ArchiveKey::new), parent, digest_key, meter })
}

fn open_chain(
    descriptors: impl ExactSizeIterator<Item = OwnedFd>,
    names: &[String],
    key: Option<[u8; 32]>,
) -> Result<Chain, OrderError> {
    if descriptors.len() != names.len() {
        return Err(OrderError::Descriptors(descriptors.len()));
    }
    let files = descriptors.map(File::from).collect();
    Ok(Chain::open(files, names.to_vec(), key.map(ArchiveKey::new).as_ref())?)
}

fn read_image(file: OwnedFd) -> Result<Vec<u8>, OrderError> {
    let mut image = Vec::new();
    File::from(file).take(MAX_IMAGE_BYTES + 1).read_to_end(&mut image)?;
    if image.len() as u64 > MAX_IMAGE_BYTES {
        return Err(OrderError::ImageTooLarge);
    }
    Ok(image)
}
