//! Linux on machines of every shape: each way into its kernel, numbers of vCPUs, and memory on both sides of 4 GiB.

use std::time::Duration;

use crate::linux_guest::{Guest, run_and_check};
use crate::support::{case, long_case};

/// PVH; Linux's 64-bit protocol into an ELF kernel, and into one that unpacks itself.
const KERNELS: [&str; 3] = ["vmlinux", "vmlinux-without-pvh", "bzImage"];
const CPUS: [u32; 3] = [1, 2, 4];

/// The corners that nothing else comes to. With 4 GiB there is memory above 4 GiB, since the hole is below.
#[test]
fn linux_finds_all_of_its_memory_through_each_entry() {
    let Some(case) = case("linux_finds_all_of_its_memory_through_each_entry") else { return };
    let guests = [
        Guest { kernel: "vmlinux-without-pvh", memory_mib: 128, ..Guest::default() },
        Guest { kernel: "vmlinux", memory_mib: 4096, ..Guest::default() },
        Guest { kernel: "bzImage", memory_mib: 4096, ..Guest::default() },
    ];
    run_and_check(&case, &guests, Duration::from_secs(180));
}

#[test]
fn long_linux_runs_on_machines_of_128_mib() {
    whole("long_linux_runs_on_machines_of_128_mib", 128);
}

#[test]
fn long_linux_runs_on_machines_of_1_gib() {
    whole("long_linux_runs_on_machines_of_1_gib", 1024);
}

#[test]
fn long_linux_runs_on_machines_of_4_gib() {
    whole("long_linux_runs_on_machines_of_4_gib", 4096);
}

/// Every kernel on every number of vCPUs. A host for each number: what goes wrong in the emulator costs three guests.
fn whole(name: &str, memory_mib: u32) {
    let Some(case) = long_case(name) else { return };
    for cpus in CPUS {
        let guests = KERNELS.map(|kernel| Guest { kernel, cpus, memory_mib, ..Guest::default() });
        run_and_check(&case, &guests, Duration::from_secs(240));
    }
}
