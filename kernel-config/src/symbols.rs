//! The options that a kernel source defines.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// The names, without prefix, of every option in the Kconfig files below `source` that can concern
/// an x86 kernel.
///
/// # Errors
/// A folder or Kconfig file that cannot be read.
pub(crate) fn defined_in(source: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            // Links are not followed: the source links some headers' folders into others.
            if entry.file_type()?.is_dir() {
                let other_architecture =
                    folder == source.join("arch") && entry.file_name() != "x86";
                if !other_architecture {
                    folders.push(path);
                }
            } else if entry.file_name().to_string_lossy().starts_with("Kconfig") {
                // Some comments in Kconfig files are not UTF-8; names of options always are.
                let text = fs::read(&path)?;
                names.extend(String::from_utf8_lossy(&text).lines().filter_map(name));
            }
        }
    }
    Ok(names)
}

/// The option that a line of a Kconfig file begins to define.
fn name(line: &str) -> Option<String> {
    let mut words = line.split_ascii_whitespace();
    let (keyword, name) = (words.next()?, words.next()?);
    (matches!(keyword, "config" | "menuconfig") && words.next().is_none()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_in_every_kconfig_file_but_those_of_other_architectures() {
        let source = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("Kconfig", "mainmenu \"x\"\nconfig TOP\n\tbool\n"),
            ("arch/x86/Kconfig", "menuconfig HYPERVISOR\n\thelp\n\t  config is a word here\n"),
            ("arch/arm/Kconfig", "config ONLY_ARM\n"),
            ("drivers/net/Kconfig.debug", "if NET\n\tconfig INDENTED\nendif\n"),
            ("drivers/net/Makefile", "config NOT_HERE\n"),
        ] {
            let path = source.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let names: Vec<_> = defined_in(source.path()).unwrap().into_iter().collect();
        assert_eq!(names, ["HYPERVISOR", "INDENTED", "TOP"]);
    }
}
