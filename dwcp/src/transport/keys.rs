//! [`KeyPair`] and [`PublicKey`]: who is at the other end. A [`Signature`]: what it has said. See `SPEC.md`, 12.1.

use std::fmt;
use std::sync::Arc;

use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

/// Bytes of an Ed25519 public key.
pub const PUBLIC_KEY_BYTES: usize = 32;

/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

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
    /// Not the text of a signature
    #[error("a signature is 128 hexadecimal digits")]
    Signature,
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

    /// Whether the holder of this key has signed the message.
    ///
    /// A signature says nothing of what it is for: whoever signs begins a message with words that no other kind of
    /// message has.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, &signature.0).is_ok()
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
        unhex(text).map(Self).ok_or(KeyError::Public)
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; SIGNATURE_BYTES]);

impl Signature {
    /// The signature of these bytes. Whose it is and of what, [`PublicKey::verifies`] says.
    #[must_use]
    pub const fn new(bytes: [u8; SIGNATURE_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; SIGNATURE_BYTES] {
        &self.0
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

impl std::str::FromStr for Signature {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        unhex(text).map(Self).ok_or(KeyError::Signature)
    }
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let digit = |text: u8| char::from(text).to_digit(16);
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
    }
    Some(bytes)
}

/// An Ed25519 key pair.
#[derive(Clone)]
pub struct KeyPair {
    public: PublicKey,
    private: Arc<Ed25519KeyPair>,
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
        let certified = Arc::new(CertifiedKey::new(vec![info], signing));
        Ok(Self { public, private: Arc::new(pair), certified })
    }

    /// Signs a message. The same message always has the same signature (RFC 8032).
    ///
    /// # Panics
    /// Never: ring's signatures have 64 bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        let signature = self.private.sign(message);
        Signature(signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes"))
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

    /// The first and the third key pair of RFC 8032, section 7.1, with what they sign there.
    #[test]
    fn signatures_are_those_of_the_standard() {
        for (seed, public, message, signature) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                &[][..],
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                &[0xaf, 0x82],
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
            ),
        ] {
            let keys = KeyPair::from_pkcs8(&pkcs8(seed, public)).unwrap();
            assert_eq!(keys.public().to_string(), public);
            assert_eq!(keys.sign(message).to_string(), signature);
            assert!(keys.public().verifies(message, &signature.parse().unwrap()));
        }
    }

    /// A private key as [`KeyPair::generate`] makes it (RFC 5958).
    fn pkcs8(seed: &str, public: &str) -> Vec<u8> {
        let head = unhex::<16>("3051020101300506032b657004220420").unwrap();
        let (seed, public) = (unhex::<32>(seed).unwrap(), unhex::<32>(public).unwrap());
        [&head[..], &seed, &[0x81, 0x21, 0x00], &public].concat()
    }

    #[test]
    fn every_flipped_bit_of_message_signature_and_key_is_found() {
        let keys = KeyPair::from_pkcs8(&KeyPair::generate().unwrap()).unwrap();
        let (public, message) = (keys.public(), *b"what was said");
        let signature = keys.sign(&message);
        assert!(public.verifies(&message, &signature));
        assert_eq!(keys.clone().sign(&message), signature);
        for bit in 0..8 * message.len() {
            let mut other = message;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!public.verifies(&other, &signature), "bit {bit} of the message");
        }
        for bit in 0..8 * SIGNATURE_BYTES {
            let mut other = *signature.bytes();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!public.verifies(&message, &Signature::new(other)), "bit {bit} of it");
        }
        for bit in 0..8 * PUBLIC_KEY_BYTES {
            let mut other = *public.bytes();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!PublicKey::new(other).verifies(&message, &signature), "bit {bit} of the key");
        }
        assert!(!public.verifies(b"", &signature) && !public.verifies(&message[1..], &signature));
    }

    #[test]
    fn a_signature_is_128_digits() {
        let signature = Signature::new(std::array::from_fn(|index| index as u8 * 3));
        let text = signature.to_string();
        assert_eq!(text.parse(), Ok(signature));
        assert!(format!("{signature:?}").contains(&text));
        for text in ["", &text[2..], &format!("{text}00"), &"g".repeat(128), &"é".repeat(64)] {
            assert_eq!(text.parse::<Signature>(), Err(KeyError::Signature), "{text}");
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
