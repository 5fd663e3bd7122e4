//! [`KeyPair`] and [`PublicKey`]: who is at the other end.

use std::fmt;
use std::sync::Arc;

use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

/// Bytes of an Ed25519 public key.
pub const PUBLIC_KEY_BYTES: usize = 32;

/// What stands before the 32 bytes of an Ed25519 key in its `SubjectPublicKeyInfo` (RFC 8410, section 4).
const INFO_HEAD: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Bytes that are no key, or a system that gives none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The random source failed
    #[error("the system gives no random bytes for a key")]
    Random,
    /// Not a private key in PKCS #8
    #[error("it is no Ed25519 private key in the form of PKCS #8")]
    Private,
    /// Not the text of a public key
    #[error("a public key is 64 hexadecimal digits")]
    Public,
}

/// An Ed25519 public key: the name by which an end of a stream is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; PUBLIC_KEY_BYTES]);

impl PublicKey {
    /// The key of these bytes. Whether anybody can sign with it, only a handshake shows.
    #[must_use]
    pub const fn new(bytes: [u8; PUBLIC_KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; PUBLIC_KEY_BYTES] {
        &self.0
    }

    /// The key that a peer has shown as its `SubjectPublicKeyInfo`; `None` for every other kind of key.
    pub(super) fn from_info(info: &[u8]) -> Option<Self> {
        let key = info.strip_prefix(&INFO_HEAD)?;
        Some(Self(key.try_into().ok()?))
    }

    fn to_info(self) -> Vec<u8> {
        [&INFO_HEAD[..], &self.0].concat()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl std::str::FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != PUBLIC_KEY_BYTES || !rest.is_empty() {
            return Err(KeyError::Public);
        }
        let digit = |text: u8| char::from(text).to_digit(16).ok_or(KeyError::Public);
        let mut bytes = [0; PUBLIC_KEY_BYTES];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            let value = digit(*high)? << 4 | digit(*low)?;
            *byte = u8::try_from(value).map_err(|_| KeyError::Public)?;
        }
        Ok(Self(bytes))
    }
}

/// An Ed25519 key pair.
#[derive(Clone)]
pub struct KeyPair {
    public: PublicKey,
    certified: Arc<CertifiedKey>,
}

impl KeyPair {
    /// A new key pair in the form in which it can be kept: the private key in PKCS #8.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Vec<u8>, KeyError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        Ok(document.map_err(|_| KeyError::Random)?.as_ref().to_vec())
    }

    /// The key pair of a private key.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn from_pkcs8(private: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8(private).map_err(|_| KeyError::Private)?;
        let public: [u8; PUBLIC_KEY_BYTES] =
            pair.public_key().as_ref().try_into().map_err(|_| KeyError::Private)?;
        let public = PublicKey(public);
        let private = PrivatePkcs8KeyDer::from(private.to_vec());
        let signing = any_eddsa_type(&private).map_err(|_| KeyError::Private)?;
        let info = CertificateDer::from(public.to_info());
        Ok(Self { public, certified: Arc::new(CertifiedKey::new(vec![info], signing)) })
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

/// Never the private half.
impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_again_from_what_is_kept_and_never_shown() {
        let private = KeyPair::generate().unwrap();
        let (one, two) =
            (KeyPair::from_pkcs8(&private).unwrap(), KeyPair::from_pkcs8(&private).unwrap());
        assert_eq!(one.public(), two.public());
        assert_ne!(
            KeyPair::from_pkcs8(&KeyPair::generate().unwrap()).unwrap().public(),
            one.public()
        );
        assert_eq!(KeyPair::from_pkcs8(&private[1..]).unwrap_err(), KeyError::Private);
        assert!(format!("{one:?}").contains(&one.public().to_string()));
        assert_eq!(PublicKey::from_info(&one.public().to_info()), Some(one.public()));
    }

    #[test]
    fn a_public_key_is_64_digits() {
        let key = PublicKey::new(std::array::from_fn(|index| index as u8 * 7));
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(key.to_string().to_uppercase().parse(), Ok(key));
        for text in
            ["", "0", &key.to_string()[1..], &format!("{key}0"), &"g".repeat(64), &"é".repeat(32)]
        {
            assert_eq!(text.parse::<PublicKey>(), Err(KeyError::Public), "{text}");
        }
    }

    #[test]
    fn only_the_info_of_an_ed25519_key_is_one() {
        let info = PublicKey::new([5; 32]).to_info();
        assert_eq!(PublicKey::from_info(&info[..43]), None);
        assert_eq!(PublicKey::from_info(&[info.clone(), vec![0]].concat()), None);
        // X25519 has an identifier that ends in 110, Ed25519 in 112.
        let mut other = info;
        other[8] = 0x6e;
        assert_eq!(PublicKey::from_info(&other), None);
    }
}
