use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::digest::{DigestKey, DigestSum, PageDigest, ShortDigest};
use crate::ledger::SendNumber;
use crate::page::{Gfn, PAGE_BYTES, Page, PageRun, RunError};
use crate::wire::limits::PAGES_MAX;

fn key() -> DigestKey {
    DigestKey::new([7; 32])
}

/// Bytes that no codec shrinks.
fn noise(seed: u64) -> Page {
    let mut page = [0; PAGE_BYTES];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut page);
    page
}

/// Bytes that shrink to about a half, and differ from page to page.
fn text(seed: u64) -> Page {
    let mut page = noise(seed);
    page.iter_mut().for_each(|byte| *byte = b"etaoin shrdlu,.\n"[usize::from(*byte % 16)]);
    page
}

/// A page with a few words changed.
fn edited(page: &Page, seed: u64) -> Page {
    let mut edited = *page;
    let noise = noise(seed);
    for at in noise[..12].iter().map(|byte| usize::from(*byte) * 16) {
        edited[at..at + 8].copy_from_slice(&noise[100 + at % 1000..][..8]);
    }
    edited
}

/// What a destination holds; and what a source believes of it, as far as the source knows it.
#[derive(Clone, Default)]
struct Destination {
    bases: BTreeMap<Gfn, (SendNumber, Page)>,
    kept: BTreeMap<Gfn, Page>,
    public: BTreeMap<ContentDigest, Page>,
    content_key: Option<ContentKey>,
}

impl Offer for Destination {
    fn kept(&self, gfn: Gfn) -> Option<ShortDigest> {
        self.kept.get(&gfn).map(|page| key().digest(gfn.0 * 4096, page).short())
    }

    fn content_key(&self) -> Option<&ContentKey> {
        self.content_key.as_ref()
    }

    fn has_content(&self, digest: &ContentDigest) -> bool {
        self.public.contains_key(digest)
    }

    fn base(&self, gfn: Gfn) -> Option<Base<'_>> {
        self.bases.get(&gfn).map(|(number, content)| Base { number: *number, content })
    }
}

fn put(found: Option<&Page>, into: &mut Page) -> bool {
    found.map(|page| *into = *page).is_some()
}

impl Held for Destination {
    fn copy_base(&self, gfn: Gfn, number: SendNumber, into: &mut Page) -> bool {
        put(self.bases.get(&gfn).filter(|base| base.0 == number).map(|base| &base.1), into)
    }

    fn copy_kept(&self, gfn: Gfn, into: &mut Page) -> bool {
        put(self.kept.get(&gfn), into)
    }

    fn copy_content(&self, digest: &ContentDigest, into: &mut Page) -> bool {
        put(self.public.get(digest), into)
    }
}

/// A batch, its content, and a destination that holds something of it.
struct Case {
    batch: Batch,
    content: Vec<u8>,
    destination: Destination,
}

impl Case {
    /// A page for each of the letters: its tier, if every tier may be used. Two pages a run.
    fn new(pages: &str) -> Self {
        let content_key = ContentKey::new([3; 32]);
        let mut destination =
            Destination { content_key: Some(content_key.clone()), ..Destination::default() };
        let mut content = Vec::new();
        let mut runs: Vec<PageRun> = Vec::new();
        for (index, letter) in (0_u64..).zip(pages.chars()) {
            let gfn = Gfn(0x1000 - index / 2 * 7 + index % 2);
            if index % 2 == 1 {
                runs.pop();
            }
            runs.push(PageRun::new(Gfn(gfn.0 - index % 2), 1 + index % 2).unwrap());
            let page = match letter {
                'z' => [0; PAGE_BYTES],
                'k' => *destination.kept.entry(gfn).or_insert(text(index)),
                'c' => {
                    let page = text(index + 1000);
                    destination.public.insert(content_key.digest(&page), page);
                    page
                }
                'd' => {
                    let (number, base) = (SendNumber(10 + index), text(index + 2000));
                    destination.bases.insert(gfn, (number, base));
                    edited(&base, index)
                }
                's' => text(index + 3000),
                _ => noise(index + 4000),
            };
            content.extend_from_slice(&page);
        }
        let batch = Batch::new(SendNumber(5000), runs).unwrap();
        Self { batch, content, destination }
    }

