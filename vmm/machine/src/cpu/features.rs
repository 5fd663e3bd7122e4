//! Sets of CPUID bits.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::words::{REPEATED, Register, WORDS};

/// A feature that this executable does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeatureError {
    /// No such name
    #[error("{0:?} is no CPU feature that this executable knows; a newer one may")]
    Name(String),
    /// Not one of the registers that hold features
    #[error(
        "leaf {leaf:#x}.{subleaf} {register:?} holds no features that this executable knows; a newer one may"
    )]
    Word {
        /// The leaf.
        leaf: u32,
        /// The subleaf.
        subleaf: u32,
        /// The register.
        register: Register,
    },
}

/// One bit of CPUID that says whether a processor can do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Feature {
    /// Index in the table of words.
    word: u8,
    bit: u8,
}

impl Feature {
    /// Its name, if it has one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        let names = WORDS[usize::from(self.word)].names;
        names.iter().find(|(bit, _)| *bit == self.bit).map(|(_, name)| *name)
    }

    fn mask(self) -> u32 {
        1 << self.bit
    }
}

impl fmt::Display for Feature {
    /// Its name, or its place: `0x7.1.eax[22]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.name() {
            return f.write_str(name);
        }
        let word = &WORDS[usize::from(self.word)];
        write!(f, "{:#x}.{}.{}[{}]", word.leaf, word.subleaf, word.register.name(), self.bit)
    }
}

impl FromStr for Feature {
    type Err = FeatureError;

    fn from_str(text: &str) -> Result<Self, FeatureError> {
        let mut all =
            (0_u8..).zip(&WORDS).flat_map(|(word, _)| (0..32).map(move |bit| (word, bit)));
        all.find_map(|(word, bit)| {
            let feature = Self { word, bit };
            // A feature that has a name is not known by its place as well.
            match feature.name() {
                Some(name) => (name == text).then_some(feature),
                None => (feature.to_string() == text).then_some(feature),
            }
        })
        .ok_or_else(|| FeatureError::Name(text.to_owned()))
    }
}

/// A set of features, named ones and others.
///
/// People and JSON see names; between processes travel the bits with their places. What a reader
/// does not know is refused: a feature that is not understood must not be taken for absent.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Features([u32; WORDS.len()]);

impl Features {
    /// No features.
    pub const NONE: Self = Self([0; WORDS.len()]);

    /// The features of these names.
    ///
    /// # Errors
    /// Names the first that is not known.
    pub fn named(names: &[&str]) -> Result<Self, FeatureError> {
        names.iter().map(|name| name.parse::<Feature>()).collect()
    }

    /// The features that a CPUID says, register by register; `register_of` gives 0 for what it does not have.
    pub(super) fn from_registers(register_of: impl Fn(u32, u32, Register) -> u32) -> Self {
        let mut features = Self::NONE;
        for (bits, word) in features.0.iter_mut().zip(&WORDS) {
            *bits = register_of(word.leaf, word.subleaf, word.register);
            if (word.leaf, word.register) == (0x8000_0001, Register::Edx) {
                *bits &= !REPEATED;
            }
        }
        features
    }

    /// The bits of one register.
    pub(super) fn register(&self, leaf: u32, subleaf: u32, register: Register) -> u32 {
        find(leaf, subleaf, register).map_or(0, |word| self.0[word])
    }

    /// Clears the set's bits in a CPUID.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn remove_from(&self, entries: &mut [kvm_bindings::kvm_cpuid_entry2]) {
        for entry in entries {
            let bits = |register| !self.register(entry.function, entry.index, register);
            let masks = [Register::Eax, Register::Ebx, Register::Ecx, Register::Edx].map(bits);
            entry.eax &= masks[0];
            entry.ebx &= masks[1];
            entry.ecx &= masks[2];
            entry.edx &= masks[3];
        }
    }

    /// Whether it is in the set.
    #[must_use]
    pub fn contains(&self, feature: Feature) -> bool {
        self.0[usize::from(feature.word)] & feature.mask() != 0
    }

    /// Whether the set has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// How many it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Those that both sets have.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.by_words(other, |one, two| one & two)
    }

    /// Those that either set has.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.by_words(other, |one, two| one | two)
    }

    /// Those that `other` does not have.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.by_words(other, |one, two| one & !two)
    }

    /// Each, in the order of CPUID.
    pub fn iter(&self) -> impl Iterator<Item = Feature> {
        (0_u8..).zip(self.0).flat_map(|(word, bits)| {
            (0_u8..32)
                .filter(move |bit| bits & (1 << bit) != 0)
                .map(move |bit| Feature { word, bit })
        })
    }

    fn by_words(&self, other: &Self, combine: impl Fn(u32, u32) -> u32) -> Self {
        Self(std::array::from_fn(|word| combine(self.0[word], other.0[word])))
    }
}

/// Index of a word.
fn find(leaf: u32, subleaf: u32, register: Register) -> Option<usize> {
    let is_it =
        |w: &super::words::Word| (w.leaf, w.subleaf, w.register) == (leaf, subleaf, register);
    WORDS.iter().position(is_it)
}

impl FromIterator<Feature> for Features {
    fn from_iter<I: IntoIterator<Item = Feature>>(features: I) -> Self {
        let mut set = Self::NONE;
        for feature in features {
            set.0[usize::from(feature.word)] |= feature.mask();
        }
        set
    }
}

impl fmt::Display for Features {
    /// Names with commas between them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, feature) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{feature}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

impl Serialize for Features {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_seq(self.iter().map(|feature| feature.to_string()));
        }
        let words = self.0.iter().zip(&WORDS).filter(|(bits, _)| **bits != 0);
        let words: Vec<_> =
            words.map(|(bits, word)| (word.leaf, word.subleaf, word.register, *bits)).collect();
        words.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Features {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let names = Vec::<String>::deserialize(deserializer)?;
            let features =
                names.iter().map(|name| name.parse::<Feature>()).collect::<Result<_, _>>();
            return features.map_err(D::Error::custom);
        }
        let mut features = Self::NONE;
        for (leaf, subleaf, register, bits) in
            Vec::<(u32, u32, Register, u32)>::deserialize(deserializer)?
        {
            let unknown = FeatureError::Word { leaf, subleaf, register };
            let word = find(leaf, subleaf, register).ok_or_else(|| D::Error::custom(unknown))?;
            features.0[word] |= bits;
        }
        Ok(features)
    }
}

#[cfg(test)]
#[path = "features_tests.rs"]
mod tests;
