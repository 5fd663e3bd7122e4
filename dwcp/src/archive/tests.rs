use std::collections::BTreeMap;
use std::io;

use proptest::prelude::*;

use super::*;
use crate::digest::{DigestKey, Root};
use crate::hde::{Batch, Ladder};
use crate::ledger::SendNumber;
use crate::page::{Gfn, PAGE_BYTES, Page, PageRun};

const LIMIT: Gfn = Gfn(64);
const STATE: &[u8] = b"registers and devices";

fn id(byte: u8) -> ArchiveId {
    ArchiveId::new([byte; 16]).unwrap()
}

fn vm_key() -> DigestKey {
    DigestKey::new([7; 32])
}

fn page(seed: u8) -> Page {
    let mut page = [0; PAGE_BYTES];
    // A seed of 0 is the zero page; the others compress, but not to nothing.
    for (at, byte) in (0_u32..).zip(page.iter_mut()).take(if seed == 0 { 0 } else { 1000 }) {
        *byte = seed ^ (at % 241) as u8;
    }
    page
}

/// An archive of a machine, one page a write; returns its bytes.
fn archive(
    header: ArchiveHeader,
    key: Option<&ArchiveKey>,
    parent: Option<&Image>,
    writes: &[(u64, u8)],
) -> Vec<u8> {
    let mut file = Vec::new();
    let description = b"two vCPUs";
    let mut writer = match parent {
        None => ArchiveWriter::new(header, key, LIMIT, description, &mut file),
        Some(image) => ArchiveWriter::on(image, header, key, description, &mut file),
    }
    .unwrap();
    for (number, part) in (1..).zip(writes.chunks(3)) {
        let runs = part.iter().map(|(gfn, _)| PageRun::new(Gfn(*gfn), 1).unwrap()).collect();
        let batch = Batch::new(SendNumber(number * 100), runs).unwrap();
        let content: Vec<u8> = part.iter().flat_map(|(_, seed)| page(*seed)).collect();
        writer.put_pages(&vm_key(), &batch, &content, &Ladder::step(2), &mut file).unwrap();
        assert_eq!(writer.bytes(), file.len() as u64);
    }
    let root = Root::new(&vm_key(), writer.sum(), STATE);
    writer.finish(STATE, root, &mut file).unwrap();
    file
}

type Opened<'a> = Archive<&'a [u8]>;

fn open(file: &[u8]) -> Result<Opened<'_>, ArchiveError<io::Error>> {
    Archive::open(file, None)
}