    fn sending<'a>(&'a self, key: &'a DigestKey) -> Sending<'a> {
        let settled_below = SendNumber(4990);
        Sending { key, batch: &self.batch, content: &self.content, settled_below }
    }

    fn encode(&self, step: &LadderStep) -> (Vec<u8>, TierCounts, DigestSum) {
        let (mut encoder, mut payload) = (Encoder::new(), Vec::new());
        let key = key();
        let encoded = encoder.encode(&self.sending(&key), step, &self.destination, &mut payload);
        assert_eq!(encoded.digests, self.digests());
        (payload, encoded.tiers, encoded.sum)
    }

    fn digests(&self) -> Vec<PageDigest> {
        let pages = self.content.as_chunks::<PAGE_BYTES>().0;
        let sends = self.batch.sends().zip(pages);
        sends.map(|((gfn, _), page)| key().digest(gfn.0 * 4096, page)).collect()
    }

    /// Whether what was decoded is what was sent.
    fn check(&self, decoded: &Decoded<'_>) {
        assert_eq!(decoded.head.batch(), &self.batch);
        assert_eq!(decoded.head.settled_below(), SendNumber(4990));
        assert!(decoded.content == self.content, "another content");
        assert_eq!(decoded.digests, self.digests());
        assert_eq!(decoded.head.sum(), self.digests().iter().sum());
    }
}

fn pages_by_tier(counts: &TierCounts) -> [u64; 6] {
    Tier::ALL.map(|tier| counts.of(tier).pages)
}

