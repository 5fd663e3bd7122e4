//! A machine of which nobody knows where it runs, and a person who does.

use std::io::{IsTerminal, Write};

use clap::Args;
use control::api::{Machine, MachineName, Resolve};

use crate::Failure;
use crate::connect::connect;
use crate::globals::Globals;
use crate::output::print;

#[derive(Debug, Args)]
pub(crate) struct ResolveOptions {
    /// The machine's name
    pub(crate) name: MachineName,
    /// Say that no other copy of the machine is alive, and let it run here
    #[arg(long)]
    pub(crate) run_here: bool,
    /// Do not ask again
    #[arg(long, short, requires = "run_here")]
    pub(crate) yes: bool,
}

pub(crate) fn resolve(options: &ResolveOptions, globals: &Globals) -> Result<(), Failure> {
    let name = &options.name;
    if !options.run_here {
        let what = meaning(name);
        return Err(Failure::Misused(format!(
            "what has become of {name} is for a person to say\n{what}\n\
             To say so: novacron migrate resolve {name} --run-here"
        )));
    }
    let (stdin, stderr) = (std::io::stdin(), std::io::stderr());
    if !options.yes && stdin.is_terminal() && stderr.is_terminal() {
        eprint!("{}\nType the machine's name to let it run here: ", meaning(name));
        let _ = stderr.lock().flush();
        let mut typed = String::new();
        stdin.read_line(&mut typed).map_err(Failure::other("standard input"))?;
        if typed.trim() != name.as_str() {
            return Err(Failure::Other(format!("that is not {name}: nothing was done")));
        }
    }
    let path = format!("/v1/machines/{name}/resolve");
    let machine: Machine = connect(globals)?.post(&path, &Resolve { run_here: true })?;
    print(&format!("{name} is {} here\n", machine.state.name()))
}

/// What a person says with `--run-here`, and what follows if that is wrong.
fn meaning(name: &MachineName) -> String {
    format!(
        "With --run-here you say that the other copy of {name} is dead: its host is switched off, or\n\
         its process has ended, and neither comes back by itself. No program can know that.\n\
         If you are wrong, both copies run, each with a memory of its own, until somebody stops one:\n\
         no host finds that out by itself yet, and what the one that is stopped has done is lost."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_with_it_names_the_machine_and_both_ends() {
        let text = meaning(&"web".parse().unwrap());
        for words in ["copy of web is dead", "both copies run", "until somebody stops one"] {
            assert!(text.contains(words), "{words:?} is not in: {text}");
        }
    }
}
