//! Sizes and lengths of time as people write them.
//!
//! Both are shown in a form that is read again as the same value.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A size in bytes, such as `512M`, `1G`, `64 KiB` or `4096`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(
    /// Bytes.
    pub u64,
);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = number_and_unit(text).ok_or("write a size such as 512M or 4G")?;
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kib" => 10,
            "m" | "mib" => 20,
            "g" | "gib" => 30,
            "t" | "tib" => 40,
            _ => return Err(format!("{unit:?} is no unit; write a size such as 512M or 4G")),
        };
        number
            .checked_mul(1 << shift)
            .map(Self)
            .ok_or_else(|| format!("{text} is more than any machine has"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let fits = |shift: &u32| self.0 != 0 && self.0.is_multiple_of(1 << shift);
        match units.iter().find(|(shift, _)| fits(shift)) {
            Some((shift, unit)) => write!(f, "{} {unit}", self.0 >> shift),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// A length of time in whole milliseconds, such as `300ms`, `10s`, `5m` or `1h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeSpan(Duration);

impl TimeSpan {
    /// So many seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    #[must_use]
    pub const fn milliseconds(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// As the standard library has it.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for TimeSpan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = number_and_unit(text).ok_or("write a time such as 300ms or 10s")?;
        let milliseconds = match unit.to_ascii_lowercase().as_str() {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "" if number == 0 => 0,
            "" => return Err(format!("{number} of what? write 300ms, 10s, 5m or 1h")),
            _ => {
                return Err(format!("{unit:?} is no unit of time; write 300ms, 10s, 5m or 1h"));
            }
        };
        number
            .checked_mul(milliseconds)
            .map(Self::milliseconds)
            .ok_or_else(|| format!("{text} is longer than any machine runs"))
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_millis();
        let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s")];
        let fits = |of_unit: &u128| milliseconds != 0 && milliseconds.is_multiple_of(*of_unit);
        match units.iter().find(|(of_unit, _)| fits(of_unit)) {
            Some((of_unit, unit)) => write!(f, "{}{unit}", milliseconds / of_unit),
            None => write!(f, "{milliseconds}ms"),
        }
    }
}

/// A number and what follows it, perhaps after a space; none if there is no number or it is too large.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.strip_prefix(' ') {
        Some("") => return None,
        Some(unit) => unit,
        None => unit,
    };
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(text.parse().ok().map(|size: Size| size.0), expected, "{text:?}");
        };
        check("0", Some(0));
        check("4096", Some(4096));
        check("64k", Some(64 << 10));
        check("512M", Some(512 << 20));
        check("512MiB", Some(512 << 20));
        check("512 MiB", Some(512 << 20));
        check("6G", Some(6 << 30));
        check("", None);
        check("M", None);
        check("512 ", None);
        check("512  M", None);
        check("512MB", None);
        check("-1", None);
        check("1.5G", None);
        check("99999999999T", None);
        check("99999999999999999999", None);
    }

    #[test]
    fn sizes_are_shown_in_the_largest_whole_unit_and_read_again() {
        for (size, shown) in [(0, "0 B"), (512 << 20, "512 MiB"), (1536 << 20, "1536 MiB")] {
            assert_eq!(Size(size).to_string(), shown);
            assert_eq!(shown.parse(), Ok(Size(size)));
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        let check = |text: &str, milliseconds: Option<u64>| {
            let expected = milliseconds.map(TimeSpan::milliseconds);
            assert_eq!(text.parse().ok(), expected, "{text:?}");
        };
        check("0", Some(0));
        check("300ms", Some(300));
        check("10s", Some(10_000));
        check("10 s", Some(10_000));
        check("5m", Some(300_000));
        check("5min", Some(300_000));
        check("2h", Some(7_200_000));
        check("10", None);
        check("", None);
        check("s", None);
        check("1.5s", None);
        check("-1s", None);
        check("10 seconds", None);
        check("9999999999999999h", None);
    }

    #[test]
    fn times_are_shown_in_the_largest_whole_unit_and_read_again() {
        for (milliseconds, shown) in
            [(0, "0ms"), (300, "300ms"), (1500, "1500ms"), (90_000, "90s"), (7_200_000, "2h")]
        {
            let time = TimeSpan::milliseconds(milliseconds);
            assert_eq!(time.to_string(), shown);
            assert_eq!(shown.parse(), Ok(time));
        }
    }
}
