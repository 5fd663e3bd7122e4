use super::*;
use proptest::prelude::*;

/// Word of the header line that holds the checksum.
const CHECKSUM: usize = 7;

const WRITES: [Write; 3] = [Write::Byte, Write::Line, Write::Page];

fn stamps() -> impl Strategy<Value = Stamp> {
    let sequences = prop_oneof![0u64..10_000, 0..=u64::MAX - 1];
    (0u64..1 << 40, any::<u16>(), sequences, any::<u64>(), prop::sample::select(&WRITES)).prop_map(
        |(number, writer, sequence, run, write)| Stamp {
            address: number << 12,
            writer,
            sequence,
            run,
            write,
        },
    )
}

fn filled(stamp: &Stamp) -> Page {
    let mut page = [0xdead_beef_dead_beef; WORDS];
    fill(&mut page, stamp);
    page
}

fn kind(page: &Page, expected: &Stamp) -> Option<Kind> {
    check(page, expected).err().map(|defect| defect.kind)
}

/// Bytes in which two pages differ, outside the header line.
fn changed_body_bytes(before: &Page, after: &Page) -> Vec<usize> {
    let bytes = |page: &Page| page.map(u64::to_le_bytes).concat();
    let (before, after) = (bytes(before), bytes(after));
    (64..4096).filter(|offset| before[*offset] != after[*offset]).collect()
}

proptest! {
    #[test]
    fn a_filled_page_is_intact_and_names_its_stamp(stamp in stamps()) {
        let page = filled(&stamp);
        prop_assert_eq!(check(&page, &stamp), Ok(()));
        prop_assert_eq!(read(&page), Some(stamp));
    }

    #[test]
    fn advancing_ends_where_filling_would(stamp in stamps(), steps in 1usize..10) {
        let (mut page, mut stamp) = (filled(&stamp), stamp);
        for _ in 0..steps {
            if stamp.sequence == u64::MAX {
                break;
            }
            stamp = stamp.next();
            advance(&mut page, &stamp);
            prop_assert_eq!(page, filled(&stamp));
        }
    }

    #[test]
    fn a_write_changes_as_much_of_the_body_as_it_says(stamp in stamps()) {
        let before = filled(&stamp);
        let mut after = before;
        advance(&mut after, &stamp.next());
        let changed = changed_body_bytes(&before, &after);
        match stamp.write {
            Write::Byte => prop_assert_eq!(changed.len(), 1),
            Write::Line => {
                prop_assert!(!changed.is_empty());
                prop_assert!(changed.iter().all(|offset| offset / 64 == changed[0] / 64));
            }
            Write::Page => prop_assert!(changed.len() > 3900, "{} bytes", changed.len()),
        }
    }

    #[test]
    fn a_page_left_at_an_earlier_write_is_stale(stamp in stamps(), lost in 1u64..100) {
        let expected = Stamp { sequence: stamp.sequence.saturating_add(lost), ..stamp };
        prop_assume!(expected != stamp);
        let defect = check(&filled(&stamp), &expected).unwrap_err();
        prop_assert_eq!((defect.kind, defect.found), (Kind::Stale, Some(stamp)));
    }

    #[test]
    fn a_page_ahead_of_its_writes_is_from_the_future(stamp in stamps()) {
        prop_assert_eq!(kind(&filled(&stamp.next()), &stamp), Some(Kind::Future));
    }

    #[test]
    fn the_page_of_another_address_is_swapped(stamp in stamps(), other in stamps()) {
        prop_assume!(stamp.address != other.address);
        let defect = check(&filled(&other), &stamp).unwrap_err();
        prop_assert_eq!((defect.kind, defect.found), (Kind::Swapped, Some(other)));
    }

    #[test]
    fn the_page_of_another_run_writer_or_pattern_is_foreign(stamp in stamps()) {
        let run = Stamp { run: stamp.run ^ 1, ..stamp };
        let writer = Stamp { writer: stamp.writer ^ 1, ..stamp };
        let write = Stamp {
            write: if stamp.write == Write::Line { Write::Page } else { Write::Line },
            ..stamp
        };
        for other in [run, writer, write] {
            prop_assert_eq!(kind(&filled(&other), &stamp), Some(Kind::Foreign));
        }
    }

    #[test]
    fn a_page_whose_parts_are_of_two_writes_is_torn(stamp in stamps(), cut in 1usize..WORDS) {
        let (old, new) = (filled(&stamp), filled(&stamp.next()));
        let mut page = old;
        page[..cut].copy_from_slice(&new[..cut]);
        prop_assume!(page != old && page != new);
        prop_assert_eq!(kind(&page, &stamp), Some(Kind::Torn));
        prop_assert_eq!(kind(&page, &stamp.next()), Some(Kind::Torn));
    }

    #[test]
    fn a_page_half_of_which_is_zero_is_torn(stamp in stamps(), cut in 1usize..WORDS) {
        let mut page = filled(&stamp);
        page[cut..].fill(0);
        prop_assume!(page != filled(&stamp));
        prop_assert_eq!(kind(&page, &stamp), Some(Kind::Torn));
    }

    #[test]
    fn two_words_exchanged_are_found(stamp in stamps(), one in 0usize..WORDS, two in 0usize..WORDS) {
        let mut page = filled(&stamp);
        page.swap(one, two);
        prop_assume!(page[one] != page[two]);
        prop_assert_eq!(read(&page), None);
        prop_assert!(kind(&page, &stamp).is_some());
    }

    #[test]
    fn no_content_panics(words in prop::collection::vec(any::<u64>(), WORDS), stamp in stamps()) {
        let page: Page = words.try_into().unwrap();
        prop_assert_eq!(read(&page), None);
        prop_assert_eq!(kind(&page, &stamp), Some(Kind::Torn));
    }
}

