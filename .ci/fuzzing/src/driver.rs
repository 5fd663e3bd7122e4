//! libFuzzer, linked by `cargo xtask fuzz`.
#![allow(unsafe_code, reason = "libFuzzer is C: its driver takes argc and argv, and calls back")]

use std::ffi::{CString, c_char, c_int};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;
use std::ptr;
use std::slice;
use std::sync::OnceLock;

use crate::Target;

/// libFuzzer calls a C function without a context of ours.
static TARGET: OnceLock<Target> = OnceLock::new();

type Callback = unsafe extern "C" fn(data: *const u8, size: usize) -> c_int;

unsafe extern "C" {
    /// FuzzerInterface of LLVM ("Using libFuzzer as a library"): runs the loop, and mostly ends the
    /// process by itself.
    fn LLVMFuzzerRunDriver(
        argc: *mut c_int,
        argv: *mut *mut *mut c_char,
        callback: Callback,
    ) -> c_int;
}

/// Gives this process to libFuzzer.
pub(crate) fn run(target: Target) -> ExitCode {
    TARGET.get_or_init(|| target);
    let mut arguments: Vec<*mut c_char> = std::env::args_os()
        // An argument of a process cannot hold a zero byte.
        .filter_map(|argument| CString::new(argument.into_vec()).ok())
        // libFuzzer keeps pointers into its arguments until the process ends.
        .map(CString::into_raw)
        .collect();
    let Ok(mut argc) = c_int::try_from(arguments.len()) else { return ExitCode::FAILURE };
    arguments.push(ptr::null_mut());
    let mut argv = arguments.leak().as_mut_ptr();
    // SAFETY: `LLVMFuzzerRunDriver` wants what C's `main` gets: `argc` strings and a null pointer
    // behind them, valid and writable until the process ends. They were leaked above, and the
    // callback keeps to libFuzzer's contract, see there.
    let code = unsafe { LLVMFuzzerRunDriver(&raw mut argc, &raw mut argv, callback) };
    if code == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One input. A panic ends the process (the profile's `panic = "abort"`), which libFuzzer reports.
unsafe extern "C" fn callback(data: *const u8, size: usize) -> c_int {
    let input = if size == 0 {
        // libFuzzer may pass a null pointer for the empty input; a slice may not.
        &[][..]
    } else {
        // SAFETY: libFuzzer passes a readable buffer of `size` bytes that nobody writes to until
        // this returns.
        unsafe { slice::from_raw_parts(data, size) }
    };
    if let Some(target) = TARGET.get() {
        target(input);
    }
    0
}
