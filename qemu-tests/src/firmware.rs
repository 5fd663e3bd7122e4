//! UEFI firmware of machines, and the variables that it keeps.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::artifacts::{ArtifactError, existing};

/// Names the folder of a build of OVMF; without it, it is where Debian has it.
const OVMF_VARIABLE: &str = "NOVACRON_OVMF";
const OVMF: &str = "/usr/share/OVMF";
const CODE: &str = "OVMF_CODE_4M.fd";
const VARIABLES: &str = "OVMF_VARS_4M.fd";

/// OVMF, with variables that outlive the machines it is put into. They are gone with its last clone.
#[derive(Clone, Debug)]
pub struct Firmware {
    code: PathBuf,
    variables: PathBuf,
    _folder: Arc<TempDir>,
}

/// A variable of the firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Whose it is: a GUID as text.
    pub vendor: String,
    /// What UEFI says of it: `EFI_VARIABLE_NON_VOLATILE` and so on.
    pub attributes: u32,
    /// What it holds.
    pub data: Vec<u8>,
}

impl Firmware {
    /// Firmware as it comes from its maker.
    ///
    /// # Errors
    /// There is no OVMF on this machine, or its variables cannot be copied.
    pub fn new() -> Result<Self, ArtifactError> {
        let folder = env::var_os(OVMF_VARIABLE).map_or_else(|| OVMF.into(), PathBuf::from);
        let code = existing(OVMF_VARIABLE, folder.join(CODE))?;
        let template = existing(OVMF_VARIABLE, folder.join(VARIABLES))?;
        let folder = tempfile::tempdir().map_err(ArtifactError::Firmware)?;
        let variables = folder.path().join(VARIABLES);
        // Not fs::copy: where the template may not be written, the copy could not be, either.
        fs::read(template)
            .and_then(|template| fs::write(&variables, template))
            .map_err(ArtifactError::Firmware)?;
        Ok(Self { code, variables, _folder: Arc::new(folder) })
    }

    /// The variables that outlive a machine, while none runs with them.
    ///
    /// # Errors
    /// They are not as OVMF writes them.
    pub fn variables(&self) -> io::Result<Vec<Variable>> {
        let store = fs::read(&self.variables)?;
        parse(&store).ok_or_else(|| io::Error::other("the firmware's variables are damaged"))
    }

    /// QEMU's arguments for it.
    pub(crate) fn arguments(&self) -> [String; 4] {
        // A comma in a value is written twice.
        let file = |path: &Path| path.to_string_lossy().replace(',', ",,");
        let code = format!("if=pflash,format=raw,readonly=on,file={}", file(&self.code));
        let variables = format!("if=pflash,format=raw,file={}", file(&self.variables));
        ["-drive".to_owned(), code, "-drive".to_owned(), variables]
    }
}

/// `EFI_FIRMWARE_VOLUME_HEADER`, of which only its own length is wanted (UEFI PI 1.7, vol. 3, 3.2.1).
const VOLUME_SIGNATURE: (usize, &[u8]) = (40, b"_FVH");
const VOLUME_HEADER_LENGTH: usize = 48;
/// `VARIABLE_STORE_HEADER` (EDK II, VariableFormat.h): a GUID, its size, and whether it is formatted and healthy.
const STORE_HEADER: usize = 28;
const STORE_IS_SOUND: (usize, &[u8]) = (20, &[0x5a, 0xfe]);
/// `AUTHENTICATED_VARIABLE_HEADER`, and what it starts with.
const HEADER: usize = 60;
const START: u16 = 0x55aa;
/// States whose variable is in force: added; and added, unless there is a newer one that is whole.
const ADDED: u8 = 0x3f;
const REPLACED: u8 = 0x3e;

