//! Other hosts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{MachineName, Timestamp};

/// Another host that machines may come from, and go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// What it is called here.
    pub name: MachineName,
    /// Where it is reached, as `HOST:PORT`.
    pub address: String,
    /// The public key by which it is known: 64 hexadecimal digits.
    pub key: String,
    /// When it was added.
    pub added_at: Timestamp,
}

/// Let machines come from a host, and go to it. That host must do the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddPeer {
    /// What it is called here.
    pub name: MachineName,
    /// Where it is reached: `HOST` or `HOST:PORT`, an IPv6 address in brackets.
    #[schema(
        max_length = 300,
        pattern = r"^([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$"
    )]
    pub address: String,
    /// Its public key, as `novacron info` shows it there.
    #[schema(pattern = "^[0-9a-fA-F]{64}$")]
    pub key: String,
}
