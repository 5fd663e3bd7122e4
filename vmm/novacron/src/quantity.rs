//! Sizes and numbers as people write them.

use std::str::FromStr;

/// A size in bytes, such as `512M`, `1G`, `64KiB` or `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kib" => 10,
            "m" | "mib" => 20,
            "g" | "gib" => 30,
            "t" | "tib" => 40,
            _ => return Err(format!("{unit:?} is no unit; write a size such as 512M or 4G")),
        };
        let number: u64 =
            number.parse().map_err(|_| "write a size such as 512M or 4G".to_owned())?;
        number
            .checked_mul(1 << shift)
            .map(Self)
            .ok_or_else(|| format!("{text} is more than any machine has"))
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let fits = |shift: &u32| self.0 != 0 && self.0.is_multiple_of(1 << shift);
        match units.iter().find(|(shift, _)| fits(shift)) {
            Some((shift, unit)) => write!(f, "{} {unit}", self.0 >> shift),
            None => write!(f, "{} B", self.0),
        }
    }
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
        check("6G", Some(6 << 30));
        check("", None);
        check("M", None);
        check("512MB", None);
        check("-1", None);
        check("1.5G", None);
        check("99999999999T", None);
    }

    #[test]
    fn sizes_are_shown_in_the_largest_whole_unit() {
        for (size, shown) in [(0, "0 B"), (512 << 20, "512 MiB"), (1536 << 20, "1536 MiB")] {
            assert_eq!(Size(size).to_string(), shown);
        }
    }
}
