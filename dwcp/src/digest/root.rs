//! [`Root`]: what both sides must agree on before the guest runs at the destination.

use super::{DigestKey, DigestSum};

/// All of a machine in 64 bytes: the sum of its pages' digests, and the hash of its state.
///
/// Two equal roots mean equal memory and equal state bytes. They say nothing about disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    memory: DigestSum,
    state: [u8; 32],
}

impl Root {
    /// The root of a machine whose pages have the digest sum `memory` and whose saved vCPUs and
    /// devices are the bytes `state`.
    #[must_use]
    pub fn new(key: &DigestKey, memory: DigestSum, state: &[u8]) -> Self {
        Self { memory, state: key.hash_state(state) }
    }

    /// The memory's half.
    #[must_use]
    pub fn memory(&self) -> DigestSum {
        self.memory
    }

    /// The root as bytes: the memory's sum, then the state's hash.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&self.memory.to_bytes());
        bytes[32..].copy_from_slice(&self.state);
        bytes
    }

    /// The root that a peer alleges; every value is one, and only comparison with our own makes it
    /// more than an allegation.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let (memory, state) = bytes.split_at(32);
        let half = |half: &[u8]| half.try_into().expect("half of 64 bytes");
        Self { memory: DigestSum::from_bytes(half(memory)), state: half(state) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_differs_in_memory_in_state_and_by_key() {
        let key = DigestKey::new([1; 32]);
        let sum = DigestSum::from_bytes([5; 32]);
        let root = Root::new(&key, sum, b"registers");
        assert_ne!(root, Root::new(&key, DigestSum::ZERO, b"registers"));
        assert_ne!(root, Root::new(&key, sum, b"registerz"));
        assert_ne!(root, Root::new(&DigestKey::new([2; 32]), sum, b"registers"));
    }

    #[test]
    fn a_root_survives_its_bytes() {
        let root = Root::new(&DigestKey::new([1; 32]), DigestSum::from_bytes([5; 32]), b"state");
        assert_eq!(Root::from_bytes(&root.to_bytes()), root);
        assert_eq!(root.memory().to_bytes(), root.to_bytes()[..32]);
    }
}
