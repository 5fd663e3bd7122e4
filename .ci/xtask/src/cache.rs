//! What is kept on this machine between runs and checkouts.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::process::Red;

/// The cache folder: `$NOVACRON_CACHE`, else `novacron` below `$XDG_CACHE_HOME`, else below
/// `$HOME/.cache`; built kernels lie in the same one.
///
/// # Errors
/// None of the three names an absolute path.
pub(crate) fn folder() -> Result<PathBuf, Red> {
    place(|name| env::var_os(name)).ok_or_else(|| {
        Red::caller_first("set NOVACRON_CACHE, XDG_CACHE_HOME or HOME to an absolute path")
    })
}

/// The first absolute path among the three; a relative one would be another place in every folder.
fn place(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    [("NOVACRON_CACHE", ""), ("XDG_CACHE_HOME", "novacron"), ("HOME", ".cache/novacron")]
        .into_iter()
        .filter_map(|(name, below)| Some((PathBuf::from(variable(name)?), below)))
        .find(|(path, _)| path.is_absolute())
        .map(|(path, below)| path.join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_absolute_path_wins() {
        for (variables, expected) in [
            (&[("NOVACRON_CACHE", "/n"), ("HOME", "/h")][..], Some("/n/")),
            (&[("NOVACRON_CACHE", "n"), ("XDG_CACHE_HOME", "/x")][..], Some("/x/novacron")),
            (&[("XDG_CACHE_HOME", ""), ("HOME", "/h")][..], Some("/h/.cache/novacron")),
            (&[][..], None),
        ] {
            let variable = |name: &str| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
            };
            assert_eq!(place(variable), expected.map(PathBuf::from));
        }
    }
}
