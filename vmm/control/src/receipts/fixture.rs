//! Receipts of two hosts whose keys everybody knows.

use dwcp::transport::KeyPair;

use crate::api::{Receipt, ReceiptAudit, ReceiptStatement, Timestamp};
use crate::random::unhex;

/// The session of [`statement`].
pub(crate) const SESSION: &str = "00112233445566778899aabbccddeeff";

/// The private keys of the first two tests of RFC 8032, section 7.1, and their public halves.
const KEYS: [(&str, &str); 2] = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    ),
];

/// The hosts of [`statement`]: the one that the machine left, and the one that it went to.
pub(crate) fn hosts() -> [KeyPair; 2] {
    KEYS.map(|(seed, public)| {
        let head = unhex::<16>("3051020101300506032b657004220420").unwrap();
        let (seed, public) = (unhex::<32>(seed).unwrap(), unhex::<32>(public).unwrap());
        KeyPair::from_pkcs8(&[&head[..], &seed, &[0x81, 0x21, 0x00], &public].concat()).unwrap()
    })
}

/// A move from one of them to the other.
pub(crate) fn statement() -> ReceiptStatement {
    ReceiptStatement {
        session: SESSION.to_owned(),
        machine: "0f1e2d3c4b5a69788796a5b4c3d2e1f0".to_owned(),
        from: KEYS[0].1.to_owned(),
        to: KEYS[1].1.to_owned(),
        generation: "0.3".to_owned(),
        root: "5a".repeat(64),
        blackout_ns: 41_250_000,
        audit: ReceiptAudit::Whole,
        ended_at: at("2026-11-29T17:35:36.123456Z"),
    }
}

/// A moment.
pub(crate) fn at(text: &str) -> Timestamp {
    text.to_owned().try_into().unwrap()
}

/// What both of them have signed.
pub(crate) fn signed(statement: ReceiptStatement) -> Receipt {
    let [from, to] = hosts().map(|keys| statement.sign(&keys));
    Receipt::new(statement, from, to)
}
