//! The power button: pressed by signals and orders, kept by hand-overs.

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::Duration;

use machine::{Form, SuperviseError};
use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::Daemon;
use crate::errors::{file, tiny_guest};
use crate::harness::{Faulty, Oracle, Shape, has_kvm, shared};

/// Says `r`, and switches itself off when its button is pressed.
const LISTENS: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'r', 0xee, // mov al, 'r'; out dx, al
    0x66, 0xba, 0x02, 0x06, // mov dx, 0x602
    0xec, // again: in al, dx
    0xa8, 0x01, // test al, 1
    0x74, 0xfb, // jz again
    0x66, 0xba, 0x00, 0x06, // mov dx, 0x600
    0xb0, 0x34, 0xee, // mov al, S5 and the enable bit; out dx, al
    0xf4, // hlt
];
/// Says `r`, and listens to nobody.
const IGNORES: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'r', 0xee, // mov al, 'r'; out dx, al
    0xeb, 0xfe, // forever: jmp forever
];
/// Says `r`, and resets itself.
const RESETS: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'r', 0xee, // mov al, 'r'; out dx, al
    0xb0, 0xfe, 0xe6, 0x64, // mov al, 0xfe; out 0x64, al
    0xf4, // hlt
];

/// `novacron run` with a guest that has said `r`: from then on it obeys signals.
fn running(daemon: &Daemon, arguments: &[&str]) -> Child {
    let mut child = daemon
        .command(&[&["run", "t"], arguments].concat())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    child
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits for the end, which must be an orderly one; returns what was said on standard error.
fn end(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    said
}

#[test]
fn a_signal_presses_the_button_and_the_guest_switches_itself_off() {
    if !has_kvm("a_signal_presses_the_button_and_the_guest_switches_itself_off") {
        return;
    }
    let _shared = shared();
    for kind in [Signal::TERM, Signal::INT] {
        let daemon = Daemon::start();
        let kernel = file(&tiny_guest(LISTENS));
        let child = running(&daemon, &["--kernel", kernel.path().to_str().unwrap()]);
        signal(&child, kind);
        let said = end(child);
        assert!(said.contains("asked to switch itself off"), "{said}");
        assert!(said.ends_with("novacron: the guest switched itself off\n"), "{said}");
    }
}

#[test]
fn a_second_signal_ends_a_guest_that_ignores_its_button() {
    if !has_kvm("a_second_signal_ends_a_guest_that_ignores_its_button") {
        return;
    }
    let _shared = shared();
    let daemon = Daemon::start();
    let kernel = file(&tiny_guest(IGNORES));
    let mut child = running(&daemon, &["--kernel", kernel.path().to_str().unwrap()]);
    signal(&child, Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(child.try_wait().unwrap(), None, "one signal only asks");
    signal(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.ends_with("killed by SIGKILL\n"), "{said}");
}

#[test]
fn a_signal_ends_the_oracle_which_has_no_button() {
    if !has_kvm("a_signal_ends_the_oracle_which_has_no_button") {
        return;
    }
    let _shared = shared();
    let daemon = Daemon::start();
    let child = running(&daemon, &["--memory", "16M"]);
    signal(&child, Signal::TERM);
    let said = end(child);
    assert!(said.ends_with("novacron: the guest was stopped\n"), "{said}");
}

#[test]
fn a_reset_is_told_from_a_power_off() {
    if has_kvm("a_reset_is_told_from_a_power_off") {
        let _shared = shared();
        let daemon = Daemon::start();
        let kernel = file(&tiny_guest(RESETS));
        let said = end(running(&daemon, &["--kernel", kernel.path().to_str().unwrap()]));
        assert_eq!(said, "novacron: the guest reset itself\n");
    }
}

#[test]
fn a_button_that_is_pressed_stays_so_through_hand_overs() {
    if !has_kvm("a_button_that_is_pressed_stays_so_through_hand_overs") {
        return;
    }
    // The successor compares its state with what was saved. The oracle never takes the event.
    let mut oracle = Oracle::boot(Shape::default(), &Faulty::new("reference"));
    oracle.machine.press_power_button().unwrap();
    for form in [Form::Shared, Form::Copying] {
        oracle.wait_for_rounds(100);
        oracle.hand_over(form).unwrap();
    }
    oracle.machine.pause().unwrap();
    oracle.machine.press_power_button().unwrap();
    oracle.machine.resume().unwrap();
    oracle.end_well();
}

#[test]
fn a_lost_press_of_the_button_is_caught() {
    if !has_kvm("a_lost_press_of_the_button_is_caught") {
        return;
    }
    let mut oracle = Oracle::boot(Shape::default(), &Faulty::new("reference"));
    oracle.machine.press_power_button().unwrap();
    match oracle.hand_over_with(Form::Shared, &Faulty::new("drop-event")) {
        Err(SuperviseError::HandOver(why)) => {
            assert!(why.contains("the state, as KVM gives it back"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    oracle.wait_for_rounds(100);
    oracle.end_well();
}
