//! A machine: running, or paused. Only a paused one can be looked into.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::config::MachineConfig;
use super::create::{VmError, VmParts, check_address_bits};
use super::saved::VmStateV1;
use crate::boot::{BootError, BootSource};
use crate::cpu::CpuidTemplate;
use crate::devices::{Console, Event, GenerationId};
use crate::dirty::{DirtyLog, DirtyLogKind};
use crate::kvm::Host;
use crate::memory::GuestRam;
use crate::state::MachineState;
use crate::vcpu::{GuestExit, Registers, Throttle, TimeBase, Vcpu, VcpuStateV1};

/// A machine whose vCPUs stand still.
///
/// ```text
///            resume()                    pause()
///   Paused ───────────► Running ───────────────────► Paused
///     │  ▲                                              │ exit(): why a vCPU had stopped
///     │  └── boot(), restore()                          ▼
///     └───── save()                                   (end)
/// ```
#[derive(Debug)]
pub struct Paused {
    parts: VmParts,
    vcpus: Vec<Vcpu>,
    exit: Option<GuestExit>,
}

/// A machine whose vCPUs run, each on a thread of its own.
#[derive(Debug)]
pub struct Running {
    parts: VmParts,
}

impl Paused {
    /// A machine as after power-on, with nothing in its memory, and KVM's dirty bitmap.
    ///
    /// # Errors
    /// When the host does not offer the CPU model or has too little memory, or KVM refuses a part.
    pub fn new(host: &Host, config: MachineConfig) -> Result<Self, VmError> {
        Self::with_dirty_log(host, config, DirtyLogKind::default())
    }

    /// The same with a choice of its dirty log.
    ///
    /// # Errors
    /// As with `new`, and when the host's KVM has no such log.
    pub fn with_dirty_log(
        host: &Host,
        config: MachineConfig,
        dirty_log: DirtyLogKind,
    ) -> Result<Self, VmError> {
        let cpuid = CpuidTemplate::new(host, config.cpu, config.cpus.get())?;
        check_address_bits(config, &cpuid)?;
        let ram = Arc::new(GuestRam::new(config.memory)?);
        Self::around(host, config, cpuid, ram, dirty_log)
    }

    /// The same, with a CPUID and around memory that exist already.
    pub(crate) fn around(
        host: &Host,
        config: MachineConfig,
        cpuid: CpuidTemplate,
        ram: Arc<GuestRam>,
        dirty_log: DirtyLogKind,
    ) -> Result<Self, VmError> {
        let (parts, vcpus) = VmParts::create(host, config, ram, cpuid, dirty_log)?;
        Ok(Self { parts, vcpus, exit: None })
    }

    /// Loads a guest, and puts the first vCPU at its first instruction. The others wait for INIT and
    /// SIPI, as KVM makes them.
    ///
    /// # Errors
    /// Says what is wrong with the image, or that it does not fit.
    pub fn boot(&mut self, source: &BootSource<'_>) -> Result<(), BootError> {
        let config = self.parts.config;
        let entry = crate::boot::load(&self.parts.ram, config.cpus.get(), source)?;
        self.parts.generation = GenerationId::fresh()?;
        self.parts.generation.write(&self.parts.ram)?;
        Registers::enter(&self.vcpus[0].fd, entry).map_err(BootError::Registers)
    }

    /// Tells the guest that it is a copy: a new generation id in its memory, and the event that says
    /// so. For a restore, where the original may have run on; never for a move.
    ///
    /// # Errors
    /// When the host has no random source, or KVM does not raise the interrupt.
    pub fn renew_generation(&mut self) -> Result<(), VmError> {
        let generation = GenerationId::fresh()?;
        generation.write(&self.parts.ram)?;
        self.parts.generation = generation;
        self.parts.raise(Event::NewGeneration)
    }

    /// Starts or resumes every vCPU.
    #[must_use]
    pub fn resume(self) -> Running {
        let Self { parts, vcpus, .. } = self;
        for (vcpu, thread) in vcpus.into_iter().zip(parts.threads.iter()) {
            thread.run(vcpu);
        }
        Running { parts }
    }

    /// Why a vCPU had stopped by itself, if one had. Such a machine cannot go on.
    #[must_use]
    pub fn exit(&self) -> Option<&GuestExit> {
        self.exit.as_ref()
    }

    /// Everything but memory and configuration.
    ///
    /// kvmclock's pages and the like are written by KVM itself meanwhile, and marked: the last
    /// harvest comes after this.
    ///
    /// # Errors
    /// When KVM refuses to tell.
    pub fn save(&self) -> Result<MachineState, VmError> {
        let parts = &self.parts;
        // The clock first: it goes on ticking while the rest is read.
        let vm = VmStateV1::of(&parts.vm)?;
        let vcpus = self.vcpus.iter().map(|vcpu| {
            VcpuStateV1::of(&vcpu.fd, &parts.msr_indices, parts.xsave_bytes)
                .inspect(|state| tracing::debug!(vcpu = vcpu.id, ?state, "saved"))
        });
        let vcpus = vcpus.collect::<Result<_, _>>()?;
        Ok(MachineState {
            vm,
            vcpus,
            serial: parts.bus.serial().save(),
            cmos: parts.bus.cmos().save(),
            events: parts.bus.events().save(),
            pci: parts.bus.pci().save(),
            generation: parts.generation.save(),
            console: parts.console.save(),
        })
    }

