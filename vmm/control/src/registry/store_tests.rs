use super::*;

fn open(folder: &Path) -> Result<Store, StoreError> {
    Store::open(&folder.join("state"), &folder.join("run"), rustix::process::geteuid().as_raw())
}

fn name(text: &str) -> MachineName {
    text.parse().unwrap()
}

fn names(store: &Store) -> Vec<String> {
    let mut names: Vec<_> = store
        .load()
        .unwrap()
        .into_iter()
        .map(|found| match found {
            Found::Record(name, _) => name.to_string(),
            Found::Unreadable { name, .. } => format!("{name}?"),
        })
        .collect();
    names.sort();
    names
}

#[test]
fn records_are_made_changed_and_deleted_and_the_next_daemon_finds_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let mut one = store.create(&name("one"), MachineSpec::default()).unwrap();
    let two = store.create(&name("two"), MachineSpec::default()).unwrap();
    one.should_run = true;
    store.save(&name("one"), &one).unwrap();
    store.delete(&name("two"), &two).unwrap();
    drop(store);
    let store = open(folder.path()).unwrap();
    let found = store.load().unwrap();
    assert!(
        matches!(&found[..], [Found::Record(found, record)] if **record == one && *found == name("one"))
    );
    assert!(!store.home(&name("one"), &one).is_alive().unwrap());
}

#[test]
fn a_name_is_taken_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let first = store.create(&name("one"), MachineSpec::default()).unwrap();
    let again = store.create(&name("one"), MachineSpec::default()).unwrap_err();
    assert!(matches!(again, StoreError::Exists(_)), "{again}");
    let left: Vec<_> = std::fs::read_dir(folder.path().join("state/machines")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(matches!(&store.load().unwrap()[..], [Found::Record(_, record)] if **record == first));
}

#[test]
fn one_daemon_has_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path()).unwrap();
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("another daemon") && error.contains("--state"), "{error}");
    drop(first);
    open(folder.path()).unwrap();
}

#[test]
fn what_a_daemon_left_half_made_is_cleared_and_what_is_not_understood_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    store.create(&name("whole"), MachineSpec::default()).unwrap();
    drop(store);
    let machines = folder.path().join("state/machines");
    std::fs::create_dir_all(machines.join(".new-00/deeper")).unwrap();
    std::fs::create_dir_all(machines.join(".old-00")).unwrap();
    std::fs::create_dir_all(machines.join("empty")).unwrap();
    std::fs::create_dir_all(machines.join("Not A Name")).unwrap();
    std::fs::create_dir_all(machines.join("broken")).unwrap();
    std::fs::write(machines.join("broken/machine.json"), "{\"version\": 9}").unwrap();
    let store = open(folder.path()).unwrap();
    assert_eq!(names(&store), ["Not A Name?", "broken?", "empty?", "whole"]);
    assert!(machines.join("broken/machine.json").exists());
    assert!(!machines.join(".new-00").exists() && !machines.join(".old-00").exists());
    // The name of what is not understood is not free.
    let taken = store.create(&name("broken"), MachineSpec::default()).unwrap_err();
    assert!(matches!(taken, StoreError::Exists(_)), "{taken}");
}

#[test]
fn a_record_that_cannot_be_written_leaves_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let record = store.create(&name("one"), MachineSpec::default()).unwrap();
    let path = folder.path().join("state/machines/one");
    // In the place of the file, where a rename cannot put one.
    let kept = std::fs::read(path.join("machine.json")).unwrap();
    std::fs::remove_file(path.join("machine.json")).unwrap();
    std::fs::create_dir(path.join("machine.json")).unwrap();
    assert!(store.save(&name("one"), &record).is_err());
    let left = std::fs::read_dir(&path).unwrap().count();
    assert_eq!(left, 2, "the permit and that folder: nothing half-written stays");
    std::fs::remove_dir(path.join("machine.json")).unwrap();
    std::fs::write(path.join("machine.json"), kept).unwrap();
    assert_eq!(names(&store), ["one"]);
}
