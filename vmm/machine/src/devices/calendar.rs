//! Dates and times of the Gregorian calendar, in UTC, as a clock shows them.

/// Days in 400 years, after which the calendar repeats.
const DAYS_OF_400_YEARS: i64 = 146_097;
/// Days in 10,000 years, after which a clock of four digits repeats: whole weeks, too.
const DAYS_OF_ALL_YEARS: i64 = 25 * DAYS_OF_400_YEARS;
/// From 1 January 0000 to 1 January 1970.
const DAYS_BEFORE_1970: i64 = 719_528;
/// From 1 January 0000, a leap year, to 1 March, with which the arithmetic begins its years.
const DAYS_BEFORE_MARCH: i64 = 60;
const SECONDS_OF_A_DAY: i64 = 86_400;

/// A date and time that exists, of the years 0 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Calendar {
    pub(super) year: u16,
    /// 1 to 12.
    pub(super) month: u8,
    /// 1 to 31.
    pub(super) day: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

impl Calendar {
    /// The same, if there is such a date and time.
    pub(super) fn checked(self) -> Option<Self> {
        let exists = self.year <= 9999
            && (1..=12).contains(&self.month)
            && (1..=self.days_of_month()).contains(&self.day)
            && self.hour < 24
            && self.minute < 60
            && self.second < 60;
        exists.then_some(self)
    }

    /// That of a second since 1970. Before year 0 and after 9999 the years repeat.
    pub(super) fn of_unix(seconds: i64) -> Self {
        let day =
            (seconds.div_euclid(SECONDS_OF_A_DAY) + DAYS_BEFORE_1970).rem_euclid(DAYS_OF_ALL_YEARS);
        let second = seconds.rem_euclid(SECONDS_OF_A_DAY);
        // Years that begin in March have their leap day at their end, and five of their months 153 days
        // (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
        let since_march = day - DAYS_BEFORE_MARCH;
        let (era, day) =
            (since_march.div_euclid(DAYS_OF_400_YEARS), since_march.rem_euclid(DAYS_OF_400_YEARS));
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        Self {
            year: u16::try_from(era * 400 + year + next_year).expect("0 to 9999"),
            month: small(month),
            day: small(day),
            hour: small(second / 3600),
            minute: small(second / 60 % 60),
            second: small(second % 60),
        }
    }

    /// Its second since 1970.
    pub(super) fn to_unix(self) -> i64 {
        let (month, year) = match self.month {
            1 | 2 => (i64::from(self.month) + 9, i64::from(self.year) - 1),
            _ => (i64::from(self.month) - 3, i64::from(self.year)),
        };
        let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
        let day = (153 * month + 2) / 5 + i64::from(self.day) - 1;
        let day = era * DAYS_OF_400_YEARS + 365 * year + year / 4 - year / 100 + day;
        let day = day + DAYS_BEFORE_MARCH - DAYS_BEFORE_1970;
        let second = i64::from(self.hour) * 3600 + i64::from(self.minute) * 60;
        day * SECONDS_OF_A_DAY + second + i64::from(self.second)
    }

    /// 1 for Sunday to 7 for Saturday.
    pub(super) fn weekday(self) -> u8 {
        // 1 January 1970 was a Thursday.
        small((self.to_unix().div_euclid(SECONDS_OF_A_DAY) + 4).rem_euclid(7) + 1)
    }

    fn days_of_month(self) -> u8 {
        let is_leap = self.year.is_multiple_of(4)
            && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        match self.month {
            4 | 6 | 9 | 11 => 30,
            2 if is_leap => 29,
            2 => 28,
            _ => 31,
        }
    }
}

/// A part of a date or time.
fn small(value: i64) -> u8 {
    u8::try_from(value).expect("a part of a date or time is below 256")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn calendar(date: (u16, u8, u8), time: (u8, u8, u8)) -> Calendar {
        let ((year, month, day), (hour, minute, second)) = (date, time);
        Calendar { year, month, day, hour, minute, second }
    }

    #[test]
    fn known_seconds_are_known_dates() {
        // By `date --utc --date=@…`.
        for (seconds, date, time, weekday) in [
            (0, (1970, 1, 1), (0, 0, 0), 5),
            (-1, (1969, 12, 31), (23, 59, 59), 4),
            (951_782_399, (2000, 2, 28), (23, 59, 59), 2),
            (951_782_400, (2000, 2, 29), (0, 0, 0), 3),
            (951_868_800, (2000, 3, 1), (0, 0, 0), 4),
            (1_709_210_096, (2024, 2, 29), (12, 34, 56), 5),
            (4_107_542_400, (2100, 3, 1), (0, 0, 0), 2),
            (253_402_300_799, (9999, 12, 31), (23, 59, 59), 6),
            (-62_167_219_200, (0, 1, 1), (0, 0, 0), 7),
        ] {
            let expected = calendar(date, time);
            assert_eq!(Calendar::of_unix(seconds), expected);
            assert_eq!(expected.to_unix(), seconds, "{expected:?}");
            assert_eq!(expected.weekday(), weekday, "{expected:?}");
        }
    }

    #[test]
    fn the_years_repeat_after_9999() {
        let first = Calendar::of_unix(-62_167_219_200);
        assert_eq!(Calendar::of_unix(253_402_300_800), first);
        assert_eq!(Calendar::of_unix(-62_167_219_201).year, 9999);
    }

    #[test]
    fn dates_that_do_not_exist_are_none() {
        let exists = |date, time| calendar(date, time).checked().is_some();
        for date in [(2024, 2, 29), (2000, 2, 29), (1999, 12, 31), (2026, 4, 30), (0, 1, 1)] {
            assert!(exists(date, (23, 59, 59)), "{date:?}");
        }
        for date in [
            (2023, 2, 29),
            (2100, 2, 29),
            (2024, 2, 30),
            (2026, 4, 31),
            (2026, 0, 1),
            (2026, 13, 1),
            (2026, 1, 0),
            (2026, 1, 32),
            (10_000, 1, 1),
        ] {
            assert!(!exists(date, (0, 0, 0)), "{date:?}");
        }
        for time in [(24, 0, 0), (0, 60, 0), (0, 0, 60)] {
            assert!(!exists((2026, 1, 1), time), "{time:?}");
        }
    }

    proptest! {
        #[test]
        fn any_second_is_a_date_and_a_date_of_four_digits_is_that_second(seconds: i64) {
            let date = Calendar::of_unix(seconds);
            prop_assert_eq!(date.checked(), Some(date));
            let all = DAYS_OF_ALL_YEARS * SECONDS_OF_A_DAY;
            prop_assert_eq!((date.to_unix() - seconds % all) % all, 0);
        }
    }
}
