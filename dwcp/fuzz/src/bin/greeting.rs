//! Any bytes as the first ones of a connection, from somebody who has shown no key yet.
//!
//! Checked: whether there is a greeting does not depend on how many of its bytes came at a time, nor on what follows them, as
//! long as all of them are there; and what is none stays none, whatever follows.

use std::process::ExitCode;

use dwcp::transport::{Greeting, PEEK_BYTES};

fn main() -> ExitCode {
    fuzzing::main(|input| {
        read(input);
    })
}

/// Returns the name of the server that the greeting asks for.
fn read(input: &[u8]) -> Option<String> {
    // Half of it first, as from a slow network.
    let early = Greeting::peek(&input[..input.len() / 2]);
    let whole = Greeting::peek(input);
    match early {
        Ok(None) => {}
        Ok(Some(_)) => assert!(matches!(whole, Ok(Some(_))), "{whole:?}"),
        Err(_) => assert!(whole.is_err(), "{whole:?}"),
    }
    if let Ok(None) = whole {
        assert!(input.len() < PEEK_BYTES, "{} bytes, and more are waited for", input.len());
    }
    whole.ok()??.server_name
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_greeting_of_the_corpus_breaks_anything_and_some_are_read() {
        static READ: AtomicUsize = AtomicUsize::new(0);
        fn remember(input: &[u8]) {
            READ.fetch_add(usize::from(read(input).is_some()), Ordering::Relaxed);
        }
        fuzzing::replay(&dwcp_fuzz::corpus("greeting"), remember).unwrap();
        assert!(READ.load(Ordering::Relaxed) > 0);
    }
}
