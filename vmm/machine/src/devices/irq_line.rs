//! A line of the in-kernel irqchip.

use std::sync::Arc;

use kvm_ioctls::VmFd;
use vm_superio::Trigger;

/// An input of the I/O APIC, and of the old interrupt controllers where they have it.
///
/// `KVM_IRQ_LINE` and not an irqfd: it is done when the call returns, so that a paused machine has
/// no interrupt under way which its saved irqchip does not show yet.
#[derive(Debug)]
pub(crate) struct IrqLine {
    vm: Arc<VmFd>,
    gsi: u32,
}

impl IrqLine {
    pub(crate) fn new(vm: Arc<VmFd>, gsi: u32) -> Self {
        Self { vm, gsi }
    }

    /// Raises or lowers it.
    ///
    /// # Errors
    /// When there is no irqchip.
    pub(crate) fn set(&self, is_high: bool) -> Result<(), kvm_ioctls::Error> {
        self.vm.set_irq_line(self.gsi, is_high)
    }
}

/// An edge.
impl Trigger for IrqLine {
    type E = kvm_ioctls::Error;

    fn trigger(&self) -> Result<(), Self::E> {
        self.set(true)?;
        self.set(false)
    }
}
