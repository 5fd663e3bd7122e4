//! A vCPU and the thread that runs it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use kvm_bindings::KVM_EXIT_DIRTY_RING_FULL;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::{Error as SignalError, Killable, SIGRTMIN, block_signal, clear_signal};

use super::exit::{GuestExit, VcpuError, internal_error};
use super::throttle::Gate;
use crate::devices::{Bus, BusRequest};
use crate::dirty::DirtyRings;
use crate::jail::{self, ThreadKind};
use crate::kvm::set_signal_mask;
use crate::memory::GuestRam;

/// The signal that takes a vCPU out of `KVM_RUN`.
///
/// It is blocked in the thread, from its creation on, and unblocked by KVM only while the vCPU runs
/// (`KVM_SET_SIGNAL_MASK`). So a kick that arrives a moment before `KVM_RUN` stays pending and ends
/// that very `KVM_RUN`: there is no window in which it is lost, and no signal handler.
fn kick_signal() -> i32 {
    SIGRTMIN()
}

/// One virtual CPU. Whoever owns this value may look into it; while the vCPU runs, its thread does.
#[derive(Debug)]
pub(crate) struct Vcpu {
    pub(crate) fd: VcpuFd,
    /// Index and APIC id.
    pub(crate) id: u8,
    bus: Arc<Bus>,
    /// What KVM runs it on: as long as there is a vCPU, its memory stays mapped.
    _ram: Arc<GuestRam>,
    /// Where its VM has dirty rings: its own may become full.
    rings: Option<Arc<DirtyRings>>,
}

/// Why `Vcpu::run` gave the vCPU back.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It was asked to.
    Kicked,
    /// The guest ended, or KVM gave up.
    Exit(GuestExit),
}

impl Vcpu {
    pub(crate) fn new(
        fd: VcpuFd,
        id: u8,
        bus: Arc<Bus>,
        ram: Arc<GuestRam>,
        rings: Option<Arc<DirtyRings>>,
    ) -> Result<Self, VcpuError> {
        let kick_bit = 1_u64 << (kick_signal() - 1);
        set_signal_mask(&fd, !kick_bit).map_err(VcpuError::ioctl("KVM_SET_SIGNAL_MASK"))?;
        Ok(Self { fd, id, bus, _ram: ram, rings })
    }

    /// Makes room in this vCPU's dirty ring.
    fn make_room(&self) -> Result<(), String> {
        let rings = self.rings.as_ref().ok_or("this machine has none")?;
        rings.make_room(self.id).map_err(|error| error.to_string())
    }

    /// Runs until a kick with `pause` set, or until the guest ends.
    ///
    /// A kick is obeyed only when `KVM_RUN` itself returns EINTR. KVM completes a pending port or
    /// MMIO access before it looks at signals (api.rst, `KVM_RUN`), so the registers never show an
    /// instruction that is half done.
    fn run(&mut self, pause: &AtomicBool, gate: &Gate) -> Stop {
        loop {
            let vcpu = self.id;
            match self.fd.run() {
                Ok(VcpuExit::IoOut(port, data)) => match self.bus.write_port(port, data) {
                    None => {}
                    Some(BusRequest::Reset) => return Stop::Exit(GuestExit::Reset),
                    Some(BusRequest::PowerOff) => return Stop::Exit(GuestExit::PowerOff),
                },
                Ok(VcpuExit::IoIn(port, data)) => self.bus.read_port(port, data),
                Ok(VcpuExit::MmioRead(address, data)) => self.bus.read_memory(address, data),
                Ok(VcpuExit::MmioWrite(address, data)) => self.bus.write_memory(address, data),
                Ok(VcpuExit::Intr) => {}
                Ok(VcpuExit::Shutdown) => {
                    return Stop::Exit(GuestExit::TripleFault { vcpu });
                }
                Ok(VcpuExit::InternalError) => {
                    return Stop::Exit(internal_error(&mut self.fd, vcpu));
                }
                Ok(VcpuExit::FailEntry(reason, _)) => {
                    return Stop::Exit(GuestExit::EntryRefused { vcpu, reason });
                }
                Ok(VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL)) => {
                    // A kick meanwhile stays pending, and ends the next KVM_RUN.
                    if let Err(why) = self.make_room() {
                        let what = format!("its dirty ring is full, and stays so: {why}");
                        return Stop::Exit(GuestExit::Unexpected { vcpu, what });
                    }
                }
                Ok(other) => {
                    let what = format!("unexpected exit {other:?}");
                    return Stop::Exit(GuestExit::Unexpected { vcpu, what });
                }
                Err(error) if error.errno() == libc::EINTR => {
                    // Taken from the queue first, looked at second: a kick that comes in between
                    // stays pending.
                    let _ = clear_signal(kick_signal());
                    // Here, where a pause would find it, too: no instruction is half done, and no lock is held.
                    gate.pass(pause);
                    if pause.load(Ordering::Acquire) {
                        return Stop::Kicked;
                    }
                }
                // A vCPU that waits for INIT/SIPI, woken without one.
                Err(error) if error.errno() == libc::EAGAIN => {}
                Err(error) => {
                    let what = format!("KVM_RUN failed: {error}");
                    return Stop::Exit(GuestExit::Unexpected { vcpu, what });
                }
            }
        }
    }
}

