//! Initramfs archives: cpio in the "newc" form, as the kernel document
//! `Documentation/driver-api/early-userspace/buffer-format.rst` defines it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

/// File type and permissions of a folder.
const FOLDER: u32 = 0o040_755;
/// File type of a regular file.
const REGULAR: u32 = 0o100_000;
/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive that grows file by file. Owners are root, times are zero: equal content gives equal
/// bytes.
///
/// It stays uncompressed: under emulation copying is cheaper than unpacking.
#[derive(Clone, Debug, Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Initramfs {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file, and the folders that lead to it. `path` is absolute, without `.` and `..`;
    /// `mode` are the nine permission bits.
    ///
    /// # Errors
    /// The content is too long for the format (4 GiB).
    pub fn add(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        // The kernel creates no folder by itself, and fails silently where one is missing.
        for (end, _) in path.match_indices('/').skip(1) {
            if self.folders.insert(path[..end].to_owned()) {
                self.entry(&path[1..end], FOLDER, &[])?;
            }
        }
        self.entry(path.trim_start_matches('/'), REGULAR | mode, content)
    }

    /// Adds the file at `source` on this machine as `path`.
    ///
    /// # Errors
    /// The file cannot be read; the message names it.
    pub fn add_file(&mut self, path: &str, mode: u32, source: &Path) -> io::Result<()> {
        let content = fs::read(source).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", source.display()))
        })?;
        self.add(path, mode, &content)
    }

    /// Adds the executable at `source` without its symbols and debugging information: nine tenths
    /// of a test build, which would be copied by emulated processors at every boot.
    ///
    /// # Errors
    /// The file is no executable, or there is no `strip` (package binutils).
    pub fn add_program(&mut self, path: &str, source: &Path) -> io::Result<()> {
        let stripped = tempfile::NamedTempFile::new()?;
        let output = Command::new("strip")
            .args(["--strip-all", "-o"])
            .args([stripped.path(), source])
            .output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        self.add_file(path, 0o755, stripped.path())
    }

    /// The finished archive.
    ///
    /// # Errors
    /// None that the trailer allows.
    pub fn finish(mut self) -> io::Result<Vec<u8>> {
        self.entry(TRAILER, 0, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let too_long = |_| io::Error::other(format!("{name} is too long for an initramfs"));
        let content_size = u32::try_from(content.len()).map_err(too_long)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_long)?;
        // Equal inode numbers of two files with links would make one of them a link.
        self.entries += 1;
        self.bytes.extend_from_slice(b"070701");
        let links = 1;
        for field in [self.entries, mode, 0, 0, links, 0, content_size, 0, 0, 0, 0, name_size, 0] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    /// Names and contents end on multiples of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive by the format's rules and not by the writer's habits: (name, mode, content).
    fn read(mut archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let whole = archive.len();
        let mut entries = Vec::new();
        loop {
            let field = |index: usize| {
                let text = std::str::from_utf8(&archive[6 + 8 * index..14 + 8 * index]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            assert_eq!(&archive[..6], b"070701");
            assert_eq!((whole - archive.len()) % 4, 0, "an entry begins off its boundary");
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(archive[110..110 + name_size - 1].to_vec()).unwrap();
            assert_eq!(archive[110 + name_size - 1], 0, "a name ends with a zero byte");
            let content = (110 + name_size).next_multiple_of(4);
            entries.push((name, mode, archive[content..content + size].to_vec()));
            archive = &archive[(content + size).next_multiple_of(4)..];
            if entries.last().unwrap().0 == TRAILER {
                assert!(archive.is_empty());
                return entries;
            }
        }
    }

    #[test]
    fn files_come_back_with_their_modes_after_the_folders_that_hold_them() {
        let mut archive = Initramfs::new();
        archive.add("/init", 0o755, b"12345").unwrap();
        archive.add("/guest/deep/initrd", 0o444, b"").unwrap();
        archive.add("/guest/vmlinux", 0o644, b"1234").unwrap();
        let names: Vec<_> = read(&archive.finish().unwrap());
        let expected = [
            ("init", 0o100_755, &b"12345"[..]),
            ("guest", FOLDER, b""),
            ("guest/deep", FOLDER, b""),
            ("guest/deep/initrd", 0o100_444, b""),
            ("guest/vmlinux", 0o100_644, b"1234"),
            (TRAILER, 0, b""),
        ]
        .map(|(name, mode, content)| (name.to_owned(), mode, content.to_vec()));
        assert_eq!(names, expected);
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let make = || {
            let mut archive = Initramfs::new();
            archive.add("/a/b", 0o644, b"content").unwrap();
            archive.finish().unwrap()
        };
        assert_eq!(make(), make());
    }

    #[test]
    fn a_program_goes_in_without_its_symbols_and_a_text_does_not_go_in() {
        let mut archive = Initramfs::new();
        let program = std::env::current_exe().unwrap();
        archive.add_program("/program", &program).unwrap();
        let (_, mode, content) = read(&archive.finish().unwrap()).swap_remove(0);
        assert_eq!((mode, &content[..4]), (0o100_755, &b"\x7fELF"[..]));
        assert!((content.len() as u64) < fs::metadata(program).unwrap().len() / 2);

        let text = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        let error = Initramfs::new().add_program("/program", text).unwrap_err();
        assert!(error.to_string().contains("Cargo.toml"), "{error}");
    }

    #[test]
    fn a_source_that_cannot_be_read_is_named() {
        let error =
            Initramfs::new().add_file("/x", 0o644, Path::new("/nonexistent/x")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x"), "{error}");
    }
}
