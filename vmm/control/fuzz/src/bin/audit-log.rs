//! Any bytes as an audit log, once as they are and once with every hash made right: else nothing behind the first would
//! ever be read.
//!
//! The first line is the head, the others are segment 1, and segment 2 from an empty line on. Checked: a log that is whole
//! has as many records as lines, numbered without a gap, and is no longer whole when its last record is taken off.

use std::process::ExitCode;

use control::audit::{AuditProblem, Summary, verify_bytes};

/// Of a line behind what its hash is of, and the digits in it.
const TAIL: usize = 75;
const DIGITS: usize = 64;

fn main() -> ExitCode {
    fuzzing::main(|input| {
        let _ = read(input);
        let _ = read(&sealed(input));
    })
}

/// Head and segments.
fn split(input: &[u8]) -> (&[u8], Vec<(u64, &[u8])>) {
    let end = |bytes: &[u8]| {
        bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1)
    };
    let (head, rest) = input.split_at(end(input));
    let empty = rest.windows(2).position(|pair| pair == b"\n\n");
    match empty {
        Some(at) => (head, vec![(1, &rest[..=at]), (2, &rest[at + 2..])]),
        None if rest.is_empty() => (head, Vec::new()),
        None => (head, vec![(1, rest)]),
    }
}

fn read(input: &[u8]) -> Result<Summary, AuditProblem> {
    let (head, segments) = split(input);
    let summary = verify_bytes(Some(head), &segments)?;
    let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    let records: u64 = segments.iter().map(|(_, bytes)| lines(bytes)).sum();
    assert_eq!(summary.records, records, "a line is no record, or a record none of the lines");
    let numbers = summary.numbers.map_or(0, |(first, last)| last - first + 1);
    assert_eq!(numbers, records, "the numbers have a gap");
    // Only where the head knows the last record: it may be behind.
    let knows_last =
        head.windows(DIGITS).any(|digits| digits == summary.head.to_string().as_bytes());
    if let Some((number, bytes)) = segments.last().filter(|_| knows_last && records > 0) {
        let whole = bytes.len() - usize::try_from(summary.torn).unwrap_or(0);
        let earlier =
            bytes[..whole - 1].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut cut = segments[..segments.len() - 1].to_vec();
        cut.push((*number, &bytes[..earlier]));
        assert!(verify_bytes(Some(head), &cut).is_err(), "a record less is not noticed");
    }
    Ok(summary)
}

/// The same with every line linked to the one before it, and sealed; the head names the last.
fn sealed(input: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = input.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let mut previous = vec![b'0'; DIGITS];
    for line in lines.iter_mut().skip(1) {
        let Some(hashed) = line.len().checked_sub(TAIL) else { continue };
        // `"previous":"…"` are the last bytes that are hashed.
        if let Some(start) = hashed.checked_sub(DIGITS + 1) {
            line[start..hashed - 1].copy_from_slice(&previous);
        }
        let hash = blake3::hash(&line[..hashed]).to_hex();
        let end = line.len() - 2;
        line[end - DIGITS..end].copy_from_slice(hash.as_bytes());
        previous = hash.as_bytes().to_vec();
    }
    let head = &mut lines[0];
    if let Some(start) = head.len().checked_sub(DIGITS + 2) {
        head[start..start + DIGITS].copy_from_slice(&previous);
    }
    lines.join(&b'\n')
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Mutex;

    use super::*;

    fn seed(name: &str) -> Vec<u8> {
        fs::read(control_fuzz::corpus("audit-log").join(name)).unwrap()
    }

    #[test]
    fn no_log_of_the_corpus_breaks_anything_and_the_sound_ones_are_whole() {
        static RECORDS: Mutex<Vec<u64>> = Mutex::new(Vec::new());
        fn remember(input: &[u8]) {
            let _ = read(input);
            RECORDS
                .lock()
                .unwrap()
                .extend(read(&sealed(input)).map(|summary| summary.records).ok());
        }
        fuzzing::replay(&control_fuzz::corpus("audit-log"), remember).unwrap();
        let records = RECORDS.lock().unwrap();
        assert!(records.iter().any(|records| *records > 3), "{records:?}");
    }

    #[test]
    fn the_hashes_of_a_sound_log_are_those_that_are_made_here() {
        for name in ["seed-calls", "seed-two-segments"] {
            let seed = seed(name);
            assert_eq!(sealed(&seed), seed, "{name}");
            read(&seed).unwrap();
            let mut damaged = seed.clone();
            damaged[150] ^= 1;
            read(&damaged).unwrap_err();
        }
    }

    #[test]
    fn a_log_with_other_words_and_right_hashes_is_whole() {
        let text = String::from_utf8(seed("seed-calls")).unwrap().replacen("web", "bew", 1);
        read(text.as_bytes()).unwrap_err();
        read(&sealed(text.as_bytes())).unwrap();
    }
}
