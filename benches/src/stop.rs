//! Why a measurement gave no figures.

use serde::Serialize;
use std::fmt::Display;
use std::process::ExitCode;

/// A measurement ended without figures.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// This host lacks what the measurement needs: nothing is wrong
    #[error("skipped: {0}")]
    Skipped(String),
    /// Something is wrong
    #[error("{0}")]
    Failed(String),
}

impl Stop {
    /// Words around an error of any kind.
    pub fn failed<E: Display>(context: &str) -> impl FnOnce(E) -> Self + '_ {
        move |error| Self::Failed(format!("{context}: {error}"))
    }
}

/// What a measurement's `main` returns: a skipped one is no failure, and says why it was skipped.
#[must_use]
pub fn finish(outcome: Result<(), Stop>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop @ Stop::Skipped(_)) => {
            println!("{stop}");
            ExitCode::SUCCESS
        }
        Err(stop) => {
            eprintln!("benches: {stop}");
            ExitCode::FAILURE
        }
    }
}

/// Shows what was measured: as JSON on standard output and nothing else, or as `print` does.
///
/// # Errors
/// When it cannot be JSON.
pub fn show<T: Serialize>(outcome: &T, as_json: bool, print: impl FnOnce(&T)) -> Result<(), Stop> {
    if as_json {
        println!("{}", serde_json::to_string_pretty(outcome).map_err(Stop::failed("JSON"))?);
    } else {
        print(outcome);
    }
    Ok(())
}
