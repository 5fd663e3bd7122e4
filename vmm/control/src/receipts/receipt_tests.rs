//! The exact form of receipts, and that whatever is done to one is found.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::api::{ReceiptAudit, Timestamp};
use crate::random::hex;
use crate::receipts::fixture::{SESSION, at, hosts, signed, statement};

/// Where the form is described, with a receipt whose signatures OpenSSL made.
const DESCRIPTION: &str = include_str!("../../receipt.md");

const SIGNED_BYTES: &str = "\
NovaCron receipt 1
session=00112233445566778899aabbccddeeff
machine=0f1e2d3c4b5a69788796a5b4c3d2e1f0
from=d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a
to=3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c
generation=0.3
root=5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
blackout_ns=41250000
audit=whole
ended_at=2026-11-29T17:35:36.123456Z
";

#[test]
fn what_is_signed_is_text_that_a_person_can_write() {
    assert_eq!(String::from_utf8(statement().signed_bytes()).unwrap(), SIGNED_BYTES);
}

#[test]
fn the_described_receipt_is_what_both_hosts_sign() {
    let (_, example) = DESCRIPTION.split_once("```json\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let described: Receipt = serde_json::from_str(example).unwrap();
    described.verify().unwrap();
    assert_eq!(described, signed(statement()));
    // In this order, or the shell's way there does not work.
    assert_eq!(serde_json::to_string_pretty(&described).unwrap() + "\n", example);
    assert!(DESCRIPTION.lines().count() <= 40);
}

/// Every value that a statement's field could have instead.
fn other_statements() -> Vec<(&'static str, ReceiptStatement)> {
    let good = statement();
    let digit = |text: &str, place: usize| {
        let mut text = text.to_owned();
        let other = if &text[place..=place] == "0" { "1" } else { "0" };
        text.replace_range(place..=place, other);
        text
    };
    let mut all = Vec::new();
    let mut alter = |name, with: &dyn Fn(&mut ReceiptStatement)| {
        let mut other = good.clone();
        with(&mut other);
        all.push((name, other));
    };
    for place in 0..32 {
        alter("session", &|it| it.session = digit(&it.session, place));
        alter("machine", &|it| it.machine = digit(&it.machine, place));
    }
    for place in 0..64 {
        alter("from", &|it| it.from = digit(&it.from, place));
        alter("to", &|it| it.to = digit(&it.to, place));
    }
    for place in 0..128 {
        alter("root", &|it| it.root = digit(&it.root, place));
    }
    alter("ends exchanged", &|it| std::mem::swap(&mut it.from, &mut it.to));
    alter("session and machine exchanged", &|it| std::mem::swap(&mut it.session, &mut it.machine));
    for generation in ["0.2", "0.4", "1.3", "3.0", "0.33", "00.3", "0.03", "0.+3", "0.3.0", "", "."]
    {
        alter("generation", &|it| it.generation = generation.to_owned());
    }
    for blackout in [0, 41_249_999, 41_250_001, 4_125_000, 412_500_000, u64::MAX] {
        alter("blackout", &|it| it.blackout_ns = blackout);
    }
    for audit in [ReceiptAudit::None, ReceiptAudit::Sampled] {
        alter("audit", &|it| it.audit = audit);
    }
    for moment in [
        "2026-11-29T17:35:36.123457Z",
        "2026-11-29T17:35:36.12345Z",
        "2026-11-29T17:35:37.123456Z",
        "2027-11-29T17:35:36.123456Z",
        "2026-11-29T18:35:36.123456+01:00",
    ] {
        alter("ended_at", &|it| it.ended_at = at(moment));
    }
    all
}

#[test]
fn every_altered_field_is_found() {
    let good = signed(statement());
    good.verify().unwrap();
    for (name, other) in other_statements() {
        let altered = Receipt { statement: other, ..good.clone() };
        let error = altered.verify().unwrap_err().to_string();
        assert!(error.contains("novacron receipt show"), "{name}: {error}");
    }
    assert_eq!(Receipt { version: 2, ..good }.verify(), Err(ReceiptError::Version(2)));
}

#[test]
fn every_flipped_bit_of_a_signature_is_found_and_whose_it_is() {
    let good = signed(statement());
    let flip = |text: &str, bit: usize| {
        let mut bytes: [u8; 64] = unhex(text).unwrap();
        bytes[bit / 8] ^= 1 << (bit % 8);
        hex(&bytes)
    };
    for bit in 0..512 {
        let (from, to) = (flip(&good.signature_from, bit), flip(&good.signature_to, bit));
        let altered = Receipt { signature_from: from.clone(), ..good.clone() };
        let key = good.statement.from.clone();
        let side = ReceiptSide::From;
        assert_eq!(altered.verify(), Err(ReceiptError::Signature { side, key }), "bit {bit}");
        let altered = Receipt { signature_to: to.clone(), ..good.clone() };
        let (side, key) = (ReceiptSide::To, good.statement.to.clone());
        assert_eq!(altered.verify(), Err(ReceiptError::Signature { side, key }), "bit {bit}");
        let altered = Receipt { signature_from: from, signature_to: to, ..good.clone() };
        assert!(matches!(altered.verify(), Err(ReceiptError::Statement { .. })), "bit {bit}");
    }
}

#[test]
fn a_signature_is_its_own_hosts_and_of_this_statement() {
    let good = signed(statement());
    let (from, to) = (good.signature_from.clone(), good.signature_to.clone());
    let with = |signature_from: &str, signature_to: &str| {
        let (signature_from, signature_to) = (signature_from.to_owned(), signature_to.to_owned());
        Receipt { signature_from, signature_to, ..good.clone() }.verify()
    };
    assert_eq!(with(&from, &to), Ok(()));
    assert!(matches!(with(&to, &from), Err(ReceiptError::Statement { .. })), "exchanged");
    let error = with(&from, &from).unwrap_err().to_string();
    assert!(error.contains(&good.statement.to) && error.contains("went to"), "{error}");
    let error = with(&to, &to).unwrap_err().to_string();
    assert!(error.contains(&good.statement.from) && error.contains("left"), "{error}");
    // Of another move between the same hosts.
    let other = signed(ReceiptStatement { blackout_ns: 1, ..statement() });
    assert!(with(&other.signature_from, &to).is_err());
    // Of the same words without those that stand before them.
    let [host, _] = hosts();
    let (_, bare) = SIGNED_BYTES.split_once('\n').unwrap();
    assert!(with(&host.sign(bare.as_bytes()).to_string(), &to).is_err());
}

/// Signed by both, and yet none: there is one way to write each value.
#[test]
fn a_form_that_no_host_writes_is_refused_although_it_is_signed() {
    let alter = |with: &dyn Fn(&mut ReceiptStatement)| {
        let mut statement = statement();
        with(&mut statement);
        signed(statement).verify().unwrap_err()
    };
    let field = |error: &ReceiptError| match error {
        ReceiptError::Field { field, .. } => *field,
        other => panic!("{other}"),
    };
    for text in ["", "0", &SESSION.to_uppercase(), &SESSION[1..], "é", &format!("{SESSION}\n")] {
        assert_eq!(field(&alter(&|it| it.session = text.to_owned())), "session");
        assert_eq!(field(&alter(&|it| it.machine = text.to_owned())), "machine");
        assert_eq!(field(&alter(&|it| it.from = text.to_owned())), "from");
        assert_eq!(field(&alter(&|it| it.to = text.to_owned())), "to");
        assert_eq!(field(&alter(&|it| it.root = text.to_owned())), "root");
    }
    for text in ["", "1", "1.", ".1", "1.2.3", "01.2", "1.+2", "1.4294967296", "-1.0", "1.2\n"] {
        assert_eq!(field(&alter(&|it| it.generation = text.to_owned())), "generation", "{text}");
    }
    assert_eq!(field(&alter(&|it| it.ended_at = at("2026-11-29T18:00:00+01:00"))), "ended_at");
    let error = alter(&|it| it.to.clone_from(&it.from));
    assert_eq!(error, ReceiptError::OneHost(statement().from));
    let good = signed(statement());
    for text in [good.signature_from.to_uppercase(), good.signature_from[2..].to_owned()] {
        let error = Receipt { signature_from: text.clone(), ..good.clone() }.verify().unwrap_err();
        assert_eq!(field(&error), "signature_from");
        let error = Receipt { signature_to: text, ..good.clone() }.verify().unwrap_err();
        assert_eq!(field(&error), "signature_to");
    }
}

#[test]
fn a_field_more_or_less_is_no_receipt() {
    let good = serde_json::to_value(signed(statement())).unwrap();
    let is_one = |value: &Value| serde_json::from_value::<Receipt>(value.clone()).is_ok();
    assert!(is_one(&good));
    for (name, member) in [("", "note"), ("/statement", "note")] {
        let mut more = good.clone();
        more.pointer_mut(name).unwrap()[member] = Value::from("signed by nobody");
        assert!(!is_one(&more), "{name}");
    }
    for place in ["", "/statement"] {
        for name in good.pointer(place).unwrap().as_object().unwrap().keys() {
            let mut less = good.clone();
            less.pointer_mut(place).unwrap().as_object_mut().unwrap().remove(name);
            assert!(!is_one(&less), "{place}/{name}");
        }
    }
}

prop_compose! {
    fn some_statement()(
        session in "[0-9a-f]{32}",
        machine in "[0-9a-f]{32}",
        root in "[0-9a-f]{128}",
        resolutions: u32,
        moves: u32,
        blackout_ns: u64,
        audit in prop::sample::select(vec![
            ReceiptAudit::None, ReceiptAudit::Sampled, ReceiptAudit::Whole
        ]),
        second in 0_u8..60,
    ) -> ReceiptStatement {
        let generation = format!("{resolutions}.{moves}");
        let ended_at = at(&format!("2026-11-29T17:35:{second:02}Z"));
        ReceiptStatement {
            session, machine, generation, root, blackout_ns, audit, ended_at, ..statement()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_was_signed_is_verified_after_json_and_no_other_statement(
        one in some_statement(),
        other in some_statement(),
    ) {
        let receipt = signed(one.clone());
        let json = serde_json::to_string(&receipt).unwrap();
        let read: Receipt = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&read, &receipt);
        prop_assert_eq!(read.verify(), Ok(()));
        if one != other {
            prop_assert_ne!(one.signed_bytes(), other.signed_bytes());
            let altered = Receipt { statement: other, ..receipt };
            let is_found = matches!(altered.verify(), Err(ReceiptError::Statement { .. }));
            prop_assert!(is_found);
        }
    }
}

#[test]
fn the_moment_that_a_host_notes_can_be_signed() {
    let statement = ReceiptStatement { ended_at: Timestamp::now(), ..statement() };
    signed(statement).verify().unwrap();
}
