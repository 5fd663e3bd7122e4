//! The executable as it ships.

use std::fs;
use std::path::PathBuf;

use crate::context::{Context, Outcome};
use crate::log::Log;
use crate::process::{self, Red};
use crate::tree::Tree;

/// Cargo's arguments that build it.
pub(crate) const BUILD: [&str; 4] = ["build", "--release", "--package", "novacron"];

/// The only target that the project has; `.cargo/config.toml` names it too.
pub(crate) const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Program headers that only a dynamically linked executable has: the name of its loader.
const PT_INTERP: u32 = 3;

/// Where the executable is once it is built.
pub(crate) fn executable(tree: &Tree) -> PathBuf {
    tree.target.join(TRIPLE).join("release/novacron")
}

/// Builds it, tells its size, and checks that it needs no file of the host to start.
///
/// # Errors
/// It does not build, or is not static.
pub(crate) fn check(context: &Context, log: &mut Log) -> Result<Outcome, Red> {
    log.run(&mut process::cargo(&context.tree.root, &BUILD))?;
    let path = executable(context.tree);
    let image = fs::read(&path)
        .map_err(|error| Red::system(&format!("read {}", path.display()), &error))?;
    if is_static(&image) != Some(true) {
        return Err(Red::new(format!("{} is not a static executable", path.display())));
    }
    // Hundredths of a megabyte, as sizes of packages are told.
    let hundredths = image.len() / 10_000;
    Ok(Outcome::detail(format!(
        "novacron: {}.{:02} MB, static",
        hundredths / 100,
        hundredths % 100
    )))
}

/// Whether a 64-bit little-endian ELF image names no loader; `None` if it is no such image.
fn is_static(image: &[u8]) -> Option<bool> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(image.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?));
    if !image.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    // e_phoff; its upper half is zero in any file below 4 GiB.
    let (start, upper) = (u32_at(32)? as usize, u32_at(36)?);
    let (size, count) = (usize::from(u16_at(54)?), usize::from(u16_at(56)?));
    if upper != 0 || count == 0 {
        return None;
    }
    let kinds: Option<Vec<_>> = (0..count).map(|index| u32_at(start + index * size)).collect();
    Some(!kinds?.contains(&PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF header and program headers of these types.
    fn image(kinds: &[u32]) -> Vec<u8> {
        let mut image = vec![0; 64];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        image[32] = 64;
        image[54] = 56;
        image[56] = u8::try_from(kinds.len()).unwrap();
        for kind in kinds {
            image.extend(kind.to_le_bytes());
            image.extend([0; 52]);
        }
        image
    }

    #[test]
    fn an_executable_that_names_a_loader_is_not_static() {
        for (image, expected) in [
            (image(&[1, 2, 6]), Some(true)),
            (image(&[6, PT_INTERP, 1]), Some(false)),
            (image(&[]), None),
            (image(&[1])[..64].to_vec(), None),
            (b"#!/bin/sh".to_vec(), None),
        ] {
            assert_eq!(is_static(&image), expected);
        }
    }

    #[test]
    fn this_very_test_is_static() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(is_static(&own), Some(true));
    }
}
