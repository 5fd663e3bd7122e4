//! From the first line of Rust to the first round.
#![allow(unsafe_code, reason = "reads what the loader left in memory")]

use core::fmt::{self, Write};
use core::hint::spin_loop;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::console::Console;
use super::oracle::extents::Extents;
use super::oracle::index;
use super::oracle::options::{Options, Refused};
use super::oracle::plan::{Plan, Unsuitable};
use super::oracle::report::{Ready, Report, VERSION};
use super::oracle::start_info::{
    self, MAP_ENTRY_BYTES, MODULE_BYTES, Range, START_INFO_BYTES, StartInfo,
};
use super::oracle::tempo::Frequency;
use super::vcpu::Vcpu;
use super::{apic, clock, entry, exceptions, paging, reset, serial, shared};

/// Longest command line that is looked at, its zero byte included.
const COMMAND_LINE_BYTES: u64 = 4096;

/// vCPU 0, with the address of the start info.
pub(super) extern "C" fn first_vcpu(start_info: u32) -> ! {
    serial::print(&Report::Hello { version: VERSION });
    exceptions::prepare();
    let plan = match prepare(start_info.into()) {
        Ok(plan) => shared::PLAN.publish(plan),
        Err(refused) => refuse(refused),
    };
    let options = plan.options();
    shared::ERROR_LINES_LEFT.store(options.error_lines, Relaxed);
    start_others(options);

    let mut vcpu = Vcpu::new(0, plan);
    vcpu.fill();
    let cpus = &shared::CPUS[..options.cpus as usize];
    while !cpus.iter().all(|cpu| cpu.filled.load(Acquire)) {
        exceptions::step_aside();
        spin_loop();
    }
    serial::print(&Report::Ready(Ready {
        version: VERSION,
        cpus: options.cpus,
        pages: plan.pages(),
        fixed: plan.fixed(),
        working: plan.working(),
    }));
    shared::BEGIN.store(true, Release);
    vcpu.begin();
    let mut console = Console::new(plan, clock::now());
    loop {
        vcpu.turn();
        console.turn(&mut vcpu);
    }
}

/// Any other vCPU.
pub(super) extern "C" fn other_vcpu(cpu: u32) -> ! {
    let Some(plan) = shared::PLAN.get() else {
        unreachable!("published before any vCPU is started");
    };
    shared::CPUS[cpu as usize].up.store(true, Release);
    let mut vcpu = Vcpu::new(cpu, plan);
    vcpu.fill();
    while !shared::BEGIN.load(Acquire) {
        spin_loop();
    }
    vcpu.begin();
    loop {
        vcpu.turn();
        vcpu.obey();
    }
}

fn start_others(options: &Options) {
    if options.cpus == 1 {
        return;
    }
    apic::prepare();
    let frequency = Frequency { khz: options.tsc_khz };
    for cpu in 1..options.cpus {
        let up = || {
            exceptions::step_aside();
            shared::CPUS[cpu as usize].up.load(Acquire)
        };
        if !apic::start(cpu, frequency, up) {
            let mut number = Number::default();
            // Two digits fit.
            let _ = write!(number, "{cpu}");
            refuse(Refused { reason: "vcpu-does-not-start", word: number.as_str() });
        }
    }
}

/// Reads what the loader left, divides the memory, and maps it.
fn prepare(start_info: u64) -> Result<Plan, Refused<'static>> {
    let refused = |reason| Refused { reason, word: "start-info" };
    let info = StartInfo::parse(physical(start_info, START_INFO_BYTES)?).map_err(refused)?;
    let command_line = command_line(info.command_line)?;
    let options = Options::parse(command_line)?;

    let extents = usable(start_info, &info, command_line)?;
    let plan = Plan::new(options, extents).map_err(|unsuitable| match unsuitable {
        Unsuitable::TooSmall => Refused { reason: "less-than-a-page-a-vcpu", word: "memory" },
        Unsuitable::TooLarge => Refused { reason: "too-large", word: "memory" },
    })?;
    paging::map(&extents);
    Ok(plan)
}

/// The memory that is left when the image and all that the loader passed keep their places.
fn usable(
    start_info: u64,
    info: &StartInfo,
    command_line: &str,
) -> Result<Extents, Refused<'static>> {
    let map = physical_table(info.memory_map, info.memory_map_entries, MAP_ENTRY_BYTES)?;
    let module_list = physical_table(info.module_list, info.modules, MODULE_BYTES)?;
    let in_use: [Range; 5] = [
        entry::image(),
        (start_info, START_INFO_BYTES),
        (info.command_line, command_line.len() as u64 + 1),
        (info.memory_map, map.len() as u64),
        (info.module_list, module_list.len() as u64),
    ];
    let modules = module_list.chunks_exact(index(MODULE_BYTES)).filter_map(start_info::module);
    start_info::usable(map, paging::LIMIT, in_use.into_iter().chain(modules))
        .map_err(|_| Refused { reason: "too-many-pieces", word: "memory-map" })
}

fn command_line(address: u64) -> Result<&'static str, Refused<'static>> {
    if address == 0 {
        return Ok("");
    }
    let refused = |reason| Refused { reason, word: "command-line" };
    let most = COMMAND_LINE_BYTES.min(paging::MAPPED_AT_ENTRY.saturating_sub(address));
    let bytes = physical(address, most)?;
    let end = bytes.iter().position(|byte| *byte == 0).ok_or(refused("too-long"))?;
    core::str::from_utf8(&bytes[..end]).map_err(|_| refused("not-text"))
}

fn physical_table(
    address: u64,
    entries: u32,
    entry_bytes: u64,
) -> Result<&'static [u8], Refused<'static>> {
    if entries == 0 { Ok(&[]) } else { physical(address, u64::from(entries) * entry_bytes) }
}

/// Memory that the loader wrote, as bytes. It may lie anywhere in the first gigabyte.
fn physical(address: u64, bytes: u64) -> Result<&'static [u8], Refused<'static>> {
    let end = address.checked_add(bytes);
    if address == 0 || end.is_none_or(|end| end > paging::MAPPED_AT_ENTRY) {
        return Err(Refused { reason: "out-of-reach", word: "start-info" });
    }
    let memory = core::ptr::with_exposed_provenance(index(address));
    // SAFETY: the range is mapped and not at address 0. The start info's structures are never
    // written: they are outside the extents (`usable`), the image and the trampoline's use of low
    // memory begins after the last of these references.
    Ok(unsafe { core::slice::from_raw_parts(memory, index(bytes)) })
}

fn refuse(Refused { reason, word }: Refused<'_>) -> ! {
    serial::print(&Report::Refused { reason, word });
    reset::reset()
}

/// Text of a small number.
#[derive(Default)]
struct Number {
    bytes: [u8; 4],
    length: usize,
}

impl Number {
    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or("")
    }
}

impl Write for Number {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}
