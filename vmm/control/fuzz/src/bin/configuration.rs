//! Any bytes as the daemon's configuration.
//!
//! Checked: what is in effect is read as the same again when it is written as a file, and whatever is refused is refused
//! with a place in the file.

use std::path::Path;
use std::process::ExitCode;

use control::Accounts;
use control::config::{Effective, Place, Problem, Surroundings};

fn main() -> ExitCode {
    fuzzing::main(|input| {
        let _ = read(input);
    })
}

fn load(text: &str) -> Result<Effective, Vec<Problem>> {
    let accounts = Accounts::from_files("alice:x:1000:1000", "kvm:x:104:");
    Effective::of(Some((Path::new("f"), text)), &[], &Surroundings::of_root(), &accounts)
}

fn read(input: &[u8]) -> Option<Effective> {
    let text = std::str::from_utf8(input).ok()?;
    match load(text) {
        Ok(effective) => {
            let again = load(&effective.to_toml()).expect("what is in effect can be written");
            assert_eq!(again.config, effective.config, "it is written otherwise");
            Some(effective)
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            for problem in problems {
                check_place(text, &problem);
            }
            None
        }
    }
}

fn check_place(text: &str, problem: &Problem) {
    // What does not fit to a default is named with the default.
    let Place::File { line, column, .. } = &problem.place else { return };
    // A file may be refused at its end, behind its last newline.
    let content = text.split('\n').nth(line - 1).expect("the line is in the file");
    assert!(*column >= 1 && *column <= content.chars().count() + 1, "{problem}");
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn no_file_of_the_corpus_breaks_anything_and_some_are_good() {
        static READ: Mutex<[u32; 2]> = Mutex::new([0; 2]);
        fn remember(input: &[u8]) {
            READ.lock().unwrap()[usize::from(read(input).is_some())] += 1;
        }
        fuzzing::replay(&control_fuzz::corpus("configuration"), remember).unwrap();
        let counts = READ.lock().unwrap();
        assert!(counts[0] > 0 && counts[1] > 0, "refused and good: {counts:?}");
    }
}
