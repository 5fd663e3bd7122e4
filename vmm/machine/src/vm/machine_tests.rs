//! Machines that nobody runs: what is saved of them, and what of them stays.

use std::time::Duration;

use dwcp::page::{Gfn, PageRun};

use super::*;
use crate::devices::ports::{CMOS_DATA, CMOS_INDEX, EVENTS, PCI_ADDRESS};
use crate::memory::MemoryLayout;
use crate::vm::CpuCount;

/// A machine of two vCPUs; or nothing where there is no KVM, which counts as skipped.
fn machine(test: &str) -> Option<Paused> {
    let host = Host::of_test(test)?;
    let memory = MemoryLayout::new(32 << 20, 16 << 20).unwrap();
    let config = MachineConfig {
        cpus: CpuCount::try_from(2_u32).unwrap(),
        cpu: crate::cpu::CpuModel::Host,
        memory,
    };
    Some(Paused::new(&host, config).unwrap())
}

fn boot(machine: &mut Paused) {
    let oracle = BootSource { kernel: firmware::ORACLE, initrd: None, command_line: "cpus=2" };
    machine.boot(&oracle).unwrap();
}

/// The bytes at the generation id's address.
fn id_in_memory(machine: &Paused) -> [u8; 16] {
    let page = PageRun::new(Gfn(0xdf), 1).unwrap();
    let mut bytes = [0; 4096];
    machine.ram().read_run(page, &mut bytes).unwrap();
    let (id, others) = (&bytes[0x10..0x20], [&bytes[..0x10], &bytes[0x20..]].concat());
    assert!(others.iter().all(|byte| *byte == 0), "it has its page to itself");
    id.try_into().unwrap()
}

fn encoded(machine: &Paused) -> Vec<u8> {
    machine.save().unwrap().without_time().encode().unwrap()
}

#[test]
fn memory_stays_mapped_until_the_last_vcpu_is_gone() {
    let Some(machine) = machine("memory_stays_mapped_until_the_last_vcpu_is_gone") else { return };
    let Paused { parts, mut vcpus, .. } = machine;
    let ram = Arc::downgrade(&parts.ram);
    drop(parts);
    vcpus.pop();
    assert!(ram.upgrade().is_some(), "a vCPU is left");
    vcpus.pop();
    assert!(ram.upgrade().is_none());
}

#[test]
fn every_device_comes_back_as_it_was_saved() {
    let name = "every_device_comes_back_as_it_was_saved";
    let (Some(mut machine), Some(mut successor)) = (machine(name), machine(name)) else { return };
    boot(&mut machine);
    machine.press_power_button().unwrap();
    let bus = &machine.parts.bus;
    assert_eq!(bus.write_port(PCI_ADDRESS, &[8, 0, 0, 0x80]), None);
    // The year, while the clock runs; a byte of its memory; and the scratch register of COM1.
    for (port, byte) in
        [(CMOS_INDEX, 9), (CMOS_DATA, 0x31), (CMOS_INDEX, 0x55), (CMOS_DATA, 0xaa), (0x3ff, 0x77)]
    {
        assert_eq!(bus.write_port(port, &[byte]), None);
    }
    bus.serial().input(b"typed");
    machine.console().append(b"printed");
    let saved = machine.save().unwrap();
    assert_ne!(encoded(&machine), encoded(&successor));
    let state = MachineState::decode(&saved.encode().unwrap(), 2).unwrap();
    successor.restore(&state, TimeBase::SameHost).unwrap();
    assert_eq!(encoded(&successor), saved.without_time().encode().unwrap());
    assert_eq!(successor.generation_id(), machine.generation_id());
    let mut pci_address = [0; 4];
    successor.parts.bus.read_port(PCI_ADDRESS, &mut pci_address);
    assert_eq!(pci_address, [8, 0, 0, 0x80]);
}

#[test]
fn an_event_holds_its_line_until_the_guest_has_taken_it_also_after_a_restore() {
    let name = "an_event_holds_its_line_until_the_guest_has_taken_it_also_after_a_restore";
    let (Some(machine), Some(mut successor)) = (machine(name), machine(name)) else { return };
    let quiet = encoded(&machine);
    machine.press_power_button().unwrap();
    let pressed = encoded(&machine);
    assert_ne!(pressed, quiet);
    successor.restore(&machine.save().unwrap(), TimeBase::SameHost).unwrap();
    for machine in [machine, successor] {
        let mut taken = [0];
        // All but the register is the same when it is taken from the register alone: the line is in
        // the I/O APIC's state.
        let held = machine.save().unwrap().without_time().vm;
        machine.parts.bus.read_port(EVENTS, &mut taken);
        assert_eq!(taken, [Event::PowerButton.bit()]);
        let lowered = machine.save().unwrap().without_time().vm;
        let bytes = |vm: &VmStateV1| postcard::to_stdvec(vm).unwrap();
        assert_ne!(bytes(&held), bytes(&lowered), "the line was low already");
        assert_eq!(encoded(&machine), quiet);
    }
}

