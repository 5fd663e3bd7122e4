use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use rustix::fs::mknodat;
use tempfile::TempDir;

use super::*;

/// Two folders that are configured, one beside them that is not, and what a caller may try.
struct Place {
    top: TempDir,
    folders: Folders,
}

impl Place {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        for folder in ["images/old", "snapshots", "images-evil", "outside"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        for file in ["images/a", "images/old/b", "snapshots/s", "images-evil/x", "outside/secret"] {
            fs::write(path(file), file).unwrap();
        }
        let folders = Folders::new(vec![path("images"), path("snapshots")]);
        Self { top, folders }
    }

    fn path(&self, name: &str) -> String {
        self.top.path().join(name).to_str().unwrap().to_owned()
    }

    fn link(&self, target: &str, name: &str) {
        symlink(target, self.path(name)).unwrap();
    }

    fn opens(&self, name: &str, content: &str) {
        let mut opened = self.folders.open(name).unwrap();
        let mut read = String::new();
        opened.file.read_to_string(&mut read).unwrap();
        assert_eq!(read, content, "{name}");
    }

    /// Neither for reading nor as a new file.
    fn refuses(&self, name: &str, words: &str) {
        let said = [
            self.folders.open(name).map(|_| ()).unwrap_err().to_string(),
            self.folders.resolve_new(name).map(|_| ()).unwrap_err().to_string(),
        ];
        for said in said {
            assert!(said.contains(words), "{name:?} lacks {words:?}: {said}");
            assert!(said.contains(&self.path("images")), "{said}");
        }
    }
}

#[test]
fn files_inside_are_opened_by_absolute_and_by_relative_names() {
    let place = Place::new();
    place.opens("a", "images/a");
    place.opens("./a", "images/a");
    place.opens("old/b", "images/old/b");
    place.opens("old//b", "images/old/b");
    place.opens(&place.path("images/a"), "images/a");
    place.opens(&place.path("snapshots/s"), "snapshots/s");
    let opened = place.folders.open("old/./b").unwrap();
    assert_eq!(opened.path, Path::new(&place.path("images/old/b")));
}

#[test]
fn names_that_lead_out_are_refused_with_the_folders_that_are_allowed() {
    let place = Place::new();
    place.refuses("", "is no name");
    place.refuses("..", "`..`");
    place.refuses("../outside/secret", "`..`");
    place.refuses("old/../a", "`..`");
    place.refuses(&place.path("images/../outside/secret"), "`..`");
    place.refuses(&place.path("outside/secret"), "outside of the folders");
    place.refuses(&place.path("images-evil/x"), "outside of the folders");
    place.refuses("/etc/passwd", "outside of the folders");
    place.refuses("/proc/self/fd/0", "outside of the folders");
    place.refuses("/", "names a folder");
    place.refuses("a\0b", "zero byte");
    place.refuses("a/", "names a folder");
    place.refuses(".", "names a folder");
    place.refuses("old/.", "names a folder");
    place.refuses(&place.path("images"), "names a folder");
    place.refuses(&"n".repeat(4096), "longer than any path");
    place.refuses(&"n".repeat(256), "File name too long");
    place.refuses(&format!("{}a", "old/".repeat(1023)), "is not there");
}

#[test]
fn links_are_followed_inside_of_a_folder_and_never_out_of_it() {
    let place = Place::new();
    place.link("old/b", "images/inside");
    place.link("../a", "images/old/up");
    place.link("old", "images/folder");
    place.opens("inside", "images/old/b");
    place.opens("old/up", "images/a");
    place.opens("folder/b", "images/old/b");
    place.link("../outside/secret", "images/file-out");
    place.link("../outside", "images/folder-out");
    place.link(&place.path("outside/secret"), "images/absolute");
    place.link(&place.path("images/a"), "images/absolute-inside");
    place.link("../snapshots/s", "images/other");
    place.link("circle", "images/circle");
    for (name, words) in [
        ("file-out", "out of its folder by a link"),
        ("folder-out/secret", "out of its folder by a link"),
        ("absolute", "out of its folder by a link"),
        ("absolute-inside", "out of its folder by a link"),
        ("other", "out of its folder by a link"),
        ("circle", "in a circle"),
    ] {
        let said = place.folders.open(name).unwrap_err().to_string();
        assert!(said.contains(words), "{name}: {said}");
    }
    let said = place.folders.resolve_new("folder-out/new").unwrap_err().to_string();
    assert!(said.contains("out of its folder by a link"), "{said}");
}

