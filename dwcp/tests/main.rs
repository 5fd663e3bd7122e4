//! The tests that need a process of their own: they count what it allocates.
#![allow(unsafe_code, reason = "an allocator that counts is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use dwcp::digest::DigestKey;
use dwcp::hde::{
    BATCH_PAGES_MAX, Base, Batch, Decoder, Encoder, Held, Ladder, Offer, Sending, Shadow, Tier,
    payload_bound,
};
use dwcp::ledger::SendNumber;
use dwcp::page::{Gfn, PAGE_BYTES, Page, PageRun};

thread_local! {
    /// Allocations of this thread, and their bytes. The test harness has a thread of its own.
    static ALLOCATED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator, counted. zstd allocates from it, too: in tests, it has that feature.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: each method passes its arguments to the system's allocator and changes nothing of them.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (count, bytes) = ALLOCATED.get();
        ALLOCATED.set((count + 1, bytes + layout.size()));
        // SAFETY: the caller keeps to the contract of `GlobalAlloc::alloc`, which is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System.alloc` with this layout, as every one of this type.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// How often, and how many bytes, `work` allocates.
fn allocated<T>(work: impl FnOnce() -> T) -> (usize, usize, T) {
    let before = ALLOCATED.get();
    let done = work();
    let after = ALLOCATED.get();
    (after.0 - before.0, after.1 - before.1, done)
}

/// Frames that the largest batch spans.
const FRAMES: u64 = 2048;

/// The shadow at the source, and guest memory at the destination: they hold the same.
struct Bases<'a>(&'a Shadow);

impl Offer for Bases<'_> {
    fn base(&self, gfn: Gfn) -> Option<Base<'_>> {
        self.0.get(gfn, SendNumber(gfn.0 + 1))
    }
}

impl Held for Bases<'_> {
    fn copy_base(&self, gfn: Gfn, number: SendNumber, into: &mut Page) -> bool {
        self.0.get(gfn, number).map(|base| *into = *base.content).is_some()
    }
}

/// A page that shrinks, and is another for each seed.
fn page(seed: u64) -> Page {
    let mut page = [0; PAGE_BYTES];
    for (index, word) in (seed..).zip(page.as_chunks_mut::<8>().0) {
        *word = (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0xffff_ff00).to_le_bytes();
    }
    page
}

/// Zero pages, deltas, pages that shrink, and pages that do not.
fn content(batch: &Batch, round: u64) -> Vec<u8> {
    let mut content = Vec::new();
    for (gfn, number) in batch.sends() {
        let mut page = match number.0 % 4 {
            0 => [0; PAGE_BYTES],
            1 => page(gfn.0),
            2 => page(number.0 * 1000),
            _ => {
                let mut noise = [0; PAGE_BYTES];
                fill_with_noise(number.0, &mut noise);
                noise
            }
        };
        if number.0 % 4 == 1 {
            page[100..108].copy_from_slice(&round.to_le_bytes());
        }
        content.extend_from_slice(&page);
    }
    content
}

/// The numbers of splitmix64 (Steele, Lea, Flood 2014): no codec shrinks them.
fn fill_with_noise(seed: u64, page: &mut Page) {
    for (index, word) in (seed << 9..).zip(page.as_chunks_mut::<8>().0) {
        let mut bits = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *word = (bits ^ (bits >> 31)).to_le_bytes();
    }
}

fn batch(first_number: u64, pages: u64) -> Batch {
    // Runs of one page and of three, by turns.
    let runs = (0..pages / 4).flat_map(|index| [(index * 8, 1), (index * 8 + 2, 3)]);
    let runs = runs.map(|(first, pages)| PageRun::new(Gfn(first), pages).expect("a run")).collect();
    Batch::new(SendNumber(first_number), runs).expect("a batch")
}

#[test]
fn nothing_is_allocated_from_batch_to_batch_nor_for_what_a_peer_claims() {
    let key = DigestKey::new([5; 32]);
    let (making, bytes, mut shadow) = allocated(|| Shadow::new(16 << 20));
    assert!(making > 0 && bytes > 16 << 20, "the counter counts: {making}, {bytes}");
    let (first_insert, ..) = allocated(|| {
        for gfn in 0..FRAMES {
            shadow.insert(Gfn(gfn), SendNumber(gfn + 1), &page(gfn));
        }
    });
    assert_eq!(first_insert, 0, "a shadow never allocates");

    let (mut encoder, mut decoder, mut payload) = (Encoder::new(), Decoder::new(), Vec::new());
    let bases = Bases(&shadow);
    for step in Ladder::STEPS {
        let pages = step.batch_pages.get();
        payload.reserve(payload_bound(BATCH_PAGES_MAX, BATCH_PAGES_MAX));
        let mut seen = Vec::new();
        for round in 0..4 {
            let batch = batch((round + 1) << 40, pages);
            let content = content(&batch, round);
            let settled_below = batch.first_number();
            let sending = Sending { key: &key, batch: &batch, content: &content, settled_below };
            payload.clear();
            let (encoding, _, tiers) =
                allocated(|| encoder.encode(&sending, &step, &bases, &mut payload).tiers);
            let (decoding, _, is_same) =
                allocated(|| decoder.decode(&key, &payload, &bases).unwrap().content == content);
            assert!(is_same && tiers.of(Tier::Zero).pages > 0 && tiers.of(Tier::Raw).pages > 0);
            assert!(tiers.of(Tier::Delta).pages > 0, "{tiers:?}");
            assert_eq!(tiers.of(Tier::Zstd).pages > 0, step.tiers.zstd, "{tiers:?}");
            seen.push((encoding, decoding));
        }
        assert!(seen[1..].iter().all(|seen| *seen == (0, 0)), "{step:?}: {seen:?}");
    }
    let small = batch(1 << 50, 16);
    let content = content(&small, 0);
    let settled_below = SendNumber(1);
    let sending = Sending { key: &key, batch: &small, content: &content, settled_below };
    payload.clear();
    encoder.encode(&sending, &Ladder::step(2), &bases, &mut payload);
    check_hostile(&key, &mut decoder, &payload);
}

/// Whatever a payload claims, what is allocated for it is bounded by the largest batch's runs.
fn check_hostile(key: &DigestKey, decoder: &mut Decoder, good: &[u8]) {
    let mut payload = good.to_vec();
    for at in 0..payload.len().min(1000) {
        for value in [0, 0x7f, 0xff, payload[at] ^ 0x80] {
            let before = std::mem::replace(&mut payload[at], value);
            let (_, bytes, _) = allocated(|| decoder.decode(key, &payload, &()).is_ok());
            assert!(bytes <= BATCH_PAGES_MAX * 16 + 4096, "byte {at} as {value}: {bytes}");
            payload[at] = before;
        }
    }
}
