//! ASS, asynchronous state synchronisation: the machine's state is sent ahead while the guest runs,
//! so that after the pause only the difference travels. See `SPEC.md`, 10.3.
//!
//! A state is bytes here: what they mean is the machine's business. Two states of one machine are mostly the same bytes,
//! though not always in the same places: a number that has grown, or a line that was printed, moves all that follow. So a
//! difference is what zstd makes of a state with another one as the content before it.

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx};

/// A difference that cannot be one. The peer is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent a state whose {0} makes no sense")]
pub struct StateError(&'static str);

/// The last difference is made while the guest stands still: higher levels save fewer bytes of it than they take time.
const LEVEL: i32 = 1;

/// A state, encoded as its difference to a state that the other side holds, or to nothing. They must be two buffers: of one
/// that is both, zstd uses nothing as a base.
///
/// # Panics
/// When there is no memory for zstd.
#[must_use]
pub fn encode(base: &[u8], state: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(zstd_safe::compress_bound(state.len()));
    let mut context = CCtx::create();
    let written = context
        .set_parameter(CParameter::CompressionLevel(LEVEL))
        .and_then(|_| context.ref_prefix(base))
        .and_then(|_| context.compress2(&mut encoded, state));
    // There is room, and the level exists.
    written.map_err(zstd_safe::get_error_name).expect("memory for zstd's tables");
    encoded
}

/// The state that a difference makes of `base`. It has at most `max` bytes.
///
/// # Errors
/// When `encoded` is no difference, or makes too large a state.
///
/// # Panics
/// When there is no memory for zstd.
pub fn decode(base: &[u8], encoded: &[u8], max: usize) -> Result<Vec<u8>, StateError> {
    // What is too large is not even begun, and behind the frame there is no second one. Whatever window it names, nothing
    // is allocated for it: it is decompressed in place.
    let length = zstd_safe::get_frame_content_size(encoded).ok().flatten();
    let length = length.and_then(|length| usize::try_from(length).ok());
    let length = length.filter(|length| *length <= max).ok_or(StateError("length"))?;
    if zstd_safe::find_frame_compressed_size(encoded) != Ok(encoded.len()) {
        return Err(StateError("end"));
    }
    let mut state = vec![0; length];
    let mut context = DCtx::create();
    context.ref_prefix(base).map_err(zstd_safe::get_error_name).expect("memory for zstd");
    match context.decompress(&mut state[..], encoded) {
        Ok(written) if written == length => Ok(state),
        _ => Err(StateError("content")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that nothing makes shorter.
    fn noise(seed: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn what_has_not_changed_costs_next_to_nothing_wherever_it_stands() {
        let state = noise(1, 80_000);
        assert!(encode(&[], &state).len() >= state.len(), "without a base there is no other way");
        assert!(encode(&state, &state.clone()).len() < 40);
        let mut changed = state.clone();
        changed[100..108].copy_from_slice(&[1; 8]);
        changed[70_000] ^= 1;
        // A byte more in front of nearly everything.
        changed.insert(1000, 7);
        changed.extend([3; 20]);
        let encoded = encode(&state, &changed);
        assert!(encoded.len() < 400, "{}", encoded.len());
        assert_eq!(decode(&state, &encoded, changed.len()), Ok(changed));
    }

    proptest! {
        #[test]
        fn a_state_survives_its_difference(
            base in prop::collection::vec(0..3_u8, 0..200),
            state in prop::collection::vec(0..3_u8, 0..200),
        ) {
            let encoded = encode(&base, &state);
            prop_assert_eq!(decode(&base, &encoded, state.len()), Ok(state.clone()));
            if !state.is_empty() {
                let refused = decode(&base, &encoded, state.len() - 1);
                prop_assert_eq!(refused, Err(StateError("length")));
            }
        }

        #[test]
        fn hostile_differences_are_bounded(encoded in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(state) = decode(b"a base", &encoded, 100) {
                prop_assert!(state.len() <= 100);
            }
        }

        #[test]
        fn a_difference_that_is_cut_short_is_refused_and_one_that_is_damaged_bounded(
            at in any::<prop::sample::Index>(), change in 1..=255_u8,
        ) {
            let base = noise(1, 3000);
            let mut encoded = encode(&base, &[&base[..], b"and more"].concat());
            let at = at.index(encoded.len());
            prop_assert!(decode(&base, &encoded[..at], 8000).is_err());
            encoded[at] ^= change;
            if let Ok(state) = decode(&base, &encoded, 8000) {
                prop_assert!(state.len() <= 8000);
            }
        }
    }

    #[test]
    fn a_difference_is_one_frame_that_says_how_long_its_state_is() {
        let encoded = encode(b"a base", b"a state");
        assert_eq!(decode(b"a base", &encoded, 7), Ok(b"a state".to_vec()));
        let twice = [&encoded[..], &encoded].concat();
        assert_eq!(decode(b"a base", &twice, 100), Err(StateError("end")));
        let mut without_size = Vec::with_capacity(100);
        let mut context = CCtx::create();
        context.set_parameter(CParameter::ContentSizeFlag(false)).unwrap();
        context.compress2(&mut without_size, b"a state").unwrap();
        assert_eq!(decode(&[], &without_size, 100), Err(StateError("length")));
        assert_eq!(decode(&[], &[], 100), Err(StateError("length")));
    }

    #[test]
    fn a_difference_to_another_base_is_no_panic() {
        let (base, other) = (noise(1, 5000), noise(2, 100));
        let encoded = encode(&base, &base.clone());
        assert_ne!(decode(&other, &encoded, 5000), Ok(base));
    }
}
