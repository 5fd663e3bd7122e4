//! ASS, asynchronous state synchronisation: the machine's state is sent ahead while the guest runs,
//! so that after the pause only the difference travels. See `SPEC.md`, 10.3.
//!
//! A state is bytes here: what they mean is the machine's business. Two states of one machine differ
//! in a few registers and counters, and stand at the same offsets as long as no section changes its
//! length; so a difference is a list of patches, and costs what has changed.

/// A difference that cannot be one. The peer is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent a state whose {0} makes no sense")]
pub struct StateError(&'static str);

/// Equal bytes between two patches that are not worth a patch of their own.
const GAP: usize = PATCH_HEAD;

/// Offset and length of a patch.
const PATCH_HEAD: usize = 8;

/// A state, encoded as its difference to a state that the other side holds, or to nothing.
///
/// # Panics
/// When the state has 4 GiB or more.
#[must_use]
pub fn encode(base: &[u8], state: &[u8]) -> Vec<u8> {
    let mut encoded = length(state.len()).to_vec();
    let mut at = 0;
    while let Some(start) = next_difference(base, state, at) {
        let mut end = start + 1;
        // The patch goes on over gaps that are shorter than the head of another patch.
        while let Some(next) = next_difference(base, state, end).filter(|next| next - end < GAP) {
            end = next + 1;
        }
        encoded.extend(length(start));
        encoded.extend(length(end - start));
        encoded.extend(&state[start..end]);
        at = end;
    }
    encoded
}

/// The state that a difference makes of `base`. It has at most `max` bytes.
///
/// # Errors
/// When `encoded` is no difference, or makes too large a state.
pub fn decode(base: &[u8], encoded: &[u8], max: usize) -> Result<Vec<u8>, StateError> {
    let (total, mut rest) = take_length(encoded).ok_or(StateError("length"))?;
    if total > max {
        return Err(StateError("length"));
    }
    let mut state = base[..base.len().min(total)].to_vec();
    state.resize(total, 0);
    let mut at = 0;
    while !rest.is_empty() {
        let patch = take_length(rest).and_then(|(start, rest)| Some((start, take_length(rest)?)));
        let (start, (bytes, after)) = patch.ok_or(StateError("patch"))?;
        let (patch, after) = after.split_at_checked(bytes).ok_or(StateError("patch"))?;
        let place = start.checked_add(bytes).and_then(|end| state.get_mut(start..end));
        let place = place.filter(|place| start >= at && !place.is_empty());
        place.ok_or(StateError("patch"))?.copy_from_slice(patch);
        (at, rest) = (start + bytes, after);
    }
    Ok(state)
}

/// The first byte at or after `from` that the base does not have; what lies beyond it counts as 0.
fn next_difference(base: &[u8], state: &[u8], from: usize) -> Option<usize> {
    let common = base.len().min(state.len());
    let in_common = (from..common).find(|at| base[*at] != state[*at]);
    in_common.or_else(|| (from.max(common)..state.len()).find(|at| state[*at] != 0))
}

fn length(value: usize) -> [u8; 4] {
    u32::try_from(value).expect("a state below 4 GiB").to_le_bytes()
}

fn take_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (value, rest) = bytes.split_first_chunk()?;
    Some((usize::try_from(u32::from_le_bytes(*value)).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_unchanged_state_costs_its_length_field() {
        let state = vec![7; 5000];
        assert_eq!(encode(&state, &state).len(), 4);
        let mut changed = state.clone();
        (changed[100], changed[104], changed[4000]) = (1, 2, 3);
        assert_eq!(encode(&state, &changed).len(), 4 + (8 + 5) + (8 + 1), "near patches are one");
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
    }

    #[test]
    fn patches_ascend_within_the_state() {
        let patches = |patches: &[(u32, &[u8])]| {
            let mut encoded = length(8).to_vec();
            for (start, bytes) in patches {
                encoded.extend(start.to_le_bytes());
                encoded.extend(length(bytes.len()));
                encoded.extend(*bytes);
            }
            decode(&[], &encoded, 8)
        };
        assert_eq!(patches(&[(0, b"ab"), (2, b"c")]), Ok(b"abc\0\0\0\0\0".to_vec()));
        for wrong in [
            &[(2, &b"c"[..]), (0, b"ab")][..],
            &[(0, b"ab"), (1, b"c")],
            &[(7, b"ab")],
            &[(u32::MAX, b"a")],
            &[(3, b"")],
        ] {
            assert_eq!(patches(wrong), Err(StateError("patch")), "{wrong:?}");
        }
    }
}
