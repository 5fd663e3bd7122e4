//! A machine moves between two daemons.

use control::api::{MachineState, Receipt, RestartPolicy};

use crate::harness::{has_kvm, shared};
use crate::hosts::{Hosts, NAMES};

/// Two megabytes that are written again and again, at a rate that any link takes.
const BUSY: &str = "fill=8M working_set=2M rate=2000 report=500";

#[test]
fn a_machine_moves_to_another_host_and_back_and_there_again() {
    if !has_kvm("a_machine_moves_to_another_host_and_back_and_there_again") {
        return;
    }
    let _shared = shared();
    let hosts = Hosts::start();
    hosts.daemons[0].oracle("web", BUSY, RestartPolicy::Never);
    let id = hosts.daemons[0].show("web").id;
    for (trip, from) in [0, 1, 0].into_iter().enumerate() {
        let to = 1 - from;
        let outcome = hosts.moves(from, "web").unwrap_or_else(|error| {
            panic!("trip {trip}: {error}\n{}", hosts.logs());
        });
        assert_eq!(outcome.connections, 1);
        assert_eq!(outcome.generation, format!("0.{}", trip + 1));
        assert!(outcome.causes.iter().any(|(cause, _)| cause == "restore"), "{outcome:?}");
        assert!(outcome.audited_pages > 100 && outcome.audited_different == 0, "{outcome:?}");
        assert!(outcome.has_receipt, "{outcome:?}\n{}", hosts.logs());
        let receipts = [0, 1].map(|host: usize| -> Receipt {
            let path = format!("/v1/receipts/{}", outcome.session);
            hosts.daemons[host].client().get(&path).unwrap()
        });
        assert_eq!(receipts[0], receipts[1]);
        receipts[0].verify().unwrap();
        let gone = hosts.daemons[from].wait_for_state("web", MachineState::Moved);
        assert_eq!(gone.peer.as_deref(), Some(NAMES[to]));
        assert_eq!(gone.process_id, None);
        let came = hosts.daemons[to].wait_for_state("web", MachineState::Running);
        assert_eq!((came.id.as_str(), came.peer), (id.as_str(), None));
        hosts.check(to, "web");
    }
    let refused = hosts.daemons[0].operate("web", "start").unwrap_err().to_string();
    assert!(refused.contains("web is moved"), "{refused}");
    hosts.daemons[0].says(&["delete", "web"]);
    hosts.daemons[1].operate("web", "stop").unwrap();
}