    /// Takes over a saved state, in the one order that works:
    ///
    /// | step | why there |
    /// |---|---|
    /// | console, serial port | the port raises its pending interrupt as it is restored |
    /// | CMOS clock, events, PCI, generation id | anywhere: they touch nothing but themselves |
    /// | interrupt controllers | so that they overwrite that interrupt with what was really pending |
    /// | vCPUs | their LAPICs are set after the IOAPIC that refers to them |
    /// | clock | last, as it runs from here on |
    ///
    /// # Errors
    /// When the state is not one of this machine, or KVM refuses a part of it.
    pub(crate) fn restore(&mut self, state: &MachineState, time: TimeBase) -> Result<(), VmError> {
        self.restore_devices(state)?;
        let parts = &self.parts;
        state.vm.restore_irqchips(&parts.vm)?;
        for (vcpu, saved) in self.vcpus.iter().zip(&state.vcpus) {
            let index = vcpu.id;
            saved
                .restore(&vcpu.fd, parts.xsave_bytes, time)
                .map_err(|source| VmError::VcpuState { index, source })?;
            // Tells a guest's watchdog that it was us; refused where the guest has no kvmclock.
            let _ = vcpu.fd.kvmclock_ctrl();
        }
        state.vm.restore_clock(&parts.vm, time.elapsed())
    }

    fn restore_devices(&mut self, state: &MachineState) -> Result<(), VmError> {
        let refused = |device| move |why| VmError::DeviceState { device, why };
        let parts = &mut self.parts;
        parts.console.restore(&state.console);
        parts.bus.serial().restore(state.serial.clone()).map_err(refused("serial port"))?;
        parts.bus.cmos().restore(&state.cmos).map_err(refused("CMOS clock"))?;
        parts.bus.events().restore(&state.events).map_err(refused("events"))?;
        parts.bus.pci().restore(&state.pci);
        parts.generation = GenerationId::restored(&state.generation);
        Ok(())
    }

    /// Starts logging written pages.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn start_dirty_log(&self) -> Result<Box<dyn DirtyLog + Send>, VmError> {
        self.parts.start_dirty_log()
    }
}

impl Running {
    /// Stops every vCPU at an instruction boundary.
    #[must_use]
    pub fn pause(self) -> Paused {
        let Self { parts } = self;
        // All are asked before any is waited for: they stop at the same time, not one by one.
        for thread in parts.threads.iter() {
            thread.kick();
        }
        let mut vcpus = Vec::with_capacity(parts.threads.len());
        let mut exit = None;
        for thread in parts.threads.iter() {
            let (vcpu, why) = thread.take_back();
            // The first that is not an orderly end says most.
            exit = match (exit, why) {
                (Some(first), Some(second)) if GuestExit::is_orderly(&first) => Some(second),
                (first, second) => first.or(second),
            };
            // Tells a guest's watchdog, at the vCPU's next entry, that it was us; refused where the
            // guest has no kvmclock.
            let _ = vcpu.fd.kvmclock_ctrl();
            vcpus.push(vcpu);
        }
        let _ = parts.stopped.read();
        Paused { parts, vcpus, exit }
    }

    /// What slows its guest down; it holds nobody yet. It lives on while the machine is paused and resumed.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(crate) fn throttle(&self) -> io::Result<Throttle> {
        Throttle::start(Arc::clone(&self.parts.threads), Arc::clone(&self.parts.gate))
    }

    /// About how many bytes its state would take on a link: only a paused machine knows.
    pub(crate) fn state_bytes(&self) -> usize {
        /// Four vCPUs of the oracle guest took 2.8 KiB, with a console of much the same lines.
        const OF_VCPU: usize = 1 << 10;
        /// Text usually shrinks to about so little; lines of one program, to far less.
        const TEXT_SHRINKS: usize = 4;
        self.parts.threads.len() * OF_VCPU + self.parts.console.remembers() / TEXT_SHRINKS
    }

    /// Starts logging written pages, without stopping the guest.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn start_dirty_log(&self) -> Result<Box<dyn DirtyLog + Send>, VmError> {
        self.parts.start_dirty_log()
    }

    /// Stops logging written pages.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn stop_dirty_log(&self) -> Result<(), VmError> {
        self.parts.stop_dirty_log()
    }
}

macro_rules! accessors {
    ($($state:ty),*) => {$(
        impl $state {
            /// What the machine is made of.
            #[must_use]
            pub fn config(&self) -> MachineConfig {
                self.parts.config
            }

            /// Its RAM.
            #[must_use]
            pub fn ram(&self) -> &Arc<GuestRam> {
                &self.parts.ram
            }

            /// Its console.
            #[must_use]
            pub fn console(&self) -> &Arc<Console> {
                &self.parts.console
            }

            /// The generation id that this machine's guest was given.
            #[must_use]
            pub fn generation_id(&self) -> [u8; 16] {
                self.parts.generation.bytes()
            }

            /// Presses the guest's power button: asks it to switch itself off. When it does, and
            /// whether at all, is the guest's decision.
            ///
            /// # Errors
            /// When KVM does not raise the interrupt.
            pub fn press_power_button(&self) -> Result<(), VmError> {
                self.parts.raise(Event::PowerButton)
            }

            /// Everything but the vCPUs.
            pub(crate) fn parts(&self) -> &VmParts {
                &self.parts
            }

            /// Readable when a vCPU has stopped by itself: pause the machine, and ask `exit()`.
            #[must_use]
            pub fn stopped(&self) -> &EventFd {
                &self.parts.stopped
            }
        }
    )*};
}

accessors!(Paused, Running);

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "dirty_log_tests.rs"]
mod dirty_log_tests;
