//! Inside the crate `machine` its modules build on each other one way.

use super::{Violation, code};
use crate::tree::TextFile;

const FOLDER: &str = "vmm/machine/src/";

/// Levels from above to below: a module may use its own level and those below it. A module that is
/// not here is a violation: whoever adds one says here where it stands.
const LEVELS: [&[&str]; 8] = [
    &["supervise"],
    &["role"],
    &["handover", "migrate", "snapshot"],
    &["vm", "state", "permit", "ipc"],
    &["vcpu", "devices", "boot"],
    &["jail"],
    &["dirty", "memory", "cpu"],
    &["clock", "kvm", "meter", "random"],
];

/// Points where tests make things go wrong. Anyone may have one, and it knows what it breaks; it is
/// in no release.
const BESIDE: &str = "fault";

/// Modules of one level that must not know each other all the same.
const STRANGERS: [(&str, &str); 2] = [("devices", "vcpu"), ("devices", "boot")];

/// No module imports from a level above its own.
pub(super) fn point_downwards(file: &TextFile) -> Vec<Violation> {
    let Some(own) = module_of(&file.path).filter(|own| *own != BESIDE) else { return Vec::new() };
    let code = code::only(&file.text);
    let code = &code[..code::start_of_tests(&code)];
    let mut violations = Vec::new();
    let mut complain = |at, what: String| {
        violations.push(Violation::new(&file.path, code::line_of(code, at), what));
    };
    let Some(own_level) = level(own) else {
        complain(0, format!("the module `{own}` has no level in the table of imports"));
        return violations;
    };
    for (at, _) in code.match_indices("super::super::") {
        complain(at, "another module is named from `crate::` on".to_owned());
    }
    for (at, name) in imports(code).into_iter().filter(|(_, name)| *name != BESIDE) {
        match level(name) {
            None => complain(at, format!("`crate::{name}` is no module with a level")),
            Some(level) if level < own_level => {
                complain(at, format!("`{own}` must not use `{name}`, which is above it"));
            }
            Some(_) if STRANGERS.contains(&(own, name)) => {
                complain(at, format!("`{own}` must not know `{name}`"));
            }
            Some(_) => {}
        }
    }
    violations
}

/// The module that a file belongs to; the crate's root and tests beside a module have none.
fn module_of(path: &str) -> Option<&str> {
    let below = path.strip_prefix(FOLDER)?.strip_suffix(".rs")?;
    let is_tests = below == "tests" || below.ends_with("_tests") || below.ends_with("/tests");
    let module = below.split('/').next()?;
    (module != "lib" && !is_tests).then_some(module)
}

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.contains(&module))
}

/// Every `crate::name`, also those of `crate::{a::X, b}`.
fn imports(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (start, prefix) in code.match_indices("crate::") {
        let is_path = code[..start]
            .chars()
            .next_back()
            .is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '$');
        let at = start + prefix.len();
        if !is_path {
            continue;
        }
        if code[at..].starts_with('{') {
            found.extend(group(&code[at + 1..]).map(|(offset, name)| (at + 1 + offset, name)));
        } else {
            found.push((at, word(&code[at..])));
        }
    }
    found
}

/// The first word of each item of a group whose bracket has just opened.
fn group(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let (mut depth, mut is_first) = (0, true);
    let mut items = Vec::new();
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_first = true,
            c if c.is_whitespace() => {}
            _ if is_first => {
                items.push((at, word(&code[at..])));
                is_first = false;
            }
            _ => {}
        }
    }
    items.into_iter()
}

fn word(code: &str) -> &str {
    let end = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
    &code[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::lines;

    #[test]
    fn imports_from_above_are_found_however_they_are_written() {
        for (path, text, broken) in [
            ("vm/create.rs", "use crate::vcpu::Vcpu;\nuse crate::kvm::Host;", &[][..]),
            ("vcpu/mod.rs", "use crate::devices::Bus;", &[]),
            ("kvm/mod.rs", "use std::fs;\nuse crate::memory::Ram;", &[2]),
            ("devices/serial.rs", "use crate::handover::Form;", &[1]),
            ("devices/serial.rs", "use crate::vcpu::Vcpu;", &[1]),
            ("dirty/mod.rs", "use crate::{\n    kvm::{A, vm},\n    vm::B,\n};", &[3]),
            ("dirty/mod.rs", "fn f() { crate::boot::load(); }", &[1]),
            ("dirty/mod.rs", "use super::super::vm::B;", &[1]),
            ("dirty/mod.rs", "use crate::GuestRam;", &[1]),
            ("novel.rs", "", &[1]),
            ("dirty/mod.rs", "// crate::vm\n#[cfg(test)]\nmod tests { use crate::vm::B; }", &[]),
            ("dirty/mod_tests.rs", "use crate::vm::B;", &[]),
            ("fault/injected.rs", "use crate::vm::B;", &[]),
            ("kvm/mod.rs", "fn f() { crate::fault::drop(); }", &[]),
            ("lib.rs", "pub use crate::vm::B;", &[]),
        ] {
            let path = format!("{FOLDER}{path}");
            assert_eq!(lines(point_downwards, &path, text), broken, "{path}: {text}");
        }
        assert!(lines(point_downwards, "dwcp/src/kvm/mod.rs", "use crate::vm::B;").is_empty());
    }
}
