//! Any bytes as the payload of a `Pages` frame, at a destination that holds nothing.
//!
//! Checked: what is decoded has as many bytes and digests as its batch has pages, its digests are
//! those of its content, and their sum is the arrival check.

use std::cell::RefCell;
use std::process::ExitCode;

use dwcp::digest::DigestSum;
use dwcp::hde::Decoder;
use dwcp::page::PAGE_BYTES;
use dwcp_fuzz::agreement;

thread_local! {
    static DECODER: RefCell<Decoder> = RefCell::new(Decoder::new());
}

fn main() -> ExitCode {
    fuzzing::main(|input| {
        decode(input);
    })
}

/// Returns how many pages were decoded.
fn decode(input: &[u8]) -> usize {
    let key = agreement().key;
    DECODER.with_borrow_mut(|decoder| {
        let Ok(decoded) = decoder.decode(&key, input, &()) else { return 0 };
        let batch = decoded.head.batch();
        assert_eq!(decoded.content.len(), batch.pages() * PAGE_BYTES);
        let (mut digests, mut at) = (Vec::new(), 0);
        let mut sum = DigestSum::ZERO;
        for run in batch.runs() {
            let pages = usize::try_from(run.pages()).expect("a run of a batch");
            let content = &decoded.content[at * PAGE_BYTES..][..pages * PAGE_BYTES];
            sum += key.digest_run(*run, content, &mut digests);
            assert_eq!(digests, decoded.digests[at..][..pages]);
            at += pages;
        }
        assert_eq!(sum, decoded.head.sum());
        batch.pages()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn no_batch_of_the_corpus_breaks_anything_and_the_sound_ones_are_decoded() {
        static PAGES: Mutex<Vec<usize>> = Mutex::new(Vec::new());
        fn remember(input: &[u8]) {
            PAGES.lock().unwrap().push(decode(input));
        }
        fuzzing::replay(&dwcp_fuzz::corpus("page-batch"), remember).unwrap();
        let pages = PAGES.lock().unwrap();
        assert!(pages.contains(&0) && pages.iter().any(|pages| *pages > 0), "{pages:?}");
    }
}
