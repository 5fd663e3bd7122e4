//! What may be asked of a session under way: smaller batches, less of the link, fewer streams; and what it
//! finds out about the link.

use super::*;

const KIB: u64 = 1024;

fn limit(bytes_per_second: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(bytes_per_second)
}

#[test]
fn a_ping_that_comes_back_tells_the_round_trip() {
    let mut pair = Pair::greeted();
    pair.now += Duration::from_secs(2);
    pair.source.handle_timeout(pair.now);
    let ping = pair.send(CONTROL).expect("a ping after silence");
    pair.now += Duration::from_millis(80);
    pair.arrive(CONTROL, &ping).unwrap();
    let echo = pair.reply(CONTROL).unwrap();
    pair.hear(CONTROL, &echo).unwrap();

    pair.write(7, 1);
    let page = pair.send(CONTROL).unwrap();
    pair.now += Duration::from_millis(300);
    pair.arrive(CONTROL, &page).unwrap();
    let acknowledgement = pair.reply(CONTROL).unwrap();
    pair.hear(CONTROL, &acknowledgement).unwrap();
    let estimate = pair.source.link().estimate().unwrap();
    assert_eq!(estimate.round_trip, Duration::from_millis(80), "the page took longer");
    let rate = (page.len() - HEADER_BYTES) as f64 / 0.3;
    assert!((estimate.bytes_per_second / rate - 1.0).abs() < 0.01, "{estimate:?}");
}

#[test]
fn what_went_down_with_its_stream_is_not_on_its_way() {
    let mut pair = Pair::greeted();
    let data = stream(1, 1);
    pair.open(data);
    pair.write(7, 1);
    pair.send(data).expect("page 7");
    assert!(pair.source.link().unacknowledged() > 0);
    pair.source.handle_closed(pair.now, data);
    assert_eq!(pair.source.link().unacknowledged(), 0, "a stream");
    pair.send(CONTROL).expect("page 7 again");
    assert!(pair.source.link().unacknowledged() > 0);
    pair.source.handle_closed(pair.now, CONTROL);
    assert_eq!(pair.source.link().unacknowledged(), 0, "a connection");
}

/// A guest with many pages to send, none of which shrinks.
fn noisy() -> Pair {
    let mut pair = Pair::greeted();
    pair.source.set_batch_pages(NonZeroU64::new(4).unwrap());
    for gfn in (0..64).chain(96..128) {
        let mut word: u64 = gfn + 1;
        for byte in &mut pair.guest.0[gfn as usize] {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (word >> 56) as u8;
        }
        pair.source.owe(run(gfn, 1)).unwrap();
    }
    pair
}

/// Bytes that go out in a second, if the caller does what the source's timers say.
fn second(pair: &mut Pair) -> u64 {
    let end = pair.now + Duration::from_secs(1);
    let mut bytes = 0;
    while pair.now < end {
        while let Some(frame) = pair.send(CONTROL) {
            bytes += frame.len() as u64;
        }
        pair.now = pair.source.poll_timeout().unwrap().min(end);
        pair.source.handle_timeout(pair.now);
    }
    bytes
}

#[test]
fn limits_make_batches_smaller_under_way() {
    let mut pair = Pair::greeted();
    (0..12).for_each(|gfn| pair.write(gfn, 1));
    let limits = Message::Limits(Limits { bytes_per_second: 0, batch_pages: 5 });
    let frame = forge(CONTROL, 1, &limits);
    pair.hear(CONTROL, &frame).unwrap();
    let sizes = std::iter::from_fn(|| match pair.source.poll_transmit(pair.now, CONTROL) {
        Some(Transmit::Pages(draft)) => {
            pair.source.handle_written(pair.now, CONTROL);
            Some(draft.batch.pages())
        }
        _ => None,
    });
    assert_eq!(sizes.collect::<Vec<_>>(), [5, 5, 2]);
}

#[test]
fn a_peers_limit_never_makes_batches_larger_than_ours() {
    let mut pair = Pair::greeted();
    pair.source.set_batch_pages(NonZeroU64::new(3).unwrap());
    (0..12).for_each(|gfn| pair.write(gfn, 1));
    let limits = Message::Limits(Limits { bytes_per_second: 0, batch_pages: 1000 });
    pair.hear(CONTROL, &forge(CONTROL, 1, &limits)).unwrap();
    let Some(Transmit::Pages(draft)) = pair.source.poll_transmit(pair.now, CONTROL) else {
        panic!("pages are owed");
    };
    assert_eq!(draft.batch.pages(), 3);
}

