//! The kernel of hosts and test guests: built once a machine, by the package `kernel-config`.

use crate::context::{Context, Outcome};
use crate::log::Log;
use crate::process::{self, Red};
use crate::release::TRIPLE;
use crate::suite::EVERYTHING;

const BUILDER: &str = "kernel-config";

/// Has the kernel built unless it is cached.
///
/// # Errors
/// It does not build.
pub(crate) fn check(context: &Context, log: &mut Log) -> Result<Outcome, Red> {
    let root = &context.tree.root;
    log.run(process::cargo(root, &["build", "--bin", BUILDER]).args(EVERYTHING))?;
    let builder = context.tree.target.join(TRIPLE).join("debug").join(BUILDER);
    let mut verb = |verb| log.ask(process::in_folder(&builder, root).arg(verb));
    // Whatever keeps the first from answering is told better by the second.
    if verb("cached").is_ok() {
        return Ok(Outcome::detail("cached"));
    }
    verb("build")?;
    context.made("the kernel was built");
    Ok(Outcome::detail("built"))
}