fn strong() -> LadderStep {
    Ladder::step(3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_decoded_is_what_was_encoded(
        pages in "[zkcdsr]{1,60}", step in 0..6_usize, switches in 0..16_u8,
    ) {
        let case = Case::new(&pages);
        let is_on = |bit: u8| switches & (1 << bit) == 0;
        let tiers = Tiers { zero: is_on(0), known: is_on(1), delta: is_on(2), zstd: is_on(3) };
        let step = LadderStep { tiers, ..Ladder::step(step) };
        let (payload, counts, _) = case.encode(&step);
        prop_assert!(payload.len() <= payload_bound(case.batch.pages(), case.batch.runs().len()));
        let mut decoder = Decoder::new();
        let decoded = decoder.decode(&key(), &payload, &case.destination).unwrap();
        case.check(&decoded);
        prop_assert_eq!(decoded.tiers, counts, "both sides count alike");
        prop_assert_eq!(&Head::parse(&payload).unwrap(), decoded.head);
        let used = |tier| counts.of(tier).pages > 0;
        prop_assert!(tiers.zero || !used(Tier::Zero));
        prop_assert!(tiers.known || !used(Tier::Kept) && !used(Tier::Content));
        prop_assert!(tiers.delta || !used(Tier::Delta));
        prop_assert!(tiers.zstd || !used(Tier::Zstd));
    }
}

#[test]
fn each_page_travels_by_the_cheapest_tier_that_fits() {
    let case = Case::new("zkcdsrrsdckz");
    let (payload, counts, sum) = case.encode(&strong());
    assert_eq!(pages_by_tier(&counts), [2, 2, 2, 2, 2, 2]);
    assert_eq!(sum, Head::parse(&payload).unwrap().sum());
    assert_eq!(counts.of(Tier::Zero).bytes + counts.of(Tier::Kept).bytes, 0);
    assert_eq!(counts.of(Tier::Content).bytes, 32);
    assert!(counts.of(Tier::Delta).bytes < 500, "{counts:?}");
    assert!(counts.of(Tier::Zstd).bytes < 5000, "{counts:?}");
    assert_eq!(counts.of(Tier::Raw).bytes, 8192);
    let heads = payload.len() as u64 - counts.total().bytes;
    assert!(heads < 60 + 6 * 3 + 12, "{heads} bytes of heads");
}

#[test]
fn one_encoder_and_one_decoder_serve_batches_of_any_kind() {
    let (mut encoder, mut decoder, mut payload) = (Encoder::new(), Decoder::new(), Vec::new());
    let key = key();
    for pages in ["sssssss", "z", "rrrrrrrrrrr", "ddddd", "dsdsdsds", "kcz", "rsrs", "ssssz"] {
        let case = Case::new(pages);
        // What is in front of the payload stays: a frame's header, say.
        payload.clear();
        payload.extend_from_slice(b"header");
        encoder.encode(&case.sending(&key), &strong(), &case.destination, &mut payload);
        let (header, payload) = payload.split_at(6);
        assert_eq!(header, b"header");
        case.check(&decoder.decode(&key, payload, &case.destination).unwrap());
        assert_eq!(case.encode(&strong()).0, payload, "nothing is left of earlier batches");
    }
    assert!(format!("{encoder:?}{decoder:?}").contains("Encoder"));
}

#[test]
#[should_panic(expected = "4096 bytes of content for a batch of 2 pages")]
fn content_of_another_length_is_a_bug_of_the_caller() {
    let mut case = Case::new("sz");
    case.content.truncate(PAGE_BYTES);
    case.encode(&strong());
}

#[test]
#[should_panic(expected = "cannot be settled while send 5000 is sent")]
fn numbers_that_are_sent_are_not_settled() {
    let (case, key) = (Case::new("z"), key());
    let sending = Sending { settled_below: SendNumber(5001), ..case.sending(&key) };
    Encoder::default().encode(&sending, &strong(), &(), &mut Vec::new());
}

#[test]
fn frames_that_are_not_exactly_their_pages_are_refused() {
    let key = key();
    let decode = |payload: &[u8], destination: &Destination| {
        Decoder::default().decode(&key, payload, destination).err()
    };
    for (pages, tier, length) in [("s", Tier::Zstd, 56), ("d", Tier::Delta, 52)] {
        let case = Case::new(pages);
        let (good, _, _) = case.encode(&strong());
        let mut head = Vec::new();
        head::put(&case.batch, SendNumber(0), &mut head);
        let start = head.len();
        let bytes = u32::from_le_bytes(good[length..length + 4].try_into().unwrap());
        let end = start + bytes as usize;
        // The same frame twice; with an empty frame behind it; none; and a page too many in it.
        let with = |frame: &[u8]| {
            let mut payload = [&good[..start], frame, &good[end..]].concat();
            let bytes = u32::try_from(frame.len()).unwrap().to_le_bytes();
            payload[length..length + 4].copy_from_slice(&bytes);
            payload
        };
        let frame = &good[start..end];
        let empty = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0];
        let two_pages = zstd::bulk::compress(&[7; 2 * PAGE_BYTES], 1).unwrap();
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9];
        assert_eq!(with(frame), good);
        for bad in [
            &[frame, frame].concat(),
            &[frame, &empty].concat(),
            &[&skippable, frame].concat(),
            &two_pages[..],
            &empty,
            &[],
        ] {
            let found = decode(&with(bad), &case.destination);
            assert_eq!(found, Some(DecodeError::Frame(tier)), "{pages}: {bad:02x?}");
        }
        // And a frame of a tier that no page has.
        let zero = Case::new("z");
        let (mut payload, _, _) = zero.encode(&strong());
        let behind = payload.len() - 1;
        payload.splice(behind..behind, empty);
        payload[length] = empty.len() as u8;
        let found = decode(&payload, &zero.destination);
        assert_eq!(found, Some(DecodeError::Frame(tier)));
    }
}

#[test]
fn pages_that_do_not_shrink_go_raw_and_grow_by_heads_only() {
    let mut case = Case::new("ssss");
    case.content = (0..4).flat_map(noise).collect();
    let (payload, counts, _) = case.encode(&strong());
    assert_eq!(pages_by_tier(&counts), [0, 0, 0, 0, 0, 4]);
    assert!(payload.len() < case.content.len() + 100);
    case.check(&Decoder::new().decode(&key(), &payload, &()).unwrap());
}

#[test]
fn a_frame_that_does_not_pay_is_taken_back() {
    // The sample is the first 8 of each 128 bytes. Here they do not look random, and all else is.
    let with_sample = |seed, change: fn(&mut u8)| {
        let mut page = noise(seed);
        page.chunks_mut(128).for_each(|stride| stride[..8].iter_mut().for_each(change));
        assert!(!probe::is_incompressible(&page));
        page
    };
    let shrinks = with_sample(1, |byte| *byte = 0x55);
    let grows = with_sample(2, |byte| *byte &= 0x7f);
    let mut case = Case::new("dz");
    let base = case.destination.bases.values().next().unwrap().1;
    let run = |first, pages| PageRun::new(Gfn(first), pages).unwrap();
    case.batch = Batch::new(SendNumber(5000), vec![run(0x1000, 1), run(0x2000, 1)]).unwrap();
    for (pages, tiers) in [
        ([edited(&base, 3), shrinks], [0, 0, 0, 1, 1, 0]),
        ([edited(&base, 3), grows], [0, 0, 0, 1, 0, 1]),
    ] {
        case.content = pages.as_flattened().to_vec();
        let (payload, counts, _) = case.encode(&strong());
        assert_eq!(pages_by_tier(&counts), tiers);
        case.check(&Decoder::new().decode(&key(), &payload, &case.destination).unwrap());
    }
}

