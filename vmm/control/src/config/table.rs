//! Every field there is. A default may use the fields above it.

use std::path::PathBuf;

use super::field::configuration;
use super::types::{ListenAddress, LogFilter, SocketMode};
use crate::access::Member;
use crate::quantity::{Size, TimeSpan};

const DAY: TimeSpan = TimeSpan::seconds(24 * 3600);

configuration! {
    |config, here|

    /// The Unix socket on which people and programs speak to the daemon.
    socket: SocketConfig {
        /// Where it is.
        path: PathBuf = here.socket(),
            "`/run/novacron/control.sock` as root, else `$XDG_RUNTIME_DIR/novacron/control.sock`, \
             or `novacron-UID/control.sock` in the folder for temporary files";
        /// Who may connect at all; what a caller may do then is the roles' matter.
        mode: SocketMode = SocketMode::default();
    }

    /// Where the daemon keeps things.
    storage: StorageConfig {
        /// What must survive a reboot: the records of machines, the audit log.
        state: PathBuf = here.state()?,
            "`/var/lib/novacron` as root, else `$XDG_STATE_HOME/novacron`, or `~/.local/state/novacron`";
        /// What need not: the sockets of machine processes.
        runtime: PathBuf = config.socket.path.parent().unwrap_or(&config.socket.path).to_owned(),
            "the folder of `socket.path`";
        /// Where callers may name files: images and kernels to read, snapshots to read and write. Relative names begin
        /// in the first. Whoever may write to one of them can exchange its files under the machines.
        folders: Vec<PathBuf> =
            ["images", "snapshots"].map(|name| config.storage.state.join(name)).into(),
            "`images` and `snapshots` in `storage.state`";
    }

    /// Who may do what: `user:NAME`, `user:NUMBER`, `group:NAME` or `group:NUMBER`. Root and the daemon's own user are
    /// admins always; whoever is in no list may do nothing. Of several roles the highest counts. Names are looked up
    /// in `/etc/passwd` and `/etc/group` when the daemon starts, and nowhere else: write the number of a user or group
    /// that another service knows.
    roles: RolesConfig {
        /// Do anything.
        admin: Vec<Member> = Vec::new();
        /// Start, stop, save and move machines, use their consoles.
        operator: Vec<Member> = Vec::new();
        /// Look.
        viewer: Vec<Member> = Vec::new();
    }

    /// Other hosts, between which machines move. Whoever is not known here (`novacron peers add`) is turned away before
    /// anything is done for it.
    peers: PeersConfig {
        /// Where they reach this host, over TLS; nowhere if the list is empty. Machines can move away all the same. The
        /// port is 7478 where none is given.
        listen: Vec<ListenAddress> = Vec::new();
        /// How many connections of theirs there may be that have not proven yet whose they are.
        unknown_connections: u32 [1, 4096] = 64;
    }

    /// What is kept of machines that move to other hosts: an image of their memory, in `storage.state`, for which a return
    /// sends only what has changed. It is encrypted, and the key is not here: it comes back with the machine.
    kept: KeptConfig {
        /// How much of the file system all of them may take, in percent; none are made if it is 0. The oldest go first.
        percent: u32 [0, 90] = 20;
        /// After this a machine is not expected back.
        time: TimeSpan [TimeSpan::seconds(60), TimeSpan::seconds(3650 * 24 * 3600)] =
            TimeSpan::seconds(30 * 24 * 3600);
    }

    /// What the daemon refuses to go beyond, so that no caller can use it up.
    limits: LimitsConfig {
        /// How many machines there may be.
        machines: u32 [1, 100_000] = 1000;
        /// How many connections there may be at a time.
        connections: u32 [1, 65_536] = 512;
        /// The longest request, without its head.
        request_size: Size [Size(1 << 10), Size(16 << 20)] = Size(64 << 10);
        /// How long a caller may take to send a request whole.
        request_timeout: TimeSpan [TimeSpan::milliseconds(100), TimeSpan::seconds(600)] =
            TimeSpan::seconds(10);
        /// How many operations can still be asked about once they are over.
        operations_kept: u32 [1, 1_000_000] = 1000;
        /// How many events a reader can still go back to.
        events_kept: u32 [1, 1_000_000] = 4096;
        /// How many consoles one machine may have at a time.
        console_clients: u32 [1, 1024] = 16;
    }

    /// What the daemon and its machine processes log.
    log: LogConfig {
        /// How much: a level for all, or by module.
        level: LogFilter = LogFilter::default();
        /// Whether each line is a JSON value.
        json: bool = false;
    }

    /// The record of every change that was asked for.
    audit: AuditConfig {
        /// How long a file of it gets before the next one is begun.
        segment_size: Size [Size(64 << 10), Size(1 << 30)] = Size(16 << 20);
        /// How many files are kept; older ones are deleted.
        segments_kept: u32 [2, 1_000_000] = 64;
    }

    /// What holds for all machines.
    machines: MachinesConfig {
        /// A machine that fails again and again is started again after a pause that doubles, up to this.
        restart_backoff_max: TimeSpan [TimeSpan::seconds(1), DAY] = TimeSpan::seconds(60);
        /// How long a guest may take to switch itself off once its power button was pressed.
        stop_timeout: TimeSpan [TimeSpan::seconds(1), DAY] = TimeSpan::seconds(30);
        /// How far machine processes step back behind others for the host's processors, as `nice` counts. With 19 the
        /// daemon stays quick when guests take every processor; but any other busy program, too, goes before them.
        nice: u32 [0, 19] = 0;
    }
}