/// Everything that a restore reads, checked: the pages that are not zero.
fn restore(chain: &[Opened<'_>]) -> Result<BTreeMap<u64, Page>, ArchiveError<io::Error>> {
    let mut image = Image::new(LIMIT);
    for archive in chain {
        archive.description()?;
        image.lay_over(archive)?;
    }
    image.check(&vm_key(), chain.last().unwrap())?;
    let (mut reader, mut memory) = (ImageReader::default(), BTreeMap::new());
    for block in 0..image.blocks().len() {
        let each = |run: PageRun, content: &[u8]| {
            for (gfn, page) in run.frames().zip(content.as_chunks().0) {
                assert!(memory.insert(gfn.0, *page).is_none(), "{gfn} came twice");
            }
            Ok::<(), ()>(())
        };
        reader.read(&image, chain, &vm_key(), block, each)?.unwrap();
    }
    Ok(memory)
}

fn full(key: Option<&ArchiveKey>) -> Vec<u8> {
    let writes = [(3, 1), (4, 2), (5, 3), (60, 4), (4, 9), (5, 0)];
    archive(ArchiveHeader { id: id(1), parent: None }, key, None, &writes)
}

proptest! {
    #[test]
    fn a_chain_gives_back_what_was_written_last(
        generations in prop::collection::vec(
            prop::collection::vec((0..LIMIT.0, 0..6_u8), 0..12), 1..4),
        is_sealed in any::<bool>(),
    ) {
        let key = ArchiveKey::new([3; 32]);
        let key = is_sealed.then_some(&key);
        let mut files: Vec<Vec<u8>> = Vec::new();
        let mut expected = BTreeMap::new();
        for (number, writes) in (1..).zip(&generations) {
            let mut image = Image::new(LIMIT);
            for file in &files {
                image.lay_over(&Archive::open(&file[..], key).unwrap()).unwrap();
            }
            let parent = image.top();
            let header = ArchiveHeader { id: id(number), parent };
            let mut unique: Vec<(u64, u8)> = Vec::new();
            // A batch has no page twice; three of them may be one batch.
            for write in writes {
                if !unique.iter().rev().take(2).any(|(gfn, _)| *gfn == write.0) {
                    unique.push(*write);
                }
            }
            files.push(archive(header, key, parent.map(|_| &image), &unique));
            for (gfn, seed) in unique {
                match seed {
                    0 => expected.remove(&gfn),
                    seed => expected.insert(gfn, page(seed)),
                };
            }
        }
        let chain: Vec<_> = files.iter().map(|file| Archive::open(&file[..], key).unwrap()).collect();
        prop_assert_eq!(restore(&chain).unwrap(), expected);
    }

    #[test]
    fn any_bytes_are_an_archive_or_an_error(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut file = full(None);
        let whole = file.clone();
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        file.truncate(cut.index(file.len() + 1));
        let outcome = open(&file).and_then(|archive| restore(&[archive]));
        prop_assert_eq!(outcome.is_ok(), file == whole);
    }
}

#[test]
fn an_archive_has_description_state_and_the_last_of_each_page() {
    let file = full(None);
    let archive = open(&file).unwrap();
    assert_eq!(archive.header(), ArchiveHeader { id: id(1), parent: None });
    assert_eq!(archive.description().unwrap(), b"two vCPUs");
    assert_eq!(archive.state().unwrap(), STATE);
    assert_eq!(archive.length(), file.len() as u64);
    let expected = BTreeMap::from([(3, page(1)), (4, page(9)), (60, page(4))]);
    assert_eq!(restore(&[archive]).unwrap(), expected);
}

#[test]
fn every_flipped_bit_is_an_error_and_names_its_part() {
    let whole = full(None);
    let mut named = std::collections::BTreeSet::new();
    for at in 0..whole.len() {
        let mut file = whole.clone();
        file[at] ^= 1 << (at % 8);
        let error = open(&file).and_then(|archive| restore(&[archive])).unwrap_err();
        named.insert(error.to_string());
    }
    for part in ["header", "description", "state", "index", "end", "block 1", "block 2"] {
        let is_named = |error: &String| error.contains(&format!("its {part} is"));
        let of_pages = |error: &String| error.contains(&format!("{part} of its pages"));
        assert!(named.iter().any(|error| is_named(error) || of_pages(error)), "{part}: {named:?}");
    }
}

#[test]
fn every_truncation_is_an_error() {
    let whole = full(None);
    for length in 0..whole.len() {
        let error = open(&whole[..length]).unwrap_err();
        let expected = if length < 80 {
            matches!(error, ArchiveError::NotAnArchive)
        } else {
            matches!(error, ArchiveError::Truncated)
        };
        assert!(expected, "cut to {length}: {error}");
    }
    // And one byte more than there was.
    let longer = [&whole[..], &[0]].concat();
    assert!(matches!(open(&longer), Err(ArchiveError::Truncated)));
}

#[test]
fn a_key_is_needed_and_must_be_the_one() {
    let (key, other) = (ArchiveKey::new([3; 32]), ArchiveKey::new([4; 32]));
    let (sealed, plain) = (full(Some(&key)), full(None));
    let opened = Archive::open(&sealed[..], Some(&key)).unwrap();
    assert_eq!(restore(&[opened]).unwrap().len(), 3);
    let refused = |file: &[u8], key| Archive::open(file, key).map(drop).unwrap_err().to_string();
    assert!(refused(&sealed, None).contains("give its key"));
    assert!(refused(&sealed, Some(&other)).contains("under another key"));
    assert!(refused(&plain, Some(&key)).contains("not encrypted"));
    assert_eq!(format!("{key:?}"), "ArchiveKey(secret)");
    // Nothing of the machine can be read in it.
    let is_in = |file: &[u8], what: &[u8]| file.windows(what.len()).any(|window| window == what);
    assert!(is_in(&plain, STATE) && !is_in(&sealed, STATE));
    assert!(is_in(&plain, b"two vCPUs") && !is_in(&sealed, b"two vCPUs"));
}

#[test]
fn with_a_key_nobody_else_can_change_a_bit() {
    let key = ArchiveKey::new([3; 32]);
    let whole = full(Some(&key));
    for at in 0..whole.len() {
        let mut file = whole.clone();
        file[at] ^= 0x10;
        // Whoever can write the file can compute the header's own check.
        let check = blake3::hash(&file[..64]);
        file[64..80].copy_from_slice(&check.as_bytes()[..16]);
        let is_whole = file == whole;
        let outcome = Archive::open(&file[..], Some(&key)).and_then(|archive| restore(&[archive]));
        assert_eq!(outcome.is_ok(), is_whole, "byte {at}");
    }
}

#[test]
fn blocks_of_another_file_or_place_do_not_pass() {
    let key = ArchiveKey::new([3; 32]);
    for key in [None, Some(&key)] {
        let header = |byte| ArchiveHeader { id: id(byte), parent: None };
        let writes = [(3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1)];
        let (one, other) =
            (archive(header(1), key, None, &writes), archive(header(2), key, None, &writes));
        assert_eq!(one.len(), other.len());
        // The blocks of the one behind the header of the other.
        let mixed = [&other[..80], &one[80..]].concat();
        let outcome = Archive::open(&mixed[..], key).and_then(|archive| restore(&[archive]));
        assert!(outcome.is_err());
    }
}

#[test]
fn another_version_is_refused_by_name() {
    let mut file = full(None);
    file[8] = 2;
    let check = blake3::hash(&file[..64]);
    file[64..80].copy_from_slice(&check.as_bytes()[..16]);
    let error = open(&file).unwrap_err();
    assert!(matches!(error, ArchiveError::Version { found: 2, known: 1 }));
    assert!(matches!(open(b"#!/bin/sh\n"), Err(ArchiveError::NotAnArchive)));
    assert!(matches!(open(&[b'#'; 500]), Err(ArchiveError::NotAnArchive)));
}

#[test]
fn a_chain_that_does_not_fit_is_refused_by_name() {
    let base = full(None);
    let other = archive(ArchiveHeader { id: id(5), parent: None }, None, None, &[(3, 1)]);
    let mut image = Image::new(LIMIT);
    image.lay_over(&open(&base).unwrap()).unwrap();
    let header = ArchiveHeader { id: id(2), parent: Some(id(1)) };
    let child = archive(header, None, Some(&image), &[(9, 5)]);
    let chain = |files: &[&[u8]]| {
        restore(&files.iter().map(|file| open(file).unwrap()).collect::<Vec<_>>())
    };
    assert_eq!(chain(&[&base, &child]).unwrap().len(), 4);
    assert!(
        matches!(chain(&[&child]), Err(ArchiveError::ParentMissing(missing)) if missing == id(1))
    );
    let error = chain(&[&other, &child]).unwrap_err();
    assert!(
        matches!(error, ArchiveError::Parent { expected, found } if (expected, found) == (id(1), id(5)))
    );
    let error = chain(&[&base, &other]).unwrap_err();
    assert!(matches!(error, ArchiveError::ParentSuperfluous(found) if found == id(1)));
    // Another file under the parent's id.
    let forged = archive(ArchiveHeader { id: id(1), parent: None }, None, None, &[(3, 1)]);
    assert!(matches!(chain(&[&forged, &child]), Err(ArchiveError::Sum)));
}

#[test]
fn pages_beyond_the_machine_are_refused() {
    let file = full(None);
    let mut image = Image::new(Gfn(60));
    assert!(matches!(image.lay_over(&open(&file).unwrap()), Err(ArchiveError::BeyondLimit)));
    let mut out = Vec::new();
    let header = ArchiveHeader { id: id(1), parent: None };
    let mut writer = ArchiveWriter::new(header, None, Gfn(4), b"", &mut out).unwrap();
    let batch = Batch::new(SendNumber(1), vec![PageRun::new(Gfn(4), 1).unwrap()]).unwrap();
    let outcome = writer.put_pages(&vm_key(), &batch, &page(1), &Ladder::step(2), &mut out);
    assert!(matches!(outcome, Err(ArchiveError::BeyondLimit)));
    let too_long = vec![0; (1 << 20) + 1];
    let outcome = ArchiveWriter::new(header, None, Gfn(4), &too_long, &mut out).map(drop);
    assert!(matches!(outcome, Err(ArchiveError::TooLong { what: "description", .. })));
}

#[test]
fn what_a_reader_would_see_anyway_is_not_written() {
    let mut image = Image::new(LIMIT);
    let base = full(None);
    image.lay_over(&open(&base).unwrap()).unwrap();
    let header = ArchiveHeader { id: id(2), parent: Some(id(1)) };
    let mut out = Vec::new();
    let mut writer = ArchiveWriter::on(&image, header, None, b"", &mut out).unwrap();
    // As it is there already: nothing is written. Then one page of two.
    let put = |writer: &mut ArchiveWriter, seeds: [u8; 2], out: &mut Vec<u8>| {
        let batch = Batch::new(SendNumber(1), vec![PageRun::new(Gfn(3), 2).unwrap()]).unwrap();
        let content = seeds.map(page).concat();
        writer.put_pages(&vm_key(), &batch, &content, &Ladder::step(2), out).unwrap().total().pages
    };
    let before = out.len();
    assert_eq!((put(&mut writer, [1, 9], &mut out), out.len()), (0, before));
    assert_eq!(put(&mut writer, [1, 8], &mut out), 1);
    assert_eq!(put(&mut writer, [1, 8], &mut out), 0);
    assert_eq!(put(&mut writer, [0, 8], &mut out), 1);
    assert_eq!(put(&mut writer, [1, 9], &mut out), 2, "back to what the parent has");
    writer.put_zeros(PageRun::new(Gfn(3), 1).unwrap()).unwrap();
    assert_eq!(put(&mut writer, [0, 9], &mut out), 0, "zero and known to be");
    let root = Root::new(&vm_key(), writer.sum(), STATE);
    writer.finish(STATE, root, &mut out).unwrap();
    let memory = restore(&[open(&base).unwrap(), open(&out).unwrap()]).unwrap();
    assert_eq!(memory.keys().copied().collect::<Vec<_>>(), [4, 60]);
}
