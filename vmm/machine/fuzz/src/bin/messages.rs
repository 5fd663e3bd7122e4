//! Any bytes as a message between the processes of a machine; the first byte says of which kind.
//!
//! Checked: a message that is read and written is read again as the same.

use std::process::ExitCode;

use machine::fuzz::{read_again, read_again_to_predecessor, read_again_to_successor};
use machine::{ChannelError, Order, Report};

type ReadAgain = fn(&[u8]) -> Result<Vec<u8>, ChannelError>;

/// Kinds, by the first byte.
const KINDS: [ReadAgain; 4] =
    [read_again::<Order>, read_again::<Report>, read_again_to_successor, read_again_to_predecessor];

fn main() -> ExitCode {
    fuzzing::main(|input| {
        let _ = read(input);
    })
}

/// Returns the kind of a message that was read.
fn read(input: &[u8]) -> Option<usize> {
    let (kind, message) = input.split_first()?;
    let kind = usize::from(*kind);
    let read_again = KINDS.get(kind)?;
    let written = read_again(message).ok()?;
    let again = read_again(&written).expect("what was written can be read");
    assert_eq!(again, written, "a message is written otherwise each time");
    Some(kind)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn no_message_of_the_corpus_breaks_anything_and_every_kind_is_read() {
        static READ: Mutex<[u32; KINDS.len()]> = Mutex::new([0; KINDS.len()]);
        fn remember(input: &[u8]) {
            if let Some(kind) = read(input) {
                READ.lock().unwrap()[kind] += 1;
            }
        }
        let count = fuzzing::replay(&machine_fuzz::corpus("messages"), remember).unwrap();
        let counts = READ.lock().unwrap();
        assert!(counts.iter().all(|count| *count > 0), "messages read, by kind: {counts:?}");
        assert!(counts.iter().sum::<u32>() < u32::try_from(count).unwrap(), "some are refused");
    }
}
