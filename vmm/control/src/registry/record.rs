//! What is written of a machine.

use serde::{Deserialize, Serialize};

use crate::api::{Ended, MachineSpec, Timestamp};
use crate::random::{hex, unhex};

/// Raised whenever a record changes in a way that an earlier executable would misread.
pub(super) const VERSION: u32 = 1;

/// `machine.json`: everything that is known of a machine and cannot be found out again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    version: u32,
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub(crate) id: [u8; 16],
    pub(crate) created_at: Timestamp,
    pub(crate) spec: MachineSpec,
    /// Whether somebody has started it, and nobody stopped it since.
    pub(crate) should_run: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<Ended>,
    /// A move to another host that has begun, and whose end is not noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) departure: Option<Attempt>,
    /// A move from another host that has begun, and whose end is not noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) arrival: Option<Attempt>,
    /// Where it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) moved: Option<Moved>,
}

/// A move that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attempt {
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub(crate) session: [u8; 16],
    /// The key of the other host.
    pub(crate) peer: String,
    /// The operation that it is here.
    pub(crate) operation: String,
    /// Whether the machine's record was made for it, and goes if it does not come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_new: bool,
}

/// A machine that runs on another host, or has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Moved {
    /// The key of the host that it went to from here.
    pub(crate) to: String,
    pub(crate) at: Timestamp,
}

impl Record {
    pub(super) fn new(id: [u8; 16], spec: MachineSpec) -> Self {
        let created_at = Timestamp::now();
        Self {
            version: VERSION,
            id,
            created_at,
            spec,
            should_run: false,
            started_at: None,
            ended: None,
            departure: None,
            arrival: None,
            moved: None,
        }
    }

    /// The id as it is shown.
    pub(crate) fn id_text(&self) -> String {
        hex(&self.id)
    }

    pub(super) fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a record, or says what is wrong with it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        // The version first: a newer one may have fields that this executable does not know.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if version != VERSION {
            return Err(format!(
                "it is of version {version}, this executable knows {VERSION}; use one that knows both"
            ));
        }
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}

fn to_hex<S: serde::Serializer>(id: &[u8; 16], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex(id))
}

fn from_hex<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<[u8; 16], D::Error> {
    let text = String::deserialize(deserializer)?;
    let id = unhex(&text).filter(|id| *id != [0; 16]);
    id.ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no id")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = Record {
            ended: Some(Ended { at: Timestamp::now(), how: "it ended".into(), failed: true }),
            ..Record::new([7; 16], MachineSpec::default())
        };
        assert_eq!(Record::decode(&record.encode().unwrap()).unwrap(), record);
    }

    #[test]
    fn a_record_that_is_not_understood_is_refused_with_the_reason() {
        let text =
            String::from_utf8(Record::new([7; 16], MachineSpec::default()).encode().unwrap());
        let text = text.unwrap();
        for (from, to, why) in [
            ("\"version\": 1", "\"version\": 2", "version 2"),
            ("\"should_run\"", "\"shall_run\"", "unknown field `shall_run`"),
            ("0707", "07", "is no id"),
            ("07070707070707070707070707070707", "00000000000000000000000000000000", "is no id"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            let error = Record::decode(changed.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
