//! What a wire is like.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a wire does to what goes over it, the same in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// From one end to the other and back; half of it is each direction's.
    pub round_trip: Duration,
    /// How many of a thousand packets are lost, in each direction.
    pub lost_of_1000: u32,
    /// Bytes a second, in each direction; none if as many as can.
    pub rate: Option<u32>,
}

impl Link {
    /// Nothing arrives.
    pub const CUT: Self = Self { round_trip: Duration::ZERO, lost_of_1000: 1000, rate: None };

    /// A wire that loses so many packets of a thousand, and takes so long there and back.
    #[must_use]
    pub fn new(round_trip_ms: u64, lost_of_1000: u32) -> Self {
        Self { round_trip: Duration::from_millis(round_trip_ms), lost_of_1000, rate: None }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (percent, tenths) = (self.lost_of_1000 / 10, self.lost_of_1000 % 10);
        write!(formatter, "{} ms, {percent}.{tenths} % lost", self.round_trip.as_millis())?;
        self.rate.map_or(Ok(()), |rate| write!(formatter, ", {rate} bytes/s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_called_by_what_it_does() {
        assert_eq!(Link::new(80, 10).to_string(), "80 ms, 1.0 % lost");
        let slow = Link { rate: Some(125_000), ..Link::new(20, 1) };
        assert_eq!(slow.to_string(), "20 ms, 0.1 % lost, 125000 bytes/s");
        assert_eq!(Link::CUT.to_string(), "0 ms, 100.0 % lost");
    }
}
