use proptest::prelude::*;

use super::*;

const SESSION_ID: SessionId = SessionId::new([0x22; 16]).unwrap();

fn header(kind: Kind, length: u32, stream: u32, sequence: u64) -> Header {
    Header::new(kind, length, SESSION_ID, StreamId(stream), sequence).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The committed vectors: one header a line, as hexadecimal, then what it says.
fn vectors() -> impl Iterator<Item = (&'static str, &'static str)> {
    let text = include_str!("../../../vectors/frame-headers.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| line.split_once(' ').expect("bytes, then what they say"))
}

fn bytes_of(hex: &str) -> HeaderBytes {
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
    std::array::from_fn(byte)
}

#[test]
fn the_committed_vectors_are_written_and_read() {
    let good = [
        header(Kind::Hello, 1, 0, 0),
        header(Kind::Pages, 8 << 20, 7, 0x0102_0304_0506_0708),
        header(Kind::Acknowledge, 16, 7, 1),
        header(Kind::Root, 64, 0, 9),
        header(Kind::Permit, 24, 0, 10),
        header(Kind::Ask, 0, 0, 11),
        header(Kind::Ping, 0, u32::MAX, u64::MAX - 1),
    ];
    let bad = [
        HeaderError::Magic(*b"HTTP"),
        HeaderError::Version(2),
        HeaderError::Version(4),
        HeaderError::Kind(0),
        HeaderError::Kind(14),
        HeaderError::Flags(1),
        HeaderError::Length { kind: Kind::Pages, length: (8 << 20) + 1 },
        HeaderError::Length { kind: Kind::Root, length: 63 },
        HeaderError::NotControl { kind: Kind::Permit, stream: StreamId(1) },
        HeaderError::Session,
    ];
    let expected = good.map(Ok).into_iter().chain(bad.map(Err));
    let mut count = 0;
    for ((bytes, meaning), expected) in vectors().zip(expected) {
        assert_eq!(bytes.len(), 2 * HEADER_BYTES, "{meaning}");
        assert_eq!(Header::parse(&bytes_of(bytes)), expected, "{meaning}");
        if let Ok(header) = expected {
            assert_eq!(hex(&header.to_bytes()), bytes, "{meaning}");
        }
        count += 1;
    }
    assert_eq!((count, vectors().count()), (17, 17), "a vector for each, and each is looked at");
}

proptest! {
    #[test]
    fn a_header_survives_its_bytes_and_any_bytes_are_a_header_or_an_error(
        mut bytes in any::<HeaderBytes>(), kind in 0..16_u8, small in any::<bool>(),
    ) {
        // Random bytes alone would never pass the magic.
        bytes[MAGIC].copy_from_slice(&MAGIC_BYTES);
        bytes[VERSION_AT].copy_from_slice(&VERSION.to_le_bytes());
        (bytes[KIND], bytes[FLAGS]) = (kind, 0);
        if small {
            bytes[LENGTH].copy_from_slice(&64_u32.to_le_bytes());
            bytes[STREAM].fill(0);
        }
        if let Ok(header) = Header::parse(&bytes) {
            prop_assert_eq!(header.to_bytes(), bytes);
            prop_assert!(header.length() <= PAYLOAD_MAX);
        }
    }
}

#[test]
fn kinds_have_the_numbers_one_to_thirteen_and_limits_within_the_buffer() {
    for (number, kind) in (1..).zip(Kind::ALL) {
        assert_eq!(Kind::from_number(number), Some(kind));
        assert!(*kind.payload_bytes().end() <= PAYLOAD_MAX, "{kind:?}");
        for length in [0, 1, 63, 64, 65, 4 << 10, 1 << 20, PAYLOAD_MAX, PAYLOAD_MAX + 1, u32::MAX] {
            let made = Header::new(kind, length, SESSION_ID, StreamId::CONTROL, 0);
            assert_eq!(made.is_ok(), kind.payload_bytes().contains(&length), "{kind:?} {length}");
        }
    }
    assert!((0..=u8::MAX).filter(|number| Kind::from_number(*number).is_some()).count() == 13);
}

#[test]
fn what_decides_the_session_belongs_on_the_control_stream() {
    for kind in [Kind::State, Kind::Root, Kind::Permit, Kind::Ask, Kind::Answer, Kind::Abort] {
        let length = *kind.payload_bytes().start();
        let made = |stream| Header::new(kind, length, SESSION_ID, StreamId(stream), 0);
        assert!(made(0).is_ok(), "{kind:?}");
        let stream = StreamId(3);
        assert_eq!(made(3), Err(HeaderError::NotControl { kind, stream }), "{kind:?}");
    }
}

#[test]
fn a_stream_accepts_its_next_frame_and_no_other() {
    let mut expected = Expected::first(SESSION_ID, StreamId(4));
    let frame = |stream, sequence| header(Kind::Ping, 0, stream, sequence).to_bytes();
    assert!(expected.check(&frame(4, 0)).is_ok());
    let repeated = HeaderError::Sequence { expected: 1, found: 0 };
    let skipped = HeaderError::Sequence { expected: 1, found: 2 };
    let elsewhere = HeaderError::Stream { expected: StreamId(4), found: StreamId(5) };
    assert_eq!(expected.check(&frame(4, 0)), Err(repeated));
    assert_eq!(expected.check(&frame(4, 2)), Err(skipped));
    assert_eq!(expected.check(&frame(5, 1)), Err(elsewhere));
    let other = SessionId::new([0x23; 16]).unwrap();
    let foreign = Header::new(Kind::Ping, 0, other, StreamId(4), 1).unwrap().to_bytes();
    assert_eq!(expected.check(&foreign), Err(HeaderError::Session));
    assert_eq!(expected.check(&frame(4, 1)).map(Header::kind), Ok(Kind::Ping));
}
