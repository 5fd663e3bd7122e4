use super::*;
use proptest::prelude::*;

fn numbers() -> impl Strategy<Value = [u64; 8]> {
    any::<[u64; 8]>()
}

fn reports() -> impl Strategy<Value = Report<'static>> {
    let words = prop::sample::select(vec!["unknown-option", "x=1", "a=b=c", ""]);
    let files = prop::sample::select(vec!["firmware/guest/boot.rs", "a:b"]);
    let kinds = prop::sample::select(KINDS.to_vec());
    prop_oneof![
        any::<u32>().prop_map(|version| Report::Hello { version }),
        (any::<(u32, u32)>(), numbers()).prop_map(
            |((version, cpus), [pages, fixed, working, ..])| {
                Report::Ready(Ready { version, cpus, pages, fixed, working })
            }
        ),
        numbers().prop_map(|[rounds, writes, checked, rate, gap_us, errors, ..]| {
            Report::Rounds(Rounds { rounds, writes, checked, rate, gap_us, errors })
        }),
        (kinds, any::<(u32, u16, u16)>(), numbers()).prop_map(
            |(
                (kind, _),
                (cpu, offset, found_cpu),
                [address, expected, found, found_address, ..],
            )| {
                Report::Error(WrongPage {
                    kind,
                    cpu,
                    address,
                    offset,
                    expected,
                    found,
                    found_address,
                    found_cpu,
                })
            }
        ),
        (any::<bool>(), numbers()).prop_map(
            |(ok, [pages, rounds, writes, checked, errors, tsc_backwards, max_gap_us, _])| {
                Report::Verdict(Verdict {
                    ok,
                    pages,
                    rounds,
                    writes,
                    checked,
                    errors,
                    tsc_backwards,
                    max_gap_us,
                })
            }
        ),
        (words.clone(), words).prop_map(|(reason, word)| Report::Refused { reason, word }),
        (any::<u32>(), numbers()).prop_map(|(cpu, [vector, rip, error, address, ..])| {
            Report::Exception(Exception { vector, rip, error, address, cpu })
        }),
        (files, any::<(u32, u32)>())
            .prop_map(|(file, (line, cpu))| Report::Panic { at: Location { file, line }, cpu }),
    ]
}

proptest! {
    #[test]
    fn what_the_guest_prints_the_host_parses(report in reports()) {
        let line = report.to_string();
        prop_assert_eq!(Report::parse(&line), Ok(report));
        let ended = format!("{line}\r\n");
        prop_assert_eq!(Report::parse(&ended), Ok(report));
    }

    // No grammar can tell that the last number of a line has lost its last digit.
    #[test]
    fn a_line_cut_short_is_not_a_line_unless_cut_within_its_last_value(
        report in reports(), at: prop::sample::Index,
    ) {
        let line = report.to_string();
        let cut = &line[..at.index(line.len())];
        let last_word = line.rfind(' ').unwrap();
        let last_value = last_word + line[last_word..].find('=').unwrap();
        prop_assert!(cut.len() > last_value || Report::parse(cut).is_err(), "{}", cut);
    }

    #[test]
    fn no_line_panics(line: String) {
        let _ = Report::parse(&line);
    }
}

#[test]
fn the_examples_in_the_documentation_are_lines() {
    let text = include_str!("report.rs");
    let examples: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("//! oracle: ")).collect();
    assert_eq!(examples.len(), 8);
    for example in examples {
        let line = format!("oracle: {example}");
        let report = Report::parse(&line).expect(&line);
        assert_eq!(report.to_string(), line);
    }
}

#[test]
fn what_is_not_exactly_a_line_is_unreadable() {
    for line in [
        "",
        "oracle:",
        "oracle: hello",
        "oracle: hello version=+1",
        "oracle: hello version=1 ",
        "oracle:  hello version=1",
        "oracle: hello version=1 more=2",
        "oracle: hello version=4294967296",
        "oracle: verdict maybe pages=1 rounds=1 writes=1 checked=1 errors=0 tsc_backwards=0 max_gap_us=1",
        "oracle: error kind=odd vcpu=0 address=0x1 offset=0 expected=1 found=1 found_address=0x1 found_vcpu=0",
        "oracle: error kind=torn vcpu=0 address=1 offset=0 expected=1 found=1 found_address=0x1 found_vcpu=0",
        "oracle: panic at=boot.rs vcpu=0",
        "Linux version 6.12",
    ] {
        assert_eq!(Report::parse(line), Err(Unreadable), "{line}");
    }
}
