//! Lines of a file, none longer than a record's.

use std::io::{self, BufRead, Read};

use super::record::LINE_MOST;

/// What comes next in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line, without its newline.
    Whole(Vec<u8>),
    /// The file ends in these bytes, and in no newline.
    Torn(Vec<u8>),
    /// It has no newline where the longest record would.
    TooLong,
}

/// The next line; none at the end of the file.
pub(super) fn next(reader: &mut impl BufRead) -> io::Result<Option<Line>> {
    let mut bytes = Vec::new();
    reader.by_ref().take(LINE_MOST as u64).read_until(b'\n', &mut bytes)?;
    Ok(match bytes.pop() {
        None => None,
        Some(b'\n') => Some(Line::Whole(bytes)),
        Some(_) if bytes.len() + 1 == LINE_MOST => Some(Line::TooLong),
        Some(last) => {
            bytes.push(last);
            Some(Line::Torn(bytes))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_torn_or_too_long() {
        let mut reader = &b"a\n\nbc"[..];
        assert_eq!(next(&mut reader).unwrap(), Some(Line::Whole(b"a".to_vec())));
        assert_eq!(next(&mut reader).unwrap(), Some(Line::Whole(Vec::new())));
        assert_eq!(next(&mut reader).unwrap(), Some(Line::Torn(b"bc".to_vec())));
        assert_eq!(next(&mut reader).unwrap(), None);
        let longest = [vec![b'x'; LINE_MOST - 1], vec![b'\n']].concat();
        assert_eq!(next(&mut &longest[..]).unwrap(), Some(Line::Whole(vec![b'x'; LINE_MOST - 1])));
        let longer = vec![b'x'; LINE_MOST];
        assert_eq!(next(&mut &longer[..]).unwrap(), Some(Line::TooLong));
        assert!(matches!(next(&mut &longer[1..]).unwrap(), Some(Line::Torn(_))));
    }
}
