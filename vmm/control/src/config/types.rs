//! Types that only the configuration has.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::peers::DEFAULT_PORT;

/// The mode of the daemon's socket: connecting takes the right to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketMode(u32);

impl SocketMode {
    /// For the daemon's own user and root.
    pub const PRIVATE: Self = Self(0o600);

    /// As chmod(2) takes it.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether everybody on this host may connect.
    #[must_use]
    pub const fn is_open_to_all(self) -> bool {
        self.0 & 0o002 != 0
    }
}

impl Default for SocketMode {
    fn default() -> Self {
        Self::PRIVATE
    }
}

impl FromStr for SocketMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("0o").unwrap_or(text).trim_start_matches('0') {
            "600" => Ok(Self(0o600)),
            "660" => Ok(Self(0o660)),
            "666" => Ok(Self(0o666)),
            _ => Err("no mode that a socket needs".to_owned()),
        }
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// Where other hosts reach this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListenAddress(pub SocketAddr);

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let with_port = text.parse().ok();
        let address = with_port.or_else(|| {
            let host = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
            Some(SocketAddr::new(host.unwrap_or(text).parse::<IpAddr>().ok()?, DEFAULT_PORT))
        });
        address.map(Self).ok_or_else(|| "no address of this host".to_owned())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// How much is logged: levels, by module or for all, with commas between. It is what everybody uses of the language of
/// `tracing_subscriber::EnvFilter`: that takes a misspelt level for the name of a module, this does not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogFilter(String);

impl LogFilter {
    /// As `EnvFilter` reads it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        for part in text.split(',') {
            let (module, level) = part.split_once('=').unwrap_or(("all", part));
            let is_module =
                module.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
            if module.is_empty() || !is_module {
                return Err(format!("{module:?} is no module"));
            }
            if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
                return Err(format!("{level:?} is no level"));
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_one_of_three_modes() {
        for (text, bits) in [("0600", 0o600), ("660", 0o660), ("0o666", 0o666)] {
            assert_eq!(text.parse::<SocketMode>().unwrap().bits(), bits);
        }
        for text in ["", "0", "0700", "0640", "0662", "rw", "384", "-600", "0600 "] {
            assert!(text.parse::<SocketMode>().is_err(), "{text:?}");
        }
        assert_eq!(SocketMode::PRIVATE.to_string(), "0600");
        assert!(SocketMode(0o666).is_open_to_all() && !SocketMode(0o660).is_open_to_all());
    }

    #[test]
    fn an_address_to_listen_on_has_a_port() {
        for (text, whole) in [
            ("0.0.0.0", "0.0.0.0:7478"),
            ("10.1.2.3:99", "10.1.2.3:99"),
            ("::", "[::]:7478"),
            ("[::1]", "[::1]:7478"),
            ("[::1]:5", "[::1]:5"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), whole);
            assert_eq!(whole.parse(), Ok(address));
        }
        for text in ["", "host", "host:5", "10.1.2.3:", "10.1.2", ":5"] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_log_filter_has_levels_and_modules_and_no_typing_errors() {
        for text in ["info", "WARN", "off", "warn,control=debug", "machine::vm=trace,error"] {
            assert_eq!(text.parse::<LogFilter>().unwrap().as_str(), text);
        }
        for text in ["", "inof", "control", "control=", "=debug", "warn,", "a b=warn", "[x]=warn"] {
            assert!(text.parse::<LogFilter>().is_err(), "{text:?}");
        }
    }
}
