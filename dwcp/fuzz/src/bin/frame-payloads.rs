//! Any bytes as the payload of a frame; the first byte is its kind.
//!
//! Checked: a payload that is read is written as the same bytes.

use std::process::ExitCode;

use dwcp::wire::{Kind, Message};

fn main() -> ExitCode {
    fuzzing::main(|input| {
        read(input);
    })
}

/// Returns the kind of a payload that was read.
fn read(input: &[u8]) -> Option<Kind> {
    let (kind, payload) = input.split_first()?;
    let kind = Kind::from_number(*kind)?;
    let message = Message::parse(kind, payload).ok()??;
    let mut written = Vec::new();
    message.write_to(&mut written);
    assert_eq!(written, payload, "{message:?}");
    Some(message.kind())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn no_payload_of_the_corpus_breaks_anything_and_every_kind_is_read() {
        static READ: Mutex<BTreeSet<u8>> = Mutex::new(BTreeSet::new());
        fn remember(input: &[u8]) {
            READ.lock().unwrap().extend(read(input).map(|kind| kind as u8));
        }
        fuzzing::replay(&dwcp_fuzz::corpus("frame-payloads"), remember).unwrap();
        let all = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Pages);
        assert_eq!(*READ.lock().unwrap(), all.map(|kind| kind as u8).collect());
    }
}
