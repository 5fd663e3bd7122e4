//! What is kept of a machine that has left, seen from its attendant.

use std::time::Duration;

use machine::{KeptReport, MachineProcess, Supervised};

use super::attendant::Attendant;
use crate::kept_images::Place;

/// How long a machine that comes back waits for what is still being kept of it: it would be sent whole otherwise.
/// Whoever has invited it waits for that, and for its process to be built.
pub(super) const SETTLING: Duration = Duration::from_secs(8);

impl Attendant {
    /// The machine runs elsewhere. What is left of it is written down, if that is wanted; nobody waits for that.
    pub(super) fn keep(&self, machine: Supervised) {
        let process = machine.into_process();
        let (images, name, id) =
            (&self.shared.kept, self.entry.name().clone(), self.entry.record().id);
        if !images.are_made() {
            return process.dismiss();
        }
        let ender = process.ender().map_err(|error| error.to_string());
        let place = match ender.and_then(|ender| images.begin(id, ender)) {
            Ok(place) => place,
            Err(why) => {
                tracing::warn!(machine = %name, why, "no image of it is kept");
                return process.dismiss();
            }
        };
        let keep = move || match write(process, place, id) {
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

fn write(process: MachineProcess, place: Place, machine: [u8; 16]) -> Result<KeptReport, String> {
    let report = process.keep_image(&place, machine, place.most());
    let report = report.map_err(|error| error.to_string())?;
    place.finish(report.bytes).map(|()| report)
}
