//! Dependencies between our packages point one way.

use super::Violation;
use crate::tree::Package;

/// What a package may link, and what only its tests may.
struct Row {
    package: &'static str,
    links: &'static [&'static str],
    tests_link: &'static [&'static str],
}

/// The whole of ARCHITECTURE.md's picture. A package without a row is a violation: whoever adds one
/// says here where it stands.
const TABLE: [Row; 14] = [
    row("novacron", &["control", "machine", "dwcp", "firmware"], &[]),
    row("control", &["machine", "dwcp"], &[]),
    row("machine", &["dwcp"], &["firmware"]),
    row("dwcp", &[], &[]),
    row("firmware", &[], &[]),
    row("benches", &["machine", "dwcp", "firmware", "build-cache"], &[]),
    // Knows the product by its executables and images only; kernels are not the product.
    row("qemu-tests", &["build-cache", "kernel-config"], &["kernel-config"]),
    row("kernel-config", &["build-cache"], &[]),
    row("build-cache", &[], &[]),
    // Builds and runs the others: it must not wait for any of them.
    row("xtask", &["build-cache"], &[]),
    row("dwcp-fuzz", &["dwcp", "fuzzing"], &[]),
    row("machine-fuzz", &["machine", "fuzzing"], &[]),
    row("control-fuzz", &["control", "fuzzing"], &[]),
    row("fuzzing", &[], &[]),
];

const fn row(
    package: &'static str,
    links: &'static [&'static str],
    tests_link: &'static [&'static str],
) -> Row {
    Row { package, links, tests_link }
}

/// Every package links what its row of the table says and nothing else of ours.
pub(super) fn point_one_way(packages: &[Package]) -> Vec<Violation> {
    packages.iter().flat_map(judge).collect()
}

fn judge(package: &Package) -> Vec<Violation> {
    let path = package.folder.join("Cargo.toml").to_string_lossy().into_owned();
    let Some(row) = TABLE.iter().find(|row| row.package == package.name) else {
        let what = format!("`{}` has no row in the table of dependencies", package.name);
        return vec![Violation::new(&path, 0, what)];
    };
    let may_link = |name: &&String| !row.links.contains(&name.as_str());
    let may_test_link = |name: &&String| !row.tests_link.contains(&name.as_str());
    let links = package.links.iter().filter(may_link).map(|name| (name, "link"));
    let tests = package.tests_link.iter().filter(may_link).filter(may_test_link);
    links
        .chain(tests.map(|name| (name, "link `in tests`")))
        .map(|(name, verb)| {
            Violation::new(&path, 0, format!("`{}` must not {verb} `{name}`", package.name))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_that_points_upwards_is_named() {
        for (name, links, tests_link, expected) in [
            ("machine", &["dwcp"][..], &["firmware"][..], None),
            ("machine", &["firmware"], &[], Some("`machine` must not link `firmware`")),
            ("dwcp", &[], &["machine"], Some("must not link `in tests` `machine`")),
            ("qemu-tests", &["novacron"], &[], Some("must not link `novacron`")),
            ("xtask", &["kernel-config"], &[], Some("must not link `kernel-config`")),
            ("another", &[], &[], Some("no row")),
        ] {
            let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            let package = Package {
                name: name.to_owned(),
                links: owned(links),
                tests_link: owned(tests_link),
                ..Package::default()
            };
            let found = point_one_way(&[package]);
            match expected {
                None => assert_eq!(found, []),
                Some(words) => {
                    assert!(found.len() == 1 && found[0].what.contains(words), "{found:?}");
                }
            }
        }
    }

    #[test]
    fn the_table_itself_has_no_cycle() {
        // Taking away, again and again, the packages that link none that are left.
        let mut left: Vec<_> = TABLE.iter().collect();
        while !left.is_empty() {
            let names: Vec<_> = left.iter().map(|row| row.package).collect();
            let before = left.len();
            left.retain(|row| row.links.iter().any(|name| names.contains(name)));
            assert!(left.len() < before, "a cycle among {names:?}");
        }
    }
}
