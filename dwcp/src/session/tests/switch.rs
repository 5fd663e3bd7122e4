//! The switch, and what comes shortly before it.

use super::*;

#[test]
fn a_switch_needs_a_durable_offer_and_a_connection() {
    let mut pair = Pair::greeted();
    assert_eq!(pair.source.switch(pair.now, vec![]), Err(SourceError::NotOffered));
    pair.source.offered();
    pair.source.handle_closed(pair.now, CONTROL);
    assert_eq!(pair.source.switch(pair.now, vec![]), Err(SourceError::NotConnected));
    let control = pair.reconnect_from_source(2);
    assert_eq!(pair.source.switch(pair.now, vec![]), Err(SourceError::NotConnected), "no Welcome");
    pair.exchange(control);
    pair.source.switch(pair.now, vec![1]).unwrap();
    assert_eq!(pair.source.switch(pair.now, vec![1]), Err(SourceError::TooLate));
}

#[test]
fn a_cut_in_the_switch_lets_the_guest_run_on_and_the_offer_stays() {
    let mut pair = Pair::greeted();
    pair.write(1, 1);
    pair.switch();
    let lost = pair.send(CONTROL).expect("the final state");
    assert!(!lost.is_empty());
    let control = pair.reconnect(2);
    let events = [SourceEvent::Disconnected, SourceEvent::SwitchCancelled];
    assert_eq!(pair.source_events(), events);
    pair.exchange(control);
    pair.source.switch(pair.now, b"another state".to_vec()).unwrap();
    pair.exchange(control);
    let ready = DestinationEvent::Ready { state: b"another state".to_vec() };
    assert!(pair.destination_events().contains(&ready));
}

#[test]
fn a_switch_that_takes_too_long_is_cancelled() {
    let mut pair = Pair::greeted();
    pair.write(1, 1);
    pair.switch();
    let budget = SourceTimers::default().switch_budget;
    assert!(pair.source.poll_timeout().unwrap() <= pair.now + budget);
    pair.now += budget;
    pair.source.handle_timeout(pair.now);
    assert_eq!(pair.source_events(), [SourceEvent::SwitchCancelled]);
    pair.switch();
    pair.exchange(CONTROL);
    assert_eq!(pair.source_events(), [SourceEvent::Parted]);
}

#[test]
fn in_a_hurry_only_hot_pages_wait_for_an_acknowledgement() {
    let mut pair = Pair::greeted();
    let write = |pair: &mut Pair, byte| (5..7).for_each(|gfn| pair.write(gfn, byte));
    write(&mut pair, 1);
    let first = pair.send(CONTROL).expect("both pages");
    write(&mut pair, 2);
    assert!(pair.send(CONTROL).is_none(), "one send of each is on its way");
    let mut hot = PageSet::new(pair.source.ledger().owed_pages().limit());
    hot.insert(run(5, 1)).unwrap();
    pair.source.hurry(hot);
    let second = pair.send(CONTROL).expect("page 6 again");
    assert!(pair.send(CONTROL).is_none(), "page 5 is hot");
    pair.arrive(CONTROL, &first).unwrap();
    pair.arrive(CONTROL, &second).unwrap();
    assert_eq!((pair.memory.0[5][0], pair.memory.0[6][0]), (1, 2));
    assert_eq!(pair.tiers.of(Tier::Delta).pages, 0, "what is on its way is no base");

    // The switch comes to nothing: every page waits again.
    pair.source.offered();
    pair.source.switch(pair.now, vec![1]).unwrap();
    pair.now += SourceTimers::default().switch_budget;
    pair.source.handle_timeout(pair.now);
    pair.exchange(CONTROL);
    pair.write(9, 1);
    pair.send(CONTROL).expect("page 9");
    pair.write(9, 2);
    assert!(pair.send(CONTROL).is_none());
}

#[test]
fn a_hurry_does_not_fill_a_stream_that_stands_still_with_copies() {
    let mut pair = Pair::greeted();
    pair.source.hurry(PageSet::new(pair.source.ledger().owed_pages().limit()));
    let sent = (0..10_000_u64).take_while(|nth| {
        pair.write(5, (nth % 251) as u8);
        pair.send(CONTROL).is_some()
    });
    assert_eq!(sent.count(), 4097, "the number that SPEC.md, section 4, allows, and the last one");
}

#[test]
fn draining_begins_no_batch() {
    let mut pair = Pair::greeted();
    pair.write(5, 1);
    pair.source.drain();
    assert!(pair.send(CONTROL).is_none() && pair.source.is_drained());
    pair.switch();
    pair.exchange(CONTROL);
    assert_eq!(pair.memory.0[5][0], 1);
}

#[test]
fn a_connection_that_ends_shortly_before_the_switch_takes_its_preparations_with_it() {
    for is_noticed in [true, false] {
        let mut pair = Pair::greeted();
        pair.source.offered();
        pair.source.hurry(PageSet::new(pair.source.ledger().owed_pages().limit()));
        pair.source.drain();
        pair.write(5, 1);
        if is_noticed {
            pair.reconnect(2);
        } else {
            // The new connection is there, and nobody has said welcome on it yet.
            pair.source.handle_closed(pair.now, CONTROL);
            pair.destination.handle_closed(pair.now, CONTROL);
            let refused = pair.source.switch(pair.now, b"the final state".to_vec());
            assert_eq!(refused, Err(SourceError::NotConnected));
            pair.reconnect_from_source(2);
        }
        pair.exchange(StreamId::control(2));
        assert_eq!((pair.memory.0[5][0], pair.source.ledger().owed()), (1, 0), "{is_noticed}");
    }
}
