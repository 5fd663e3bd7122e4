//! What became of a process's time: on a processor, or waiting for one.
//!
//! A figure that was measured on a busy host holds the time of others too. The kernel counts, for
//! each thread, how long it ran and how long it could have run (`/proc/<pid>/task/<tid>/schedstat`,
//! Documentation/scheduler/sched-stats.rst); what is left of the wall clock, it slept: for storage,
//! for a grace period of the kernel, for a message.

use crate::stop::Stop;

/// The sum over a process's threads, nanoseconds since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduled {
    /// On a processor.
    pub ran_ns: u64,
    /// Ready to run, and waiting for a processor.
    pub waited_ns: u64,
}

impl Scheduled {
    /// That of a process up to now.
    ///
    /// # Errors
    /// When it has ended, or the kernel does not count.
    pub fn of(process_id: u32) -> Result<Self, Stop> {
        let directory = format!("/proc/{process_id}/task");
        let threads = std::fs::read_dir(&directory).map_err(Stop::failed(&directory))?;
        let mut sum = Self::default();
        for thread in threads {
            let path = thread.map_err(Stop::failed(&directory))?.path().join("schedstat");
            let text = std::fs::read_to_string(&path).map_err(Stop::failed("schedstat"))?;
            let one = Self::parse(&text)
                .ok_or_else(|| Stop::Failed(format!("{} holds {text:?}", path.display())))?;
            sum.ran_ns += one.ran_ns;
            sum.waited_ns += one.waited_ns;
        }
        Ok(sum)
    }

    /// Time run, time waited, number of slices.
    fn parse(schedstat: &str) -> Option<Self> {
        let mut numbers = schedstat.split_whitespace().map(str::parse);
        Some(Self { ran_ns: numbers.next()?.ok()?, waited_ns: numbers.next()?.ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threads_times_are_its_first_two_numbers() {
        let times = Scheduled { ran_ns: 1_234, waited_ns: 56 };
        assert_eq!(Scheduled::parse("1234 56 7\n"), Some(times));
        assert_eq!(Scheduled::parse("1234"), None);
    }
}
