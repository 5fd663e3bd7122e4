//! What a destination's host has kept of the machine, and what a peer can make of that.

use super::*;
use crate::wire::{KeptPart, KeptRun};

/// Some pages of text.
fn image() -> Vec<Page> {
    let mut pages = vec![[0; PAGE_BYTES]; LIMIT as usize];
    for gfn in (0..40).chain(96..128) {
        for (at, byte) in pages[gfn].iter_mut().enumerate() {
            *byte = (at * 7 / 3 % 251) as u8 ^ gfn as u8 | 1;
        }
    }
    pages
}

/// A machine that comes back as it went, to a host that has kept this, and has told of that.
fn returning(pages: Vec<Page>, told: Vec<Page>) -> Pair {
    let mut pair = Pair::with_kept(true, Some(Kept { pages, told }));
    pair.guest = Memory(image());
    pair.source.set_batch_pages(NonZeroU64::new(128).unwrap());
    for memory in agreement().memory {
        pair.source.owe(memory).unwrap();
    }
    pair
}

fn arrives(pair: &mut Pair) {
    pair.exchange(CONTROL);
    assert!(pair.source.ledger().is_settled());
    pair.switch();
    pair.exchange(CONTROL);
    let ready = DestinationEvent::Ready { state: b"the final state".to_vec() };
    assert!(pair.destination_events().contains(&ready));
    assert!(pair.memory.0 == pair.guest.0);
}

fn kept(is_last: bool, runs: &[(u64, usize)]) -> Message<'static> {
    let runs = runs.iter().map(|(first, pages)| KeptRun {
        first: Gfn(*first),
        digests: vec![ShortDigest([5; 8]); *pages],
    });
    Message::Kept(KeptPart { is_last, runs: runs.collect() })
}

#[test]
fn a_kept_page_travels_for_nothing() {
    let mut pair = returning(image(), image());
    pair.guest.0[3][9] ^= 0xff;
    pair.guest.0[7] = [0; PAGE_BYTES];
    arrives(&mut pair);
    let counts = pair.source.counts();
    assert_eq!((counts.pages_wanted, counts.pages_lost), (0, 0));
    assert!(counts.payload_bytes < 1000, "{counts:?}");
    // Two runs of 40 and 32 digests.
    assert_eq!(counts.kept_bytes, 1 + 2 * 12 + 72 * 8);
}

#[test]
fn no_page_goes_out_before_it_is_known_what_is_kept() {
    let mut pair = returning(image(), image());
    let (hello, recall) = (pair.send(CONTROL).unwrap(), pair.send(CONTROL).unwrap());
    assert!(pair.send(CONTROL).is_none());
    pair.arrive(CONTROL, &hello).unwrap();
    pair.arrive(CONTROL, &recall).unwrap();
    let (welcome, told) = (pair.reply(CONTROL).unwrap(), pair.reply(CONTROL).unwrap());
    pair.hear(CONTROL, &welcome).unwrap();
    assert!(pair.send(CONTROL).is_none());
    pair.source.offered();
    let refused = pair.source.switch(pair.now, vec![]);
    assert_eq!(refused, Err(SourceError::NotConnected), "nor does the guest stop");
    pair.hear(CONTROL, &told).unwrap();
    assert!(pair.send(CONTROL).is_some());
    assert_eq!(pair.tiers.of(Tier::Kept).pages, 72);
}

#[test]
fn a_destination_that_has_kept_nothing_says_so() {
    let mut pair = Pair::with_kept(true, None);
    pair.write(3, 1);
    pair.exchange(CONTROL);
    assert_eq!(pair.memory.0[3], pair.guest.0[3]);
    assert_eq!(pair.source.counts().kept_bytes, 1);
}

#[test]
fn a_destination_that_says_nothing_is_waited_for_no_longer_than_its_time() {
    let mut pair = returning(image(), image());
    let (hello, _) = (pair.send(CONTROL).unwrap(), pair.send(CONTROL).unwrap());
    pair.arrive(CONTROL, &hello).unwrap();
    let welcome = pair.reply(CONTROL).unwrap();
    pair.hear(CONTROL, &welcome).unwrap();
    let mut sequence = 1;
    for _ in 0..9 {
        pair.now += Duration::from_secs(1);
        let ping = Message::Ping { is_echo: true, token: 1 };
        pair.hear(CONTROL, &forge(CONTROL, sequence, &ping)).unwrap();
        sequence += 1;
        pair.source.handle_timeout(pair.now);
        pair.send(CONTROL);
        assert_eq!(pair.source.counts().batches, 0);
    }
    assert!(pair.source.poll_timeout().unwrap() <= pair.now + Duration::from_secs(1));
    pair.now += Duration::from_secs(1);
    pair.source.handle_timeout(pair.now);
    while pair.send(CONTROL).is_some() {}
    assert!(pair.source.counts().batches > 0);
    // What comes late is used all the same.
    pair.hear(CONTROL, &forge(CONTROL, sequence, &kept(true, &[(0, 4)]))).unwrap();
    assert_eq!(pair.source.ledger().owed(), 0);
}

