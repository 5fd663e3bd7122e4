//! The program behind `cargo demo`, `cargo verify` and `cargo xtask`.
//!
//! It links nothing of the product: it runs cargo, and the executables that cargo built. It depends
//! on small crates only, so that it is built in seconds on a fresh clone.

mod bench;
mod command_line;
mod context;
mod coverage;
mod demo;
mod deny;
mod fuzz;
mod hardening;
mod kernel;
mod libtest;
mod log;
mod packages;
mod process;
mod release;
mod report;
mod rules;
mod schemathesis;
mod steps;
mod suite;
mod terminal;
mod tree;
mod verify;

use std::process::ExitCode;

use command_line::Verb;
use process::Red;
use tree::Tree;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let verb = match Verb::parse(&arguments) {
        Ok(verb) => verb,
        Err(complaint) => {
            eprintln!("xtask: {complaint}\n\n{}", command_line::USAGE);
            return ExitCode::from(2);
        }
    };
    run(&verb).unwrap_or_else(|red| {
        eprintln!("xtask: {}", red.why);
        ExitCode::from(red.code)
    })
}

fn run(verb: &Verb) -> Result<ExitCode, Red> {
    match verb {
        Verb::Help => {
            println!("{}", command_line::USAGE);
            Ok(ExitCode::SUCCESS)
        }
        Verb::Demo(arguments) => demo::run(&Tree::find()?, arguments),
        Verb::Verify(options) => verify::run(&Tree::find()?, options),
        Verb::Fuzz(options) => fuzz::run(&Tree::find()?, options),
        Verb::Schemathesis(options) => schemathesis::run(&Tree::find()?, options),
        Verb::Bench { program, arguments } => bench::run(&Tree::find()?, program, arguments),
        Verb::Coverage => coverage::run(&Tree::find()?),
    }
}
