use super::*;
use crate::top::fixture::{self, at, busy, event, machine, press, reading};
use control::api::EventKind;

const WEB: &str = "web";

fn of(state: &State) -> Rates {
    state.rows()[0].rates
}

/// The rates of one machine after two looks, two seconds apart, of which `change` changes the second.
fn rates_after(change: impl FnOnce(&mut Reading)) -> Rates {
    let mut state = fixture::state();
    let mut second = reading(7, vec![machine(WEB, MachineState::Running)]);
    change(&mut second);
    state.observe(reading(5, vec![machine(WEB, MachineState::Running)]));
    assert_eq!(of(&state), Rates::default(), "one look says nothing of rates");
    state.observe(second);
    of(&state)
}

fn counters(reading: &mut Reading) -> &mut Counters {
    reading.counters.get_mut(WEB).unwrap()
}

#[test]
fn rates_are_what_counters_grew_by_and_nothing_where_they_began_anew() {
    let both = Rates { processors: Some(1.5), console_bytes: Some(2048.0) };
    let (processors, console) =
        (Rates { console_bytes: None, ..both }, Rates { processors: None, ..both });
    assert_eq!(rates_after(|_| {}), both);
    let idle = Rates { processors: Some(0.0), ..both };
    assert_eq!(rates_after(|second| counters(second).cpu_seconds = Some(17.5)), idle);
    // Another process counts from zero, even if it has come further already.
    assert_eq!(rates_after(|second| second.machines[0].process_id = Some(4001)), console);
    assert_eq!(rates_after(|second| counters(second).cpu_seconds = Some(0.1)), console);
    assert_eq!(rates_after(|second| counters(second).cpu_seconds = None), console);
    assert_eq!(rates_after(|second| counters(second).console_bytes = Some(0.0)), processors);
    assert_eq!(rates_after(|second| second.info.started_at = at(1)), processors);
    assert_eq!(rates_after(|second| second.info.process_id += 1), processors);
    // Another machine that has the name now.
    assert_eq!(rates_after(|second| second.machines[0].id = "new".to_owned()), Rates::default());
    assert_eq!(rates_after(|second| second.counters.clear()), Rates::default());
    let too_soon = Duration::from_millis(5100);
    assert_eq!(rates_after(|second| second.taken = too_soon), Rates::default());
}

#[test]
fn what_machines_use_together_is_the_sum_of_what_is_known() {
    let mut state = fixture::state();
    state.observe(busy(0));
    assert_eq!(state.view().busy_processors(), None);
    state.observe(busy(2));
    // Eight of the eleven have a process, and three of those work.
    assert_eq!(state.view().busy_processors(), Some(4.5));
    assert_eq!(state.view().resident_bytes(), Some(8.0 * 34.0 * fixture::MIB));
}

#[test]
fn an_event_is_kept_once_and_the_oldest_go() {
    let mut state = fixture::state();
    let happened = |number| event(number, EventKind::DaemonStarted { adopted: number });
    let kept = |state: &State| {
        state.view().events.iter().map(|event| event.id.clone()).collect::<Vec<_>>()
    };
    for number in [1, 2, 1, 2, 3] {
        state.happen(happened(number));
    }
    assert_eq!(kept(&state), ["64a-1", "64a-2", "64a-3"]);
    for number in 0..1000 {
        state.happen(happened(number));
    }
    assert_eq!(kept(&state).len(), EVENTS_KEPT);
    assert_eq!(kept(&state).last().unwrap(), "64a-999");
}

#[test]
fn machines_are_ordered_as_was_asked_and_the_selection_stays_with_its_machine() {
    let look = |taken: u64| {
        let [mut a, mut b, mut c] =
            ["a", "b", "c"].map(|name| machine(name, MachineState::Running));
        a.state = MachineState::Stopped;
        (b.process_id, c.process_id) = (Some(1), Some(2));
        let mut reading = reading(taken, vec![a, b, c]);
        reading.counters.remove("a");
        reading.counters.get_mut("b").unwrap().resident_bytes = Some(99.0 * fixture::MIB);
        reading.counters.get_mut("c").unwrap().cpu_seconds = Some(40.0 + 2.0 * taken as f64);
        reading
    };
    let mut state = fixture::state();
    state.observe(look(0));
    state.observe(look(1));
    press(&mut state, "jj");
    for (order, names) in [
        ("name", "abc"),
        ("state", "bca"),
        ("memory", "bca"),
        ("processor", "cba"),
        ("name", "abc"),
    ] {
        assert_eq!(state.order().name(), order);
        let rows = state.rows();
        let found: String = rows.iter().map(|row| row.machine.name.as_str()).collect();
        assert_eq!(found, names, "{order}");
        let selected = state.selected_of(&rows).unwrap();
        assert_eq!(rows[selected].machine.name.as_str(), "b", "{order}");
        press(&mut state, "s");
    }
}

