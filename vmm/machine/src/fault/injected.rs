//! The faults themselves.
#![allow(unsafe_code, reason = "one of them is a crash")]

use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use dwcp::digest::{DigestKey, DigestSum};
use dwcp::page::{Gfn, PAGE_SIZE, PageRun};
use kvm_bindings::kvm_cpuid_entry2;
use serde::{Deserialize, Serialize};

use super::Step;
use crate::cpu::Features;
use crate::handover::HandOverError;
use crate::ipc::Channel;
use crate::kvm::DirtyPage;
use crate::memory::GuestRam;
use crate::migrate::MigrateError;
use crate::state::MachineState;
use crate::vm::{Paused, VmError};

/// What `NOVACRON_FAULT` asks for: a comma-separated list of `kill:STEP`, `stop:STEP`, `drop-dirty-bits`,
/// `drop-page`, `damage-page`, `damage-state`, `drop-acknowledgement`, `acknowledge-unapplied`,
/// `drop-field`, `drop-event`, `forget-boot`, `newer-state`, `slow-take`, `slow-switch`, `reference`, `lacks:FEATURE`,
/// `no-dirty-ring`, `forbid:THREAD:CALL`, `call:THREAD:CALL`, `panic:THREAD`, `crash:THREAD`, `open-by-name`.
fn is_asked(fault: &str) -> bool {
    asked().any(|word| word == fault)
}

fn asked() -> impl Iterator<Item = &'static str> {
    static ASKED: OnceLock<String> = OnceLock::new();
    let asked = ASKED.get_or_init(|| std::env::var("NOVACRON_FAULT").unwrap_or_default());
    asked.split(',')
}

/// True the first time in this process, if asked for.
fn once(fault: &str, done: &AtomicBool) -> bool {
    is_asked(fault) && !done.swap(true, Ordering::Relaxed)
}

/// Dies as by `kill -9` if this is the step to die at.
pub(super) fn die_if_asked(step: Step) {
    if is_asked(&format!("kill:{}", step.name())) {
        let itself = rustix::process::getpid();
        let _ = rustix::process::kill_process(itself, rustix::process::Signal::KILL);
        std::process::abort();
    }
}

/// Stops the first time that it comes to this step, all of its threads, until somebody continues it.
pub(super) fn stop_if_asked(step: Step) {
    static DONE: AtomicBool = AtomicBool::new(false);
    if once(&format!("stop:{}", step.name()), &DONE) {
        // This thread is told, not the process: whichever thread heard of it, this one would go on until it did.
        // SAFETY: it has no handler, and asks for nothing of this process's.
        unsafe { libc::raise(libc::SIGSTOP) };
    }
}

/// Forgets the first bit of every word of a region's bitmap that KVM reported: of one harvest the last that matters,
/// since KVM, never told to clear that bit, reports it again. One bit of the whole region would be too few to judge
/// by: the page may have been read after it was written.
pub(crate) fn drop_dirty_bits(words: &mut [u64]) {
    /// Below lie the oracle's own program and stacks, without which it could not tell what it finds.
    const FIRST_FRAME: usize = 1024;
    // The first harvest has every bit set: that a page is never sent at all is another fault.
    if !is_asked("drop-dirty-bits") || words.iter().all(|word| *word == u64::MAX) {
        return;
    }
    for word in words.iter_mut().skip(FIRST_FRAME / 64).filter(|word| **word != 0) {
        *word &= *word - 1;
    }
}

/// The same of dirty rings: the last page of a harvest. The first ones may have been written before the round of that
/// time read them, and be at the successor as they are.
pub(crate) struct LastPage {
    is_asked: bool,
    last: Option<DirtyPage>,
}

impl LastPage {
    pub(crate) fn of_harvest() -> Self {
        Self { is_asked: is_asked("drop-dirty-bits"), last: None }
    }

    /// The page to be kept when this one comes: itself, or the one before it.
    pub(crate) fn keep_back(&mut self, page: DirtyPage) -> Option<DirtyPage> {
        if self.is_asked { self.last.replace(page) } else { Some(page) }
    }
}

/// Whether to do as a host whose KVM has no dirty ring.
pub(crate) fn lacks_dirty_ring() -> bool {
    is_asked("no-dirty-ring")
}

/// Whether to record this run as sent without sending it.
pub(crate) fn drops_page(run: PageRun) -> bool {
    static DONE: AtomicBool = AtomicBool::new(false);
    run.first().0 > 1024 && once("drop-page", &DONE)
}

/// Inverts a bit of a run after its digest was computed.
pub(crate) fn damage_page(bytes: &mut [u8]) {
    static DONE: AtomicBool = AtomicBool::new(false);
    if once("damage-page", &DONE) {
        bytes[0] ^= 1;
    }
}

/// Inverts a bit of the state after the root was computed.
pub(crate) fn damage_state(mut state: Vec<u8>) -> Vec<u8> {
    if is_asked("damage-state") {
        let middle = state.len() / 2;
        state[middle] ^= 1;
    }
    state
}