#[test]
fn a_wrong_manifest_costs_a_round_trip_and_never_a_page() {
    let mut rotten = image();
    rotten[5][100] ^= 1;
    let mut pair = returning(rotten, image());
    arrives(&mut pair);
    let counts = pair.source.counts();
    // The whole batch of it is asked for, once.
    assert_eq!((counts.pages_wanted, counts.pages_lost), (96, 0));
}

#[test]
fn what_is_kept_and_cannot_be_read_is_asked_for_in_full() {
    let mut pair = returning(image(), image());
    pair.kept = None;
    arrives(&mut pair);
    assert_eq!(pair.source.counts().pages_wanted, 96);
}

#[test]
fn what_was_told_before_a_cut_is_not_told_again() {
    let mut pair = returning(image(), image());
    let (hello, recall) = (pair.send(CONTROL).unwrap(), pair.send(CONTROL).unwrap());
    pair.arrive(CONTROL, &hello).unwrap();
    pair.arrive(CONTROL, &recall).unwrap();
    let welcome = pair.reply(CONTROL).unwrap();
    pair.hear(CONTROL, &welcome).unwrap();
    // Half of it, and then a cut.
    let run = KeptRun { first: Gfn(0), digests: vec![ShortDigest([5; 8]); 40] };
    let half = Message::Kept(KeptPart { is_last: false, runs: vec![run] });
    pair.hear(CONTROL, &forge(CONTROL, 1, &half)).unwrap();
    let control = pair.reconnect(2);
    let hello = pair.send(control).unwrap();
    pair.arrive(control, &hello).unwrap();
    let recall = pair.send(control).expect("before the Welcome");
    pair.arrive(control, &recall).unwrap();
    let welcome = pair.reply(control).unwrap();
    pair.hear(control, &welcome).unwrap();
    assert!(pair.send(control).is_none(), "pages wait for the other half");
    let told = pair.reply(control).unwrap();
    assert_eq!(told.len(), HEADER_BYTES + 1 + 12 + 32 * 8);
    pair.hear(control, &told).unwrap();
    let _ = pair.send(control).unwrap();
    assert_eq!(pair.tiers.of(Tier::Kept).pages, 32, "the first half was false");

    // All of it is known now, and another connection asks for nothing.
    let control = pair.reconnect(3);
    pair.exchange(control);
    assert!(pair.source.ledger().is_settled());
    assert_eq!(pair.source.counts().kept_bytes, (1 + 12 + 40 * 8) + (1 + 12 + 32 * 8));
}

#[test]
fn a_destination_that_always_has_more_to_say_holds_up_nobody_for_long() {
    let mut pair = returning(image(), image());
    while let Some(frame) = pair.send(CONTROL) {
        pair.arrive(CONTROL, &frame).unwrap();
    }
    let welcome = pair.reply(CONTROL).unwrap();
    pair.hear(CONTROL, &welcome).unwrap();
    let mut parts = 0;
    while pair.source.counts().batches == 0 {
        pair.now += Duration::from_secs(9);
        parts += 1;
        let part = kept(false, &[(parts, 1)]);
        pair.hear(CONTROL, &forge(CONTROL, parts, &part)).unwrap();
        pair.source.handle_timeout(pair.now);
        while pair.send(CONTROL).is_some() {}
        assert!(parts < 8, "a minute is over");
    }
    assert!(parts > 5, "{parts}");
}

#[test]
fn while_the_guest_stands_still_nothing_kept_is_looked_for() {
    let mut pair = returning(image(), image());
    pair.exchange(CONTROL);
    // As it was when it went.
    pair.source.owe(run(20, 4)).unwrap();
    pair.switch();
    let before = pair.source.counts().batches;
    while pair.send(CONTROL).is_some() {}
    assert_eq!(pair.source.counts().batches, before + 1);
    assert_eq!((pair.tiers.total().pages, pair.tiers.of(Tier::Kept).pages), (4, 0));
}

