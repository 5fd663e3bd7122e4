//! The CMOS clock, read and set as guests do.

use proptest::prelude::*;

use super::*;

/// Thursday 29 February 2024, 12:34:56.25.
const LEAP_DAY_NS: i128 = 1_709_210_096_250_000_000;

/// A clock, and the host's time.
struct Bench {
    cmos: Cmos,
    host_ns: i128,
}

impl Bench {
    fn at(host_ns: i128) -> Self {
        Self { cmos: Cmos::new(), host_ns }
    }

    fn read(&mut self, index: u8) -> u8 {
        self.cmos.select(index);
        self.cmos.read(self.host_ns)
    }

    fn write(&mut self, index: u8, value: u8) {
        self.cmos.select(index);
        self.cmos.write(value, self.host_ns);
    }

    /// Century, year, month, day, hour, minute, second.
    fn date(&mut self) -> [u8; 7] {
        [CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS].map(|index| self.read(index))
    }

    fn write_date(&mut self, date: [u8; 7]) {
        let indices = [CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS];
        for (index, value) in indices.into_iter().zip(date) {
            self.write(index, value);
        }
    }

    /// Sets the clock as the data sheet says: with `SET`, and the format as it is.
    fn set_date(&mut self, date: [u8; 7]) {
        let format = self.read(STATUS_B);
        self.write(STATUS_B, format | SET);
        self.write_date(date);
        self.write(STATUS_B, format);
    }

    fn pass(&mut self, ns: i128) {
        self.host_ns += ns;
    }
}

#[test]
fn it_shows_the_hosts_time_in_each_format() {
    for (format, expected) in [
        (HOURS_24, [0x20, 0x24, 0x02, 0x29, 0x12, 0x34, 0x56]),
        (0, [0x20, 0x24, 0x02, 0x29, 0x92, 0x34, 0x56]),
        (BINARY | HOURS_24, [20, 24, 2, 29, 12, 34, 56]),
        (BINARY, [20, 24, 2, 29, 0x8c, 34, 56]),
    ] {
        let mut bench = Bench::at(LEAP_DAY_NS);
        bench.write(STATUS_B, format);
        assert_eq!(bench.date(), expected, "{format:#04x}");
        assert_eq!(bench.read(WEEKDAY), 5);
    }
}

#[test]
fn midnight_and_noon_are_12_on_a_clock_of_12_hours() {
    let midnight = LEAP_DAY_NS / (86_400 * SECOND_NS) * (86_400 * SECOND_NS);
    for (hour, bcd, binary) in [
        (0, 0x12, 12),
        (1, 0x01, 1),
        (11, 0x11, 11),
        (12, 0x92, 0x8c),
        (13, 0x81, 0x81),
        (22, 0x90, 0x8a),
        (23, 0x91, 0x8b),
    ] {
        for (format, expected) in [(0, bcd), (BINARY, binary)] {
            let mut bench = Bench::at(midnight + hour * 3600 * SECOND_NS);
            bench.write(STATUS_B, format);
            assert_eq!(bench.read(HOURS), expected, "{hour} h");
            // And back: what is shown means the same when it is written.
            let shown = bench.date();
            bench.pass(7 * 3600 * SECOND_NS);
            bench.set_date(shown);
            assert_eq!(bench.cmos.offset_ns, -7 * 3600 * SECOND_NS, "{hour} h");
        }
    }
}

#[test]
fn the_leap_day_comes_and_goes() {
    let last_second = 1_709_164_799 * SECOND_NS;
    let mut bench = Bench::at(last_second);
    assert_eq!(bench.date()[2..], [0x02, 0x28, 0x23, 0x59, 0x59]);
    bench.pass(SECOND_NS);
    assert_eq!(bench.date()[2..], [0x02, 0x29, 0, 0, 0]);
    bench.pass(86_400 * SECOND_NS);
    assert_eq!(bench.date()[2..], [0x03, 0x01, 0, 0, 0]);
    // A year without one.
    bench.set_date([0x21, 0x00, 0x02, 0x28, 0x23, 0x59, 0x59]);
    bench.pass(SECOND_NS);
    assert_eq!(bench.date(), [0x21, 0x00, 0x03, 0x01, 0, 0, 0]);
}

#[test]
fn a_clock_beyond_four_digits_of_years_shows_some_date() {
    // A second before the year 0, and 30,000 years on.
    for host_seconds in [-62_167_219_201, 946_728_000_000] {
        let mut bench = Bench::at(host_seconds * SECOND_NS);
        assert_eq!(bench.date(), [0x19, 0x70, 0x01, 0x01, 0, 0, 0]);
    }
}