/// Tells of a state of which one section is newer than it is.
pub(crate) fn newer_sections(mut sections: Vec<(String, u16)>) -> Vec<(String, u16)> {
    if is_asked("newer-state") {
        sections
            .iter_mut()
            .filter(|(name, _)| name == "vcpu")
            .for_each(|(_, version)| *version += 1);
    }
    sections
}

/// What KVM supports, without the features that `lacks:FEATURE` asks to do without: another host.
pub(crate) fn without_features(mut supported: Vec<kvm_cpuid_entry2>) -> Vec<kvm_cpuid_entry2> {
    let names: Vec<_> = asked().filter_map(|word| word.strip_prefix("lacks:")).collect();
    let lost = Features::named(&names).expect("features that there are");
    lost.remove_from(&mut supported);
    supported
}

/// Whether to acknowledge a run that is not written.
pub(crate) fn acknowledges_unapplied() -> bool {
    static DONE: AtomicBool = AtomicBool::new(false);
    once("acknowledge-unapplied", &DONE)
}

/// Takes longer over the permit than the predecessor waits, if asked for.
pub(crate) fn slow_take() {
    if is_asked("slow-take") {
        std::thread::sleep(std::time::Duration::from_secs(12));
    }
}

/// Takes its time over the last pages of a move while the guest stands still, if asked for.
pub(crate) fn slow_switch() {
    if is_asked("slow-switch") {
        std::thread::sleep(std::time::Duration::from_millis(1500));
    }
}

/// Whether to apply a run without acknowledging it.
pub(crate) fn drops_acknowledgement() -> bool {
    static DONE: AtomicBool = AtomicBool::new(false);
    once("drop-acknowledgement", &DONE)
}

/// Whether to leave a field of the first vCPU out of what is restored.
pub(crate) fn drops_field() -> bool {
    is_asked("drop-field")
}

/// Whether to leave the events that are pending out of what is restored.
pub(crate) fn drops_event() -> bool {
    is_asked("drop-event")
}

/// Whether a snapshot is taken for one of another boot of the host.
pub(crate) fn forgets_boot() -> bool {
    is_asked("forget-boot")
}

/// Whether a kind of thread is to be denied a call that it makes.
pub(crate) fn forbids(thread: &str, call: &str) -> bool {
    is_asked(&format!("forbid:{thread}:{call}"))
}

/// Does in a thread that has just been narrowed what it must not live to tell.
pub(crate) fn do_as_planted(thread: &str) {
    asked().filter_map(|word| word.strip_prefix(&format!("call:{thread}:"))).for_each(call);
    assert!(!is_asked(&format!("panic:{thread}")), "planted");
    if is_asked(&format!("crash:{thread}")) {
        crash();
    }
}

/// Makes a system call.
fn call(name: &str) {
    match name {
        "openat" => drop(std::fs::File::open("/")),
        "socket" => drop(std::net::UdpSocket::bind(("127.0.0.1", 0))),
        "eventfd2" => drop(vmm_sys_util::eventfd::EventFd::new(0)),
        "execve" => drop(std::os::unix::process::CommandExt::exec(&mut Command::new("/"))),
        other => panic!("no way to call {other}"),
    }
}

/// Reads where nothing is mapped.
fn crash() {
    let nothing = std::ptr::without_provenance::<u8>(8);
    // SAFETY: there is none: the kernel ends the process here, which is what was asked for.
    let _ = unsafe { nothing.read_volatile() };
}

/// Whether a process in its jail is to be let past its filter, to try names.
pub(crate) fn opens_by_name() -> bool {
    is_asked("open-by-name")
}

/// What comes of trying: the root, and something that is there on every host.
///
/// # Errors
/// Says of each name what the system says, if this was asked for.
pub(crate) fn open_by_name() -> std::io::Result<()> {
    if !opens_by_name() {
        return Ok(());
    }
    let said = ["/", "/proc"].map(|name| match std::fs::File::open(name) {
        Ok(_) => format!("{name} opens"),
        Err(error) => format!("{name}: {:?}", error.kind()),
    });
    Err(std::io::Error::other(said.join(", ")))
}

/// Damage to guest memory, for the oracle to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Plant {
    /// One bit of the byte at this guest physical address is inverted.
    Flip {
        /// Guest physical address.
        address: u64,
    },
    /// The page at this guest physical address is zeroed.
    Zero {
        /// Guest physical address.
        address: u64,
    },
    /// The pages at these guest physical addresses are exchanged.
    Swap {
        /// Guest physical address of one.
        one: u64,
        /// Guest physical address of the other.
        other: u64,
    },
    /// The page's content is kept, to be put back by `Restore`.
    Keep {
        /// Guest physical address.
        address: u64,
    },
    /// The content that was kept is put back.
    Restore {
        /// Guest physical address.
        address: u64,
    },
}

