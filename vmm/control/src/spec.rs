//! From a spec, which somebody wrote, to a machine's configuration.

use machine::{CpuCount, DirtyLogKind, MachineConfig, MemoryLayout};

use crate::api::{ApiError, Boot, ErrorCode, MachineSpec};

/// Longest text of a spec: longer than any kernel's command line (COMMAND_LINE_SIZE is 2048) and any path.
const TEXT_MAX_BYTES: usize = 4096;

/// What a spec says, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) config: MachineConfig,
    pub(crate) dirty_log: DirtyLogKind,
}

/// Checks a spec as far as that goes without this host and without the files that it names.
pub(crate) fn check(spec: &MachineSpec) -> Result<Shape, ApiError> {
    let refused = |field: &str, why: &dyn std::fmt::Display| {
        ApiError::new(ErrorCode::BadRequest, format!("spec.{field}: {why}"))
    };
    let cpus = CpuCount::try_from(spec.cpus).map_err(|error| refused("cpus", &error))?;
    let cpu = spec.cpu.parse().map_err(|error| refused("cpu", &error))?;
    let memory = MemoryLayout::new(spec.memory_bytes, spec.hole_start_bytes)
        .map_err(|error| refused("memory_bytes, hole_start_bytes", &error))?;
    let dirty_log = spec.dirty_log.parse().map_err(|error| refused("dirty_log", &error))?;
    for (field, text) in texts(&spec.boot) {
        if text.len() > TEXT_MAX_BYTES {
            let why = format!("{} bytes; {TEXT_MAX_BYTES} are the most", text.len());
            return Err(refused(&format!("boot.{field}"), &why));
        }
        if text.contains('\0') {
            return Err(refused(&format!("boot.{field}"), &"it has a zero byte"));
        }
    }
    Ok(Shape { config: MachineConfig { cpus, cpu, memory }, dirty_log })
}

/// The names of files that a machine boots from.
pub(crate) fn files(boot: &Boot) -> Vec<String> {
    match boot {
        Boot::Oracle { .. } => Vec::new(),
        Boot::Kernel { kernel, initrd, .. } => {
            std::iter::once(kernel).chain(initrd).cloned().collect()
        }
        Boot::Snapshot { file, key_file, .. } => {
            std::iter::once(file).chain(key_file).cloned().collect()
        }
    }
}

fn texts(boot: &Boot) -> Vec<(&'static str, &str)> {
    match boot {
        Boot::Oracle { options } => vec![("options", options)],
        Boot::Kernel { kernel, initrd, command_line } => {
            let mut texts = vec![("kernel", kernel.as_str()), ("command_line", command_line)];
            texts.extend(initrd.as_deref().map(|initrd| ("initrd", initrd)));
            texts
        }
        Boot::Snapshot { file, key_file, .. } => {
            let mut texts = vec![("file", file.as_str())];
            texts.extend(key_file.as_deref().map(|file| ("key_file", file)));
            texts
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_can_be_is_refused_by_its_field() {
        let refuses = |spec: MachineSpec, why: &str| {
            let error = check(&spec).unwrap_err();
            assert_eq!(error.code, ErrorCode::BadRequest);
            assert!(error.message.starts_with(why), "{error}");
        };
        let spec = MachineSpec::default;
        assert!(check(&spec()).is_ok());
        refuses(MachineSpec { cpus: 0, ..spec() }, "spec.cpus: ");
        refuses(MachineSpec { cpus: 65, ..spec() }, "spec.cpus: ");
        refuses(MachineSpec { cpu: "pentium".into(), ..spec() }, "spec.cpu: ");
        refuses(MachineSpec { memory_bytes: 0, ..spec() }, "spec.memory_bytes");
        refuses(MachineSpec { memory_bytes: u64::MAX, ..spec() }, "spec.memory_bytes");
        refuses(MachineSpec { hole_start_bytes: 1, ..spec() }, "spec.memory_bytes, hole_start");
        refuses(MachineSpec { dirty_log: "ring:3".into(), ..spec() }, "spec.dirty_log: ");
        let long = Boot::Oracle { options: "x".repeat(TEXT_MAX_BYTES + 1) };
        refuses(MachineSpec { boot: long, ..spec() }, "spec.boot.options: 4097 bytes");
        let zero = Boot::Kernel { kernel: "a\0".into(), initrd: None, command_line: "".into() };
        refuses(MachineSpec { boot: zero, ..spec() }, "spec.boot.kernel: it has a zero byte");
    }
}
