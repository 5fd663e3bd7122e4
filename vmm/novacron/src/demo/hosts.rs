//! The two daemons of the demonstration, which know each other as if each had a host of its own.

use super::ending::Ending;
use super::private::PrivateDaemon;
use crate::Failure;
use crate::log::LogOptions;

pub(super) struct Hosts {
    /// Where machines are booted and restored.
    pub(super) here: PrivateDaemon,
    /// Where they move to, and come back from.
    pub(super) there: PrivateDaemon,
}

impl Hosts {
    pub(super) fn start(ending: &Ending, log: &LogOptions) -> Result<Self, Failure> {
        let here = PrivateDaemon::start("here", ending, log)?;
        let there = PrivateDaemon::start("there", ending, log)?;
        here.add_peer(&there)?;
        there.add_peer(&here)?;
        Ok(Self { here, there })
    }

    /// What the host with this key is called.
    pub(super) fn name(&self, key: &str) -> String {
        let named = [&self.here, &self.there].into_iter().find(|daemon| daemon.key() == key);
        named.map_or_else(|| key.to_owned(), |daemon| daemon.name().to_string())
    }
}