#[test]
fn a_time_that_was_set_goes_on_from_there_whatever_the_hosts_is() {
    let mut bench = Bench::at(LEAP_DAY_NS);
    bench.set_date([0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58]);
    assert_eq!(bench.date(), [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58]);
    // The divider was not touched: seconds change where they did before.
    bench.pass(SECOND_NS * 3 / 4 - 1);
    assert_eq!(bench.read(SECONDS), 0x58);
    bench.pass(1);
    assert_eq!(bench.read(SECONDS), 0x59);
    bench.pass(SECOND_NS);
    assert_eq!(bench.date(), [0x20, 0x00, 0x01, 0x01, 0, 0, 0]);
}

#[test]
fn the_first_update_comes_half_a_second_after_the_divider_starts() {
    let mut bench = Bench::at(LEAP_DAY_NS);
    // As Linux sets it: SET, divider reset, the registers, SET off, divider on.
    bench.write(STATUS_B, HOURS_24 | SET);
    bench.write(STATUS_A, STATUS_A_AT_FIRST | 0x70);
    bench.write_date([0x20, 0x24, 0x02, 0x29, 0x12, 0x00, 0x00]);
    bench.write(STATUS_B, HOURS_24);
    bench.pass(10 * SECOND_NS);
    assert_eq!(bench.read(SECONDS), 0, "the divider stands still");
    bench.write(STATUS_A, STATUS_A_AT_FIRST);
    bench.pass(499_999_999);
    assert_eq!(bench.read(SECONDS), 0);
    bench.pass(1);
    assert_eq!(bench.read(SECONDS), 1);
}

#[test]
fn while_it_is_stopped_its_time_stands_still_and_can_be_read_back() {
    let mut bench = Bench::at(LEAP_DAY_NS);
    bench.write(STATUS_B, HOURS_24 | SET);
    bench.pass(5 * SECOND_NS);
    assert_eq!(bench.date(), [0x20, 0x24, 0x02, 0x29, 0x12, 0x34, 0x56]);
    bench.write(MINUTES, 0x59);
    assert_eq!(bench.read(MINUTES), 0x59);
    bench.write(STATUS_B, HOURS_24);
    assert_eq!(bench.date(), [0x20, 0x24, 0x02, 0x29, 0x12, 0x59, 0x56]);
}

#[test]
fn a_register_may_be_written_while_the_clock_runs() {
    let mut bench = Bench::at(LEAP_DAY_NS);
    bench.write(YEAR, 0x28);
    bench.write(MINUTES, 0x00);
    assert_eq!(bench.date(), [0x20, 0x28, 0x02, 0x29, 0x12, 0x00, 0x56]);
    // The weekday follows from the date, and cannot be set.
    bench.write(WEEKDAY, 1);
    assert_eq!(bench.read(WEEKDAY), 3);
}

#[test]
fn what_is_no_time_does_not_set_the_clock() {
    for (index, value) in [
        (SECONDS, 0x60),
        (SECONDS, 0x5a),
        (MINUTES, 0xa0),
        (HOURS, 0x24),
        (DAY, 0x00),
        (DAY, 0x30),
        (MONTH, 0x00),
        (MONTH, 0x13),
        (YEAR, 0x23),
        (YEAR, 0xff),
        (CENTURY, 0x1f),
    ] {
        let mut bench = Bench::at(LEAP_DAY_NS);
        bench.write(STATUS_B, HOURS_24 | SET);
        bench.write(index, value);
        bench.pass(SECOND_NS);
        bench.write(STATUS_B, HOURS_24);
        assert_eq!(bench.date(), [0x20, 0x24, 0x02, 0x29, 0x12, 0x34, 0x57], "{index}: {value:#x}");
    }
    // With 12 hours there is no hour 0 and no 13.
    for hour in [0x00, 0x13, 0x80, 0x93] {
        let mut bench = Bench::at(LEAP_DAY_NS);
        bench.write(STATUS_B, 0);
        bench.write(HOURS, hour);
        assert_eq!(bench.read(HOURS), 0x92, "{hour:#x}");
    }
}

#[test]
fn an_update_is_announced_244_microseconds_before_it() {
    let second = LEAP_DAY_NS / SECOND_NS * SECOND_NS;
    for (into_second, is_announced) in [
        (0, false),
        (SECOND_NS / 2, false),
        (SECOND_NS - UPDATE_NOTICE_NS - 1, false),
        (SECOND_NS - UPDATE_NOTICE_NS, true),
        (SECOND_NS - 1, true),
    ] {
        let mut bench = Bench::at(second + into_second);
        let status = bench.read(STATUS_A);
        assert_eq!(status & UPDATE_IN_PROGRESS != 0, is_announced, "{into_second} ns");
        // None comes while the clock is stopped, in either way.
        bench.write(STATUS_B, HOURS_24 | SET);
        assert_eq!(bench.read(STATUS_A) & UPDATE_IN_PROGRESS, 0);
        bench.write(STATUS_B, HOURS_24);
        bench.write(STATUS_A, 0x76);
        assert_eq!(bench.read(STATUS_A), 0x76);
    }
}