#[test]
fn the_largest_batch_of_any_content_fits_its_frame() {
    let run = |index: u64| PageRun::new(Gfn(index << 32), 1).unwrap();
    let batch = Batch::new(SendNumber(1), (0..1024).map(run).collect()).unwrap();
    for page in [noise, text] {
        let content: Vec<u8> = (0..1024).flat_map(page).collect();
        let settled_below = SendNumber(0);
        let sending = Sending { key: &key(), batch: &batch, content: &content, settled_below };
        let mut payload = Vec::new();
        Encoder::new().encode(&sending, &strong(), &(), &mut payload);
        assert!(payload.len() <= payload_bound(1024, 1024));
        assert!(payload.len() <= PAGES_MAX as usize);
        let mut decoder = Decoder::new();
        assert!(decoder.decode(&key(), &payload, &()).unwrap().content == content);
    }
}

#[test]
fn missing_content_is_wanted_and_nobodys_fault() {
    for letter in ["k", "c", "d"] {
        let case = Case::new(&format!("s{letter}s"));
        let (payload, counts, _) = case.encode(&strong());
        assert_eq!(counts.of(Tier::Zstd).pages, 2, "{letter}");
        let error = Decoder::new().decode(&key(), &payload, &()).unwrap_err();
        let numbers = case.batch.numbers();
        assert_eq!(error, DecodeError::Missing { numbers: numbers.clone() }, "{letter}");
        assert_eq!(error.wanted(), Some(numbers));
    }
    // The page is there, but was sent again since.
    let mut case = Case::new("d");
    let (payload, _, _) = case.encode(&strong());
    case.destination.bases.values_mut().for_each(|base| base.0.0 += 1);
    let error = Decoder::new().decode(&key(), &payload, &case.destination).unwrap_err();
    assert_eq!(error.wanted(), Some(case.batch.numbers()));
}

#[test]
fn held_content_that_has_rotted_is_wanted_and_what_arrived_wrong_is_not() {
    for letter in ["k", "c", "d"] {
        let mut case = Case::new(letter);
        let (payload, _, _) = case.encode(&strong());
        let held = &mut case.destination;
        let bases = held.bases.values_mut().map(|base| &mut base.1);
        let pages = bases.chain(held.kept.values_mut()).chain(held.public.values_mut());
        pages.for_each(|page| page[77] ^= 1);
        let error = Decoder::new().decode(&key(), &payload, &case.destination).unwrap_err();
        let numbers = case.batch.numbers();
        assert_eq!(error, DecodeError::HeldDiffers { numbers: numbers.clone() }, "{letter}");
        assert_eq!(error.wanted(), Some(numbers));
    }
    let case = Case::new("rr");
    let (mut payload, _, _) = case.encode(&strong());
    *payload.last_mut().unwrap() ^= 1;
    let error = Decoder::new().decode(&key(), &payload, &case.destination).unwrap_err();
    assert_eq!((error.wanted(), error), (None, DecodeError::Arrival));
}

#[test]
fn every_truncation_is_an_error() {
    let case = Case::new("zkcdsrs");
    let (payload, _, _) = case.encode(&strong());
    let mut decoder = Decoder::new();
    for length in 0..payload.len() {
        let found = decoder.decode(&key(), &payload[..length], &case.destination);
        assert_eq!(found.err(), Some(DecodeError::Truncated), "{length} bytes");
    }
    let mut longer = payload.clone();
    longer.push(0);
    let found = decoder.decode(&key(), &longer, &case.destination);
    assert_eq!(found.err(), Some(DecodeError::Trailing(1)));
    case.check(&decoder.decode(&key(), &payload, &case.destination).unwrap());
}

