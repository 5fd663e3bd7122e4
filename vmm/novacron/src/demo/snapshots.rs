//! The part of the demonstration in which the machine is saved, killed and restored.

use control::ConsoleStream;

use super::private::{Live, PrivateDaemon};
use super::view::View;
use crate::Failure;

/// Saves the machine whole, kills it and restores it eagerly; then saves what differs, kills it and restores it
/// lazily; so often. `after` each restore, it is given the new machine and its console, and lets the guest run.
pub(super) fn round_trips(
    daemon: &mut PrivateDaemon,
    view: &View,
    times: u32,
    mut machine: Live,
    mut after: impl FnMut(&PrivateDaemon, &Live, ConsoleStream) -> Result<(), Failure>,
) -> Result<Live, Failure> {
    for nth in 1..=times {
        let path = |kind: &str| daemon.snapshots().join(format!("{kind}-{nth}"));
        let (full, more) = (path("full"), path("more"));
        for (path, base) in [(&full, None), (&more, Some(full.as_path()))] {
            let saved = daemon.snapshot(&machine, path, base);
            let saved = saved.map_err(|failure| daemon.why(&machine, failure))?;
            view.snapshot(&saved, base.is_some(), nth, times);
            daemon.kill(&machine)?;
            let (restored, console, outcome) = daemon.restore(path, base.is_some())?;
            machine = restored;
            view.restore(&outcome, nth, times, daemon.process(&machine)?);
            after(daemon, &machine, console)?;
        }
        // A machine that still fetches its pages has them open.
        for path in [full, more] {
            std::fs::remove_file(path).map_err(Failure::other("a snapshot"))?;
        }
    }
    Ok(machine)
}