#[test]
fn every_byte_that_flips_is_found_and_named() {
    for write in WRITES {
        let stamp = Stamp { address: 0x1_0020_3000, writer: 3, sequence: 5000, run: 77, write };
        let intact = filled(&stamp);
        for offset in 0..4096u16 {
            for flip in [1u8, 0x80, 0xff] {
                let mut page = intact;
                let word = usize::from(offset / 8);
                page[word] ^= u64::from(flip) << (offset % 8 * 8);
                assert_eq!(read(&page), None, "{write:?} byte {offset}");
                let defect = check(&page, &stamp).unwrap_err();
                assert_eq!((defect.kind, defect.offset), (Kind::Torn, offset), "{write:?}");
            }
        }
    }
}

/// The checksum of what a page holds, whatever that is.
fn sum_of(page: &Page) -> u64 {
    let (header, lines) = split(page);
    let mut header = *header;
    header[CHECKSUM] = 0;
    let mut sum = Checksum::of_header(header);
    lines.iter().for_each(|line| sum.add(line));
    sum.finish()
}

#[test]
fn the_checksum_alone_finds_every_changed_bit() {
    let stamp = Stamp { address: 0x7000, writer: 0, sequence: 12, run: 1, write: Write::Line };
    let intact = filled(&stamp);
    assert_eq!(sum_of(&intact), intact[CHECKSUM]);
    for word in (0..WORDS).filter(|word| *word != CHECKSUM) {
        for bit in 0..64 {
            let mut page = intact;
            page[word] ^= 1 << bit;
            assert_ne!(sum_of(&page), intact[CHECKSUM], "word {word} bit {bit}");
        }
    }
}

#[test]
fn the_checksum_alone_finds_lines_that_changed_places() {
    let stamp = Stamp { address: 0x7000, writer: 0, sequence: 12, run: 1, write: Write::Line };
    let intact = filled(&stamp);
    for one in 1..64 {
        for two in 1..one {
            let mut page = intact;
            page.as_chunks_mut::<8>().0.swap(one, two);
            assert_ne!(sum_of(&page), intact[CHECKSUM], "lines {one} and {two}");
        }
    }
}

#[test]
fn a_zeroed_page_is_told_from_a_torn_one() {
    let stamp = Stamp { address: 0x5000, writer: 1, sequence: 9, run: 4, write: Write::Page };
    let defect = check(&[0; WORDS], &stamp).unwrap_err();
    assert_eq!(defect, Defect { kind: Kind::Zeroed, found: None, offset: 0 });
}

#[test]
fn an_untouched_page_must_be_zero() {
    let mut page = [0; WORDS];
    assert_eq!(check_untouched(&page), Ok(()));
    page[300] = 0x0100;
    let defect = Defect { kind: Kind::Touched, found: None, offset: 2401 };
    assert_eq!(check_untouched(&page), Err(defect));
}

#[test]
fn no_two_lines_of_a_page_or_of_neighbouring_pages_are_alike() {
    let mut lines = std::collections::HashSet::new();
    for number in 0..64 {
        for sequence in [0, 1, 63, 64] {
            let stamp =
                Stamp { address: number << 12, writer: 0, sequence, run: 1, write: Write::Page };
            let page = filled(&stamp);
            assert!(page.as_chunks::<8>().0.iter().all(|line| lines.insert(*line)));
        }
    }
}

#[test]
fn every_byte_and_every_line_of_the_body_has_its_turn() {
    for (write, turns) in [(Write::Byte, 4032), (Write::Line, 63)] {
        let mut stamp = Stamp { address: 0x9000, writer: 0, sequence: 0, run: 5, write };
        let mut page = filled(&stamp);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..turns {
            stamp = stamp.next();
            let before = page;
            advance(&mut page, &stamp);
            seen.extend(changed_body_bytes(&before, &page));
        }
        assert!(seen.len() > 4000, "{write:?} reached {} bytes", seen.len());
    }
}

#[test]
fn words_are_little_endian_bytes() {
    let stamp = Stamp { address: 0x1122_3000, writer: 2, sequence: 6, run: 8, write: Write::Line };
    let page = filled(&stamp);
    let bytes: [u8; 4096] = page.map(u64::to_le_bytes).concat().try_into().unwrap();
    assert_eq!(&bytes[4..8], b"ORCL");
    assert_eq!(bytes[8..16], 0x1122_3000u64.to_le_bytes());
    assert_eq!(from_bytes(&bytes), page);
}
