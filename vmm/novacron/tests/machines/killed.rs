//! `kill -9` of either process at every step of a hand-over.

use dwcp::acp::PermitState;
use machine::{Form, Step, SuperviseError};

use crate::harness::{Faulty, Oracle, Shape, has_kvm};

/// Who has the guest when a process was killed at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The predecessor goes on with it.
    Stays,
    /// The successor has it.
    Moves,
    /// The predecessor died with it, before it had parted with the permit.
    Dies,
    /// The successor died with it, after it had taken the permit: frozen here, and never run again.
    Departed,
}

/// The permit table of a hand-over, step by step.
fn fate(step: Step) -> Fate {
    match step {
        Step::SourceStart
        | Step::SourceGreeted
        | Step::SourceCopied
        | Step::SourceOffered
        | Step::SourcePaused
        | Step::SourceSaved => Fate::Dies,
        Step::SourcePermitSent => Fate::Moves,
        Step::DestinationStart
        | Step::DestinationReady
        | Step::DestinationPermitReceived
        | Step::DestinationRestored => Fate::Stays,
        Step::DestinationTaken | Step::DestinationRunning => Fate::Departed,
        other => panic!("{other:?} is no step of a hand-over"),
    }
}

#[test]
fn killed_at_every_step_at_most_one_copy_runs() {
    if !has_kvm("killed_at_every_step_at_most_one_copy_runs") {
        return;
    }
    for step in Step::OF_HAND_OVER {
        for form in [Form::Shared, Form::Copying] {
            killed_at(step, form);
        }
    }
}

fn killed_at(step: Step, form: Form) {
    let faulty = Faulty::new(format!("kill:{}", step.name()));
    let plain = Faulty::new("");
    let is_source = step.name().starts_with("Source");
    let (source, destination) = if is_source { (&faulty, &plain) } else { (&plain, &faulty) };
    let shape = Shape { memory: 64 << 20, ..Shape::default() };
    let mut oracle = Oracle::boot(shape, source);
    let before = oracle.machine.process().id();
    let outcome = oracle.hand_over_with(form, destination);
    let state = oracle.machine.permit().record().unwrap().state().clone();
    let context = format!("{step:?} {form:?}: {outcome:?}, the record says {state:?}");
    match fate(step) {
        Fate::Stays => {
            assert!(matches!(outcome, Err(SuperviseError::HandOver(_))), "{context}");
            assert!(matches!(state, PermitState::Held { .. }), "{context}");
            assert_eq!(oracle.machine.process().id(), before, "{context}");
            oracle.wait_for_rounds(50);
            oracle.end_well();
        }
        Fate::Moves => {
            assert!(matches!(outcome, Err(SuperviseError::PredecessorDied(_))), "{context}");
            assert_ne!(oracle.machine.process().id(), before, "{context}");
            assert!(
                matches!(state, PermitState::Held { .. } | PermitState::Taken { .. }),
                "{context}"
            );
            oracle.wait_for_rounds(50);
            oracle.end_well();
        }
        Fate::Dies => {
            assert!(matches!(outcome, Err(SuperviseError::Lost { .. })), "{context}");
            assert!(!matches!(state, PermitState::Taken { .. }), "{context}");
            assert!(!oracle.machine.permit().is_alive().unwrap(), "{context}");
        }
        Fate::Departed => {
            assert!(matches!(outcome, Err(SuperviseError::Departed(_))), "{context}");
            assert!(matches!(state, PermitState::Taken { .. }), "{context}");
            // Its memory is kept, and nothing makes it run here again.
            assert!(oracle.machine.permit().is_alive().unwrap(), "{context}");
            let resumed = oracle.machine.resume();
            assert!(matches!(resumed, Err(SuperviseError::Refused(_))), "{resumed:?}");
            oracle.machine.stop().unwrap();
        }
    }
}

#[test]
fn a_successor_that_is_slow_to_say_that_it_runs_is_not_killed() {
    if !has_kvm("a_successor_that_is_slow_to_say_that_it_runs_is_not_killed") {
        return;
    }
    let shape = Shape { memory: 64 << 20, ..Shape::default() };
    let mut oracle = Oracle::boot(shape, &Faulty::new(""));
    // It has the permit, and says nothing for longer than the predecessor waits.
    oracle.hand_over_with(Form::Shared, &Faulty::new("slow-take")).unwrap();
    oracle.wait_for_rounds(50);
    oracle.end_well();
}
