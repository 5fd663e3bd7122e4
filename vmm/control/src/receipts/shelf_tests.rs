//! What is kept, and what becomes of it.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::receipts::fixture::{SESSION, at, signed, statement};

fn shelf(state: &Path) -> ReceiptShelf {
    ReceiptShelf::open(state, rustix::process::geteuid().as_raw()).unwrap()
}

/// The receipt of another move, which ended so many minutes after ten.
fn moved(number: u8, minute: u8) -> Receipt {
    let mut statement = statement();
    statement.session = hex(&[number; 16]);
    statement.ended_at = at(&format!("2026-11-29T10:{minute:02}:00Z"));
    signed(statement)
}

fn sessions(shelf: &ReceiptShelf) -> Vec<u8> {
    let receipts = shelf.list().unwrap();
    receipts.iter().map(|receipt| unhex::<16>(&receipt.statement.session).unwrap()[0]).collect()
}

#[test]
fn a_receipt_is_kept_and_nobody_else_can_read_it() {
    let state = tempfile::tempdir().unwrap();
    let receipt = signed(statement());
    shelf(state.path()).put(&receipt).unwrap();
    let again = shelf(state.path());
    assert_eq!(again.get(SESSION).unwrap(), receipt);
    assert_eq!(again.list().unwrap(), std::slice::from_ref(&receipt));
    let folder = state.path().join("receipts");
    let found = std::fs::metadata(folder.join(format!("{SESSION}.json"))).unwrap();
    assert_eq!(found.mode() & 0o777, 0o600);
    again.put(&receipt).unwrap();
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1, "and no half of one");
}

#[test]
fn one_that_proves_nothing_is_not_kept() {
    let state = tempfile::tempdir().unwrap();
    let shelf = shelf(state.path());
    let good = signed(statement());
    shelf.put(&good).unwrap();
    let mut altered = good.clone();
    altered.statement.blackout_ns = 1;
    let error = shelf.put(&altered).unwrap_err().to_string();
    assert!(error.contains("altered"), "{error}");
    let mut elsewhere = good.clone();
    elsewhere.statement.session = "../../0011223344556677889".to_owned();
    assert!(shelf.put(&signed(elsewhere.statement)).is_err());
    assert_eq!(shelf.list().unwrap(), [good]);
}

#[test]
fn the_newest_come_first_and_the_oldest_go_when_there_are_too_many() {
    let state = tempfile::tempdir().unwrap();
    let mut shelf = shelf(state.path());
    shelf.most = 3;
    for (number, minute) in [(1, 30), (2, 10), (3, 20)] {
        shelf.put(&moved(number, minute)).unwrap();
    }
    assert_eq!(sessions(&shelf), [1, 3, 2]);
    shelf.put(&moved(4, 40)).unwrap();
    assert_eq!(sessions(&shelf), [4, 1, 3]);
    // What was put last stays, whatever its clock said; it is the first to go afterwards.
    shelf.put(&moved(5, 0)).unwrap();
    assert_eq!(sessions(&shelf), [4, 1, 5]);
    shelf.put(&moved(6, 50)).unwrap();
    assert_eq!(sessions(&shelf), [6, 4, 1]);
    // Those that were there before a daemon count, and one that is put again only once.
    let mut again = ReceiptShelf::open(state.path(), rustix::process::geteuid().as_raw()).unwrap();
    again.most = 3;
    again.put(&moved(6, 55)).unwrap();
    assert_eq!(sessions(&again), [6, 4, 1]);
    again.put(&moved(7, 59)).unwrap();
    assert_eq!(sessions(&again), [7, 6, 4]);
}

#[test]
fn what_cannot_be_read_is_passed_over_and_left() {
    let state = tempfile::tempdir().unwrap();
    let first = shelf(state.path());
    first.put(&moved(1, 1)).unwrap();
    let folder = state.path().join("receipts");
    let text = std::fs::read_to_string(folder.join(format!("{}.json", hex(&[1; 16])))).unwrap();
    let other = |number: u8| folder.join(format!("{}.json", hex(&[number; 16])));
    std::fs::write(other(2), "{").unwrap();
    std::fs::write(other(3), &text).unwrap();
    std::fs::write(other(4), " ".repeat(1 << 15)).unwrap();
    std::fs::write(other(5), text.replace(&hex(&[1; 16]), &hex(&[5; 16])).replace("0.3", "3"))
        .unwrap();
    std::fs::create_dir(other(6)).unwrap();
    std::fs::write(folder.join("notes.json"), &text).unwrap();
    std::fs::write(folder.join(".new-00000000"), "{").unwrap();
    for shelf in [first, shelf(state.path())] {
        assert_eq!(sessions(&shelf), [1]);
        for (number, why) in [(2, "EOF"), (3, "session 0101"), (4, "bytes"), (5, "generation")] {
            let error = shelf.get(&hex(&[number; 16])).unwrap_err();
            assert_eq!(error.code, ErrorCode::Internal);
            assert!(error.to_string().contains(why), "{error}");
        }
    }
    assert!(!folder.join(".new-00000000").exists() && folder.join("notes.json").exists());
}

#[test]
fn nothing_else_is_reached_by_a_sessions_name() {
    let state = tempfile::tempdir().unwrap();
    let shelf = shelf(state.path());
    std::fs::write(state.path().join("peers.json"), "{}").unwrap();
    for session in ["", "../peers", "..", SESSION, &SESSION.to_uppercase(), "é", "a\0"] {
        let error = shelf.get(session).unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound, "{session:?}: {error}");
        assert!(error.to_string().contains("novacron receipt list"), "{error}");
    }
}
