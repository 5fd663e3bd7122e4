//! Sections: how they are put in, taken out, and refused.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{MAX_STATE_BYTES, Section};

/// A saved form that a section can hold.
pub(crate) trait Schema: Serialize + DeserializeOwned {
    /// The section's name.
    const NAME: &'static str;
    /// Its version. A changed layout is a new type with a higher one.
    const VERSION: u16;
}

/// A saved state that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Not a list of sections at all
    #[error("this is not a machine's saved state, or it is damaged: {0}")]
    Damaged(String),
    /// Larger than any machine's state
    #[error("a saved state of {0} bytes; the limit is {MAX_STATE_BYTES}")]
    TooLarge(usize),
    /// A section is missing
    #[error("the saved state lacks the section {name}.{instance}")]
    Missing {
        /// The section's name.
        name: &'static str,
        /// Which of several.
        instance: u16,
    },
    /// A section of another version
    #[error(
        "section {name} of the saved state has version {found}, this executable knows {known}; use one that knows both"
    )]
    Version {
        /// The section's name.
        name: &'static str,
        /// The version found.
        found: u16,
        /// The version known here.
        known: u16,
    },
    /// A section's bytes are not its type's
    #[error("section {name}.{instance} of the saved state is damaged: {why}")]
    Section {
        /// The section's name.
        name: &'static str,
        /// Which of several.
        instance: u16,
        /// What the decoder said.
        why: String,
    },
    /// It can be read, and is not what the state read would be written as
    #[error("the saved state is damaged: it has its parts, but not as they are written")]
    NotAsWritten,
    /// A section that nothing here understands
    #[error(
        "the saved state has a section {0}, which this executable does not know; use a newer one"
    )]
    Unknown(String),
}

/// The sections of a saved state.
#[derive(Default)]
pub(crate) struct Sections {
    sections: Vec<Section>,
}

impl Sections {
    /// Adds one.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub(crate) fn put<T: Schema>(&mut self, instance: u16, value: &T) -> Result<(), StateError> {
        let bytes = postcard::to_stdvec(value).map_err(|error| damaged::<T>(instance, &error))?;
        let name = T::NAME.to_owned();
        self.sections.push(Section { name, version: T::VERSION, instance, bytes });
        Ok(())
    }

    /// Takes one out.
    ///
    /// # Errors
    /// When it is missing, of another version, or damaged.
    pub(crate) fn take<T: Schema>(&mut self, instance: u16) -> Result<T, StateError> {
        let is_it = |s: &Section| s.name == T::NAME && s.instance == instance;
        let missing = StateError::Missing { name: T::NAME, instance };
        let index = self.sections.iter().position(is_it).ok_or(missing)?;
        let section = self.sections.swap_remove(index);
        if section.version != T::VERSION {
            let (name, found, known) = (T::NAME, section.version, T::VERSION);
            return Err(StateError::Version { name, found, known });
        }
        match postcard::take_from_bytes(&section.bytes) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => {
                let why = format!("{} bytes too many", rest.len());
                Err(StateError::Section { name: T::NAME, instance, why })
            }
            Err(error) => Err(damaged::<T>(instance, &error)),
        }
    }

    /// Checks that every section was taken.
    ///
    /// # Errors
    /// Names the first that was not.
    pub(crate) fn finish(self) -> Result<(), StateError> {
        match self.sections.first() {
            None => Ok(()),
            Some(section) => {
                Err(StateError::Unknown(format!("{}.{}", section.name, section.instance)))
            }
        }
    }

    /// The bytes of all.
    ///
    /// # Errors
    /// When they are more than [`MAX_STATE_BYTES`].
    pub(crate) fn encode(&self) -> Result<Vec<u8>, StateError> {
        let bytes = postcard::to_stdvec(&self.sections)
            .map_err(|error| StateError::Damaged(error.to_string()))?;
        if bytes.len() > MAX_STATE_BYTES {
            return Err(StateError::TooLarge(bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads a list of sections; what is in them is read by `take`.
    ///
    /// # Errors
    /// When the bytes are too many, or no such list.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        if bytes.len() > MAX_STATE_BYTES {
            return Err(StateError::TooLarge(bytes.len()));
        }
        match postcard::take_from_bytes(bytes) {
            Ok((sections, [])) => Ok(Self { sections }),
            Ok((_, rest)) => Err(StateError::Damaged(format!("{} bytes too many", rest.len()))),
            Err(error) => Err(StateError::Damaged(error.to_string())),
        }
    }
}

fn damaged<T: Schema>(instance: u16, error: &postcard::Error) -> StateError {
    StateError::Section { name: T::NAME, instance, why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct ThingV1(u32);
    impl Schema for ThingV1 {
        const NAME: &'static str = "thing";
        const VERSION: u16 = 1;
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct ThingV2(u32);
    impl Schema for ThingV2 {
        const NAME: &'static str = "thing";
        const VERSION: u16 = 2;
    }

    fn saved() -> Vec<u8> {
        let mut sections = Sections::default();
        sections.put(0, &ThingV1(7)).unwrap();
        sections.put(1, &ThingV1(8)).unwrap();
        sections.encode().unwrap()
    }

    #[test]
    fn sections_come_back_by_name_and_instance() {
        let mut sections = Sections::decode(&saved()).unwrap();
        assert_eq!(sections.take::<ThingV1>(1).unwrap(), ThingV1(8));
        assert_eq!(sections.take::<ThingV1>(0).unwrap(), ThingV1(7));
        sections.finish().unwrap();
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let refused = Sections::decode(&saved()).unwrap().take::<ThingV2>(0);
        assert_eq!(refused, Err(StateError::Version { name: "thing", found: 1, known: 2 }));
    }

    #[test]
    fn a_section_that_nobody_takes_is_an_error() {
        let mut sections = Sections::decode(&saved()).unwrap();
        sections.take::<ThingV1>(0).unwrap();
        assert_eq!(sections.finish(), Err(StateError::Unknown("thing.1".into())));
    }

    #[test]
    fn a_state_cut_anywhere_is_refused() {
        let whole = saved();
        for length in 0..whole.len() {
            let outcome = Sections::decode(&whole[..length]);
            assert!(outcome.is_err(), "cut to {length} of {}", whole.len());
        }
    }
}
