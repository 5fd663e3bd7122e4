//! The host's clocks, and which of its boots they belong to.

use std::sync::OnceLock;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// `CLOCK_MONOTONIC`, in nanoseconds: the same in every process of a host.
pub(crate) fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// `CLOCK_REALTIME`, in nanoseconds since 1970; before that, 0.
pub(crate) fn realtime_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Realtime))
}

fn nanoseconds(time: Timespec) -> u64 {
    let nanoseconds = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    // Both last until the year 2554.
    u64::try_from(nanoseconds.max(0)).unwrap_or(u64::MAX)
}

/// Which boot of which host this is: random, drawn by the kernel. Zeros where /proc does not tell, which is no boot.
///
/// It is read once in a process, which does not outlive its boot: a process in its jail could not.
pub(crate) fn boot_id() -> [u8; 16] {
    static ID: OnceLock<[u8; 16]> = OnceLock::new();
    *ID.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = text.trim().chars().filter(|digit| *digit != '-').collect();
        u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_on_and_a_boot_has_one_id() {
        let (monotonic, realtime) = (monotonic_ns(), realtime_ns());
        assert!(monotonic_ns() >= monotonic);
        // 2020: a host whose clock stands before that was never set.
        assert!(realtime > 1_577_836_800_000_000_000, "{realtime}");
        assert_eq!(boot_id(), boot_id());
        assert_ne!(boot_id(), [0; 16]);
    }
}
