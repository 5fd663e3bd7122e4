//! The kernel of hosts and test guests: built once a machine, by the package `kernel-config`.

use crate::context::{Context, Outcome};
use crate::log::Log;
use crate::process::{self, Red};

const RUN: [&str; 5] = ["run", "--quiet", "--package", "kernel-config", "--"];

/// Has the kernel built unless it is cached.
///
/// # Errors
/// It does not build.
pub(crate) fn check(context: &Context, log: &mut Log) -> Result<Outcome, Red> {
    let mut verb = |verb| log.ask(process::cargo(&context.tree.root, &RUN).arg(verb));
    // Whatever keeps the first from answering is told better by the second.
    if verb("cached").is_ok() {
        return Ok(Outcome::detail("cached"));
    }
    verb("build")?;
    context.made("the kernel was built");
    Ok(Outcome::detail("built"))
}
