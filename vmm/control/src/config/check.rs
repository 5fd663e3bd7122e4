//! What single fields cannot know: whether they fit together, and to this host.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::effective::Effective;
use super::field::{all, path};
use super::problem::{Place, Problem};
use super::table::StorageConfig;
use crate::access::{Account, Accounts, Member, Role};

/// Longest path of a Unix socket (unix(7): 108 bytes with its zero).
const SOCKET_PATH_MOST: usize = 107;
/// A machine process's socket in the runtime folder: a slash, a nonce of 16 bytes in hexadecimal, `.sock`.
const PROCESS_SOCKET: usize = 1 + 32 + 5;
/// Folders of the state folder that hold what no caller may name.
const OWN_FOLDERS: [&str; 2] = ["machines", "audit"];
/// Whom the kernel names for a user that has no number here (user_namespaces(7)).
const NOBODY: u32 = 65_534;

/// Something that is allowed, and that one should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Where it was configured.
    pub place: Place,
    /// What it is, and what comes of it.
    pub what: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Gives members their roles, and says what cannot be. `items` are the places of each field's items.
pub(super) fn problems(
    effective: &mut Effective,
    items: &[Vec<Place>],
    accounts: &Accounts,
) -> Vec<Problem> {
    let mut problems = give_roles(effective, items, accounts);
    let config = &effective.config;
    let mut complain = |field: &str, what: String| {
        problems.push(Problem { place: effective.place(field), what: format!("{field} = {what}") });
    };
    if let Some(what) = too_long(&config.socket.path, 0) {
        complain("socket.path", what);
    }
    if let Some(what) = too_long(&config.storage.runtime, PROCESS_SOCKET) {
        complain("storage.runtime", what);
    }
    for folder in &config.storage.folders {
        if let Some(what) = reaches_own_files(folder, &config.storage) {
            complain("storage.folders", what);
        }
    }
    problems
}

/// Whether a path leaves no room for a socket's, with so many bytes behind it.
fn too_long(path: &Path, behind: usize) -> Option<String> {
    let (length, most) = (path.as_os_str().len(), SOCKET_PATH_MOST - behind);
    let what = "the path of a Unix socket must fit, so it may have";
    (length > most)
        .then(|| format!("{:?} has {length} bytes; {what} at most {most}", path.display()))
}

/// Whether a folder for callers' files is, holds or is in one of the daemon's own.
fn reaches_own_files(folder: &Path, storage: &StorageConfig) -> Option<String> {
    let own = OWN_FOLDERS.map(|name| storage.state.join(name));
    let in_state = own.iter().find(|own| own.starts_with(folder) || folder.starts_with(own));
    // In the runtime folder are sockets alone, and callers name regular files: one beside them does no harm.
    let runtime = Some(&storage.runtime).filter(|runtime| runtime.starts_with(folder));
    let reached = in_state.or(runtime)?.display();
    let folder = folder.display();
    let why = "would let callers name the daemon's own files in";
    Some(format!("{folder:?} {why} {reached}; give a folder beside it"))
}

fn give_roles(
    effective: &mut Effective,
    items: &[Vec<Place>],
    accounts: &Accounts,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (role, name, members) in members(effective) {
        for (index, member) in members.iter().enumerate() {
            if let Err(why) = effective.roles.give(role, member, accounts) {
                let field = all().position(|(section, field)| path(section, field) == name);
                let place = field.and_then(|field| items[field].get(index).cloned());
                let place = place.unwrap_or_else(|| effective.place(name));
                problems.push(Problem {
                    place,
                    what: format!("{name} = {:?}: {why}", member.to_string()),
                });
            }
        }
    }
    problems
}

fn members(effective: &Effective) -> [(Role, &'static str, Vec<Member>); 3] {
    let roles = effective.config.roles.clone();
    [
        (Role::Admin, "roles.admin", roles.admin),
        (Role::Operator, "roles.operator", roles.operator),
        (Role::Viewer, "roles.viewer", roles.viewer),
    ]
}

impl Effective {
    /// What is unusual about it on this host, for a daemon of user `own_uid`: who could get at it, and what is missing.
    #[must_use]
    pub fn notes(&self, own_uid: u32) -> Vec<Note> {
        let mut notes = Vec::from_iter(self.note_on_file(own_uid));
        if self.config.socket.mode.is_open_to_all() {
            let what =
                "everybody on this host may connect, and the roles alone say who may do what";
            notes.push(self.note("socket.mode", what));
        }
        if self.config.storage.folders.is_empty() {
            notes.push(self.note("storage.folders", "callers may name no file at all"));
        }
        for folder in &self.config.storage.folders {
            let what = unusual(folder, own_uid);
            notes.extend(what.map(|what| self.note("storage.folders", what)));
        }
        notes.extend(self.notes_on_roles());
        notes
    }

    fn note(&self, field: &str, what: impl fmt::Display) -> Note {
        Note { place: self.place(field), what: format!("{field}: {what}") }
    }

    fn note_on_file(&self, own_uid: u32) -> Option<Note> {
        let path = self.file.clone()?;
        let who = writers(&path.metadata().ok()?, own_uid)?;
        let place = Place::File { path, line: 1, column: 1 };
        Some(Note { place, what: format!("{who} may change this file, and so become admin") })
    }

    fn notes_on_roles(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        let mut seen: Vec<(Member, &str)> = Vec::new();
        for (_, name, members) in members(self) {
            for member in members {
                if let Some((_, higher)) = seen.iter().find(|(other, _)| *other == member) {
                    notes.push(self.note(name, format!("{member} is in {higher} already")));
                }
                if member.account == Account::Number(NOBODY) {
                    let what = format!("{member} is everybody who has no number on this host");
                    notes.push(self.note(name, what));
                }
                seen.push((member, name));
            }
        }
        notes
    }
}

/// What is unusual about a folder in which callers may name files.
fn unusual(folder: &Path, own_uid: u32) -> Option<String> {
    let shown = folder.display();
    match folder.metadata() {
        Err(error) => Some(format!("{shown}: {error}")),
        Ok(found) if !found.is_dir() => Some(format!("{shown} is no folder")),
        Ok(found) => {
            let who = writers(&found, own_uid)?;
            Some(format!("{who} may exchange the files in {shown}"))
        }
    }
}

/// Who may write to a file or folder besides root and the daemon's own user.
fn writers(found: &Metadata, own_uid: u32) -> Option<String> {
    if found.mode() & 0o002 != 0 {
        return Some("everybody".to_owned());
    }
    if found.mode() & 0o020 != 0 && found.gid() != 0 {
        return Some(format!("group {}", found.gid()));
    }
    let is_ours = found.uid() == 0 || found.uid() == own_uid;
    (!is_ours).then(|| format!("user {}", found.uid()))
}
