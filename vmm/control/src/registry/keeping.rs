//! What is kept of a machine that has left, seen from its attendant.

use std::time::Duration;

use machine::{KeptReport, MachineProcess, Supervised};

use super::attendant::Attendant;
use crate::kept_images::Place;

/// How long a machine that comes back waits for what is still being kept of it: it would be sent whole otherwise.
/// Whoever has invited it waits for that, and for its process to be built.
pub(super) const SETTLING: Duration = Duration::from_secs(8);
/// The process that writes an image holds the machine's memory until it ends. One that is slower than this hangs, or its
/// storage does,
const SLOWEST_BYTES_PER_SECOND: u64 = 8 << 20;
/// but for a small machine this is allowed on top.
const BEGINNING: Duration = Duration::from_secs(60);

impl Attendant {
    /// The machine runs elsewhere. What is left of it is written down, if that is wanted; nobody waits for that.
    pub(super) fn keep(&self, machine: Supervised) {
        let process = machine.into_process();
        let record = self.entry.record();
        let (images, name, id) = (&self.shared.kept, self.entry.name().clone(), record.id);
        let memory = record.spec.memory_bytes;
        if !images.are_made() {
            return process.dismiss();
        }
        let ender = process.ender().map_err(|error| error.to_string());
        let place = match ender.and_then(|ender| images.begin(id, memory, ender)) {
            Ok(place) => place,
            Err(why) => {
                tracing::warn!(machine = %name, why, "no image of it is kept");
                return process.dismiss();
            }
        };
        let keep = move || match write(process, place, id, memory) {
            Ok(KeptReport { bytes, pages, total_ns }) => {
                let ms = total_ns / 1_000_000;
                tracing::info!(machine = %name, bytes, pages, ms, "an image of it is kept");
            }
            Err(why) => tracing::warn!(machine = %name, why, "no image of it is kept"),
        };
        let thread = std::thread::Builder::new().name("keeper".into()).stack_size(256 << 10);
        if let Err(error) = thread.spawn(keep) {
            tracing::warn!(%error, "no thread keeps an image of a machine");
        }
    }
}

fn write(
    process: MachineProcess,
    place: Place,
    machine: [u8; 16],
    memory: u64,
) -> Result<KeptReport, String> {
    let report = process.keep_image(&place, machine, place.most(), patience(memory));
    let report = report.map_err(|error| error.to_string())?;
    place.finish().map(|bytes| KeptReport { bytes, ..report })
}

/// How long a process may write that has so much memory.
fn patience(memory: u64) -> Duration {
    BEGINNING + Duration::from_secs(memory / SLOWEST_BYTES_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_allowed_grows_with_the_memory_and_ends() {
        assert_eq!(patience(0), Duration::from_secs(60));
        assert_eq!(patience(1 << 30), Duration::from_secs(60 + 128));
        assert_eq!(patience(1 << 40).as_secs(), 60 + (128 << 10));
    }
}
