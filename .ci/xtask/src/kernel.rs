//! The kernels of test hosts and guests: built once a machine, by the package `kernel-config`.

use crate::context::{Context, Outcome};
use crate::log::Log;
use crate::process::{self, Red};
use crate::release::TRIPLE;
use crate::suite::EVERYTHING;

const BUILDER: &str = "kernel-config";

/// The kernels that tests run, by the builder's names for them.
const TESTED: [&str; 2] = ["test-host", "guest"];

/// Has the kernels built unless they are cached.
///
/// # Errors
/// One does not build.
pub(crate) fn check(context: &Context, log: &mut Log) -> Result<Outcome, Red> {
    // Whatever keeps the first from answering is told better by the second.
    if ask(context, log, "cached", &TESTED).is_ok() {
        return Ok(Outcome::detail("cached"));
    }
    ask(context, log, "build", &TESTED)?;
    context.made("kernels were built");
    Ok(Outcome::detail("built"))
}

/// What the builder answers.
///
/// # Errors
/// It does not build, or fails.
pub(crate) fn ask(
    context: &Context,
    log: &mut Log,
    verb: &str,
    kernels: &[&str],
) -> Result<String, Red> {
    let root = &context.tree.root;
    log.run(process::cargo(root, &["build", "--bin", BUILDER]).args(EVERYTHING))?;
    let builder = context.tree.target.join(TRIPLE).join("debug").join(BUILDER);
    log.ask(process::in_folder(builder, root).arg(verb).args(kernels))
}
