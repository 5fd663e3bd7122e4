use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::check::Note;
use super::*;
use crate::access::{Caller, Role};
use crate::quantity::{Size, TimeSpan};

fn root() -> Surroundings {
    Surroundings::of_root()
}

fn with(variables: &[(&str, &str)]) -> Surroundings {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Surroundings { variables: variables.iter().map(owned).collect(), ..root() }
}

fn accounts() -> Accounts {
    Accounts::from_files("alice:x:1000:1000", "kvm:x:104:")
}

fn load(text: &str, here: &Surroundings, set: &[&str]) -> Result<Effective, Vec<String>> {
    let set: Vec<_> = set.iter().map(|&text| text.to_owned()).collect();
    let file = Some((Path::new("f.toml"), text));
    Effective::of(file, &set, here, &accounts())
        .map_err(|problems| problems.iter().map(Problem::to_string).collect())
}

fn file(text: &str) -> Config {
    load(text, &root(), &[]).unwrap().config
}

/// The file's problems, in their order, begin so and go on with these words.
fn refuses(text: &str, expected: &[(&str, &[&str])]) {
    let said = load(text, &root(), &[]).unwrap_err();
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, (place, words)) in said.iter().zip(expected) {
        assert!(said.starts_with(&format!("{place}: ")), "{place}: {said}");
        for word in *words {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
}

#[test]
fn a_file_that_says_nothing_leaves_every_default() {
    let effective = load("", &root(), &[]).unwrap();
    assert!(effective.fields().all(|(.., place)| *place == Place::Default));
    let config = effective.config;
    assert_eq!(config.socket.path, Path::new("/run/novacron/control.sock"));
    assert_eq!(config.socket.mode.bits(), 0o600);
    assert_eq!(config.storage.state, Path::new("/var/lib/novacron"));
    assert_eq!(config.storage.runtime, Path::new("/run/novacron"));
    let folders = ["/var/lib/novacron/images", "/var/lib/novacron/snapshots"].map(PathBuf::from);
    assert_eq!(config.storage.folders, folders);
    assert_eq!(config.roles.admin, []);
    assert_eq!(config.limits.machines, 1000);
    assert_eq!(config.limits.request_size, Size(64 << 10));
    assert_eq!(config.limits.request_timeout, TimeSpan::seconds(10));
    assert_eq!(config.log.level.as_str(), "info");
    assert_eq!(config.audit.segment_size, Size(16 << 20));
    assert_eq!(config.machines.stop_timeout, TimeSpan::seconds(30));
}

#[test]
fn a_file_has_each_value_in_its_type() {
    let config = file(
        "[socket]\npath = '/s/c.sock'\nmode = '0660'\n\
         [storage]\nstate = '/state/'\nfolders = ['/images', '/more']\n\
         [limits]\nmachines = 0x10\nrequest_size = 4096\nrequest_timeout = '500ms'\n\
         [log]\njson = true\nlevel = 'warn,control=debug'\n\
         [audit]\nsegment_size = '1M'\n\
         [roles]\nadmin = ['user:alice', 'group:104']\n",
    );
    assert_eq!(config.socket.path, Path::new("/s/c.sock"));
    assert_eq!(config.socket.mode.bits(), 0o660);
    // Of the socket that was given, not of the default one.
    assert_eq!(config.storage.runtime, Path::new("/s"));
    assert_eq!(config.storage.state.as_os_str(), "/state");
    assert_eq!(config.storage.folders, ["/images", "/more"].map(PathBuf::from));
    assert_eq!(config.limits.machines, 16);
    assert_eq!(config.limits.request_size, Size(4096));
    assert_eq!(config.limits.request_timeout, TimeSpan::milliseconds(500));
    assert!(config.log.json);
    assert_eq!(config.audit.segment_size, Size(1 << 20));
    assert_eq!(config.roles.admin.len(), 2);
}

#[test]
fn an_option_goes_before_the_environment_and_that_before_the_file() {
    let text = "[limits]\nmachines = 1\nconnections = 1\nevents_kept = 1\n";
    let here = with(&[("NOVACRON_LIMITS_MACHINES", "2"), ("NOVACRON_LIMITS_CONNECTIONS", "2")]);
    let effective = load(text, &here, &["limits.machines=3"]).unwrap();
    let limits = &effective.config.limits;
    assert_eq!([limits.machines, limits.connections, limits.events_kept], [3, 2, 1]);
    assert_eq!(limits.operations_kept, 1000);
    let origin = |name: &str| effective.place(name).to_string();
    assert_eq!(origin("limits.machines"), "--set limits.machines=3");
    assert_eq!(origin("limits.connections"), "environment variable NOVACRON_LIMITS_CONNECTIONS");
    assert_eq!(origin("limits.events_kept"), "f.toml:4:15");
    assert_eq!(origin("limits.operations_kept"), "by default");
}

#[test]
fn a_long_variable_goes_before_its_short_form_and_an_empty_one_is_none() {
    let here =
        with(&[("NOVACRON_SOCKET", "/a/s"), ("NOVACRON_LOG", "debug"), ("NOVACRON_LOG_JSON", "")]);
    let config = load("", &here, &[]).unwrap().config;
    assert_eq!(config.socket.path, Path::new("/a/s"));
    assert_eq!(config.log.level.as_str(), "debug");
    let here = with(&[("NOVACRON_SOCKET", "/a/s"), ("NOVACRON_SOCKET_PATH", "/b/s")]);
    assert_eq!(load("", &here, &[]).unwrap().config.socket.path, Path::new("/b/s"));
}

#[test]
fn words_of_the_environment_and_of_options_are_read_as_the_field_is() {
    let set = [
        "limits.request_size=1M",
        "storage.folders=/a, /b/,/c",
        "log.json=yes",
        "roles.viewer=group:kvm,user:7",
        "socket.path=/x=y",
    ];
    let config = load("", &root(), &set).unwrap().config;
    assert_eq!(config.limits.request_size, Size(1 << 20));
    assert_eq!(config.storage.folders, ["/a", "/b", "/c"].map(PathBuf::from));
    assert!(config.log.json);
    assert_eq!(config.roles.viewer.len(), 2);
    assert_eq!(config.socket.path, Path::new("/x=y"));
}

#[test]
fn all_that_is_wrong_is_said_with_its_place_and_what_is_allowed() {
    let text = "\
[socket]
mode = 0600
[limits]
machines = 0
connection = 5
é = 1
request_size = '64 potatoes'
request_timeout = 10
";
    // A number with a zero in front is no TOML.
    refuses(text, &[("f.toml:2:8", &["no TOML"]), ("f.toml:6:1", &["no TOML"])]);
    refuses(
        &text.replace("0600", "600").replace("é", "'éé'"),
        &[
            ("f.toml:5:1", &["limits.connection is no field", "did you mean limits.connections?"]),
            ("f.toml:6:1", &["limits.éé is no field", "novacron config default"]),
            ("f.toml:4:12", &["limits.machines = 0", "from 1 to 100000"]),
            ("f.toml:7:16", &["'64 potatoes'", "\"potatoes\" is no unit", "from 1 KiB to 16 MiB"]),
            ("f.toml:8:19", &["limits.request_timeout = 10: a number without a unit", "10s"]),
            ("f.toml:2:8", &["socket.mode = 600", "\"0600\""]),
        ],
    );
}

#[test]
fn values_of_another_type_are_refused_with_their_type() {
    for (value, words) in [
        ("'5'", "text does not fit"),
        ("5.0", "a fraction does not fit"),
        ("true", "true or false does not fit"),
        ("[5]", "a list does not fit"),
        ("{ a = 5 }", "a table does not fit"),
        ("2020-01-01", "a date does not fit"),
        ("-1", "out of bounds"),
        ("4294967297", "out of bounds"),
        ("99999999999999999999", "beyond 64 bits"),
    ] {
        refuses(&format!("limits.machines = {value}"), &[("f.toml:1:19", &[words, "a number"])]);
    }
    refuses("storage.state = 'a/b'", &[("f.toml:1:17", &["not absolute"])]);
    refuses("storage.state = '/a/../b'", &[("f.toml:1:17", &["`..`"])]);
    refuses("storage.state = \"/a\\u0000\"", &[("f.toml:1:17", &["zero byte"])]);
    refuses("log.json = 'yes'", &[("f.toml:1:12", &["text does not fit", "true or false"])]);
}

#[test]
fn bounds_are_allowed_themselves() {
    assert_eq!(file("limits.machines = 100_000").limits.machines, 100_000);
    assert_eq!(file("limits.machines = 1").limits.machines, 1);
    refuses("limits.machines = 100_001", &[("f.toml:1:19", &["out of bounds"])]);
    assert_eq!(
        file("machines.stop_timeout = '24h'").machines.stop_timeout,
        TimeSpan::seconds(86_400)
    );
    refuses("machines.stop_timeout = '25h'", &[("f.toml:1:25", &["from 1s to 24h"])]);
}

#[test]
fn an_item_of_a_list_has_its_own_place() {
    let text = "[roles]\nadmin = [\n  'user:alice',\n  'bob',\n]\n";
    refuses(text, &[("f.toml:4:3", &["roles.admin", "user:NAME", "group:kvm"])]);
    let text = text.replace("'bob'", "'user:bob'");
    refuses(&text, &[("f.toml:4:3", &["/etc/passwd has no user bob", "user:NUMBER"])]);
}

#[test]
fn names_that_there_are_not_are_refused_and_the_nearest_is_offered() {
    refuses(
        "limit.machines = 5",
        &[("f.toml:1:1", &["limit is no section", "did you mean limits?"])],
    );
    refuses("[colours]", &[("f.toml:1:2", &["colours is no section", "socket, storage, roles"])]);
    refuses("limits = 5", &[("f.toml:1:10", &["limits is a section", "[limits]"])]);
    let said = load("", &with(&[("NOVACRON_LIMITS_MACHINE", "5")]), &[]).unwrap_err();
    assert!(said[0].starts_with("environment variable NOVACRON_LIMITS_MACHINE: "), "{said:?}");
    assert!(said[0].contains("did you mean limits.machines?"), "{said:?}");
    // What is no field of ours by its first word is not ours.
    assert!(load("", &with(&[("NOVACRON_EXE", "5"), ("LIMITS_MACHINES", "x")]), &[]).is_ok());
    for (set, words) in [
        ("limits.machine=5", "did you mean limits.machines?"),
        ("machines=5", "is no field"),
        ("limits.machines", "--set section.field=VALUE"),
        ("limits.machines=many", "limits.machines = \"many\": not a number"),
        ("roles.admin=", "user:NAME"),
    ] {
        let said = load("", &root(), &[set]).unwrap_err();
        assert!(said[0].starts_with(&format!("--set {set}: ")), "{said:?}");
        assert!(said.len() == 1 && said[0].contains(words), "{words}: {said:?}");
    }
}

#[test]
fn a_value_that_is_wrong_is_an_error_under_a_right_one_too() {
    let said = load("limits.machines = 0", &root(), &["limits.machines=5"]).unwrap_err();
    assert!(said.len() == 1 && said[0].starts_with("f.toml:1:19: "), "{said:?}");
}

#[test]
fn files_that_are_no_toml_are_refused_where_they_stop_being_it() {
    refuses("[limits\nmachines = 1", &[("f.toml:1:8", &["no TOML", "`]`"])]);
    refuses("[limits]\nmachines = 1\nmachines = 2", &[("f.toml:3:1", &["duplicate key"])]);
    let said = load("a = \n[b\n", &root(), &[]).unwrap_err();
    assert!(said.len() > 1, "{said:?}");
    assert!(load(&"[".repeat(5000), &root(), &[]).is_err());
}

#[test]
fn sockets_whose_paths_are_too_long_for_the_kernel_are_refused() {
    let of = |length: usize| format!("/{}", "p".repeat(length - 1));
    assert!(
        load(&format!("socket.path = '{}'\nstorage.runtime = '/r'", of(107)), &root(), &[]).is_ok()
    );
    refuses(
        &format!("socket.path = '{}'\nstorage.runtime = '/r'", of(108)),
        &[("f.toml:1:15", &["socket.path", "108 bytes", "at most 107"])],
    );
    assert!(load(&format!("storage.runtime = '{}'", of(69)), &root(), &[]).is_ok());
    refuses(
        &format!("storage.runtime = '{}'", of(70)),
        &[("f.toml:1:19", &["storage.runtime", "at most 69"])],
    );
}

#[test]
fn callers_may_not_name_the_daemons_own_files() {
    let check = |folder: &str, is_refused: bool| {
        let said = load(&format!("storage.folders = ['{folder}']"), &root(), &[]);
        assert_eq!(said.is_err(), is_refused, "{folder}: {said:?}");
        if let Err(said) = said {
            assert!(said[0].starts_with("f.toml:1:19: storage.folders = "), "{said:?}");
        }
    };
    check("/var/lib/novacron", true);
    check("/var/lib", true);
    check("/", true);
    check("/run", true);
    check("/run/novacron", true);
    check("/var/lib/novacron/machines", true);
    check("/var/lib/novacron/machines/web", true);
    check("/var/lib/novacron/audit", true);
    check("/var/lib/novacron/audit-of-others", false);
    check("/var/lib/novacron/images", false);
    check("/run/novacron/images", false);
    check("/srv", false);
}

#[test]
fn members_have_the_role_of_the_list_that_they_are_in() {
    let text = "[roles]\nviewer = ['user:alice']\noperator = ['group:kvm']\nadmin = ['user:5']\n";
    let roles = load(text, &root(), &[]).unwrap().roles;
    let role = |uid, gid| roles.of(&Caller { uid, gid, groups: Vec::new(), pid: None });
    assert_eq!(role(1000, 1), Some(Role::Viewer));
    assert_eq!(role(1000, 104), Some(Role::Operator));
    assert_eq!(role(5, 1), Some(Role::Admin));
    assert_eq!(role(6, 1), None);
}

#[test]
fn without_a_home_the_state_has_no_default_and_that_is_said() {
    let here = Surroundings { uid: 7, variables: BTreeMap::new() };
    let said = load("", &here, &[]).unwrap_err();
    assert!(said.len() == 1 && said[0].starts_with("by default: storage.state"), "{said:?}");
    assert!(load("storage.state = '/s'", &here, &[]).is_ok());
}

#[test]
fn what_is_in_effect_is_read_as_the_same_again() {
    let text = "[roles]\nadmin = ['user:alice']\n[limits]\nrequest_timeout = '1500ms'\n";
    let first = load(text, &with(&[("NOVACRON_LOG", "debug")]), &["socket.mode=666"]).unwrap();
    let again = load(&first.to_toml(), &with(&[("XDG_STATE_HOME", "/other")]), &[]).unwrap();
    assert_eq!(again.config, first.config);
    assert!(again.fields().all(|(.., place)| matches!(place, Place::File { .. })));
}

#[test]
fn what_is_unusual_is_noted_and_not_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let own_uid = rustix::process::geteuid().as_raw();
    std::fs::create_dir(path("sound")).unwrap();
    std::fs::create_dir(path("open")).unwrap();
    std::fs::set_permissions(path("open"), PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::write(path("file"), "").unwrap();
    let notes = |text: &str| -> Vec<String> {
        let effective = load(text, &root(), &[]).unwrap();
        effective.notes(own_uid).iter().map(Note::to_string).collect()
    };
    let sound = format!("storage.folders = ['{}']", path("sound"));
    assert_eq!(notes(&sound), Vec::<String>::new());
    for (text, words) in [
        (
            format!("{sound}\nsocket.mode = '0666'"),
            "f.toml:2:15: socket.mode: everybody on this host",
        ),
        ("storage.folders = []".to_owned(), "may name no file at all"),
        (sound.replace("sound", "nowhere"), "nowhere: No such file"),
        (sound.replace("sound", "file"), "is no folder"),
        (sound.replace("sound", "open"), "everybody may exchange the files"),
        (
            format!("{sound}\nroles.admin = ['user:5']\nroles.viewer = ['user:5']"),
            "is in roles.admin already",
        ),
        (format!("{sound}\nroles.viewer = ['user:65534']"), "everybody who has no number"),
    ] {
        let notes = notes(&text);
        assert!(notes.len() == 1 && notes[0].contains(words), "{words}: {notes:?}");
    }
}

#[test]
fn a_file_that_others_may_change_is_noted() {
    use std::os::unix::fs::PermissionsExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    let notes = |mode: u32, own_uid: u32| {
        file.as_file().set_permissions(PermissionsExt::from_mode(mode)).unwrap();
        let text = "storage.folders = ['/tmp']";
        let effective =
            Effective::of(Some((file.path(), text)), &[], &root(), &accounts()).unwrap();
        let notes = effective.notes(own_uid);
        notes.iter().filter(|note| note.what.contains("become admin")).count()
    };
    let own_uid = rustix::process::geteuid().as_raw();
    assert_eq!(notes(0o600, own_uid), 0);
    assert_eq!(notes(0o602, own_uid), 1);
    if own_uid != 0 {
        assert_eq!(notes(0o600, own_uid + 1), 1);
    }
}
