//! What a process finds around it, and where things are by default because of that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The user and the environment. A value, so that tests need no other.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The effective user.
    pub uid: u32,
    /// The variables of the environment that are text.
    pub variables: BTreeMap<String, String>,
}

impl Surroundings {
    /// This process's.
    #[must_use]
    pub fn of_this_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let variables = std::env::vars_os().filter_map(text).collect();
        Self { uid: rustix::process::geteuid().as_raw(), variables }
    }

    /// Root's, with nothing in the environment: what documentation speaks of.
    #[must_use]
    pub fn of_root() -> Self {
        Self { uid: 0, variables: BTreeMap::new() }
    }

    /// A variable. An empty one is as if it were not there.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A folder from the environment; a relative one is to be ignored (XDG Base Directory Specification).
    fn folder(&self, variable: &str) -> Option<PathBuf> {
        self.variable(variable).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    fn is_root(&self) -> bool {
        self.uid == 0
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.runtime().join("control.sock")
    }

    fn runtime(&self) -> PathBuf {
        if self.is_root() {
            return "/run/novacron".into();
        }
        match self.folder("XDG_RUNTIME_DIR") {
            Some(folder) => folder.join("novacron"),
            None => {
                let temporary = self.folder("TMPDIR").unwrap_or_else(|| "/tmp".into());
                temporary.join(format!("novacron-{}", self.uid))
            }
        }
    }

    pub(super) fn state(&self) -> Result<PathBuf, String> {
        if self.is_root() {
            return Ok("/var/lib/novacron".into());
        }
        self.of_home("XDG_STATE_HOME", ".local/state").ok_or_else(|| {
            "it has no default without XDG_STATE_HOME or HOME in the environment".to_owned()
        })
    }

    /// The file that is read if nobody names one, whether or not it is there.
    pub(super) fn file(&self) -> Option<PathBuf> {
        if self.is_root() {
            return Some("/etc/novacron/novacron.toml".into());
        }
        self.of_home("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("novacron.toml"))
    }

    fn of_home(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let folder = self
            .folder(variable)
            .or_else(|| self.folder("HOME").map(|home| home.join(below_home)))?;
        Some(folder.join(Path::new("novacron")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(uid: u32, variables: &[(&str, &str)]) -> Surroundings {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Surroundings { uid, variables: variables.iter().map(owned).collect() }
    }

    #[test]
    fn root_has_its_places_whatever_the_environment_says() {
        for variables in [&[][..], &[("XDG_RUNTIME_DIR", "/x"), ("HOME", "/h"), ("TMPDIR", "/t")]] {
            let root = surroundings(0, variables);
            assert_eq!(root.socket(), Path::new("/run/novacron/control.sock"));
            assert_eq!(root.state().unwrap(), Path::new("/var/lib/novacron"));
            assert_eq!(root.file().unwrap(), Path::new("/etc/novacron/novacron.toml"));
        }
    }

    #[test]
    fn others_have_theirs_where_the_environment_says() {
        let xdg =
            [("XDG_RUNTIME_DIR", "/run/u"), ("XDG_STATE_HOME", "/s"), ("XDG_CONFIG_HOME", "/c")];
        let user = surroundings(7, &xdg);
        assert_eq!(user.socket(), Path::new("/run/u/novacron/control.sock"));
        assert_eq!(user.state().unwrap(), Path::new("/s/novacron"));
        assert_eq!(user.file().unwrap(), Path::new("/c/novacron/novacron.toml"));
    }

    #[test]
    fn without_the_variables_they_are_at_home_and_among_temporary_files() {
        let user =
            surroundings(7, &[("HOME", "/h"), ("XDG_STATE_HOME", "relative"), ("TMPDIR", "")]);
        assert_eq!(user.socket(), Path::new("/tmp/novacron-7/control.sock"));
        assert_eq!(user.state().unwrap(), Path::new("/h/.local/state/novacron"));
        assert_eq!(user.file().unwrap(), Path::new("/h/.config/novacron/novacron.toml"));
        let homeless = surroundings(7, &[("TMPDIR", "/t")]);
        assert_eq!(homeless.socket(), Path::new("/t/novacron-7/control.sock"));
        assert!(homeless.state().unwrap_err().contains("HOME"));
        assert_eq!(homeless.file(), None);
    }
}
