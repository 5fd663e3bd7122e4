//! Compiles the oracle guest.
//!
//! The guest needs code generation of its own (no position independence, no C runtime, its own link
//! script), which cargo on stable can give to a whole build but not to one package. So it is one
//! call of the same rustc, with no dependency but `core`.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The one target whose `core` every installation has; nothing of its operating system is used.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Codegen options: static code that runs at the address it is linked for.
///
/// Pages are checked at memory speed, so the code is optimised for speed. The inline threshold is
/// below the default of 225 because formatting and parsing would otherwise double in size; the
/// functions that matter ask for inlining by attribute. Segments are copied by a loader and never
/// mapped, so they need no page alignment in the file.
const CODEGEN: &[&str] = &[
    "opt-level=3",
    "lto=fat",
    "codegen-units=1",
    "panic=abort",
    "force-unwind-tables=no",
    "llvm-args=-inline-threshold=100",
    "overflow-checks=on",
    "relocation-model=static",
    "code-model=small",
    "target-feature=+crt-static",
    "default-linker-libraries=no",
    "strip=symbols",
    "link-arg=-nostartfiles",
    "link-arg=-nostdlib",
    "link-arg=-static",
    "link-arg=-no-pie",
    "link-arg=-Wl,--build-id=none,--gc-sections,-z,max-page-size=16,-z,noexecstack",
];

fn main() -> Result<(), Box<dyn Error>> {
    let package = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let script = package.join("guest/oracle.ld");
    for input in ["build.rs", "guest", "src/oracle"] {
        println!("cargo::rerun-if-changed={input}");
    }
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let image = Path::new(&env::var("OUT_DIR")?).join("oracle.elf");

    let mut rustc = Command::new(env::var("RUSTC")?);
    rustc.args(["--crate-name", "oracle", "--crate-type", "bin", "--edition", "2024"]);
    rustc.args(["--target", TARGET]).arg("-o").arg(&image);
    rustc.arg(package.join("guest/main.rs"));
    for option in CODEGEN {
        rustc.args(["-C", option]);
    }
    rustc.args(["-C", &format!("link-arg=-Wl,-T,{}", script.display())]);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    // The guest prints where it panicked: a path in the project, not on this machine.
    rustc.arg(format!("--remap-path-prefix={}=firmware", package.display()));

    let status = rustc.status()?;
    if !status.success() {
        return Err(format!("the oracle guest does not compile ({status}): {rustc:?}").into());
    }
    Ok(())
}