#[test]
fn links_of_proc_are_not_followed() {
    let proc = Folders::new(vec!["/proc/self".into()]);
    for name in ["/proc/self/exe", "/proc/self/root/etc/passwd", "fd/0"] {
        let said = proc.open(name).unwrap_err().to_string();
        assert!(said.contains("one of /proc"), "{name}: {said}");
    }
}

#[test]
fn what_is_no_regular_file_is_not_opened_and_makes_nobody_wait() {
    let place = Place::new();
    let pipe = place.path("images/pipe");
    mknodat(CWD, pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _listener = UnixListener::bind(place.path("images/socket")).unwrap();
    for (name, words) in [("pipe", "a pipe"), ("socket", "a socket"), ("old", "a folder")] {
        let said = place.folders.open(name).unwrap_err().to_string();
        assert!(said.contains(&format!("is {words}, not a regular file")), "{said}");
    }
    let devices = Folders::new(vec!["/dev".into()]);
    let said = devices.open("null").unwrap_err().to_string();
    assert!(said.contains("a device"), "{said}");
}

#[test]
fn what_is_not_there_is_said_to_be_so() {
    let place = Place::new();
    let said = place.folders.open("nothing").unwrap_err().to_string();
    assert!(said.starts_with("\"nothing\" is not there; files may be named in: "), "{said}");
    let said = place.folders.open("a/b").unwrap_err().to_string();
    assert!(said.contains("no folder"), "{said}");
    let nowhere = Folders::new(vec![place.path("nowhere").into()]);
    let said = nowhere.open("a").unwrap_err().to_string();
    assert!(said.contains("nowhere, which cannot be opened: No such file"), "{said}");
    let none = Folders::new(Vec::new());
    let said = none.open("a").unwrap_err().to_string();
    assert!(said.contains("storage.folders"), "{said}");
}

#[test]
fn of_two_folders_in_each_other_the_inner_one_counts() {
    let place = Place::new();
    let old = PathBuf::from(place.path("images/old"));
    let folders = Folders::new(vec![place.path("images").into(), old]);
    place.link("../a", "images/old/up");
    // From the outer one this link would stay inside.
    assert!(folders.open(&place.path("images/old/up")).is_err());
    assert!(folders.open("old/up").is_ok());
}

#[test]
fn a_new_file_has_its_place_in_an_open_folder_whatever_takes_the_folders_name() {
    let place = Place::new();
    let new = place.folders.resolve_new("old/new").unwrap();
    assert_eq!(new.path(), Path::new(&place.path("images/old/new")));
    // Nothing has been made.
    assert!(!new.path().exists());
    fs::rename(place.path("images/old"), place.path("images/renamed")).unwrap();
    place.link("../outside", "images/old");
    fs::write(new.path_by_descriptor(), "written").unwrap();
    assert_eq!(fs::read(place.path("images/renamed/new")).unwrap(), b"written");
    assert!(!Path::new(&place.path("outside/new")).exists());
}

#[test]
fn a_new_file_is_never_an_old_one() {
    let place = Place::new();
    place.link("nowhere", "images/dangling");
    for name in ["a", "old", "dangling"] {
        let said = place.folders.resolve_new(name).unwrap_err().to_string();
        assert!(said.contains("nothing is overwritten"), "{name}: {said}");
    }
    let said = place.folders.resolve_new("no/folder").unwrap_err().to_string();
    assert!(said.contains("has no folder"), "{said}");
    assert_eq!(place.folders.resolve_new("new").unwrap().name(), "new");
}