#[test]
fn the_selection_ends_at_both_ends_and_goes_with_its_machine() {
    let mut state = fixture::state();
    press(&mut state, "jk");
    let names: Vec<_> = (0..30).map(|at| format!("m{at:02}")).collect();
    let all = names.iter().map(|name| machine(name, MachineState::Running));
    state.observe(reading(0, all.collect()));
    assert_eq!(state.selected_of(&state.rows()), None);
    let mut after = |code: KeyCode| {
        assert!(state.press(KeyEvent::from(code)).is_continue());
        state.selected_of(&state.rows()).unwrap()
    };
    let keys = [
        (KeyCode::Down, 0),
        (KeyCode::Up, 0),
        (KeyCode::Down, 1),
        (KeyCode::PageDown, 11),
        (KeyCode::PageUp, 1),
        (KeyCode::PageUp, 0),
        (KeyCode::End, 29),
        (KeyCode::Down, 29),
        (KeyCode::PageDown, 29),
        (KeyCode::Home, 0),
    ];
    for (code, selected) in keys {
        assert_eq!(after(code), selected, "{code:?}");
    }
    state.observe(reading(1, vec![machine("m07", MachineState::Running)]));
    assert_eq!(state.selected_of(&state.rows()), None, "it was deleted");
}

#[test]
fn keys_that_leave_leave_and_others_do_not() {
    let leaves = |code, modifiers, keys: &str| {
        let mut state = fixture::state();
        press(&mut state, keys);
        state.press(KeyEvent::new(code, modifiers)).is_break()
    };
    let none = KeyModifiers::NONE;
    for keys in ["", "?"] {
        assert!(leaves(KeyCode::Char('q'), none, keys));
        assert!(leaves(KeyCode::Char('c'), KeyModifiers::CONTROL, keys));
    }
    assert!(leaves(KeyCode::Esc, none, ""));
    assert!(!leaves(KeyCode::Esc, none, "?"), "it leaves the help");
    for code in ['c', 'x', 'j', 's', 'p', '?'] {
        assert!(!leaves(KeyCode::Char(code), none, ""), "{code}");
    }
}

#[test]
fn a_held_display_stays_as_it_is_and_then_shows_what_has_happened_meanwhile() {
    let mut state = fixture::state();
    state.observe(reading(0, Vec::new()));
    press(&mut state, "p");
    assert!(state.is_held());
    state.observe(reading(2, vec![machine(WEB, MachineState::Running)]));
    state.happen(event(1, EventKind::DaemonStarted { adopted: 0 }));
    assert!(state.rows().is_empty() && state.view().events.is_empty());
    press(&mut state, "p");
    assert_eq!((state.rows().len(), state.view().events.len()), (1, 1));
}

#[test]
fn a_daemon_that_goes_is_away_since_then_and_one_that_comes_back_is_there() {
    let mut state = fixture::state();
    state.observe(reading(0, Vec::new()));
    for now in 10..20 {
        state.tick(Duration::from_secs(now));
        state.miss("no daemon answers".to_owned());
    }
    assert_eq!(state.away_for(), Duration::from_secs(9));
    assert_eq!(state.silence(), None, "why it says nothing is known");
    state.observe(reading(20, Vec::new()));
    assert!(state.view().away.is_none());
    assert_eq!(state.away_for(), Duration::ZERO);
}

#[test]
fn a_daemon_that_does_not_answer_is_silent_after_a_while() {
    let mut state = fixture::state();
    for (now, silence) in [(5, None), (6, Some(6))] {
        state.tick(Duration::from_secs(now));
        assert_eq!(state.silence(), silence.map(Duration::from_secs), "it has never answered");
    }
    state.observe(reading(10, Vec::new()));
    for (now, silence) in [(11, None), (15, None), (16, Some(6)), (70, Some(60))] {
        state.tick(Duration::from_secs(now));
        assert_eq!(state.silence(), silence.map(Duration::from_secs), "{now}");
    }
}
