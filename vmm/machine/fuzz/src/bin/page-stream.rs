//! Any bytes as what a predecessor writes to its socket in a copying hand-over.
//!
//! Checked: nothing is written for a stream whose first batch is refused before its digest is
//! compared; and no stream keeps the successor waiting for what cannot come.

use std::process::ExitCode;
use std::sync::{Arc, LazyLock};

use machine::fuzz::apply_stream;
use machine::{ChannelError, GuestRam, HandOverError, MemoryLayout};

/// Two pages with their frames, and a little more. The answers to so many of the shortest frames
/// still fit into a socket's buffer.
const MAX_STREAM: usize = 2 * 4096 + 512;

const SIZE: u64 = 16 << 20;

/// Emptied for each input. One region: with a hole the pages' digests alone would be 32 MiB, to be
/// set up each time.
static RAM: LazyLock<Arc<GuestRam>> = LazyLock::new(|| {
    let layout = MemoryLayout::new(SIZE, 32 << 20).expect("a layout that is allowed");
    Arc::new(GuestRam::new(layout).expect("16 MiB of memory"))
});

fn main() -> ExitCode {
    fuzzing::main(|input| {
        apply(input);
    })
}

/// Returns how many runs were written and found right.
fn apply(input: &[u8]) -> u64 {
    let ram = &*RAM;
    machine_fuzz::empty(ram).expect("a hole can be punched");
    let stream = &input[..input.len().min(MAX_STREAM)];
    let (runs, error) = apply_stream(ram, stream);
    assert!(
        !matches!(error, HandOverError::Channel(ChannelError::TimedOut)),
        "the successor waits"
    );
    // A run that reaches beyond RAM is written up to there.
    let may_write = matches!(
        error,
        HandOverError::Differs { what: "a batch of pages" } | HandOverError::Ram(_)
    );
    if runs == 0 && !may_write {
        let is_untouched = machine_fuzz::is_untouched(ram, 0, SIZE).expect("holes can be found");
        assert!(is_untouched, "written though refused: {error}");
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn no_stream_of_the_corpus_breaks_anything_and_the_sound_ones_are_applied() {
        static RUNS: Mutex<Vec<u64>> = Mutex::new(Vec::new());
        fn remember(input: &[u8]) {
            let mut runs = RUNS.lock().unwrap();
            runs.push(apply(input));
        }
        fuzzing::replay(&machine_fuzz::corpus("page-stream"), remember).unwrap();
        let runs = RUNS.lock().unwrap();
        assert!(runs.contains(&0), "some are refused: {runs:?}");
        // The seed with a page of bytes between runs of zeros.
        assert!(runs.iter().any(|runs| *runs >= 3), "some are applied: {runs:?}");
    }
}
