//! The kernel's own messages, as `Documentation/ABI/testing/dev-kmsg` defines them.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Emergency is 0, warning 4, debug 7.
const WARNING: u32 = 4;
/// The kernel's longest record (`PRINTKRB_RECORD_MAX`).
const RECORD_MAX: usize = 2048;

/// The messages so far of level warning or worse, oldest first, without time and level.
pub(crate) fn warnings() -> io::Result<Vec<String>> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open("/dev/kmsg")?;
    let mut warnings = Vec::new();
    let mut record = [0; RECORD_MAX];
    loop {
        // One read is one record.
        match file.read(&mut record) {
            Ok(0) => return Ok(warnings),
            Ok(length) => warnings.extend(warning(&String::from_utf8_lossy(&record[..length]))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(warnings),
            // Records were overwritten before they were read; the next read goes on after them.
            Err(error) if error.raw_os_error() == Some(Errno::PIPE.raw_os_error()) => {
                warnings.push("(older messages were lost)".to_owned());
            }
            Err(error) => return Err(error),
        }
    }
}

/// The text of a record `<priority>,<sequence>,<microseconds>,<flags>;<text>`, if it warns. The
/// priority's low three bits are the level; lines after the first are key-value pairs.
fn warning(record: &str) -> Option<String> {
    let (header, text) = record.split_once(';')?;
    let priority: u32 = header.split(',').next()?.parse().ok()?;
    let line = text.lines().next()?;
    (priority & 7 <= WARNING).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::warning;

    #[test]
    fn a_message_warns_by_its_level_and_not_by_its_facility() {
        for (record, text) in [
            ("4,1,10,-;tsc: unstable\n SUBSYSTEM=x\n", Some("tsc: unstable")),
            ("0,1,10,-;a;b\n", Some("a;b")),
            ("12,1,10,-;from user space\n", Some("from user space")),
            ("5,1,10,-;a notice\n", None),
            ("30,1,10,-;an information\n", None),
            ("broken", None),
        ] {
            assert_eq!(warning(record).as_deref(), text, "{record:?}");
        }
    }
}