#[test]
fn a_tsc_goes_on_from_where_it_was_on_another_boot_and_has_not_stopped_on_this_one() {
    const AWAY: Duration = Duration::from_secs(1000);
    let name = "a_tsc_goes_on_from_where_it_was_on_another_boot_and_has_not_stopped_on_this_one";
    let Some(machine) = machine(name) else { return };
    let state = machine.save().unwrap();
    let khz = u64::from(machine.parts.tsc_khz);
    let tsc = |state: &MachineState| state.vcpus.iter().map(VcpuStateV1::tsc).collect::<Vec<_>>();
    let seconds_further = |elapsed, is_same_boot| {
        let mut successor = self::machine(name).unwrap();
        successor.restore(&state, TimeBase::Later { elapsed, is_same_boot }).unwrap();
        let ticks = tsc(&successor.save().unwrap()).into_iter().zip(tsc(&state));
        ticks.map(|(now, then)| now.wrapping_sub(then) / khz / 1000).collect::<Vec<_>>()
    };
    if machine.vcpus.iter().any(|vcpu| !sets_tsc(&vcpu.fd)) {
        // One whose guests read the host's own TSC in ring 3.
        return eprintln!("SKIPPED {name}: this KVM sets no guest's TSC");
    }
    let away = seconds_further(AWAY, false);
    assert!(away.iter().all(|seconds| (1000..1030).contains(seconds)), "{away:?}");
    // This boot's TSC has gone on by itself, for the moment that this test takes.
    let here = seconds_further(AWAY, true);
    assert!(here.iter().all(|seconds| *seconds < 30), "{here:?}");
}

/// Whether a TSC that is set half a day ahead is there then.
fn sets_tsc(vcpu: &kvm_ioctls::VcpuFd) -> bool {
    const TSC: u32 = 0x10;
    const AHEAD: u64 = 1 << 47;
    let entry = |data| kvm_bindings::kvm_msr_entry { index: TSC, data, ..Default::default() };
    let mut msrs = kvm_bindings::Msrs::from_entries(&[entry(0)]).unwrap();
    vcpu.get_msrs(&mut msrs).unwrap();
    // From where it is: a host that is up for a day reads more than that by itself.
    let ahead = msrs.as_slice()[0].data + AHEAD;
    vcpu.set_msrs(&kvm_bindings::Msrs::from_entries(&[entry(ahead)]).unwrap()).unwrap();
    vcpu.get_msrs(&mut msrs).unwrap();
    msrs.as_slice()[0].data >= ahead
}

#[test]
fn a_state_that_a_device_refuses_is_refused_by_its_name() {
    let Some(mut machine) = machine("a_state_that_a_device_refuses_is_refused_by_its_name") else {
        return;
    };
    let sound = machine.save().unwrap();
    let events = postcard::from_bytes(&[0x80, 1]).unwrap();
    let refused = machine.restore(&MachineState { events, ..sound.clone() }, TimeBase::SameHost);
    let why = refused.unwrap_err().to_string();
    assert!(why.contains("events") && why.contains("0x80"), "{why}");
    // Selected register, no registers, no offset.
    let cmos = postcard::from_bytes(&[0, 0, 0]).unwrap();
    let refused = machine.restore(&MachineState { cmos, ..sound }, TimeBase::SameHost);
    let why = refused.unwrap_err().to_string();
    assert!(why.contains("CMOS clock") && why.contains("it has 128"), "{why}");
}

#[test]
fn a_guest_has_its_generation_id_in_its_memory_and_hears_of_a_new_one() {
    let name = "a_guest_has_its_generation_id_in_its_memory_and_hears_of_a_new_one";
    let (Some(mut machine), Some(mut other)) = (machine(name), machine(name)) else { return };
    boot(&mut machine);
    boot(&mut other);
    let first = machine.generation_id();
    assert_ne!(first, [0; 16]);
    assert_ne!(first, other.generation_id(), "two machines have one id");
    assert_eq!(id_in_memory(&machine), first);
    let mut pending = [0];
    machine.parts.bus.read_port(EVENTS, &mut pending);
    assert_eq!(pending, [0], "nothing is new at first");

    machine.renew_generation().unwrap();
    assert_ne!(machine.generation_id(), first);
    assert_eq!(id_in_memory(&machine), machine.generation_id());
    machine.parts.bus.read_port(EVENTS, &mut pending);
    assert_eq!(pending, [Event::NewGeneration.bit()]);
}
