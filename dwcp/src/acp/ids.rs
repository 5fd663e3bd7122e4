//! The names that a permit record holds: machines, sessions, processes, hosts, generations.

use std::fmt;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The identifier of these bytes, which the caller has drawn or received. `None` for
            /// zeros: in a record they stand for nobody.
            #[must_use]
            pub const fn new(bytes: [u8; 16]) -> Option<Self> {
                if u128::from_le_bytes(bytes) == 0 { None } else { Some(Self(bytes)) }
            }

            /// The 16 bytes; never all 0.
            #[must_use]
            pub const fn bytes(self) -> [u8; 16] {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", u128::from_be_bytes(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

identifier! {
    /// A virtual machine, for its whole life and on every host.
    VmId
}
identifier! {
    /// One attempt to move a machine. Random; an attempt that has ended is never taken up again
    /// under its name.
    SessionId
}
identifier! {
    /// One process that may come to run a machine. Random, drawn by whoever starts the process: two
    /// processes on one host differ by it, as do a process and its successor after a crash.
    Nonce
}

/// Bytes that the name of a host may have.
pub(super) const HOST_NAME_MAX: usize = 128;

/// The name by which a host knows another: whom to ask about a session. It proves nothing about who
/// answers; that is the channel's business.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Box<str>);

impl HostName {
    /// A name of 1 to 128 bytes without control characters; `None` otherwise.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let is_bounded = !name.is_empty() && name.len() <= HOST_NAME_MAX;
        (is_bounded && !name.chars().any(char::is_control)).then(|| Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostName({})", &self.0)
    }
}

/// How new a host's right to a machine is. Of two hosts that both claim to hold it, the one with the
/// older generation is wrong.
///
/// A move counts up [`Self::moves`], so that a record which was put back from a backup shows itself.
/// A person's statement that the other copy is dead counts up [`Self::resolutions`], and beats
/// everything that the other copy can have become by moving on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation {
    /// Statements by persons so far. It is compared first: keep it above `moves`.
    pub resolutions: u32,
    /// Moves between hosts since the last of these.
    pub moves: u32,
}

impl Generation {
    /// The generation that the destination of a move gets; `None` after 2^32 moves.
    #[must_use]
    pub fn after_move(self) -> Option<Self> {
        Some(Self { moves: self.moves.checked_add(1)?, ..self })
    }

    /// The generation that a person's statement gives; `None` after 2^32 statements.
    #[must_use]
    pub fn after_resolution(self) -> Option<Self> {
        Some(Self { resolutions: self.resolutions.checked_add(1)?, moves: 0 })
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.resolutions, self.moves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_name_nobody() {
        assert_eq!(Nonce::new([0; 16]), None);
        let mut bytes = [0; 16];
        bytes[15] = 0xa;
        let nonce = Nonce::new(bytes).unwrap();
        assert_eq!(nonce.bytes(), bytes);
        assert_eq!(nonce.to_string(), "0000000000000000000000000000000a");
    }

    #[test]
    fn a_host_name_is_bounded_and_printable() {
        for wrong in ["", "two\nlines", "nul\0", &"x".repeat(HOST_NAME_MAX + 1)] {
            assert_eq!(HostName::new(wrong), None, "{wrong:?}");
        }
        let longest = "x".repeat(HOST_NAME_MAX);
        assert_eq!(HostName::new(&longest).unwrap().as_str(), longest);
    }

    #[test]
    fn a_statement_beats_any_number_of_moves_of_the_other_copy() {
        let start = Generation::default();
        let moved = Generation { resolutions: 0, moves: u32::MAX };
        assert!(start.after_move().unwrap() > start);
        assert!(start.after_resolution().unwrap() > moved);
        assert_eq!(moved.after_move(), None);
        assert_eq!(Generation { resolutions: u32::MAX, moves: 0 }.after_resolution(), None);
    }
}