#[test]
fn the_status_registers_are_those_of_a_chip_with_a_battery_and_without_interrupts() {
    let mut bench = Bench::at(LEAP_DAY_NS);
    assert_eq!([STATUS_A, STATUS_B, STATUS_C, STATUS_D].map(|i| bench.read(i)), [0x26, 2, 0, 0x80]);
    for index in [STATUS_C, STATUS_D] {
        bench.write(index, 0x55);
    }
    bench.write(STATUS_A, 0b1011_1111);
    bench.write(STATUS_B, SET | 0x7f);
    let expected = [0x3f, SET | 0x6f, 0, 0x80];
    assert_eq!([STATUS_A, STATUS_B, STATUS_C, STATUS_D].map(|i| bench.read(i)), expected);
}

#[test]
fn the_rest_is_memory_and_the_index_has_seven_bits() {
    let mut bench = Bench::at(LEAP_DAY_NS);
    for index in (0x0e..0x80).filter(|index| *index != CENTURY) {
        bench.write(index, index ^ 0x5a);
    }
    for index in (0x0e..0x80).filter(|index| *index != CENTURY) {
        assert_eq!(bench.read(index | 0x80), index ^ 0x5a);
    }
    assert_eq!(bench.date(), [0x20, 0x24, 0x02, 0x29, 0x12, 0x34, 0x56]);
}

#[test]
fn its_time_is_right_in_the_process_that_it_is_restored_in() {
    let mut bench = Bench::at(LEAP_DAY_NS);
    bench.set_date([0x20, 0x01, 0x09, 0x11, 0x08, 0x46, 0x00]);
    bench.write(0x40, 0x77);
    bench.cmos.select(MINUTES);
    let saved = bench.cmos.save();
    let mut successor = Bench::at(LEAP_DAY_NS + 60 * SECOND_NS);
    successor.cmos.restore(&saved).unwrap();
    assert_eq!(successor.cmos.read(successor.host_ns), 0x47, "the selected register goes along");
    assert_eq!(successor.date(), [0x20, 0x01, 0x09, 0x11, 0x08, 0x47, 0x00]);
    assert_eq!(successor.read(0x40), 0x77);
    assert_eq!(bench.cmos.save().registers, successor.cmos.save().registers);
}

#[test]
fn a_clock_that_is_saved_while_it_is_stopped_comes_back_stopped() {
    let mut bench = Bench::at(LEAP_DAY_NS);
    bench.write(STATUS_B, HOURS_24 | SET);
    bench.write(YEAR, 0x28);
    let mut successor = Bench::at(LEAP_DAY_NS + 60 * SECOND_NS);
    successor.cmos.restore(&bench.cmos.save()).unwrap();
    assert_eq!(successor.date(), [0x20, 0x28, 0x02, 0x29, 0x12, 0x34, 0x56]);
    successor.write(STATUS_B, HOURS_24);
    assert_eq!(successor.date(), [0x20, 0x28, 0x02, 0x29, 0x12, 0x34, 0x56]);
}

#[test]
fn a_state_of_no_clock_is_refused_and_changes_nothing() {
    let sound = Cmos::new().save();
    let long = CmosStateV1 { registers: vec![0; 129], ..sound.clone() };
    let short = CmosStateV1 { registers: vec![0; 127], ..sound.clone() };
    let beyond = CmosStateV1 { selected: 128, ..sound.clone() };
    let far = CmosStateV1 { offset_ns: i128::MIN, ..sound.clone() };
    let mut cmos = Cmos::new();
    for state in [long, short, beyond, far] {
        assert!(cmos.restore(&state).is_err(), "{state:?}");
        assert_eq!(cmos.save(), sound);
    }
}

proptest! {
    #[test]
    fn no_sequence_of_accesses_at_any_time_breaks_it(
        start in any::<i64>(),
        accesses in prop::collection::vec((any::<u8>(), any::<Option<u8>>(), any::<u32>()), 1..80),
    ) {
        let mut bench = Bench::at(i128::from(start));
        for (index, value, passed) in accesses {
            match value {
                Some(value) => bench.write(index, value),
                None => drop(bench.read(index)),
            }
            bench.pass(i128::from(passed));
            // What it says of itself can be restored.
            prop_assert!(Cmos::new().restore(&bench.cmos.save()).is_ok());
        }
    }

    #[test]
    fn any_date_that_is_set_is_shown(
        seconds in -62_167_219_200_i64..253_402_300_800,
        format in prop::sample::select(vec![0, BINARY, HOURS_24, BINARY | HOURS_24]),
    ) {
        let mut other = Bench::at(i128::from(seconds) * SECOND_NS);
        other.write(STATUS_B, format);
        let date = other.date();
        let mut bench = Bench::at(LEAP_DAY_NS);
        bench.write(STATUS_B, format);
        bench.set_date(date);
        prop_assert_eq!(bench.date(), date);
    }
}
