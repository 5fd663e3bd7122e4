//! The verbs about other hosts, to which machines move and from which they come.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use clap::{Args, Subcommand};
use control::Client;
use control::api::{AddPeer, Info, MachineName, Peer};

use crate::Failure;
use crate::cli::OutputForm;
use crate::connect::connect;
use crate::globals::Globals;
use crate::output::{print, print_json};
use crate::table::Table;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    novacron info                              on the other host: its key\n  \
    novacron peers add east.example --key KEY --name east\n  \
    novacron migrate web --to east\n\n\
    Each of two hosts must know the other: `novacron peers add` says what to run there.")]
pub(crate) struct PeersOptions {
    #[command(subcommand)]
    verb: PeersVerb,
}

#[derive(Debug, Subcommand)]
enum PeersVerb {
    /// Show the hosts that are known here
    List {
        /// For people or for programs
        #[arg(long, value_name = "FORM", default_value = "text")]
        output: OutputForm,
    },
    /// Let machines go to a host, and come from it
    Add(AddOptions),
    /// Forget a host: nothing goes to it or comes from it any more
    Remove {
        /// Its name
        name: MachineName,
    },
}

#[derive(Debug, Args)]
struct AddOptions {
    /// Where it is reached; an IPv6 address stands in brackets
    #[arg(value_name = "HOST[:PORT]")]
    address: String,
    /// Its public key, as `novacron info` shows it there
    #[arg(long)]
    key: String,
    /// What it is called here; HOST in lower case if not given
    #[arg(long)]
    name: Option<MachineName>,
}

pub(crate) fn peers(options: &PeersOptions, globals: &Globals) -> Result<(), Failure> {
    match &options.verb {
        PeersVerb::List { output } => list(*output, globals),
        PeersVerb::Add(options) => add(options, globals),
        PeersVerb::Remove { name } => Ok(connect(globals)?.delete(&format!("/v1/peers/{name}"))?),
    }
}

fn list(form: OutputForm, globals: &Globals) -> Result<(), Failure> {
    let peers: Vec<Peer> = connect(globals)?.get("/v1/peers")?;
    match form {
        OutputForm::Json => print_json(&peers),
        OutputForm::Text => print(&table(&peers)),
    }
}

fn table(peers: &[Peer]) -> String {
    let mut table = Table::new(&["NAME", "ADDRESS", "KEY", "ADDED"]);
    for Peer { name, address, key, added_at } in peers {
        table.row(vec![name.to_string(), address.clone(), key.clone(), added_at.to_string()]);
    }
    table.to_string()
}

fn add(options: &AddOptions, globals: &Globals) -> Result<(), Failure> {
    let name = match &options.name {
        Some(name) => name.clone(),
        None => name_of(&options.address).map_err(Failure::Misused)?,
    };
    let (address, key) = (options.address.clone(), options.key.clone());
    let client = connect(globals)?;
    let peer: Peer = client.post("/v1/peers", &AddPeer { name, address, key })?;
    let info: Info = client.get("/v1/info")?;
    let own_name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let own_name = own_name.map_err(Failure::other("this host's name"))?;
    let listens: Vec<_> = info.peers_listen.into_iter().collect();
    let there = to_run_there(&info.host_key, &listens, own_name.trim());
    print(&format!("{} is {}\n{there}", peer.name, peer.address))
}

/// What a host is called if nobody says so: as its address calls it.
fn name_of(address: &str) -> Result<MachineName, String> {
    let host = match address.rsplit_once(':') {
        Some((host, _)) if !address.ends_with(']') => host,
        _ => address,
    };
    let name = host.to_lowercase().parse();
    name.map_err(|error| format!("{error}; say with --name what the host is called here"))
}

/// What has to be done on the other host, so that it knows this one.
fn to_run_there(key: &str, listens: &[String], own_name: &str) -> String {
    let address = own_address(listens.first().map(String::as_str), own_name);
    let name = match name_of(&address) {
        Ok(_) => String::new(),
        // A name that this host has for sure is better than one to be thought of.
        Err(_) if own_name.to_lowercase().parse::<MachineName>().is_ok() => {
            format!(" --name {}", own_name.to_lowercase())
        }
        Err(_) => " --name NAME".to_owned(),
    };
    let mut text = format!(
        "It has to know this host, too. Run there:\n  novacron peers add {address} --key {key}{name}\n"
    );
    if listens.is_empty() {
        text += "Machines can go there, and none can come from there: this daemon does not listen for hosts\n";
    }
    text
}

