//! The first connection: over a long way its streams are not connected one after the other.

use super::*;

/// A source that has dialled, and is to have so many data streams.
fn dialling(data_streams: usize) -> Pair {
    let now = Duration::from_secs(100);
    let mut pair = Pair::new();
    pair.source = Source::new(now, &agreement(), SourceTimers::default());
    pair.source.set_data_streams(data_streams);
    pair
}

impl Pair {
    fn dials(&mut self) -> Vec<StreamId> {
        std::iter::from_fn(|| self.source.poll_connect(self.now)).collect()
    }
}

#[test]
fn data_streams_are_dialled_beside_the_first_control_stream_and_speak_after_it() {
    let mut pair = dialling(2);
    let (a, b) = (stream(1, 1), stream(1, 2));
    assert_eq!(pair.dials(), [CONTROL, a, b]);
    pair.write(7, 1);
    pair.source.handle_connected(pair.now, b);
    assert!(pair.send(b).is_none(), "a control stream that does not come leaves nothing there");
    pair.source.handle_connected(pair.now, CONTROL);
    pair.source.handle_connected(pair.now, a);
    pair.source.handle_connected(pair.now, b);
    // Whichever gets there first.
    for stream in [b, a] {
        let hello = pair.send(stream).unwrap();
        pair.arrive(stream, &hello).unwrap();
    }
    let page = pair.send(a).expect("before anything was heard");
    assert!(pair.send(b).is_none(), "it has said hello once, and nothing else is owed");
    pair.arrive(a, &page).unwrap();
    pair.exchange(CONTROL);
    assert_eq!(pair.source_events(), [SourceEvent::Connected]);
    assert_eq!((pair.source.ledger().owed(), pair.source.ledger().in_flight()), (0, 0));
    assert!(pair.memory.0 == pair.guest.0);
}

#[test]
fn data_streams_end_with_a_control_stream_that_is_not_made_and_are_not_taken_for_later_ones() {
    let mut pair = dialling(2);
    let (a, b) = (stream(1, 1), stream(1, 2));
    assert_eq!(pair.dials(), [CONTROL, a, b]);
    pair.source.handle_connected(pair.now, a);
    pair.source.handle_closed(pair.now, CONTROL);
    assert_eq!(pair.source_events(), [SourceEvent::Disconnected], "they are closed");
    assert_eq!(pair.dials(), []);
    pair.source.handle_connected(pair.now, b);
    pair.now = pair.source.poll_timeout().unwrap();
    let (c, d) = (stream(1, 3), stream(1, 4));
    assert_eq!(pair.dials(), [CONTROL, c, d]);
    for late in [a, b] {
        pair.source.handle_closed(pair.now, late);
        pair.source.handle_connected(pair.now, late);
    }
    assert_eq!(pair.dials(), [], "nothing of these has changed");
    // One of them alone is replaced, when there is a host.
    pair.source.handle_closed(pair.now, c);
    assert_eq!(pair.dials(), []);
    for stream in [CONTROL, d] {
        pair.source.handle_connected(pair.now, stream);
        assert!(pair.send(stream).is_some());
    }
    assert_eq!(pair.dials(), [stream(1, 5)]);
    // Of the next connection the first is the first again.
    pair.source.handle_closed(pair.now, CONTROL);
    assert_eq!(pair.source_events(), [SourceEvent::Disconnected]);
    pair.now = pair.source.poll_timeout().unwrap();
    assert_eq!(pair.dials(), [StreamId::control(2)], "it is to be welcomed before");
    pair.source.handle_closed(pair.now, StreamId::control(2));
    assert_eq!(pair.source_events(), [], "there was nothing to close");
}
