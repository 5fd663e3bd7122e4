//! The CMOS clock: an MC146818 as far as guests read and set the time with it, and its memory.
//!
//! It shows the host's UTC plus an offset. Setting the clock changes the offset, and nothing else: it
//! needs no thread, and a move takes it along. There are no interrupts: no alarm, no periodic one.
//! The host's time is an argument, in nanoseconds since 1970.

use serde::{Deserialize, Serialize};

use time::{Date, Month, Time, UtcDateTime};

// Registers (MC146818 data sheet, figure 11).
const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;
/// Not the chip's: where a PC keeps the century. The FADT names it.
pub(crate) const CENTURY: u8 = 0x32;
/// The chip's own 64 bytes, and as many again, as a PC has.
const REGISTERS: usize = 128;
/// The index port's highest bit is the PC's mask of the NMI.
const INDEX_MASK: u8 = 0x7f;

/// Status A: the time registers change within 244 µs. Read only.
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// Status A: the divider's two upper bits; both hold it in reset (data sheet, table 4).
const DIVIDER_RESET: u8 = 0b11 << 5;
/// Status A after power-on on a PC: a crystal of 32,768 Hz, 1,024 Hz periodic.
const STATUS_A_AT_FIRST: u8 = 0x26;
/// Status B: the time registers do not change, and can be written together.
const SET: u8 = 1 << 7;
/// Status B: the interrupt at the end of an update; `SET` clears it.
const UPDATE_ENDED_INTERRUPT: u8 = 1 << 4;
/// Status B: numbers are binary, else BCD.
const BINARY: u8 = 1 << 2;
/// Status B: hours run from 0 to 23, else from 1 to 12 with [`AFTERNOON`].
const HOURS_24: u8 = 1 << 1;
/// Status D: memory and time are valid: the battery is not empty.
const VALID: u8 = 1 << 7;
const AFTERNOON: u8 = 1 << 7;

const SECOND_NS: i128 = 1_000_000_000;
/// How long before an update the bit says so: a guest that sees it clear has this long (data sheet,
/// "Update cycle"). The update itself takes no time here.
const UPDATE_NOTICE_NS: i128 = 244_000;
/// An update comes this long after the divider leaves its reset (data sheet, "Divider control").
const FIRST_UPDATE_NS: i128 = SECOND_NS / 2;
/// No guest can set a larger offset: between the years 0 and 9999, and a host's clock in them.
const MAX_OFFSET_NS: i128 = 20_000 * 366 * 86_400 * SECOND_NS;

/// The saved form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CmosStateV1 {
    selected: u8,
    /// All 128. Those of the time count only while the clock is stopped.
    registers: Vec<u8>,
    /// The guest's time less the host's, in nanoseconds.
    offset_ns: i128,
}

/// The clock.
#[derive(Debug)]
pub(crate) struct Cmos {
    selected: u8,
    registers: [u8; REGISTERS],
    offset_ns: i128,
}

impl Cmos {
    /// A clock that is right.
    pub(crate) fn new() -> Self {
        let mut cmos = Self { selected: 0, registers: [0; REGISTERS], offset_ns: 0 };
        *cmos.register_mut(STATUS_A) = STATUS_A_AT_FIRST;
        *cmos.register_mut(STATUS_B) = HOURS_24;
        cmos
    }

    /// A write to the index port.
    pub(super) fn select(&mut self, value: u8) {
        self.selected = value & INDEX_MASK;
    }

    /// A read of the data port.
    pub(super) fn read(&self, host_ns: i128) -> u8 {
        let stored = self.register(self.selected);
        match self.selected {
            STATUS_A if self.is_about_to_update(host_ns) => stored | UPDATE_IN_PROGRESS,
            STATUS_C => 0,
            STATUS_D => VALID,
            index if is_time(index) && !self.is_stopped() => self.shown(index, host_ns),
            _ => stored,
        }
    }

    /// A write to the data port.
    pub(super) fn write(&mut self, value: u8, host_ns: i128) {
        let index = self.selected;
        let (was_stopped, was_reset) = (self.is_stopped(), self.is_divider_reset());
        let concerns_time = is_time(index) || matches!(index, STATUS_A | STATUS_B);
        if concerns_time && !was_stopped {
            self.hold(host_ns);
        }
        match index {
            STATUS_A => *self.register_mut(index) = value & !UPDATE_IN_PROGRESS,
            STATUS_B if value & SET != 0 => {
                *self.register_mut(index) = value & !UPDATE_ENDED_INTERRUPT;
            }
            STATUS_C | STATUS_D => {}
            _ => *self.register_mut(index) = value,
        }
        if was_reset && !self.is_divider_reset() {
            self.restart_divider(host_ns);
        }
        if !self.is_stopped() && (was_stopped || is_time(index)) {
            self.set_from_registers(host_ns);
        }
    }

    pub(crate) fn save(&self) -> CmosStateV1 {
        CmosStateV1 {
            selected: self.selected,
            registers: self.registers.to_vec(),
            offset_ns: self.offset_ns,
        }
    }

    /// Replaces everything.
    ///
    /// # Errors
    /// When this is no clock's state.
    pub(crate) fn restore(&mut self, state: &CmosStateV1) -> Result<(), String> {
        let Ok(registers) = <[u8; REGISTERS]>::try_from(state.registers.as_slice()) else {
            return Err(format!("{} registers; it has {REGISTERS}", state.registers.len()));
        };
        if state.selected > INDEX_MASK {
            return Err(format!("register {:#04x} is selected, of {REGISTERS}", state.selected));
        }
        if state.offset_ns.unsigned_abs() > MAX_OFFSET_NS.unsigned_abs() {
            return Err(format!("an offset of {} ns", state.offset_ns));
        }
        *self = Self { selected: state.selected, registers, offset_ns: state.offset_ns };
        Ok(())
    }

