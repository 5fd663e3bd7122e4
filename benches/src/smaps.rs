//! What a process owns, less the guest's memory: from `/proc/<pid>/smaps` (proc_pid_smaps(5)).
//!
//! `smaps_rollup` would be one sum over all mappings; the guest's memory file must stay out of it,
//! so the mappings are added up one by one.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::stop::Stop;

/// The mapping that is the guest's own: named by `machine` as it makes the memory file.
const GUEST_MEMORY: &str = "/memfd:novacron-guest-ram";

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The executable's writable data: what its relocations and its statics made private.
    Executable,
    /// The heap that grows with `brk`.
    Heap,
    /// The main thread's stack.
    Stack,
    /// Anonymous mappings: other threads' stacks and arenas, large allocations.
    Anonymous,
    /// All else: KVM's shared pages, descriptors that are mapped.
    Other,
}

impl Kind {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Executable => "executable's data",
            Self::Heap => "heap",
            Self::Stack => "main stack",
            Self::Anonymous => "anonymous mappings",
            Self::Other => "other mappings",
        }
    }

    fn of(name: &str) -> Self {
        match name {
            "" => Self::Anonymous,
            "[heap]" => Self::Heap,
            "[stack]" => Self::Stack,
            name if name.starts_with("[anon") => Self::Anonymous,
            name if name.starts_with('[') || name.starts_with("anon_inode") => Self::Other,
            name if name.starts_with("/dev/") || name.starts_with("/memfd:") => Self::Other,
            _ => Self::Executable,
        }
    }
}

/// What one process owned at one moment, in KiB, without the guest's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProcessMemory {
    /// Sum of `Private_Dirty`.
    pub private_dirty_kib: u64,
    /// Sum of `Anonymous`.
    pub anonymous_kib: u64,
    /// Sum over the mappings of the larger of the two: a private dirty page is as a rule anonymous
    /// too, and would count twice in a sum of both.
    pub owned_kib: u64,
    /// `owned_kib` by kind.
    pub by_kind: BTreeMap<Kind, u64>,
    /// `Rss` of the guest's memory, which is in none of the sums.
    pub guest_rss_kib: u64,
}

impl ProcessMemory {
    /// That of a process now.
    ///
    /// # Errors
    /// When it has ended, or may not be looked into.
    pub fn of(process_id: u32) -> Result<Self, Stop> {
        let path = format!("/proc/{process_id}/smaps");
        let text = std::fs::read_to_string(&path).map_err(Stop::failed(&path))?;
        Ok(Self::parse(&text))
    }

    fn parse(smaps: &str) -> Self {
        let mut memory = Self::default();
        let mut mapping = Mapping::default();
        for line in smaps.lines() {
            if let Some(name) = mapping_name(line) {
                memory
                    .add(&std::mem::replace(&mut mapping, Mapping { name, ..Mapping::default() }));
            } else if let Some((field, kib)) = field(line) {
                match field {
                    "Rss" => mapping.rss_kib = kib,
                    "Private_Dirty" => mapping.private_dirty_kib = kib,
                    "Anonymous" => mapping.anonymous_kib = kib,
                    _ => {}
                }
            }
        }
        memory.add(&mapping);
        memory
    }

    fn add(&mut self, mapping: &Mapping<'_>) {
        if mapping.name.starts_with(GUEST_MEMORY) {
            self.guest_rss_kib += mapping.rss_kib;
            return;
        }
        let owned_kib = mapping.private_dirty_kib.max(mapping.anonymous_kib);
        self.private_dirty_kib += mapping.private_dirty_kib;
        self.anonymous_kib += mapping.anonymous_kib;
        self.owned_kib += owned_kib;
        if owned_kib > 0 {
            *self.by_kind.entry(Kind::of(mapping.name)).or_default() += owned_kib;
        }
    }
}

#[derive(Default)]
struct Mapping<'a> {
    name: &'a str,
    rss_kib: u64,
    private_dirty_kib: u64,
    anonymous_kib: u64,
}

/// `55d0-55d1 rw-p 0000 08:01 42   /path (deleted)`: the sixth field, empty for anonymous memory.
fn mapping_name(line: &str) -> Option<&str> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let is_hex = |text: &str| u64::from_str_radix(text, 16).is_ok();
    if !is_hex(start) || !is_hex(end) {
        return None;
    }
    let mut rest = rest;
    for _ in 0..4 {
        rest = rest.trim_start().split_once(' ').map_or("", |(_, rest)| rest);
    }
    Some(rest.trim())
}

/// `Private_Dirty:      12 kB`.
fn field(line: &str) -> Option<(&str, u64)> {
    let (name, value) = line.split_once(':')?;
    Some((name, value.trim().strip_suffix(" kB")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d05ab2c000-55d05ab2e000 rw-p 00001000 fe:01 42                         /usr/bin/novacron
Rss:                  12 kB
Private_Dirty:        12 kB
Anonymous:             8 kB
VmFlags: rd wr mr mw me ac
7f0000000000-7f0010000000 rw-s 00000000 00:01 7                          /memfd:novacron-guest-ram (deleted)
Rss:              262144 kB
Private_Dirty:    262144 kB
Anonymous:             0 kB
7f0020000000-7f0020100000 rw-p 00000000 00:00 0
Rss:                 100 kB
Private_Dirty:        90 kB
Anonymous:           100 kB
7f0030000000-7f0030003000 rw-s 00000000 00:0e 9                          anon_inode:kvm-vcpu:0
Rss:                   4 kB
Private_Dirty:         4 kB
Anonymous:             0 kB
";

    #[test]
    fn guest_memory_is_in_no_sum() {
        let memory = ProcessMemory::parse(SMAPS);
        assert_eq!(memory.guest_rss_kib, 262_144);
        assert_eq!((memory.private_dirty_kib, memory.anonymous_kib), (106, 108));
    }

    #[test]
    fn a_page_that_is_both_counts_once() {
        let memory = ProcessMemory::parse(SMAPS);
        assert_eq!(memory.owned_kib, 12 + 100 + 4);
        let kinds = [(Kind::Executable, 12), (Kind::Anonymous, 100), (Kind::Other, 4)];
        assert_eq!(memory.by_kind, BTreeMap::from(kinds));
    }
}
