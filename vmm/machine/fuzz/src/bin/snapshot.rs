//! Any bytes as a snapshot, once as they are and once with every tag made right: else nothing behind the first would
//! ever be read.
//!
//! Checked: what is read of memory is all of it, and what the index says.

use std::process::ExitCode;

use machine::SnapshotError;
use machine::fuzz_snapshot::read_snapshot;

/// Bytes of a header, of a block's head and of its tag.
const HEADER: usize = 80;
const HEAD: usize = 16;
const TAG: usize = 16;

fn main() -> ExitCode {
    fuzzing::main(|input| {
        let _ = read(input);
        let _ = read(&tagged(input));
    })
}

fn read(input: &[u8]) -> Result<u64, SnapshotError> {
    read_snapshot(machine_fuzz::memory_file(input).expect("a file in memory"))
}

/// The same with the checks of an unencrypted file, as `dwcp/ARCHIVE.md` has them.
fn tagged(input: &[u8]) -> Vec<u8> {
    let mut file = input.to_vec();
    if file.len() < HEADER {
        return file;
    }
    let check = blake3::hash(&file[..64]);
    file[64..HEADER].copy_from_slice(&check.as_bytes()[..TAG]);
    let material = [&[0; 32], &file[..48]].concat();
    let key = blake3::derive_key("NovaCron archive v1 file key", &material);
    let mut at = HEADER;
    while let Some(head) = file.get(at..at + HEAD) {
        let length = u32::from_le_bytes(head[..4].try_into().expect("4 of 16 bytes"));
        let Some(end) = usize::try_from(length).ok().map(|length| at + HEAD + length) else {
            break;
        };
        let Some(block) = file.get(at..end).filter(|_| end + TAG <= file.len()) else { break };
        let tag = blake3::keyed_hash(&key, block);
        file[end..end + TAG].copy_from_slice(&tag.as_bytes()[..TAG]);
        at = end + TAG;
    }
    file
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn no_snapshot_of_the_corpus_breaks_anything_and_the_sound_ones_are_read() {
        static PAGES: Mutex<Vec<u64>> = Mutex::new(Vec::new());
        fn remember(input: &[u8]) {
            let _ = read(input);
            PAGES.lock().unwrap().extend(read(&tagged(input)).ok());
        }
        fuzzing::replay(&machine_fuzz::corpus("snapshot"), remember).unwrap();
        let pages = PAGES.lock().unwrap();
        assert!(pages.iter().any(|pages| *pages > 0), "{pages:?}");
    }

    #[test]
    fn the_tags_of_a_sound_snapshot_are_those_that_are_made_here() {
        let seed = fs::read(machine_fuzz::corpus("snapshot").join("seed-1-vcpu")).unwrap();
        assert_eq!(tagged(&seed), seed);
        let mut damaged = seed.clone();
        damaged[300] ^= 1;
        assert!(read(&damaged).is_err());
    }
}
