//! Any bytes as the header of a stream's first frame; 40 more, if there are any, as that of its second.
//!
//! Checked: a header that is read is written as the same bytes, and is the next one of its own stream exactly if its number
//! says so; the second is taken exactly if it is one of the same stream, with the next number.

use std::process::ExitCode;

use dwcp::wire::{Expected, HEADER_BYTES, Header, HeaderBytes, Kind};

fn main() -> ExitCode {
    fuzzing::main(|input| {
        read(input);
    })
}

/// Returns the kind of the first header, if it was read.
fn read(input: &[u8]) -> Option<Kind> {
    let (first, rest): (&HeaderBytes, _) = input.split_first_chunk()?;
    let header = Header::parse(first).ok()?;
    assert_eq!(header.to_bytes(), *first, "{header:?}");
    let limits = header.kind().payload_bytes();
    assert!(limits.contains(&header.length()), "{header:?}");

    let mut expected = Expected::first(header.session(), header.stream());
    let is_first = number(first) == 0;
    assert_eq!(expected.check(first).is_ok(), is_first, "{header:?}");
    if let Some(second) = rest.first_chunk::<HEADER_BYTES>().filter(|_| is_first) {
        let is_next = Header::parse(second).is_ok_and(|next| {
            (next.session(), next.stream()) == (header.session(), header.stream())
        }) && number(second) == 1;
        assert_eq!(expected.check(second).is_ok(), is_next, "{header:?}, then {second:02x?}");
    }
    Some(header.kind())
}

/// The number that a header says its frame has, as section 10 of `SPEC.md` places it.
fn number(bytes: &HeaderBytes) -> u64 {
    u64::from_le_bytes(bytes[16..24].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn no_header_of_the_corpus_breaks_anything_and_every_kind_is_read() {
        static READ: Mutex<BTreeSet<u8>> = Mutex::new(BTreeSet::new());
        fn remember(input: &[u8]) {
            READ.lock().unwrap().extend(read(input).map(|kind| kind as u8));
        }
        fuzzing::replay(&dwcp_fuzz::corpus("frame-headers"), remember).unwrap();
        assert_eq!(*READ.lock().unwrap(), Kind::ALL.map(|kind| kind as u8).into());
    }
}
