//! The terminal, while a guest's console is on it.

use std::io::{self, IsTerminal};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// The terminal without line editing and signals, until the value is dropped.
pub(crate) struct RawTerminal(Option<Termios>);

impl RawTerminal {
    pub(crate) fn enter() -> Self {
        let stdin = io::stdin();
        let Some(cooked) = stdin.is_terminal().then(|| tcgetattr(&stdin).ok()).flatten() else {
            return Self(None);
        };
        let mut raw = cooked.clone();
        raw.make_raw();
        // Output goes on as it was: a bare line feed from the guest starts a new line.
        raw.output_modes = cooked.output_modes;
        let is_raw = tcsetattr(&stdin, OptionalActions::Now, &raw).is_ok();
        Self(is_raw.then_some(cooked))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(cooked) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, cooked);
        }
    }
}