/// Where others reach this host, as far as it can know: by the address on which it listens, or by its own name if that is
/// every address.
fn own_address(listens: Option<&str>, own_name: &str) -> String {
    match listens.map(str::parse::<SocketAddr>) {
        Some(Ok(listens)) if listens.ip().is_unspecified() => {
            format!("{own_name}:{}", listens.port())
        }
        Some(Ok(listens)) => match listens.ip() {
            IpAddr::V4(address) => format!("{address}:{}", listens.port()),
            IpAddr::V6(address) => format!("[{address}]:{}", listens.port()),
        },
        Some(Err(_)) => listens.unwrap_or(own_name).to_owned(),
        None => own_name.to_owned(),
    }
}

/// What hosts are called here, by their keys.
pub(crate) struct HostNames(BTreeMap<String, String>);

impl HostNames {
    /// As the daemon knows them. A report with keys in it is better than none: what cannot be had is left out.
    pub(crate) fn known_to(client: &Client) -> Self {
        let peers: Vec<Peer> = client.get("/v1/peers").unwrap_or_default();
        let named = peers.into_iter().map(|peer| (peer.key, peer.name.to_string()));
        let own = client.get::<Info>("/v1/info").ok();
        Self(named.chain(own.map(|info| (info.host_key, "this host".to_owned()))).collect())
    }

    /// The name of the host with this key; the key, if it has none.
    pub(crate) fn name(&self, key: &str) -> String {
        self.0.get(key).cloned().unwrap_or_else(|| key.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_called_as_its_address_unless_that_is_no_name() {
        for (address, name) in
            [("east", "east"), ("East.Example:7000", "east.example"), ("10.0.0.2:7478", "10.0.0.2")]
        {
            assert_eq!(name_of(address).unwrap().as_str(), name, "{address}");
        }
        for address in ["[::1]", "[::1]:7478", "::1", "", ":7478", "-east"] {
            let why = name_of(address).unwrap_err();
            assert!(why.contains("--name"), "{address}: {why}");
        }
    }

    #[test]
    fn what_to_run_on_the_other_host_is_said_to_the_letter() {
        let key = "a".repeat(64);
        for (listens, own_name, words) in [
            ("0.0.0.0:7478", "West", format!("West:7478 --key {key}\n")),
            ("[::]:7000", "west", format!("west:7000 --key {key}\n")),
            ("10.0.0.1:7478", "west", format!("10.0.0.1:7478 --key {key}\n")),
            ("[fd00::1]:7478", "West", format!("[fd00::1]:7478 --key {key} --name west\n")),
            ("[fd00::1]:7478", "(none)", format!("[fd00::1]:7478 --key {key} --name NAME\n")),
            ("west.example:7478", "west", format!("west.example:7478 --key {key}\n")),
        ] {
            let said = to_run_there(&key, &[listens.to_owned()], own_name);
            let (_, command) = said.split_once("novacron peers add ").unwrap();
            assert_eq!(command, words, "{listens} {own_name}");
        }
        let said = to_run_there(&key, &[], "west");
        assert!(said.contains("peers add west --key"), "{said}");
        assert!(said.ends_with("does not listen for hosts\n"), "{said}");
    }

    #[test]
    fn keys_are_shown_whole() {
        let peer = Peer {
            name: "east".parse().unwrap(),
            address: "east.example:7478".to_owned(),
            key: "b".repeat(64),
            added_at: "2026-11-29T17:35:36Z".to_owned().try_into().unwrap(),
        };
        let key = "b".repeat(64);
        let expected = format!(
            "NAME  ADDRESS            {:64}  ADDED\n\
             east  east.example:7478  {key}  2026-11-29T17:35:36Z\n",
            "KEY"
        );
        assert_eq!(table(&[peer]), expected);
    }

    #[test]
    fn a_host_without_a_name_is_called_by_its_key() {
        let names = HostNames([("b".to_owned(), "east".to_owned())].into());
        assert_eq!((names.name("b"), names.name("c")), ("east".to_owned(), "c".to_owned()));
    }
}
