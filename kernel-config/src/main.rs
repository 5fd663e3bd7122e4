//! `cargo run --package kernel-config -- build guest` prints the folder that holds the guests' kernel.

use std::error::Error;
use std::process::ExitCode;

use build_cache::Cache;
use clap::{Parser, Subcommand};
use kernel_config::{BuildError, KERNELS, Kernel, Recipe, Source, make_all};

/// Builds the kernels of hosts and of the tests' guests from the fragments in this folder.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build kernels, unless they are cached, and print the folder of each.
    Build {
        /// Which.
        #[arg(required = true)]
        kernels: Vec<Kernel>,
    },
    /// Print the folders of cached kernels; exit with 1 if one is missing.
    Cached {
        /// Which.
        #[arg(required = true)]
        kernels: Vec<Kernel>,
    },
    /// Print the file with a kernel's finished configuration, which is made without building it.
    Configuration {
        /// Of which.
        kernel: Kernel,
    },
    /// Print a kernel's merged options.
    Options {
        /// Of which.
        kernel: Kernel,
    },
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
    match verb {
        Verb::Build { kernels } => {
            for kernel in make_all(&recipes(kernels)?, &Cache::open(KERNELS)?)? {
                println!("{}", kernel.folder.display());
            }
        }
        Verb::Cached { kernels } => {
            let cache = Cache::open(KERNELS)?;
            for recipe in recipes(kernels)? {
                let Some(kernel) = recipe.find(&cache) else {
                    eprintln!("kernel-config: {} is not built", recipe.key().as_str());
                    return Ok(ExitCode::FAILURE);
                };
                println!("{}", kernel.folder.display());
            }
        }
        Verb::Configuration { kernel } => {
            let recipe = Recipe::new(*kernel, Source::find()?)?;
            println!("{}", recipe.configuration(&Cache::open(KERNELS)?)?.display());
        }
        Verb::Options { kernel } => print!("{}", kernel.options()?.text()),
    }
    Ok(ExitCode::SUCCESS)
}

fn recipes(kernels: &[Kernel]) -> Result<Vec<Recipe>, Box<dyn Error>> {
    let source = Source::find()?;
    let recipes: Result<_, BuildError> =
        kernels.iter().map(|kernel| Recipe::new(*kernel, source.clone())).collect();
    Ok(recipes?)
}