/// The thread that runs one vCPU, and to which the vCPU is lent.
#[derive(Debug)]
pub(crate) struct VcpuThread {
    pause: Arc<AtomicBool>,
    /// The machine's: where its vCPUs wait while they are held.
    gate: Arc<Gate>,
    lend: Option<Sender<Vcpu>>,
    /// Locked by nobody else: a receiver alone could not be shared with whoever throttles the vCPU.
    back: Mutex<Receiver<(Vcpu, Option<GuestExit>)>>,
    thread: Option<JoinHandle<()>>,
}

impl VcpuThread {
    /// Starts an idle thread. `stopped` is written when a vCPU stops by itself.
    pub(crate) fn start(id: u8, gate: &Arc<Gate>, stopped: EventFd) -> Result<Self, VcpuError> {
        let pause = Arc::new(AtomicBool::new(false));
        let (lend, lent) = channel::<Vcpu>();
        let (give_back, back) = channel();
        let paused = Arc::clone(&pause);
        let gate = Arc::clone(gate);
        let of_thread = Arc::clone(&gate);
        // A thread inherits its creator's mask: so there is no moment at which a kick would end the
        // process, as it would between the thread's start and a call of its own.
        match block_signal(kick_signal()) {
            Ok(()) | Err(SignalError::SignalAlreadyBlocked(_)) => {}
            Err(error) => return Err(VcpuError::Thread(std::io::Error::other(error.to_string()))),
        }
        let body = move || {
            jail::narrow(ThreadKind::Vcpu);
            for mut vcpu in lent {
                let exit = match vcpu.run(&paused, &of_thread) {
                    Stop::Kicked => None,
                    Stop::Exit(exit) => Some(exit),
                };
                let stopped_by_itself = exit.is_some();
                if give_back.send((vcpu, exit)).is_err() {
                    return;
                }
                if stopped_by_itself {
                    let _ = stopped.write(1);
                }
            }
        };
        let thread = std::thread::Builder::new().name(format!("vcpu{id}")).spawn(body)?;
        Ok(Self { pause, gate, lend: Some(lend), back: Mutex::new(back), thread: Some(thread) })
    }

    /// Lends the vCPU to the thread, which runs it at once.
    pub(crate) fn run(&self, vcpu: Vcpu) {
        self.pause.store(false, Ordering::Release);
        let lend = self.lend.as_ref().expect("the channel lives as long as the thread");
        lend.send(vcpu).expect("a vCPU thread ends only when its channel does");
    }

    /// Asks for the vCPU; it comes with `take_back`.
    pub(crate) fn kick(&self) {
        self.pause.store(true, Ordering::Release);
        self.gate.look_again();
        self.interrupt();
    }

    /// Takes the vCPU out of `KVM_RUN`: it goes on once its gate lets it. One that is not lent finds the signal at its next
    /// `KVM_RUN`, and goes on, too.
    pub(super) fn interrupt(&self) {
        if let Some(thread) = &self.thread {
            // Fails only for a thread that has ended, which has already given its vCPU back.
            let _ = thread.kill(kick_signal());
        }
    }

    /// Waits for the vCPU, and says whether it had stopped by itself.
    pub(crate) fn take_back(&self) -> (Vcpu, Option<GuestExit>) {
        let back = self.back.lock().unwrap_or_else(PoisonError::into_inner);
        back.recv().expect("a vCPU thread gives its vCPU back before it ends")
    }
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        self.kick();
        self.lend = None;
        if let Some(thread) = self.thread.take() {
            // It may hold a vCPU that nobody takes back any more: that vCPU is dropped with it.
            let _ = thread.join();
        }
    }
}
