//! The kernel warnings that have an explanation: `kernel-warnings.txt`.

use qemu_tests::{Accelerator, CommandRun};

const LIST: &str = include_str!("kernel-warnings.txt");

/// When a warning comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    /// On CPU model `host`.
    Host,
    /// On every other CPU model.
    Baseline,
    Sometimes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Explained<'a> {
    /// The first numbers of the kernel's version.
    kernel: &'a str,
    when: When,
    start: &'a str,
}

/// Panics unless each of these warnings, of a kernel of this version on a machine of this CPU model, stands in the
/// list, and all came that should.
pub(crate) fn check(version: &str, cpu: &str, warnings: &[String], run: &CommandRun) {
    // On a real processor other things are missing than on an emulated one.
    let is_emulated = Accelerator::asked_for() == Accelerator::Emulation;
    let (unexplained, stale) = judge(&parse(LIST), version, cpu, warnings);
    assert!(
        unexplained.is_empty(),
        "unexplained warnings of {version} on {cpu}: {unexplained:#?}\n{run}"
    );
    assert!(
        !is_emulated || stale.is_empty(),
        "explained, but {version} on {cpu} does not say so any more: {stale:#?}\n{run}"
    );
}

/// The warnings that no line explains; and what should have come and did not.
fn judge<'a>(
    list: &[Explained<'a>],
    version: &str,
    cpu: &str,
    warnings: &'a [String],
) -> (Vec<&'a str>, Vec<&'a str>) {
    let own = || {
        list.iter().filter(|entry| {
            version.strip_prefix(entry.kernel).is_some_and(|rest| rest.starts_with('.'))
        })
    };
    let may_come = |entry: &Explained<'_>| match entry.when {
        When::Always | When::Sometimes => true,
        When::Host => cpu == "host",
        When::Baseline => cpu != "host",
    };
    let explains =
        |entry: &Explained<'_>, line: &str| may_come(entry) && line.starts_with(entry.start);
    let unexplained = warnings.iter().map(String::as_str);
    let unexplained = unexplained.filter(|line| !own().any(|entry| explains(entry, line)));
    let stale = own().filter(|entry| entry.when != When::Sometimes && may_come(entry));
    let stale = stale.filter(|entry| !warnings.iter().any(|line| line.starts_with(entry.start)));
    (unexplained.collect(), stale.map(|entry| entry.start).collect())
}

/// Panics where the list is not as its head says.
fn parse(list: &str) -> Vec<Explained<'_>> {
    let lines = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let entry = |line| {
        let fields: Vec<&str> = str::split(line, " | ").collect();
        let [kernel, when, start, why] = fields[..] else { panic!("not four fields: {line}") };
        assert!(!start.is_empty() && !why.is_empty(), "without a text or a reason: {line}");
        let when = match when {
            "always" => When::Always,
            "host" => When::Host,
            "baseline" => When::Baseline,
            "sometimes" => When::Sometimes,
            _ => panic!("`{when}` is no time: {line}"),
        };
        Explained { kernel, when, start }
    };
    lines.map(entry).collect()
}

#[test]
fn the_list_is_well_formed() {
    assert!(!parse(LIST).is_empty());
}

#[test]
fn what_no_line_explains_is_found_and_so_is_a_line_that_explains_nothing() {
    let list = "# head\n\n6.1 | always | a: | x\n6.1 | host | h | x\n6.1 | baseline | b | x\n\
                6.1 | sometimes | s | x\n6.12 | always | z | x\n";
    let list = parse(list);
    let judge = |version, cpu, lines: &[&str]| {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let (unexplained, stale) = judge(&list, version, cpu, &lines);
        let own = |lines: Vec<&str>| lines.into_iter().map(str::to_owned).collect::<Vec<_>>();
        (own(unexplained), own(stale))
    };
    let none = Vec::<String>::new;
    assert_eq!(judge("6.1.0-57", "host", &["a: 1", "s", "h"]), (none(), none()));
    assert_eq!(judge("6.1.0-57", "host", &["h", "a: 1"]), (none(), none()));
    assert_eq!(judge("6.1.0-57", "x86-64-v1", &["a: 1", "b"]), (none(), none()));
    // The right line at the wrong time, for another kernel, or with other words before it.
    for (cpu, line) in [("host", "b"), ("host", "z"), ("host", "an a: 1")] {
        let (unexplained, _) = judge("6.1.0-57", cpu, &["a: 1", "h", line]);
        assert_eq!(unexplained, [line]);
    }
    assert_eq!(judge("6.1.0-57", "host", &["a: 1"]), (none(), vec!["h".to_owned()]));
    assert_eq!(judge("6.12.117", "host", &[]), (none(), vec!["z".to_owned()]));
}
