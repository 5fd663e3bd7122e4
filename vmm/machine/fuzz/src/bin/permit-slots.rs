//! Any bytes as the two slots of a permit record, taken by a successor.
//!
//! The first byte says which slots get a checksum that is right, else nothing behind it is reached.
//! Then come the slots: the part of the first that has fields, and all of the second.
//!
//! Checked: whether or not the permit was given the first time, it is not the second time.

use std::process::ExitCode;

use machine::fuzz::take_permit;

const SLOT: usize = 4096;
/// A slot ends with the BLAKE3 digest of the rest (`dwcp/SPEC.md`, "The permit record").
const CHECKSUM: usize = SLOT - 32;
/// All fields lie below.
const FIELDS: usize = 704;

fn main() -> ExitCode {
    fuzzing::main(|input| {
        take(input);
    })
}

/// Whether the permit was taken.
fn take(input: &[u8]) -> bool {
    let file = machine_fuzz::memory_file(&record(input)).expect("a file in memory");
    let attempt = || {
        let record = file.try_clone().expect("a second descriptor");
        take_permit(record.into()).is_ok()
    };
    let is_taken = attempt();
    assert!(!attempt(), "the permit was given twice, or after it had been refused");
    is_taken
}

fn record(input: &[u8]) -> Vec<u8> {
    let mut record = vec![0; 2 * SLOT];
    let Some((flags, slots)) = input.split_first() else { return record };
    let (first, second) = slots.split_at(slots.len().min(FIELDS));
    record[..first.len()].copy_from_slice(first);
    let second = &second[..second.len().min(SLOT)];
    record[SLOT..][..second.len()].copy_from_slice(second);
    for (index, slot) in record.chunks_exact_mut(SLOT).enumerate() {
        if flags & (1 << index) != 0 {
            let digest = blake3::hash(&slot[..CHECKSUM]);
            slot[CHECKSUM..].copy_from_slice(digest.as_bytes());
        }
    }
    record
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn no_record_of_the_corpus_breaks_anything_and_the_sound_ones_give_the_permit() {
        static TAKEN: Mutex<u32> = Mutex::new(0);
        fn remember(input: &[u8]) {
            *TAKEN.lock().unwrap() += u32::from(take(input));
        }
        let count = fuzzing::replay(&machine_fuzz::corpus("permit-slots"), remember).unwrap();
        let taken = *TAKEN.lock().unwrap();
        assert!(taken > 0, "a seed offers the permit");
        assert!(taken < u32::try_from(count).unwrap(), "some records do not");
    }
}
