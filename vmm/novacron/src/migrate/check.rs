//! `novacron migrate --dry-run`: what is in the way of a move, and how it would go.

use control::Size;
use control::api::{MachineName, Migrate, MigrationCheck, MigrationForecast};

use crate::Failure;
use crate::cli::OutputForm;
use crate::connect::connect;
use crate::globals::Globals;
use crate::machines::milliseconds;
use crate::output::{plain, print, print_json};
use crate::table::Table;
use crate::top::whole_bytes;

/// Asks both hosts, and changes nothing. What is in the way is a failure of this verb, and so is a guest that is too fast.
pub(super) fn check(
    name: &MachineName,
    order: &Migrate,
    form: OutputForm,
    globals: &Globals,
) -> Result<(), Failure> {
    let to = &order.to;
    let path = format!("/v1/machines/{name}/migrate?{}", query(order)?);
    let check: MigrationCheck = connect(globals)?.get(&path)?;
    match form {
        OutputForm::Json => print_json(&check)?,
        OutputForm::Text => print(&findings(&check))?,
    }
    let is_too_fast = check.forecast.is_some_and(|forecast| forecast.too_fast.is_some());
    match check.blockers.len() {
        0 if is_too_fast => Err(Failure::Other(format!(
            "the move of {name} to {to} would not end: the guest is too fast"
        ))),
        0 => Ok(()),
        1 => Err(Failure::Other(format!("{name} cannot move to {to}: one thing is in the way"))),
        count => Err(Failure::Other(format!(
            "{name} cannot move to {to}: {count} things are in the way"
        ))),
    }
}

/// The order as what follows a path: names, numbers and words, in which nothing has to be escaped.
fn query(order: &Migrate) -> Result<String, Failure> {
    let order = serde_json::to_value(order).map_err(|error| Failure::Other(error.to_string()))?;
    let fields = order.as_object().into_iter().flatten();
    let said = fields.filter(|(_, value)| !value.is_null()).map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{name}={value}")
    });
    Ok(said.collect::<Vec<_>>().join("&"))
}

/// What was found, in words.
fn findings(check: &MigrationCheck) -> String {
    let MigrationCheck { machine, to, blockers, round_trip_ns, bytes_per_second, .. } = check;
    let mut text = if blockers.is_empty() {
        format!("nothing is in the way of {machine} to {to}\n")
    } else {
        let mut table = Table::new(&["KIND", "HOST", "WHAT IS IN THE WAY"]);
        for blocker in blockers {
            let host = blocker.host.as_ref().map_or("this host", MachineName::as_str);
            let (kind, what) = (blocker.kind.name(), plain(&blocker.message));
            table.row(vec![kind.to_owned(), host.to_owned(), what]);
        }
        table.to_string()
    };
    let mut measured = vec![format!("memory {}", Size(check.memory_bytes))];
    measured.extend(round_trip_ns.map(|ns| format!("round trip {}", milliseconds(ns))));
    measured.extend(bytes_per_second.map(|rate| format!("{}/s in a trial", whole_bytes(rate))));
    text += &(measured.join(", ") + "\n");
    if let Some(forecast) = &check.forecast {
        text += &foreseen(forecast);
    }
    if let Some(why) = &check.no_forecast {
        text += &format!("no forecast: {}\n", plain(why));
    }
    text
}

/// What was seen of the guest, and what follows.
fn foreseen(forecast: &MigrationForecast) -> String {
    let MigrationForecast { pages, bytes_per_page, dirty_pages_per_second, .. } = *forecast;
    let bytes = whole_bytes(pages.saturating_mul(bytes_per_page));
    let seen = format!(
        "{pages} pages in some {bytes}; the guest writes {dirty_pages_per_second} a second\n"
    );
    if let Some(why) = &forecast.too_fast {
        return format!("{seen}it would not end: {}\n", plain(why));
    }
    let (lasts, stands) = (milliseconds(forecast.duration_ns), milliseconds(forecast.blackout_ns));
    format!("{seen}it would take {lasts}, and the guest stand still for {stands} of that\n")
}

#[cfg(test)]
mod tests {
    use control::api::{Blocker, BlockerKind};

    use super::*;

    fn check(blockers: Vec<Blocker>) -> MigrationCheck {
        MigrationCheck {
            machine: "web".parse().unwrap(),
            to: "east".parse().unwrap(),
            blockers,
            round_trip_ns: None,
            bytes_per_second: None,
            memory_bytes: 512 << 20,
            forecast: None,
            no_forecast: None,
        }
    }

    #[test]
    fn a_way_that_is_free_is_said_to_be_with_what_was_measured() {
        let no_forecast = Some("its memory is still being read".to_owned());
        let unseen = findings(&MigrationCheck { no_forecast, ..check(Vec::new()) });
        assert!(unseen.ends_with("no forecast: its memory is still being read\n"), "{unseen}");
        let check = MigrationCheck {
            round_trip_ns: Some(1_234_567),
            bytes_per_second: Some(110 << 20),
            forecast: Some(MigrationForecast {
                pages: 100_000,
                bytes_per_page: 2048,
                dirty_pages_per_second: 9876,
                duration_ns: 1_850_000_000,
                blackout_ns: 12_300_000,
                too_fast: None,
            }),
            ..check(Vec::new())
        };
        let expected = "nothing is in the way of web to east\n\
            memory 512 MiB, round trip 1.23 ms, 110 MiB/s in a trial\n\
            100000 pages in some 195 MiB; the guest writes 9876 a second\n\
            it would take 1850.00 ms, and the guest stand still for 12.30 ms of that\n";
        assert_eq!(findings(&check), expected);
        let too_fast = Some("the guest writes too fast".to_owned());
        let forecast = check.forecast.map(|forecast| MigrationForecast { too_fast, ..forecast });
        let said = findings(&MigrationCheck { forecast, ..check });
        assert!(said.ends_with("it would not end: the guest writes too fast\n"), "{said}");
    }

    #[test]
    fn an_order_that_is_thought_of_follows_the_path() {
        let order: Migrate = serde_json::from_str(r#"{"to":"west","bandwidth":70000}"#).unwrap();
        let query = query(&order).unwrap();
        for part in ["to=west", "bandwidth=70000", "max_downtime_ms=300"] {
            assert!(query.split('&').any(|one| one == part), "{query}");
        }
        assert!(!query.contains("null"), "{query}");
    }

    #[test]
    fn what_is_in_the_way_has_a_line_each() {
        let blocker = |kind, host: Option<&str>, message: &str| Blocker {
            kind,
            host: host.map(|host| host.parse().unwrap()),
            message: message.to_owned(),
        };
        let check = check(vec![
            blocker(BlockerKind::State, None, "web is stopped: start it"),
            blocker(BlockerKind::Cpu, Some("east"), "it lacks avx2\n and more"),
        ]);
        let expected = "KIND   HOST       WHAT IS IN THE WAY\n\
            state  this host  web is stopped: start it\n\
            cpu    east       it lacks avx2  and more\n\
            memory 512 MiB\n";
        assert_eq!(findings(&check), expected);
    }
}
