//! `novacron restore`: a machine that was saved goes on in the foreground.

use machine::{Host, Supervised};

use crate::Failure;
use crate::cli::RestoreOptions;
use crate::foreground::{Suspend, attend, read_key};
use crate::log::LogOptions;
use crate::run::with_executable;

pub(crate) fn restore(options: &RestoreOptions, log: &LogOptions) -> Result<(), Failure> {
    let suspend = Suspend::new(&options.suspend, options.key.as_deref())?;
    options.dirty_log.check(&Host::open()?)?;
    let key = options.key.as_deref().map(read_key).transpose()?;
    let how = machine::RestoreOptions { key: key.as_ref(), is_lazy: options.lazy };
    let (machine, console, report) = with_executable(options.dirty_log, log, |executable| {
        Ok(Supervised::restore(executable, &std::env::temp_dir(), &options.file, how)?)
    })?;
    eprintln!(
        "novacron: the machine runs after {:.2} ms{}",
        std::time::Duration::from_nanos(report.total_ns).as_secs_f64() * 1000.0,
        if report.is_lazy { ", and its memory follows" } else { "" }
    );
    // What it runs is not known; a guest that does not hear its power button is ended by the second request.
    attend(machine, console, true, suspend.as_ref())
}
