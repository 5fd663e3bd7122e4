//! The log, and a standard error that takes nothing.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use control::api::{MachineState, RestartPolicy, Shutdown};

use crate::api::{request, send, value};
use crate::daemon::Daemon;
use crate::harness::{has_kvm, shared};

const LOST: &str = "novacron_log_lines_lost_total";
/// Longer than any of this takes on a loaded host, shorter than what waits for good.
const PATIENCE: Duration = Duration::from_secs(60);

/// A metric of a daemon that answers within seconds: one that does not fails the test, where a client would wait.
fn metric(daemon: &Daemon, name: &str) -> f64 {
    let answer = send(&daemon.socket(), &request("GET", "/v1/metrics", ""));
    assert_eq!(answer.status, 200, "it does not answer");
    value(&answer.text, name)
}

/// Makes the daemon log, until it has lost more lines than before.
fn flood(daemon: &Daemon) {
    let before = metric(daemon, LOST);
    let end = Instant::now() + PATIENCE;
    while metric(daemon, LOST) <= before {
        assert!(Instant::now() < end, "no line was lost");
        for _ in 0..20 {
            // No request: that is a line each.
            let mut stream = UnixStream::connect(daemon.socket()).unwrap();
            let _ = stream.write_all(b"no request\r\n\r\n");
        }
    }
}

#[test]
fn a_log_that_nobody_reads_holds_up_neither_the_daemon_nor_a_machine_and_its_gaps_are_told() {
    let test =
        "a_log_that_nobody_reads_holds_up_neither_the_daemon_nor_a_machine_and_its_gaps_are_told";
    let _shared = shared();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut daemon = Daemon::start_logging_to(writer, &["log.level=trace"]);
    // Gone before the daemon, if this fails: it could not be asked to end.
    let reader = File::from(reader);
    flood(&daemon);
    if has_kvm(test) {
        // Every access to a port that nobody has is a line, and there are many.
        daemon.oracle("one", "fill=4M working_set=1M rate=200 report=50", RestartPolicy::Never);
        daemon.wait_for_state("one", MachineState::Running);
        let printed = || metric(&daemon, "novacron_console_output_bytes_total");
        let (before, end) = (printed(), Instant::now() + PATIENCE);
        while printed() < before + 2000.0 {
            assert!(Instant::now() < end, "the guest stands still");
        }
        daemon.operate("one", "stop").unwrap();
    }
    // Somebody reads again, and hears of it where it was.
    let mut lines = BufReader::new(reader).lines();
    let gap = lines.find_map(|line| {
        let line = line.unwrap();
        let (_, words) = line.split_once("WARN novacron::log: ")?;
        words.split_once(' ')?.0.parse::<u64>().ok()
    });
    assert!(gap.unwrap() > 0);
    // The next time nobody comes back. The daemon ends all the same.
    flood(&daemon);
    daemon.client().post_for_nothing("/v1/shutdown", &Shutdown::default()).unwrap();
    daemon.wait_for_end(Duration::from_secs(10));
}

#[test]
fn what_a_daemon_logs_last_is_written_before_it_ends() {
    let _shared = shared();
    let mut daemon = Daemon::start_set(&["log.level=info"]);
    daemon.client().post_for_nothing("/v1/shutdown", &Shutdown::default()).unwrap();
    daemon.wait_for_end(PATIENCE);
    assert!(daemon.log().contains("the daemon ends; its machines go on"), "{}", daemon.log());
    // And why it does not start: nobody else says so.
    let state = daemon.folder().join("log");
    let refused =
        daemon.novacron(&["daemon", "--config", "/dev/null", "--state", state.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.starts_with("novacron: "), "{refused:?}");
}