#[test]
fn a_large_manifest_goes_in_parts() {
    #[derive(Debug)]
    struct Full;
    impl KeptImage for Full {
        fn digest(&self, gfn: Gfn) -> PageDigest {
            // Every hundredth page is zero: so runs end within parts.
            if gfn.0.is_multiple_of(100) { PageDigest::ZERO } else { PageDigest([7; 32]) }
        }
    }
    let (now, pages) = (Duration::ZERO, 100_000);
    let memory = vec![run(0, pages)];
    let agreement = Agreement { memory, ..agreement() };
    let mut source = Source::new(now, &agreement, SourceTimers::default());
    let mut destination = Destination::new(now, &agreement, DestinationTimers::default());
    source.recall();
    destination.keep(Arc::new(Full));
    source.owe(run(0, pages)).unwrap();
    let control = source.poll_connect(now).unwrap();
    source.handle_connected(now, control);
    for _ in 0..2 {
        let Some(Transmit::Frame(frame)) = source.poll_transmit(now, control) else { panic!() };
        source.handle_written(now, control);
        let (bytes, payload) = frame.split_first_chunk().unwrap();
        if destination.handle_hello(now, bytes, payload).is_err() {
            let header = destination.handle_header(control, bytes).unwrap();
            destination.handle_frame(now, header, payload).unwrap();
        }
    }
    let mut frames = 0;
    while let Some(frame) = destination.poll_transmit(now, control) {
        destination.handle_written(control);
        let (bytes, payload) = frame.split_first_chunk().unwrap();
        let header = source.handle_header(now, control, bytes).unwrap();
        assert!(!matches!(source.poll_transmit(now, control), Some(Transmit::Pages(_))));
        source.handle_frame(now, header, payload).unwrap();
        frames += 1;
    }
    assert_eq!(frames, 1 + 13, "792,000 bytes of digests and a thousand heads, 64 KiB a frame");
    let Some(Transmit::Pages(draft)) = source.poll_transmit(now, control) else { panic!() };
    let known = draft.kept.iter().flatten().count();
    assert_eq!(known, draft.batch.pages() - draft.batch.pages().div_ceil(100));
}

/// Whoever tells this to a source that has asked is at fault.
#[track_caller]
fn refused(parts: &[Message<'_>]) {
    let mut pair = returning(image(), image());
    while let Some(frame) = pair.send(CONTROL) {
        pair.arrive(CONTROL, &frame).unwrap();
    }
    let welcome = pair.reply(CONTROL).unwrap();
    pair.hear(CONTROL, &welcome).unwrap();
    let (bad, good) = parts.split_last().unwrap();
    for (sequence, part) in (1..).zip(good) {
        pair.hear(CONTROL, &forge(CONTROL, sequence, part)).unwrap();
    }
    let sequence = parts.len() as u64;
    let fault = pair.hear(CONTROL, &forge(CONTROL, sequence, bad));
    assert!(fault.is_err(), "{bad:?}");
    let events = pair.source_events();
    assert!(matches!(events.last(), Some(SourceEvent::Over(SourceEnd::Aborted(_)))), "{events:?}");
}

#[test]
fn what_is_told_of_pages_that_do_not_exist_or_twice_or_too_late_is_a_fault() {
    refused(&[kept(false, &[(60, 5)])]);
    refused(&[kept(false, &[(64, 1)])]);
    refused(&[kept(false, &[(127, 2)])]);
    refused(&[kept(false, &[(1 << 40, 1)])]);
    refused(&[kept(false, &[(0, 8), (7, 1)])]);
    refused(&[kept(false, &[(10, 1), (9, 1)])]);
    refused(&[kept(false, &[(10, 5)]), kept(false, &[(10, 5)])]);
    refused(&[kept(false, &[(10, 5)]), kept(true, &[(0, 5)])]);
    refused(&[kept(true, &[]), kept(true, &[])]);
    refused(&[kept(true, &[(0, 1)]), kept(false, &[(1, 1)])]);
}

#[test]
fn what_nobody_asked_for_is_a_fault_and_so_is_asking_twice() {
    let mut pair = Pair::greeted();
    assert!(pair.hear(CONTROL, &forge(CONTROL, 1, &kept(true, &[]))).is_err());

    let mut pair = Pair::greeted();
    let recall = |sequence| forge(CONTROL, sequence, &Message::Recall { from: Gfn(0) });
    pair.arrive(CONTROL, &recall(1)).unwrap();
    assert_eq!(pair.arrive(CONTROL, &recall(2)), Err(Fault::Unexpected(Kind::Recall)));

    let mut pair = Pair::greeted();
    let from = Gfn(u64::MAX);
    pair.arrive(CONTROL, &forge(CONTROL, 1, &Message::Recall { from })).unwrap();
    let told = pair.reply(CONTROL).unwrap();
    assert_eq!(told.len(), HEADER_BYTES + 1, "nothing, and that is all");
}
