//! The limits of a move, as people write them: in its order, and while it is under way.

use control::api::ChangeMove;
use control::{Size, TimeSpan};

/// Bytes a second below which no move ends.
const BANDWIDTH_MIN: Size = Size(64 << 10);
/// What takes a limit away.
const NONE: &str = "none";

pub(super) fn max_downtime(text: &str) -> Result<TimeSpan, String> {
    within(text, TimeSpan::milliseconds(1), TimeSpan::seconds(600))
}

pub(super) fn timeout(text: &str) -> Result<TimeSpan, String> {
    within(text, TimeSpan::seconds(1), TimeSpan::seconds(86_400))
}

fn within(text: &str, least: TimeSpan, most: TimeSpan) -> Result<TimeSpan, String> {
    let time: TimeSpan = text.parse()?;
    if (least..=most).contains(&time) {
        Ok(time)
    } else {
        Err(format!("{time} is not within {least} and {most}"))
    }
}

pub(super) fn bandwidth(text: &str) -> Result<Size, String> {
    let size: Size = text.parse()?;
    if size >= BANDWIDTH_MIN {
        Ok(size)
    } else {
        Err(format!("{size} a second is less than {BANDWIDTH_MIN}"))
    }
}

/// Hundredths of its time for which a guest may be held, such as `80%`.
pub(super) fn throttle(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    let percent = number.parse().map_err(|_| format!("{text:?} is no share; write 80%"))?;
    if (1..=99).contains(&percent) {
        Ok(percent)
    } else {
        Err(format!("{percent}% is not within 1% and 99%"))
    }
}

/// Processors, such as `0.5` or `2`, in thousandths.
pub(super) fn cpu(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no number of processors; write 0.5 or 2");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 3 {
        return Err(wrong());
    }
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    let part: u32 = format!("{part:0<3}").parse().map_err(|_| wrong())?;
    match whole.checked_mul(1000).and_then(|whole| whole.checked_add(part)) {
        Some(permille @ 10..=1_000_000) => Ok(permille),
        _ => Err(format!("{text} processors are not within 0.01 and 1000")),
    }
}

pub(super) fn milliseconds(time: TimeSpan) -> u64 {
    u64::try_from(time.duration().as_millis()).unwrap_or(u64::MAX)
}

/// One limit and its value, such as `max-downtime=2s`.
pub(crate) fn change(text: &str) -> Result<ChangeMove, String> {
    let (name, value) = text.split_once('=').ok_or("write a limit and its value: throttle=80%")?;
    // What can be without a limit says so by 0.
    let or_none = |value: Result<u64, String>| if value_is_none(text) { Ok(0) } else { value };
    let wide = |value: Result<u32, String>| value.map(u64::from);
    let mut change = ChangeMove::default();
    match name {
        "max-downtime" => change.max_downtime_ms = Some(milliseconds(max_downtime(value)?)),
        "timeout" => change.timeout_ms = Some(milliseconds(timeout(value)?)),
        "bandwidth" => change.bandwidth = Some(or_none(bandwidth(value).map(|size| size.0))?),
        "throttle" => change.throttle_percent = narrow(or_none(wide(throttle(value)))?),
        "cpu" => change.cpu_permille = narrow(or_none(wide(cpu(value)))?),
        _ => {
            return Err(format!(
                "{name:?} is no limit; there are max-downtime, timeout, bandwidth, throttle and cpu"
            ));
        }
    }
    Ok(change)
}

fn value_is_none(text: &str) -> bool {
    text.split_once('=').is_some_and(|(_, value)| value == NONE)
}

fn narrow(value: u64) -> Option<u32> {
    u32::try_from(value).ok()
}

/// All that are named; of one that is named twice, the last counts.
pub(crate) fn together(changes: &[ChangeMove]) -> ChangeMove {
    changes.iter().fold(ChangeMove::default(), |all, one| ChangeMove {
        max_downtime_ms: one.max_downtime_ms.or(all.max_downtime_ms),
        timeout_ms: one.timeout_ms.or(all.timeout_ms),
        bandwidth: one.bandwidth.or(all.bandwidth),
        throttle_percent: one.throttle_percent.or(all.throttle_percent),
        cpu_permille: one.cpu_permille.or(all.cpu_permille),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_processors_are_read_as_people_write_them() {
        for (text, share) in [("80%", 80), ("80", 80), ("1%", 1), ("99 %", 99)] {
            assert_eq!(throttle(text), Ok(share), "{text}");
        }
        for (text, why) in [
            ("0", "0% is not within 1% and 99%"),
            ("100%", "100% is not within"),
            ("x", "\"x\" is no share; write 80%"),
            ("-1%", "is no share"),
        ] {
            assert!(throttle(text).unwrap_err().contains(why), "{text}");
        }
        for (text, permille) in [("0.5", 500), ("2", 2_000), ("0.01", 10), ("1.25", 1_250)] {
            assert_eq!(cpu(text), Ok(permille), "{text}");
        }
        for text in ["0", "0.001", "1001", "x", "1.", ".5", "0.0001", "-1", "4294967296", ""] {
            assert!(cpu(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_are_changed_by_name() {
        let words = [
            "max-downtime=2s",
            "bandwidth=1M",
            "throttle=80%",
            "cpu=0.5",
            "timeout=5m",
            "bandwidth=none",
        ];
        let changes: Vec<_> = words.iter().map(|words| change(words).unwrap()).collect();
        let expected = ChangeMove {
            max_downtime_ms: Some(2_000),
            timeout_ms: Some(300_000),
            bandwidth: Some(0),
            throttle_percent: Some(80),
            cpu_permille: Some(500),
        };
        assert_eq!(together(&changes), expected);
        let away = together(&["throttle=none", "cpu=none"].map(|words| change(words).unwrap()));
        assert_eq!((away.throttle_percent, away.cpu_permille), (Some(0), Some(0)));
        for (words, why) in [
            ("throttle", "write a limit and its value"),
            ("streams=4", "\"streams\" is no limit; there are max-downtime"),
            ("max-downtime=none", "write a time"),
            ("throttle=100%", "not within 1% and 99%"),
            ("bandwidth=1K", "less than 64 KiB"),
        ] {
            let error = change(words).unwrap_err();
            assert!(error.contains(why), "{words}: {error}");
        }
    }
}
