use proptest::prelude::*;

use super::*;

const SESSION_ID: SessionId = SessionId::new([0x22; 16]).unwrap();

/// Stream `place` of the third connection.
fn stream(place: u16) -> StreamId {
    StreamId { connection: 3, place }
}

fn header(kind: Kind, length: u32, place: u16, sequence: u64) -> Header {
    Header::new(kind, length, SESSION_ID, stream(place), sequence).unwrap()
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
        header(Kind::Hello, 8, 0, 0),
        header(Kind::Pages, 8 << 20, 7, 0x0102_0304_0506_0708),
        header(Kind::Acknowledge, 16, 0, 1),
        header(Kind::Permit, 72, 0, 10),
        header(Kind::Ask, 1, 0, 11),
        header(Kind::Hello, 8, u16::MAX, u64::MAX - 1),
    ];
    let bad = [
        HeaderError::Magic(*b"HTTP"),
        HeaderError::Version(2),
        HeaderError::Version(4),
        HeaderError::Kind(0),
        HeaderError::Kind(16),
        HeaderError::Flags(1),
        HeaderError::Length { kind: Kind::Pages, length: (8 << 20) + 1 },
        HeaderError::Length { kind: Kind::Permit, length: 71 },
        HeaderError::NotControl { kind: Kind::Permit, stream: stream(1) },
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
    assert_eq!((count, vectors().count()), (16, 16), "a vector for each, and each is looked at");
}

proptest! {
    #[test]
    fn a_header_survives_its_bytes_and_any_bytes_are_a_header_or_an_error(
        mut bytes in any::<HeaderBytes>(), kind in 0..18_u8, small in any::<bool>(),
    ) {
        // Random bytes alone would never pass the magic.
        bytes[MAGIC].copy_from_slice(&MAGIC_BYTES);
        bytes[VERSION_AT].copy_from_slice(&VERSION.to_le_bytes());
        (bytes[KIND], bytes[FLAGS]) = (kind, 0);
        if small {
            bytes[LENGTH].copy_from_slice(&16_u32.to_le_bytes());
            bytes[PLACE].fill(0);
        }
        if let Ok(header) = Header::parse(&bytes) {
            prop_assert_eq!(header.to_bytes(), bytes);
            prop_assert!(header.length() <= PAYLOAD_MAX);
        }
    }
}

#[test]
fn kinds_have_the_numbers_one_to_fifteen_and_limits_within_the_buffer() {
    for (number, kind) in (1..).zip(Kind::ALL) {
        assert_eq!(Kind::from_number(number), Some(kind));
        assert!(*kind.payload_bytes().end() <= PAYLOAD_MAX, "{kind:?}");
        for length in
            [0, 1, 8, 9, 16, 25, 72, 73, 4 << 10, 1 << 20, PAYLOAD_MAX, PAYLOAD_MAX + 1, u32::MAX]
        {
            let made = Header::new(kind, length, SESSION_ID, stream(0), 0);
            assert_eq!(made.is_ok(), kind.payload_bytes().contains(&length), "{kind:?} {length}");
        }
    }
    assert!((0..=u8::MAX).filter(|number| Kind::from_number(*number).is_some()).count() == 15);
}

#[test]
fn what_decides_the_session_belongs_on_the_control_stream() {
    for kind in Kind::ALL {
        let length = *kind.payload_bytes().start();
        let made = |place| Header::new(kind, length, SESSION_ID, stream(place), 0);
        assert!(made(0).is_ok(), "{kind:?}");
        if !matches!(kind, Kind::Hello | Kind::Pages) {
            assert_eq!(made(3), Err(HeaderError::NotControl { kind, stream: stream(3) }));
        }
    }
}

#[test]
fn a_stream_accepts_its_next_frame_and_no_other() {
    let mut expected = Expected::first(SESSION_ID, stream(4));
    let frame = |place, sequence| header(Kind::Pages, 1, place, sequence).to_bytes();
    assert!(expected.check(&frame(4, 0)).is_ok());
    let repeated = HeaderError::Sequence { expected: 1, found: 0 };
    let skipped = HeaderError::Sequence { expected: 1, found: 2 };
    let elsewhere = HeaderError::Stream { expected: stream(4), found: stream(5) };
    assert_eq!(expected.check(&frame(4, 0)), Err(repeated));
    assert_eq!(expected.check(&frame(4, 2)), Err(skipped));
    assert_eq!(expected.check(&frame(5, 1)), Err(elsewhere));
    let other = SessionId::new([0x23; 16]).unwrap();
    let foreign = Header::new(Kind::Pages, 1, other, stream(4), 1).unwrap();
    assert_eq!((foreign.session(), foreign.stream()), (other, stream(4)));
    assert_eq!(expected.check(&foreign.to_bytes()), Err(HeaderError::Session));
    assert_eq!(expected.check(&frame(4, 1)).map(Header::kind), Ok(Kind::Pages));
}
