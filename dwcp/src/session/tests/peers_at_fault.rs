//! What a peer does that a correct one would not.

use super::*;

#[test]
fn who_asks_without_reading_fills_no_memory() {
    let mut pair = Pair::greeted();
    for sequence in 1..1000 {
        let message = match sequence % 2 {
            0 => Message::Ping { is_echo: false, token: sequence },
            _ => Message::Ask(Ask::default()),
        };
        pair.arrive(CONTROL, &forge(CONTROL, sequence, &message)).unwrap();
        let ping = Message::Ping { is_echo: false, token: sequence };
        pair.hear(CONTROL, &forge(CONTROL, sequence, &ping)).unwrap();
    }
    let replies = std::iter::from_fn(|| pair.reply(CONTROL)).count();
    assert!((1..100).contains(&replies), "{replies} frames waited");
    let echoes = std::iter::from_fn(|| pair.send(CONTROL)).count();
    assert!((1..100).contains(&echoes), "{echoes} frames waited");
}

#[test]
fn a_destination_refuses_a_source_at_fault() {
    let part = |number, base, offset, bytes| {
        Message::State(StatePart { number, base, total: 8, offset, bytes })
    };
    let disorder = |number| Fault::StateOrder(number);
    let cases: Vec<(Vec<Message<'_>>, Fault)> = vec![
        (vec![part(1, 0, 4, b"late")], disorder(1)),
        (vec![part(2, 1, 0, b"no base")], disorder(2)),
        (vec![part(2, 0, 0, b"abcd"), part(1, 0, 0, b"older")], disorder(1)),
        (vec![part(2, 0, 0, b"abcd"), part(2, 0, 5, b"gap")], disorder(2)),
        (
            vec![Message::Acknowledge(vec![SendNumber(1)..SendNumber(2)])],
            Fault::Unexpected(Kind::Acknowledge),
        ),
        (vec![Message::Welcome { state: 0, applied: vec![] }], Fault::Unexpected(Kind::Welcome)),
        (vec![Message::Hello { settled_below: SendNumber(1) }], Fault::Unexpected(Kind::Hello)),
    ];
    for (messages, fault) in cases {
        let mut pair = Pair::greeted();
        let mut result = Ok(());
        for (sequence, message) in (1..).zip(&messages) {
            let frame = forge(CONTROL, sequence, message);
            let (bytes, payload) = frame.split_first_chunk().unwrap();
            let header = pair.destination.handle_header(CONTROL, bytes).unwrap();
            result = pair.destination.handle_frame(pair.now, header, payload);
        }
        assert_eq!(result, Err(fault.clone()));
        let reason = Text::new(&format!("the source is at fault: {fault}"));
        assert_eq!(pair.destination_events(), [DestinationEvent::Refuse(reason)]);
    }
}

#[test]
fn a_destination_accepts_streams_of_its_connection_once() {
    let mut pair = Pair::greeted();
    let hello = Message::Hello { settled_below: SendNumber(1) };
    let data = stream(1, 1);
    let first = forge(data, 0, &hello);
    pair.arrive(data, &first).unwrap();
    assert_eq!(pair.arrive(data, &first), Err(Fault::Stale(data)));
    let newer = stream(3, 1);
    pair.arrive(newer, &forge(newer, 0, &hello)).unwrap();
    assert_eq!(pair.destination_events(), [DestinationEvent::Disconnected { connection: 1 }]);
    let older = stream(2, 0);
    assert_eq!(pair.arrive(older, &forge(older, 0, &hello)), Err(Fault::Stale(older)));
    let zero = stream(0, 0);
    assert_eq!(pair.arrive(zero, &forge(zero, 0, &hello)), Err(Fault::Stale(zero)));
    let no_hello = forge(stream(3, 0), 0, &Message::Ping { is_echo: false, token: 1 });
    let (bytes, payload) = no_hello.split_first_chunk().unwrap();
    let refused = pair.destination.handle_hello(pair.now, bytes, payload);
    assert_eq!(refused, Err(Fault::Unexpected(Kind::Ping)));
    assert_eq!(pair.destination_events(), [], "what no stream carries is nobody's attempt");
}

#[test]
fn a_source_does_not_believe_a_destination_at_fault() {
    let ran = Message::Answer { answer: PeerAnswer::Ran, reason: Text::default() };
    let never_sent = || vec![SendNumber(900)..SendNumber(901)];
    let cases = [
        Message::Acknowledge(never_sent()),
        Message::Want(never_sent()),
        Message::Welcome { state: 0, applied: vec![] },
        Message::Ask(Ask::default()),
        Message::Abort(Text::default()),
    ];
    for message in cases.iter().chain([&ran]) {
        let mut pair = Pair::greeted();
        let frame = forge(CONTROL, 1, message);
        let fault = pair.hear(CONTROL, &frame).expect_err("a fault");
        let over = SourceEvent::Over(SourceEnd::Aborted(Text::new(&fault.to_string())));
        assert_eq!(pair.source_events(), [over], "{message:?}");
    }
    for message in &cases {
        let mut pair = Pair::greeted();
        pair.switch();
        while pair.send(CONTROL).is_some() {}
        let frame = forge(CONTROL, 1, message);
        pair.hear(CONTROL, &frame).expect_err("a fault");
        let events = [SourceEvent::Parted, SourceEvent::Disconnected];
        assert_eq!(pair.source_events(), events, "{message:?}");
    }
}

#[test]
fn an_unknown_session_is_no_refusal_once_the_permit_frame_is_out() {
    let mut pair = Pair::greeted();
    pair.switch();
    while pair.send(CONTROL).is_some() {}
    pair.source.answered(PeerAnswer::Unknown, Text::default()).unwrap();
    assert_eq!(pair.source_events(), [SourceEvent::Parted, SourceEvent::Unknown]);
    assert!(pair.source.poll_timeout().is_some(), "it goes on asking");

    let mut pair = Pair::greeted();
    pair.source.answered(PeerAnswer::Unknown, Text::default()).unwrap();
    let events = pair.source_events();
    assert!(matches!(events[..], [SourceEvent::Over(SourceEnd::Aborted(_))]), "{events:?}");
    pair.source.answered(PeerAnswer::Ran, Text::default()).expect("over is over");
}

#[test]
fn headers_of_other_sessions_and_streams_are_found() {
    let mut pair = Pair::greeted();
    let ping = Message::Ping { is_echo: false, token: 1 };
    let skipped = forge(CONTROL, 9, &ping);
    let expected = Fault::Header(HeaderError::Sequence { expected: 1, found: 9 });
    assert_eq!(pair.hear(CONTROL, &skipped), Err(expected.clone()));
    assert_eq!(pair.arrive(CONTROL, &skipped), Err(expected));
    let elsewhere = stream(1, 9);
    let not_open = Err(Fault::NotOpen(elsewhere));
    assert_eq!(pair.hear(elsewhere, &skipped), not_open);
    assert_eq!(pair.arrive(elsewhere, &skipped), not_open);
}
