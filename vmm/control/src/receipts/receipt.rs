//! How a receipt is signed and verified.

use std::fmt::Write;

use dwcp::transport::{KeyPair, PublicKey, Signature};

use super::problem::{ReceiptError, ReceiptSide};
use crate::api::{Receipt, ReceiptStatement};
use crate::random::unhex;

/// The form of statements that this executable signs and verifies.
const VERSION: u32 = 1;

/// What stands before every statement: nothing else that a host signs begins like that.
const DOMAIN: &str = "NovaCron receipt 1\n";

impl ReceiptStatement {
    /// The bytes that both hosts sign: the line `NovaCron receipt 1`, then a line `name=value` for each of `session`,
    /// `machine`, `from`, `to`, `generation`, `root`, `blackout_ns`, `audit` and `ended_at`, in this order. Values are
    /// as in JSON, without quotation marks; each line ends with a line feed, and nothing follows the last.
    ///
    /// No two statements that [`Self::check`] lets pass have the same bytes: none of their values has a line feed.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        let Self { session, machine, from, to, generation, root, blackout_ns, audit, ended_at } =
            self;
        let audit = audit.name();
        let mut text = DOMAIN.to_owned();
        let _ = writeln!(text, "session={session}\nmachine={machine}\nfrom={from}\nto={to}");
        let _ = writeln!(text, "generation={generation}\nroot={root}\nblackout_ns={blackout_ns}");
        let _ = writeln!(text, "audit={audit}\nended_at={ended_at}");
        text.into_bytes()
    }

    /// This host's signature, as a receipt has it. A statement that came from another host is signed only if
    /// [`Self::check`] lets it pass, and it is true.
    #[must_use]
    pub fn sign(&self, keys: &KeyPair) -> String {
        keys.sign(&self.signed_bytes()).to_string()
    }

    /// Whether every field is as hosts write it. That says nothing of whether it is true, or of who has signed it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ReceiptError> {
        self.keys().map(drop)
    }

    /// The same, and the keys of the two hosts.
    fn keys(&self) -> Result<(PublicKey, PublicKey), ReceiptError> {
        digits::<16>("session", "32 hexadecimal digits in lower case", &self.session)?;
        digits::<16>("machine", "32 hexadecimal digits in lower case", &self.machine)?;
        let from = digits("from", "64 hexadecimal digits in lower case", &self.from)?;
        let to = digits("to", "64 hexadecimal digits in lower case", &self.to)?;
        if from == to {
            return Err(ReceiptError::OneHost(self.from.clone()));
        }
        if !is_generation(&self.generation) {
            let form = "two whole numbers with a full stop between them";
            return Err(ReceiptError::Field { field: "generation", form });
        }
        digits::<64>("root", "128 hexadecimal digits in lower case", &self.root)?;
        // The same moment could be written with every offset there is.
        if !self.ended_at.to_string().ends_with('Z') {
            return Err(ReceiptError::Field { field: "ended_at", form: "a moment in UTC" });
        }
        Ok((PublicKey::new(from), PublicKey::new(to)))
    }
}

impl Receipt {
    /// A receipt of what both hosts have signed.
    #[must_use]
    pub fn new(statement: ReceiptStatement, signature_from: String, signature_to: String) -> Self {
        Self { version: VERSION, statement, signature_from, signature_to }
    }

    /// Whether both hosts that it names have signed it. Whether they are the right ones, is up to who knows their keys.
    ///
    /// # Errors
    /// What is wrong with it, and whose signature is.
    pub fn verify(&self) -> Result<(), ReceiptError> {
        let (from, to) = self.check()?;
        let bytes = self.statement.signed_bytes();
        let wrong = |side, key: PublicKey| ReceiptError::Signature { side, key: key.to_string() };
        match (from.is_of(&bytes), to.is_of(&bytes)) {
            (true, true) => Ok(()),
            (false, true) => Err(wrong(ReceiptSide::From, from.key)),
            (true, false) => Err(wrong(ReceiptSide::To, to.key)),
            (false, false) => {
                let (from, to) = (from.key.to_string(), to.key.to_string());
                Err(ReceiptError::Statement { from, to })
            }
        }
    }

    /// What the two hosts are said to have signed with, if everything has the form that it must have.
    fn check(&self) -> Result<(Signed, Signed), ReceiptError> {
        if self.version != VERSION {
            return Err(ReceiptError::Version(self.version));
        }
        let (from, to) = self.statement.keys()?;
        let form = "128 hexadecimal digits in lower case";
        let signature = |field, text| digits(field, form, text).map(Signature::new);
        let signature_from = signature("signature_from", &self.signature_from)?;
        let signature_to = signature("signature_to", &self.signature_to)?;
        let from = Signed { key: from, signature: signature_from };
        Ok((from, Signed { key: to, signature: signature_to }))
    }

    /// Whether it has the form of a receipt, signed or not.
    pub(super) fn check_form(&self) -> Result<(), ReceiptError> {
        self.check().map(drop)
    }
}

/// A host's key and what should be its signature.
struct Signed {
    key: PublicKey,
    signature: Signature,
}

impl Signed {
    fn is_of(&self, bytes: &[u8]) -> bool {
        self.key.verifies(bytes, &self.signature)
    }
}

/// Digits in lower case only: there is one way to write each value, and it is what was signed.
fn digits<const N: usize>(
    field: &'static str,
    form: &'static str,
    text: &str,
) -> Result<[u8; N], ReceiptError> {
    let is_lower = !text.bytes().any(|c| c.is_ascii_uppercase());
    let bytes = unhex(text).filter(|_| is_lower);
    bytes.ok_or(ReceiptError::Field { field, form })
}

/// `RESOLUTIONS.MOVES`, each as it is written and in no other way.
fn is_generation(text: &str) -> bool {
    let is_number = |text: &str| text.parse().is_ok_and(|number: u32| number.to_string() == text);
    text.split_once('.')
        .is_some_and(|(resolutions, moves)| is_number(resolutions) && is_number(moves))
}

#[cfg(test)]
#[path = "receipt_tests.rs"]
mod tests;