    fn guest_ns(&self, host_ns: i128) -> i128 {
        host_ns + self.offset_ns
    }

    /// Whether time stands still in the registers.
    fn is_stopped(&self) -> bool {
        self.register(STATUS_B) & SET != 0 || self.is_divider_reset()
    }

    fn is_divider_reset(&self) -> bool {
        self.register(STATUS_A) & DIVIDER_RESET == DIVIDER_RESET
    }

    fn is_about_to_update(&self, host_ns: i128) -> bool {
        let into_second = self.guest_ns(host_ns).rem_euclid(SECOND_NS);
        !self.is_stopped() && into_second >= SECOND_NS - UPDATE_NOTICE_NS
    }

    /// What a register of the time shows while the clock runs.
    fn shown(&self, index: u8, host_ns: i128) -> u8 {
        let now = self.date(host_ns);
        let [century, year] = [now.year() / 100, now.year() % 100].map(below_100);
        let value = match index {
            SECONDS => now.second(),
            MINUTES => now.minute(),
            HOURS => return self.shown_hour(now.hour()),
            WEEKDAY => now.weekday().number_from_sunday(),
            DAY => now.day(),
            MONTH => now.month().into(),
            YEAR => year,
            _ => century,
        };
        self.encoded(value)
    }

    /// The guest's date and time. Four digits hold the years 0 to 9999; whoever is beyond them has no date.
    fn date(&self, host_ns: i128) -> UtcDateTime {
        let date = UtcDateTime::from_unix_timestamp_nanos(self.guest_ns(host_ns)).ok();
        date.filter(|date| date.year() >= 0).unwrap_or(UtcDateTime::UNIX_EPOCH)
    }

    fn shown_hour(&self, hour: u8) -> u8 {
        if self.register(STATUS_B) & HOURS_24 != 0 {
            return self.encoded(hour);
        }
        let half = if hour < 12 { 0 } else { AFTERNOON };
        // Noon and midnight are 12.
        let hour = (hour + 11) % 12 + 1;
        self.encoded(hour) | half
    }

    /// Puts the time into the registers, where it stands still from now on.
    fn hold(&mut self, host_ns: i128) {
        for index in TIME_REGISTERS {
            *self.register_mut(index) = self.shown(index, host_ns);
        }
    }

    /// Goes on from the time in the registers; where within a second is decided by the divider.
    /// What is no date or time is passed over, and the clock goes on as if it had not been stopped.
    fn set_from_registers(&mut self, host_ns: i128) {
        let Some(wanted) = self.registers_as_date() else {
            tracing::debug!("the guest sets the CMOS clock to no date and time");
            return;
        };
        let shown = self.guest_ns(host_ns).div_euclid(SECOND_NS) * SECOND_NS;
        self.offset_ns += i128::from(wanted.unix_timestamp()) * SECOND_NS - shown;
    }

    fn restart_divider(&mut self, host_ns: i128) {
        let into_second = self.guest_ns(host_ns).rem_euclid(SECOND_NS);
        self.offset_ns += SECOND_NS - FIRST_UPDATE_NS - into_second;
    }

    fn registers_as_date(&self) -> Option<UtcDateTime> {
        let part = |index| self.decoded(self.register(index));
        let year = i32::from(part(CENTURY)?) * 100 + i32::from(part(YEAR)?);
        let month = Month::try_from(part(MONTH)?).ok()?;
        let date = Date::from_calendar_date(year, month, part(DAY)?).ok()?;
        let hour = self.decoded_hour(self.register(HOURS))?;
        let time = Time::from_hms(hour, part(MINUTES)?, part(SECONDS)?).ok()?;
        Some(UtcDateTime::new(date, time))
    }

    fn decoded_hour(&self, stored: u8) -> Option<u8> {
        if self.register(STATUS_B) & HOURS_24 != 0 {
            return self.decoded(stored);
        }
        let hour = self.decoded(stored & !AFTERNOON).filter(|hour| (1..=12).contains(hour))?;
        Some(hour % 12 + if stored & AFTERNOON == 0 { 0 } else { 12 })
    }

    /// A number below 100 as the registers have it.
    fn encoded(&self, value: u8) -> u8 {
        if self.register(STATUS_B) & BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    /// A number below 100, if this is one.
    fn decoded(&self, stored: u8) -> Option<u8> {
        if self.register(STATUS_B) & BINARY != 0 {
            return (stored < 100).then_some(stored);
        }
        let (tens, ones) = (stored >> 4, stored & 0xf);
        (tens < 10 && ones < 10).then_some(tens * 10 + ones)
    }

    fn register(&self, index: u8) -> u8 {
        self.registers[usize::from(index & INDEX_MASK)]
    }

    fn register_mut(&mut self, index: u8) -> &mut u8 {
        &mut self.registers[usize::from(index & INDEX_MASK)]
    }
}

const TIME_REGISTERS: [u8; 8] = [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY];

fn is_time(index: u8) -> bool {
    TIME_REGISTERS.contains(&index)
}

fn below_100(value: i32) -> u8 {
    u8::try_from(value).expect("half of a year's four digits")
}

#[cfg(test)]
#[path = "cmos_tests.rs"]
mod tests;