#[test]
fn pages_go_out_no_faster_than_the_limit() {
    let mut pair = noisy();
    pair.source.set_limit(pair.now, limit(100 * KIB));
    let bytes = second(&mut pair);
    assert!((90 * KIB..120 * KIB).contains(&bytes), "{bytes}");
    pair.source.set_limit(pair.now, None);
    assert!(second(&mut pair) > 200 * KIB);
    assert_eq!(pair.source.ledger().owed(), 0);
}

#[test]
fn pages_wait_for_their_processor_time_and_so_does_the_timer() {
    let mut pair = noisy();
    pair.source.set_processor_limit(pair.now, std::num::NonZeroU32::new(500));
    assert!(pair.send(CONTROL).is_some());
    pair.source.spend_processor_time(pair.now, Duration::from_millis(100));
    pair.source.regain_processor_time(Duration::from_millis(40));
    assert!(pair.send(CONTROL).is_none(), "60 ms at half a processor");
    let opens = pair.source.poll_timeout().unwrap() - pair.now;
    assert!((100..=120).contains(&opens.as_millis()), "{opens:?}");
    pair.now += opens;
    assert!(pair.send(CONTROL).is_some());
    pair.source.spend_processor_time(pair.now, Duration::from_secs(9));
    assert!(pair.send(CONTROL).is_none());
    pair.source.set_processor_limit(pair.now, None);
    assert!(pair.send(CONTROL).is_some());
}

#[test]
fn the_smaller_of_both_limits_holds() {
    for (ours, theirs) in [(100, 1_000), (1_000, 100), (0, 100), (100, 0)] {
        let mut pair = noisy();
        pair.source.set_limit(pair.now, limit(ours * KIB));
        let limits = Limits { bytes_per_second: theirs * KIB, batch_pages: 4 };
        pair.hear(CONTROL, &forge(CONTROL, 1, &Message::Limits(limits))).unwrap();
        let bytes = second(&mut pair);
        assert!((90 * KIB..120 * KIB).contains(&bytes), "{ours} {theirs}: {bytes}");
    }
}

#[test]
fn a_peer_that_asks_for_nothing_a_second_does_not_hold_the_last_burst() {
    let mut pair = noisy();
    let limits = Limits { bytes_per_second: 1, batch_pages: 4 };
    pair.hear(CONTROL, &forge(CONTROL, 1, &Message::Limits(limits))).unwrap();
    let first = pair.send(CONTROL).expect("the first batch is not paid for yet");
    pair.arrive(CONTROL, &first).unwrap();
    assert!(pair.send(CONTROL).is_none());
    pair.switch();
    while let Some(frame) = pair.send(CONTROL) {
        pair.arrive(CONTROL, &frame).unwrap();
    }
    assert!(pair.source_events().contains(&SourceEvent::Parted));
}

#[test]
fn messages_do_not_wait_for_the_limit() {
    let mut pair = noisy();
    pair.source.set_limit(pair.now, limit(1));
    assert!(pair.send(CONTROL).is_some());
    pair.source.speculate(b"a state".to_vec());
    assert!(pair.send(CONTROL).is_some(), "the state");
    assert!(pair.send(CONTROL).is_none(), "pages");
}

#[test]
fn streams_that_are_too_many_end_once_their_pages_have_arrived() {
    let mut pair = Pair::greeted();
    let (a, b) = (stream(1, 1), stream(1, 2));
    pair.open(b);
    pair.write(7, 1);
    let on_b = pair.send(b).expect("page 7");
    pair.source.set_data_streams(1);
    pair.write(8, 1);
    assert!(pair.send(b).is_none(), "no new page");
    assert_eq!(pair.source_events(), [], "page 7 is on its way");
    pair.arrive(b, &on_b).unwrap();
    let acknowledgement = pair.reply(CONTROL).unwrap();
    pair.hear(CONTROL, &acknowledgement).unwrap();
    assert!(pair.send(b).is_none());
    assert_eq!(pair.source_events(), [SourceEvent::StreamDead(b)]);
    pair.destination.handle_closed(pair.now, b);
    assert_eq!(pair.source.poll_connect(pair.now), None, "it is not replaced");

    pair.exchange(a);
    assert!(pair.source.ledger().is_settled());
    pair.source.set_data_streams(2);
    assert_eq!(pair.source.poll_connect(pair.now), Some(stream(1, 3)), "more are new ones");
}
