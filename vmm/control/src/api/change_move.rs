//! Other limits for a move that is under way.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{KnownFormat, Object, ObjectBuilder, OneOfBuilder, Schema, Type};

use super::ApiError;
use super::migration;

/// Give a move that is under way other limits: those that are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(min_properties = 1)]
pub struct ChangeMove {
    /// Milliseconds that the guest may stand still.
    #[schema(minimum = 1, maximum = 600_000, nullable = false)]
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub max_downtime_ms: Option<u64>,
    /// Milliseconds for which the other host may be out of reach. The other host hears nothing of it: what it was told at
    /// the beginning is the most for which it keeps what it has of a machine whose host is silent.
    #[schema(minimum = 1_000, maximum = 86_400_000, nullable = false)]
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Bytes a second that pages may take while the guest runs; 0 takes the limit away.
    #[schema(schema_with = bandwidth)]
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    /// Hundredths of its time for which the guest may be held if it writes too fast; 0 lets it go.
    #[schema(minimum = 0, maximum = 99, nullable = false)]
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub throttle_percent: Option<u32>,
    /// Thousandths of a processor that sending pages may take while the guest runs; 0 takes the limit away.
    #[schema(schema_with = cpu)]
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub cpu_permille: Option<u32>,
}

/// What is named is a value: a null would be a limit that is named and nothing.
fn named<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

fn bandwidth() -> Schema {
    const IS: &str =
        "Bytes a second that pages may take while the guest runs; 0 takes the limit away.";
    nothing_or(migration::BANDWIDTH.describe(KnownFormat::UInt64), IS)
}

fn cpu() -> Schema {
    const IS: &str = "Thousandths of a processor that sending pages may take while the guest runs; 0 takes the limit away.";
    nothing_or(migration::CPU.describe(KnownFormat::UInt32), IS)
}

// utoipa takes no description from a field whose schema is made by a function.
fn nothing_or(some: Object, is: &str) -> Schema {
    let nothing = ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some([0]));
    OneOfBuilder::new().item(nothing).item(some).description(Some(is)).build().into()
}

impl ChangeMove {
    /// Whether it names a limit, and its numbers are within what the description says.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        let Self { max_downtime_ms, timeout_ms, bandwidth, throttle_percent, cpu_permille } = *self;
        if *self == Self::default() {
            return Err(migration::refused("no limit is named: nothing would change".to_owned()));
        }
        let limited = |value: Option<u64>| value.filter(|value| *value > 0);
        let bounds = [
            (migration::MAX_DOWNTIME, max_downtime_ms),
            (migration::TIMEOUT, timeout_ms),
            (migration::BANDWIDTH, limited(bandwidth)),
            (migration::THROTTLE, limited(throttle_percent.map(u64::from))),
            (migration::CPU, limited(cpu_permille.map(u64::from))),
        ];
        bounds
            .iter()
            .try_for_each(|(bound, value)| value.map_or(Ok(()), |value| bound.check(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(change: &serde_json::Value) -> Result<(), String> {
        let change: ChangeMove = serde_json::from_value(change.clone()).unwrap();
        change.check().map_err(|error| error.message)
    }

    #[test]
    fn a_change_names_a_limit_and_what_it_names_is_within_bounds() {
        for sound in [
            json!({ "max_downtime_ms": 1 }),
            json!({ "timeout_ms": 86_400_000 }),
            json!({ "bandwidth": 0, "throttle_percent": 0, "cpu_permille": 0 }),
            json!({ "bandwidth": 65_536, "throttle_percent": 99, "cpu_permille": 10 }),
        ] {
            assert_eq!(check(&sound), Ok(()), "{sound}");
        }
        for (spoilt, why) in [
            (json!({}), "no limit is named"),
            (json!({ "max_downtime_ms": 0 }), "max_downtime_ms: 0 is not within 1 and 600000"),
            (json!({ "timeout_ms": 999 }), "timeout_ms: 999"),
            (json!({ "bandwidth": 65_535 }), "bandwidth: 65535"),
            (json!({ "throttle_percent": 100 }), "throttle_percent: 100 is not within 1 and 99"),
            (json!({ "cpu_permille": 9 }), "cpu_permille: 9"),
            (json!({ "bandwidth": 0, "cpu_permille": 9 }), "cpu_permille: 9"),
        ] {
            let refused = check(&spoilt).unwrap_err();
            assert!(refused.starts_with(why), "{spoilt}: {refused}");
        }
    }
}