/// The variables of a volume; none if it is no such volume.
fn parse(volume: &[u8]) -> Option<Vec<Variable>> {
    let has = |bytes: &[u8], (at, wanted): (usize, &[u8])| {
        bytes.get(at..at + wanted.len()) == Some(wanted)
    };
    if !has(volume, VOLUME_SIGNATURE) {
        return None;
    }
    let store = volume.get(usize::from(u16_at(volume, VOLUME_HEADER_LENGTH)?)..)?;
    if !has(store, STORE_IS_SOUND) {
        return None;
    }
    let store = store.get(..size_at(store, 16)?)?;
    let (mut found, mut replaced, mut at) = (Vec::new(), Vec::new(), STORE_HEADER);
    while let Some(header) = store.get(at..at + HEADER)
        && u16_at(header, 0) == Some(START)
    {
        let (name_length, data_length) = (size_at(header, 36)?, size_at(header, 40)?);
        let name = at + HEADER;
        let data = name.checked_add(name_length)?;
        let end = data.checked_add(data_length)?;
        if [ADDED, REPLACED].contains(&header[2]) {
            let units = store.get(name..data)?.chunks_exact(2);
            let units: Vec<_> = units.map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
            let variable = Variable {
                name: String::from_utf16(units.strip_suffix(&[0])?).ok()?,
                vendor: guid(header.get(44..60)?.try_into().ok()?),
                attributes: u32::try_from(size_at(header, 4)?).ok()?,
                data: store.get(data..end)?.to_vec(),
            };
            if header[2] == ADDED { found.push(variable) } else { replaced.push(variable) }
        }
        at = end.next_multiple_of(4);
    }
    let same =
        |one: &Variable, other: &Variable| one.name == other.name && one.vendor == other.vendor;
    replaced.retain(|old| !found.iter().any(|new| same(old, new)));
    found.append(&mut replaced);
    Some(found)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn size_at(bytes: &[u8], at: usize) -> Option<usize> {
    let number = u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
    usize::try_from(number).ok()
}

/// As text: the first three parts are numbers, with their least byte first.
fn guid(bytes: [u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    let (first, second) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]));
    let third = u16::from_le_bytes([g, h]);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("{first:08x}-{second:04x}-{third:04x}-{}-{}", hex(&rest[..2]), hex(&rest[2..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_spelt_as_everybody_spells_it() {
        // EFI_GLOBAL_VARIABLE, as UEFI 2.10, 3.3 defines it and as it lies in memory.
        let bytes = [
            0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03,
            0x2b, 0x8c,
        ];
        assert_eq!(guid(bytes), "8be4df61-93ca-11d2-aa0d-00e098032b8c");
    }

    #[test]
    fn what_is_no_store_of_variables_is_refused_wherever_it_is_cut() {
        assert_eq!(parse(b""), None);
        assert_eq!(parse(&[0; 4096]), None);
        let mut volume = vec![0; 72 + STORE_HEADER];
        volume[40..44].copy_from_slice(b"_FVH");
        volume[48] = 72;
        volume[72 + 20..][..2].copy_from_slice(&[0x5a, 0xfe]);
        let mut variable = vec![0; HEADER];
        variable[..3].copy_from_slice(&[0xaa, 0x55, 0x3f]);
        variable[4] = 7;
        (variable[36], variable[40]) = (4, 3);
        variable.extend(b"N\0\0\0abc\0");
        volume.extend(&variable);
        // One that was deleted, and room.
        variable[2] = 0x3c;
        volume.extend(&variable);
        let size = STORE_HEADER + 2 * variable.len() + 100;
        volume[72 + 16..][..2].copy_from_slice(&u16::try_from(size).unwrap().to_le_bytes());
        volume.extend([0xff; 100]);
        let whole = parse(&volume).unwrap();
        let vendor = "00000000-0000-0000-0000-000000000000".to_owned();
        let expected = Variable { name: "N".into(), vendor, attributes: 7, data: b"abc".into() };
        assert_eq!(whole, [expected]);
        // One of which the power was lost while a newer one was written, and when it was.
        let at = 72 + STORE_HEADER;
        volume[at + 2] = REPLACED;
        assert_eq!(parse(&volume).unwrap(), whole);
        volume[at + variable.len() + 2] = ADDED;
        volume[at + variable.len() + HEADER + 4] = b'x';
        let newer = parse(&volume).unwrap();
        assert_eq!((newer.len(), newer[0].data.as_slice()), (1, &b"xbc"[..]));
        for length in 0..volume.len() {
            assert_eq!(parse(&volume[..length]), None, "{length}");
        }
        // Longer than the store.
        volume[72 + STORE_HEADER + 43] = 0xff;
        assert_eq!(parse(&volume), None);
    }
}
