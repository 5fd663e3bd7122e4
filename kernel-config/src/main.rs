//! `cargo run --package kernel-config -- build` prints the folder that holds the built kernel.

use std::error::Error;
use std::process::ExitCode;

use build_cache::Cache;
use clap::{Parser, Subcommand};
use kernel_config::{FRAGMENTS, Fragment, KERNELS, Options, Recipe, Source};

/// Builds the kernel of hosts and test guests from the fragments in this folder.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the kernel, unless it is cached, and print its folder.
    Build,
    /// Print the folder of the cached kernel; exit with 1 if there is none.
    Cached,
    /// Print the merged options.
    Options,
}

fn main() -> ExitCode {
    match run(&Arguments::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kernel-config: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::from(2)
        }
    }
}

fn run(verb: &Verb) -> Result<ExitCode, Box<dyn Error>> {
    let fragments = FRAGMENTS
        .iter()
        .map(|(name, text)| Fragment::parse(name, text))
        .collect::<Result<Vec<_>, _>>()?;
    let options = Options::merge(&fragments)?;
    if let Verb::Options = verb {
        print!("{}", options.text());
        return Ok(ExitCode::SUCCESS);
    }
    let recipe = Recipe::new(Source::find()?, options)?;
    let cache = Cache::open(KERNELS)?;
    let kernel = match verb {
        Verb::Build => Some(recipe.make(&cache)?),
        _ => recipe.find(&cache),
    };
    let Some(kernel) = kernel else {
        eprintln!("kernel-config: {} is not built", recipe.key().as_str());
        return Ok(ExitCode::FAILURE);
    };
    println!("{}", kernel.folder.display());
    Ok(ExitCode::SUCCESS)
}
