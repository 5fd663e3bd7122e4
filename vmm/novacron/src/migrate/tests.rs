//! The grammar of `novacron migrate`.

use clap::Parser;
use control::api::{Migrate, ReceiptAudit};

use super::{MigrateOptions, MigrateVerb, OrderOptions, ResolveOptions};
use crate::cli::{Cli, Verb};

fn parse(words: &str) -> Result<MigrateOptions, String> {
    let words = format!("novacron {words}");
    match Cli::try_parse_from(words.split(' ')).map_err(|error| error.to_string())?.verb {
        Verb::Migrate(options) => Ok(options),
        verb => panic!("{words}: {verb:?}"),
    }
}

fn order(words: &str) -> OrderOptions {
    match parse(words) {
        Ok(MigrateOptions { verb: None, order: Some(order) }) => order,
        other => panic!("{words}: {other:?}"),
    }
}

fn resolve(words: &str) -> ResolveOptions {
    match parse(words) {
        Ok(MigrateOptions { verb: Some(MigrateVerb::Resolve(options)), order: None }) => options,
        other => panic!("{words}: {other:?}"),
    }
}

#[test]
fn an_order_without_options_has_the_defaults_of_the_api() {
    let options = order("migrate web --to east");
    assert!(options.name.as_str() == "web" && !options.dry_run);
    let defaults: Migrate = serde_json::from_value(serde_json::json!({ "to": "east" })).unwrap();
    assert_eq!(options.order(), defaults);
}

#[test]
fn every_option_is_in_the_order() {
    let options = order(
        "migrate web --to east --max-downtime 50ms --bandwidth 10M --timeout 2m --streams 16 \
         --stop-after-rounds 20 --throttle 80% --cpu 0.5 --audit whole --output json",
    );
    let expected = Migrate {
        to: "east".parse().unwrap(),
        max_downtime_ms: 50,
        timeout_ms: 120_000,
        bandwidth: Some(10 << 20),
        streams: 16,
        stop_after_rounds: Some(20),
        audit: ReceiptAudit::Whole,
        throttle_percent: Some(80),
        cpu_permille: Some(500),
    };
    assert_eq!(options.order(), expected);
    assert!(order("migrate web --to east --dry-run").dry_run);
}

#[test]
fn what_no_move_can_have_is_refused_by_name() {
    for (words, why) in [
        ("migrate", "--to <HOST>"),
        ("migrate web", "--to <HOST>"),
        ("migrate --to east", "<NAME>"),
        ("migrate web --to East", "is no name"),
        ("migrate web --to east --max-downtime 0", "0ms is not within 1ms and 10m"),
        ("migrate web --to east --max-downtime 11m", "11m is not within 1ms and 10m"),
        ("migrate web --to east --timeout 10ms", "10ms is not within 1s and 24h"),
        ("migrate web --to east --bandwidth 1K", "1 KiB a second is less than 64 KiB"),
        ("migrate web --to east --streams 0", "0 is not in 1..=16"),
        ("migrate web --to east --streams 17", "17 is not in 1..=16"),
        ("migrate web --to east --stop-after-rounds 0", "0 is not in 1..=1000"),
        ("migrate web --to east --throttle 100%", "100% is not within 1% and 99%"),
        ("migrate web --to east --cpu 0", "0 processors are not within 0.01 and 1000"),
        ("operation --set cpu=1", "<ID>"),
        ("operation 17 --cancel --set cpu=1", "cannot be used with"),
        ("operation 17 --set streams=2", "\"streams\" is no limit"),
        ("migrate resolve", "<NAME>"),
        ("migrate resolve web --yes", "--run-here"),
        ("migrate resolve web --to east", "--to"),
    ] {
        let error = parse(words).unwrap_err();
        assert!(error.contains(why), "{words}: {why:?} is not in: {error}");
    }
}

#[test]
fn resolve_is_a_verb_of_its_own_below_it() {
    let options = resolve("migrate resolve web");
    assert!(options.name.as_str() == "web" && !options.run_here && !options.yes);
    let options = resolve("--socket /run/x migrate resolve web --run-here --yes");
    assert!(options.run_here && options.yes);
}

#[test]
fn forget_is_a_verb_of_its_own_below_it() {
    let options = parse("migrate forget web").unwrap();
    assert!(
        matches!(options.verb, Some(MigrateVerb::Forget(options)) if options.name.as_str() == "web")
    );
    assert!(parse("migrate forget").unwrap_err().contains("<NAME>"));
}

#[test]
fn a_machine_with_the_verbs_name_moves_when_the_host_is_named_first() {
    let options = order("migrate --to east resolve");
    assert_eq!(options.name.as_str(), "resolve");
}
