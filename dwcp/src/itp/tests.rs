use super::*;

fn name(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn machine() -> MachineNeeds {
    MachineNeeds {
        runs_on: Some(name("here")),
        vcpus: 4,
        memory_bytes: 8 << 30,
        cpu_features: set(&["avx2", "sse4_2"]),
        tsc_khz: Some(2_400_000),
        resources: set(&["lan"]),
        apart_from: BTreeSet::from([VmId::new([9; 16]).unwrap()]),
        ..MachineNeeds::default()
    }
}

fn host(host: &str) -> HostFacts {
    HostFacts {
        vcpus_max: 64,
        memory_bytes: 64 << 30,
        memory_free_bytes: 32 << 30,
        cpu_features: set(&["avx2", "avx512f", "sse4_2"]),
        tsc_khz: 2_400_000,
        scales_tsc: false,
        resources: set(&["lan", "dmz"]),
        ..HostFacts::new(name(host))
    }
}

/// The only reason for which a host with one change does not fit.
fn reason(change: impl FnOnce(&mut HostFacts)) -> String {
    let mut host = host("there");
    change(&mut host);
    let ranking = rank(&machine(), &[host], &Weights::default());
    assert_eq!((ranking.fit.len(), ranking.unfit.len()), (0, 1));
    let [reason] = ranking.unfit[0].reasons.as_slice() else { panic!("{ranking:?}") };
    reason.to_string()
}

#[test]
fn each_constraint_refuses_by_itself_and_says_why() {
    assert_eq!(reason(|host| host.name = name("here")), "the machine runs there already");
    assert_eq!(reason(|host| host.accepts = false), "it takes no machines now");
    let durable = reason(|host| host.is_durable = false);
    assert_eq!(durable, "its permit records would not survive a power cut");
    assert_eq!(reason(|host| host.vcpus_max = 3), "4 vCPUs, and at most 3 there: 1 too many");
    assert_eq!(reason(|host| host.memory_free_bytes = 5 << 30), "3 GiB of memory too little");
    assert_eq!(reason(|host| host.memory_free_bytes -= (24 << 30) + 1), "1 B of memory too little");
    assert_eq!(reason(|host| host.cpu_features = set(&[])), "its processor lacks avx2, sse4_2");
    let tsc = reason(|host| host.tsc_khz = 3_000_000);
    let how_far = "250000 ppm off, 250 at most";
    let runs = "its TSC runs at 3000000 kHz and not at 2400000, and cannot be scaled";
    assert_eq!(tsc, format!("{runs}: {how_far}"));
    let just = reason(|host| host.tsc_khz = 2_400_601);
    assert!(just.ends_with("251 ppm off, 250 at most"), "{just}");
    assert_eq!(reason(|host| host.resources = set(&["dmz"])), "it has no lan");
    let versions = reason(|host| host.versions = 4..=5);
    assert_eq!(versions, "it speaks DWCP 4 to 5, and the machine 3 to 3");
    let other = VmId::new([9; 16]).unwrap();
    let together = reason(|host| host.machines = BTreeSet::from([other]));
    assert!(together.contains(&other.to_string()), "{together}");
}

#[test]
fn all_reasons_are_named_not_the_first() {
    let broken = HostFacts { accepts: false, vcpus_max: 1, memory_free_bytes: 0, ..host("there") };
    let ranking = rank(&machine(), &[broken], &Weights::default());
    let kinds = &ranking.unfit[0].reasons;
    let expected = [
        Reason::DoesNotAccept,
        Reason::Vcpus { needed: 4, most: 1 },
        Reason::Memory { lacking: 8 << 30 },
    ];
    assert_eq!(kinds, &expected);
}

#[test]
fn a_tsc_may_be_a_little_off_or_scaled() {
    let fits = |tsc_khz, scales_tsc| {
        let host = HostFacts { tsc_khz, scales_tsc, ..host("there") };
        rank(&machine(), &[host], &Weights::default()).fit.len() == 1
    };
    assert!(fits(2_400_600, false) && fits(2_399_400, false), "250 ppm");
    assert!(!fits(2_400_601, false));
    assert!(fits(1_000_000, true));
}

#[test]
fn each_term_decides_between_hosts_that_are_equal_otherwise() {
    let minute = Duration::from_mins(1);
    let changes: [fn(&mut HostFacts); 4] = [
        |host| host.memory_free_bytes += 1 << 30,
        |host| host.busy = 0.2,
        |host| host.duration = Some(Duration::from_secs(1)),
        |host| host.kept = 0.9,
    ];
    for change in changes {
        let common = HostFacts { busy: 0.5, duration: Some(minute), ..host("a") };
        let mut better = HostFacts { name: name("b"), ..common.clone() };
        change(&mut better);
        let ranking = rank(&machine(), &[common, better], &Weights::default());
        assert_eq!(ranking.fit[0].host, name("b"), "{ranking:?}");
    }
}

#[test]
fn the_score_is_the_weighted_mean_of_what_is_printed() {
    let host = HostFacts { busy: 0.25, duration: Some(Duration::from_secs(30)), ..host("a") };
    let weights = Weights { memory_left: 1.0, idle: 2.0, soon: 1.0, kept: 0.0 };
    let ranking = rank(&machine(), &[host], &weights);
    let placement = &ranking.fit[0];
    let factor = |term, value, weight, contribution| Factor { term, value, weight, contribution };
    let expected = [
        factor(Term::MemoryLeft, 0.375, 1.0, 0.375 / 4.0),
        factor(Term::Idle, 0.75, 2.0, 0.75 / 2.0),
        factor(Term::Soon, 0.5, 1.0, 0.5 / 4.0),
        factor(Term::Kept, 0.0, 0.0, 0.0),
    ];
    assert_eq!(placement.factors, expected);
    assert!((placement.score - (0.375 + 1.5 + 0.5) / 4.0).abs() < 1e-12);
    assert_eq!(
        placement.to_string(),
        "a: 0.594 = memory left 0.375 × 1/4 + idle 0.750 × 2/4 + soon 0.500 × 1/4 + kept 0.000 × 0/4"
    );
}

#[test]
fn a_ranking_is_printed_with_a_line_for_each_host_and_all_its_reasons() {
    let broken = HostFacts { accepts: false, memory_free_bytes: 7 << 30, ..host("b") };
    let ranking = rank(&machine(), &[broken, host("a")], &Weights::default());
    let printed = ranking.to_string();
    let [fit, unfit] = printed.lines().collect::<Vec<_>>()[..] else { panic!("{printed}") };
    assert_eq!(fit, ranking.fit[0].to_string());
    assert_eq!(unfit, "b: no, it takes no machines now; 1 GiB of memory too little");
}

#[test]
fn what_is_printed_adds_up_to_the_score_whatever_the_weights() {
    let host = HostFacts { busy: 0.3, kept: 0.7, ..host("a") };
    let none = Weights { memory_left: 0.0, idle: 0.0, soon: 0.0, kept: 0.0 };
    let mad = Weights { memory_left: f64::NAN, idle: -3.0, kept: 0.5, soon: 1.5 };
    for weights in [Weights::default(), mad, none] {
        let ranking = rank(&machine(), std::slice::from_ref(&host), &weights);
        let Placement { score, factors, .. } = &ranking.fit[0];
        let sum: f64 = factors.iter().map(|factor| factor.contribution).sum();
        assert!((sum - score).abs() < 1e-12, "{ranking}");
        let all: f64 = factors.iter().map(|factor| factor.weight).sum();
        let mean: f64 = factors.iter().map(|factor| factor.value * factor.weight).sum();
        assert!((mean - score * all).abs() < 1e-12, "{ranking}");
    }
}

#[test]
fn equals_are_in_the_order_of_their_names_whatever_the_question() {
    let names = |hosts: &[HostFacts]| {
        let ranking = rank(&machine(), hosts, &Weights::default());
        ranking.fit.into_iter().map(|placement| placement.host).collect::<Vec<_>>()
    };
    let (a, b, c) = (host("a"), host("b"), host("c"));
    let sorted = names(&[a.clone(), b.clone(), c.clone()]);
    assert_eq!(sorted, [name("a"), name("b"), name("c")]);
    assert_eq!(names(&[c, a, b]), sorted);
}

#[test]
fn nonsense_makes_a_bad_score_and_not_a_panic() {
    let mad = HostFacts {
        busy: f64::NAN,
        kept: f64::INFINITY,
        memory_bytes: 0,
        duration: Some(Duration::MAX),
        ..host("mad")
    };
    let weights = Weights { memory_left: f64::NAN, idle: -1.0, soon: 1.0, kept: f64::INFINITY };
    let ranking = rank(&machine(), std::slice::from_ref(&mad), &weights);
    assert!((0.0..=1.0).contains(&ranking.fit[0].score));
    let none = Weights { memory_left: 0.0, idle: 0.0, soon: 0.0, kept: 0.0 };
    assert_eq!(rank(&machine(), &[mad], &none).fit[0].score, 0.0);
    assert_eq!(rank(&machine(), &[], &none), Ranking::default());
}