/// Carries out the damage on a paused guest.
pub(crate) fn plant(
    ram: &GuestRam,
    plant: Plant,
    kept: &mut Option<Vec<u8>>,
) -> Result<(), VmError> {
    let run = |address: u64| PageRun::new(Gfn(address / PAGE_SIZE), 1).expect("one page");
    let read = |address: u64| {
        let mut page = vec![0; 4096];
        ram.read_run(run(address), &mut page).map(|()| page)
    };
    match plant {
        Plant::Flip { address } => {
            let mut page = read(address)?;
            page[usize::try_from(address % PAGE_SIZE).expect("below a page")] ^= 0x10;
            ram.write_run(run(address), &page)?;
        }
        Plant::Zero { address } => ram.write_run(run(address), &[0; 4096])?,
        Plant::Swap { one, other } => {
            let (first, second) = (read(one)?, read(other)?);
            ram.write_run(run(one), &second)?;
            ram.write_run(run(other), &first)?;
        }
        Plant::Keep { address } => *kept = Some(read(address)?),
        Plant::Restore { address } => {
            if let Some(page) = kept.take() {
                ram.write_run(run(address), &page)?;
            }
        }
    }
    Ok(())
}

/// A copy of the guest's memory as it is at the pause, if asked for.
pub(crate) fn send_reference(channel: &Channel, ram: &GuestRam) -> Result<(), HandOverError> {
    if !is_asked("reference") {
        return Ok(());
    }
    let copy = GuestRam::new(ram.layout()).map_err(VmError::from)?;
    for_each_run(ram, |run, bytes| {
        ram.read_run(run, bytes)?;
        if bytes.iter().any(|byte| *byte != 0) { copy.write_run(run, bytes) } else { Ok(()) }
    })
    .map_err(VmError::from)?;
    channel.send(&crate::handover::reference_message(), &[copy.file().as_fd()])?;
    Ok(())
}

/// Compares memory with the reference, and the state that KVM gives back with the one restored.
pub(crate) fn compare_with_reference(
    reference: Option<OwnedFd>,
    paused: &Paused,
    saved: &MachineState,
) -> Result<(), HandOverError> {
    let Some(reference) = reference else { return Ok(()) };
    let ram = paused.ram();
    let reference = GuestRam::from_file(ram.layout(), reference).map_err(VmError::from)?;
    let mut expected = vec![0; 256 * 4096];
    let mut differs = false;
    for_each_run(ram, |run, bytes| {
        let expected = &mut expected[..bytes.len()];
        ram.read_run(run, bytes)?;
        reference.read_run(run, expected)?;
        differs |= bytes != expected;
        Ok(())
    })
    .map_err(VmError::from)?;
    if differs {
        return Err(HandOverError::Differs { what: "memory, compared byte for byte," });
    }
    let encode = |state: MachineState| state.without_time().encode().map_err(VmError::from);
    if encode(paused.save()?)? != encode(saved.clone())? {
        return Err(HandOverError::Differs { what: "the state, as KVM gives it back," });
    }
    Ok(())
}

/// Digests the memory that has come from another host once more, page by page as it lies there, and compares the state
/// that KVM gives back with the one restored; if asked for.
pub(crate) fn compare_arrival(
    paused: &Paused,
    saved: &MachineState,
    key: &DigestKey,
    memory: Option<DigestSum>,
) -> Result<(), MigrateError> {
    if !is_asked("reference") {
        return Ok(());
    }
    let (mut sum, mut digests) = (DigestSum::ZERO, Vec::new());
    for_each_run(paused.ram(), |run, bytes| {
        paused.ram().read_run(run, bytes)?;
        let _ = key.digest_run(run, bytes, &mut digests);
        digests.iter().for_each(|digest| sum += *digest);
        Ok(())
    })
    .map_err(VmError::from)?;
    if memory != Some(sum) {
        return Err(MigrateError::Differs("memory, as it lies there,"));
    }
    let encode = |state: MachineState| state.without_time().encode().map_err(VmError::from);
    if encode(paused.save()?)? != encode(saved.clone())? {
        return Err(MigrateError::Differs("the state, as KVM gives it back,"));
    }
    Ok(())
}

fn for_each_run(
    ram: &GuestRam,
    mut what: impl FnMut(PageRun, &mut [u8]) -> Result<(), crate::memory::RamError>,
) -> Result<(), crate::memory::RamError> {
    let mut buffer = vec![0; 256 * 4096];
    for region in ram.layout().regions() {
        let mut done = 0;
        while done < region.pages() {
            let pages = (region.pages() - done).min(256);
            let first = Gfn(region.first_frame() + done);
            let run = PageRun::new(first, pages).expect("within a region");
            let bytes = &mut buffer[..usize::try_from(pages * PAGE_SIZE).expect("at most a MiB")];
            what(run, bytes)?;
            done += pages;
        }
    }
    Ok(())
}
