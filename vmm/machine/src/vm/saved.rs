//! The saved form of what KVM keeps for the VM as a whole.

use std::time::Duration;

use kvm_bindings::{
    KVM_CLOCK_REALTIME, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    kvm_clock_data, kvm_irqchip,
};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use super::create::VmError;

/// kvmclock and the interrupt controllers.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct VmStateV1 {
    clock: kvm_clock_data,
    pic_master: kvm_irqchip,
    pic_slave: kvm_irqchip,
    ioapic: kvm_irqchip,
}

impl std::fmt::Debug for VmStateV1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VmStateV1").field("clock_ns", &self.clock.clock).finish_non_exhaustive()
    }
}

impl VmStateV1 {
    pub(crate) fn of(vm: &VmFd) -> Result<Self, VmError> {
        let irqchip = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            vm.get_irqchip(&mut chip).map_err(VmError::ioctl("KVM_GET_IRQCHIP"))?;
            Ok::<_, VmError>(chip)
        };
        Ok(Self {
            clock: vm.get_clock().map_err(VmError::ioctl("KVM_GET_CLOCK"))?,
            pic_master: irqchip(KVM_IRQCHIP_PIC_MASTER)?,
            pic_slave: irqchip(KVM_IRQCHIP_PIC_SLAVE)?,
            ioapic: irqchip(KVM_IRQCHIP_IOAPIC)?,
        })
    }

    /// Restores the interrupt controllers.
    pub(crate) fn restore_irqchips(&self, vm: &VmFd) -> Result<(), VmError> {
        for chip in [&self.pic_master, &self.pic_slave, &self.ioapic] {
            vm.set_irqchip(chip).map_err(VmError::ioctl("KVM_SET_IRQCHIP"))?;
        }
        Ok(())
    }

    /// Restores kvmclock, so that the guest's clock never stood still. Where the saved clock carries the real time at
    /// which it was read, KVM adds what has passed since (api.rst, `KVM_SET_CLOCK`); else `elapsed` is added here.
    pub(crate) fn restore_clock(&self, vm: &VmFd, elapsed: Duration) -> Result<(), VmError> {
        let mut clock = self.clock;
        // The other flags are for reading only, and refused.
        clock.flags &= KVM_CLOCK_REALTIME;
        if clock.flags == 0 {
            let elapsed = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
            clock.clock = clock.clock.saturating_add(elapsed);
        }
        vm.set_clock(&clock).map_err(VmError::ioctl("KVM_SET_CLOCK"))
    }

    /// Everything but the clock, for comparisons by tests.
    #[cfg(any(test, feature = "fault-injection"))]
    pub(crate) fn without_time(&self) -> Self {
        Self { clock: kvm_clock_data::default(), ..self.clone() }
    }
}
