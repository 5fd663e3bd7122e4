//! Debian's kernel source package on this machine.

use std::io;
use std::path::PathBuf;
use std::process::Command;

use thiserror::Error;

/// The package: its name is the kernel series that we follow.
const PACKAGE: &str = "linux-source-6.12";

/// An installed source package.
#[derive(Clone, Debug)]
pub struct Source {
    /// The package's version, such as `6.12.1-1~deb12u1`. It stands for the tarball's content: one
    /// version of a Debian package has one content.
    pub version: String,
    /// The tarball that the package installs.
    pub tarball: PathBuf,
}

/// Why there is no source.
#[derive(Debug, Error)]
pub enum SourceError {
    /// dpkg is missing or does not start.
    #[error(
        "cannot ask dpkg-query for {PACKAGE}: the kernel is built from Debian's source package"
    )]
    Dpkg(#[source] io::Error),
    /// The package is not installed.
    #[error("the package {PACKAGE} is not installed; run: apt-get install {PACKAGE}")]
    NotInstalled,
    /// The package is installed, its file is gone.
    #[error(
        "{0} is missing although its package is installed; run: apt-get install --reinstall {PACKAGE}"
    )]
    NoTarball(PathBuf),
}

impl Source {
    /// Finds the installed source package.
    ///
    /// # Errors
    /// It is not installed, or not whole.
    pub fn find() -> Result<Self, SourceError> {
        let answer = Command::new("dpkg-query")
            .args(["--show", "--showformat=${db:Status-Status} ${Version}", PACKAGE])
            .output()
            .map_err(SourceError::Dpkg)?;
        let answer = String::from_utf8_lossy(&answer.stdout);
        let version = installed(&answer).ok_or(SourceError::NotInstalled)?;
        let tarball = PathBuf::from(format!("/usr/src/{PACKAGE}.tar.xz"));
        if !tarball.is_file() {
            return Err(SourceError::NoTarball(tarball));
        }
        Ok(Self { version: version.to_owned(), tarball })
    }
}

/// The version in dpkg's answer, if it says that the package is installed: a package that was
/// removed but not purged still has a version.
fn installed(answer: &str) -> Option<&str> {
    answer.strip_prefix("installed ").filter(|version| !version.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_installed_package_has_a_version() {
        for (answer, version) in [
            ("installed 6.12.1-1", Some("6.12.1-1")),
            ("config-files 6.12.1-1", None),
            ("not-installed ", None),
            ("installed ", None),
            ("", None),
        ] {
            assert_eq!(installed(answer), version, "{answer:?}");
        }
    }
}
