//! What a machine boots: from a spec to descriptors.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use dwcp::archive::ArchiveKey;
use machine::Images;

use crate::access::{FileError, Files, NewFile};
use crate::api::{ApiError, ErrorCode};

impl From<FileError> for ApiError {
    fn from(error: FileError) -> Self {
        Self::new(ErrorCode::File, error.to_string())
    }
}

/// The built-in guest, with what only the machine knows on its command line.
pub(super) fn oracle(oracle: &[u8], cpus: u32, options: &str) -> io::Result<Images> {
    let file = rustix::fs::memfd_create("oracle", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut kernel = File::from(file);
    kernel.write_all(oracle)?;
    kernel.rewind()?;
    let command_line = format!("cpus={cpus} tsc_khz={{tsc_khz}} {options}");
    Ok(Images { kernel, initrd: None, command_line: command_line.trim_end().to_owned() })
}

/// A kernel that somebody named.
pub(super) fn kernel(
    files: &Files,
    kernel: &str,
    initrd: Option<&str>,
    command_line: &str,
) -> Result<Images, FileError> {
    Ok(Images {
        kernel: files.open(kernel)?.file,
        initrd: initrd.map(|initrd| files.open(initrd)).transpose()?.map(|opened| opened.file),
        command_line: command_line.to_owned(),
    })
}

/// The key in a file that somebody named.
pub(super) fn key(files: &Files, file: Option<&str>) -> Result<Option<ArchiveKey>, ApiError> {
    use std::io::Read;
    let Some(name) = file else { return Ok(None) };
    let opened = files.open(name)?;
    let mut bytes = Vec::new();
    opened.file.take(33).read_to_end(&mut bytes).map_err(ApiError::internal)?;
    let key = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| {
        ApiError::new(ErrorCode::File, format!("{name:?} is no key: it has not 32 bytes"))
            .with_hint("make one with `head -c 32 /dev/urandom`")
    })?;
    Ok(Some(ArchiveKey::new(key)))
}

/// A new file, and the one in its folder on which it builds.
pub(super) fn base(
    new: &NewFile,
    files: &Files,
    base: Option<&str>,
) -> Result<Option<PathBuf>, ApiError> {
    let Some(name) = base else { return Ok(None) };
    let opened = files.open(name)?;
    // Compared as the kernel knows them: a folder has more than one name.
    let folder_of = |path: &Path| path.parent().and_then(|folder| folder.canonicalize().ok());
    if folder_of(&opened.path) != folder_of(&new.path_by_descriptor()) {
        return Err(ApiError::new(
            ErrorCode::File,
            format!("{name:?} is in another folder than the new snapshot"),
        )
        .with_hint("a snapshot and the one on which it builds lie in one folder"));
    }
    let file_name = opened.path.file_name().unwrap_or_default();
    Ok(Some(new.path_by_descriptor().with_file_name(file_name)))
}
