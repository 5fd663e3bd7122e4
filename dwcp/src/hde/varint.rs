//! Numbers of 7 bits a byte, the lowest first; the top bit says that another byte follows.
//!
//! Each number has one form: a longer one is an error, so that two payloads that mean the same
//! differ in nothing that is not content.

use super::DecodeError;

/// Bytes of the longest number.
pub(crate) const LONGEST: usize = 10;

/// Appends a number.
pub(crate) fn put(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// A signed distance as a number that is small if the distance is.
pub(crate) fn zigzag(distance: u64) -> u64 {
    (distance << 1) ^ (distance.cast_signed() >> 63).cast_unsigned()
}

/// The distance of such a number, in two's complement.
pub(crate) fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ (value & 1).wrapping_neg()
}

/// What is left of a payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        let (mut value, mut shift) = (0, 0);
        loop {
            let [byte] = self.array()?;
            // The tenth byte has room for one bit, and no last byte but the only one is 0.
            if (shift == 63 && byte > 1) || (byte == 0 && shift > 0) {
                return Err(DecodeError::Number);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
            shift += 7;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(value, &mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn a_number_survives_its_bytes(value in any::<u64>(), shift in 0..64_u32) {
            let bytes = bytes(value >> shift);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(value >> shift));
            prop_assert!(reader.rest().is_empty() && bytes.len() <= LONGEST);
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }

        #[test]
        fn whatever_is_read_as_a_number_is_its_only_form(input in prop::collection::vec(
            prop_oneof![Just(0x80_u8), Just(0), Just(1), Just(0xff), any::<u8>()], 0..12)) {
            let mut reader = Reader::new(&input);
            if let Ok(value) = reader.varint() {
                let length = input.len() - reader.rest().len();
                prop_assert_eq!(bytes(value), &input[..length]);
            }
        }
    }

    #[test]
    fn numbers_have_the_bytes_of_the_specification() {
        for (value, expected) in [
            (0, &[0][..]),
            (127, &[0x7f]),
            (128, &[0x80, 1]),
            (300, &[0xac, 2]),
            (u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ] {
            assert_eq!(bytes(value), expected, "{value}");
        }
        for (distance, expected) in [(0_i64, 0), (-1, 1), (1, 2), (-2, 3), (i64::MIN, u64::MAX)] {
            assert_eq!(zigzag(distance.cast_unsigned()), expected, "{distance}");
        }
    }

    #[test]
    fn longer_forms_and_cut_numbers_are_errors() {
        for (input, error) in [
            (&[][..], DecodeError::Truncated),
            (&[0x80], DecodeError::Truncated),
            (&[0x80, 0], DecodeError::Number),
            (&[0xff, 0x80, 0], DecodeError::Number),
            (&[0xff; 10], DecodeError::Number),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], DecodeError::Number),
        ] {
            assert_eq!(Reader::new(input).varint(), Err(error), "{input:02x?}");
        }
    }
}