#[test]
fn every_flipped_bit_is_an_error_or_changes_no_content() {
    let case = Case::new("kcdsrs");
    let (payload, _, _) = case.encode(&strong());
    let mut decoder = Decoder::new();
    let (mut accepted, mut bad) = (Vec::new(), payload.clone());
    for bit in 0..payload.len() * 8 {
        bad[bit / 8] ^= 1 << (bit % 8);
        if let Ok(decoded) = decoder.decode(&key(), &bad, &case.destination) {
            assert!(decoded.content == case.content, "bit {bit}");
            assert_eq!(decoded.head.batch().runs(), case.batch.runs(), "bit {bit}");
            assert_eq!(decoded.digests, case.digests(), "bit {bit}");
            accepted.push(bit / 8);
        }
        bad[bit / 8] ^= 1 << (bit % 8);
    }
    // Numbers are not in the digests: the stream's encryption vouches for them. The rest are bits
    // of zstd's frames that decide nothing.
    let mut head = Vec::new();
    head::put(&case.batch, SendNumber(0), &mut head);
    assert!(accepted.iter().all(|byte| *byte < 16 || *byte >= head.len()), "{accepted:?}");
    assert!(accepted.len() < 64, "{accepted:?}");
}

/// The bytes of a vector; `(XX*N)` stands for N bytes XX.
fn bytes_of(vector: &str) -> Vec<u8> {
    let plain = |hex: &str| -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(byte).collect()
    };
    let Some((before, repeated)) = vector.split_once('(') else { return plain(vector) };
    let (byte, count) = repeated.strip_suffix(')').unwrap().split_once('*').unwrap();
    let mut bytes = plain(before);
    bytes.extend(plain(byte).repeat(count.parse().unwrap()));
    bytes
}

/// The destination of the vectors, as the file describes it.
fn destination_of_the_vectors() -> Destination {
    let content_key = ContentKey::new([9; 32]);
    let base = std::array::from_fn(|index| (index % 97) as u8);
    let public = [0x22; PAGE_BYTES];
    Destination {
        bases: BTreeMap::from([(Gfn(0x12), (SendNumber(5), base))]),
        kept: BTreeMap::from([(Gfn(0x11), [0x11; PAGE_BYTES])]),
        public: BTreeMap::from([(content_key.digest(&public), public)]),
        content_key: Some(content_key),
    }
}

#[test]
fn the_committed_vectors_are_read() {
    let numbers = SendNumber(41)..SendNumber(46);
    let (first, below) = (SendNumber(1), SendNumber(2));
    let zero = BatchError::Numbers { first_number: SendNumber(0), pages: 1 };
    let refused = [
        DecodeError::Truncated,
        DecodeError::Trailing(1),
        zero.into(),
        DecodeError::SettledBelow { first, below },
        BatchError::Empty.into(),
        DecodeError::Pages { announced: 2, found: 1 },
        DecodeError::Number,
        RunError::Overflow { first: Gfn(u64::MAX), pages: 1 }.into(),
        DecodeError::Tier(6),
        DecodeError::TierRun,
        DecodeError::Base,
        DecodeError::Missing { numbers: numbers.clone() },
        DecodeError::Frame(Tier::Zstd),
        DecodeError::Arrival,
        DecodeError::HeldDiffers { numbers },
    ];
    let expected = [[1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1]];
    let expected: Vec<_> = expected.map(Ok).into_iter().chain(refused.map(Err)).collect();
    let text = include_str!("../../vectors/pages.txt");
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines.len(), expected.len(), "a vector for each, and each is looked at");

    let (destination, mut decoder) = (destination_of_the_vectors(), Decoder::new());
    for (line, expected) in lines.into_iter().zip(expected) {
        let (vector, meaning) = line.split_once(' ').unwrap();
        let found = decoder.decode(&DigestKey::new([3; 32]), &bytes_of(vector), &destination);
        let tiers = found.as_ref().map(|decoded| pages_by_tier(&decoded.tiers));
        assert_eq!(tiers.map_err(Clone::clone), expected, "{meaning}");
        if let Ok(decoded) = found {
            let content = blake3::hash(decoded.content);
            assert!(meaning.starts_with(content.to_hex().as_str()), "{meaning}");
        }
    }
}
