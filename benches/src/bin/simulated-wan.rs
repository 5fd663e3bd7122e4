//! Prints the table of simulated moves that is committed as `dwcp/simulated-wan.md`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match dwcp::sim::table() {
        Ok(table) => {
            print!("{table}");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            eprintln!("simulated-wan: {violation}");
            ExitCode::FAILURE
        }
    }
}
