//! TLS 1.3, in which both ends show a raw public key (RFC 7250) that the other one knows. See `SPEC.md`, 8.5 and 12.1.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};

use super::keys::{KeyPair, PublicKey};
use crate::acp::SessionId;

/// What a stream of a session asks for.
pub const PAGES_PROTOCOL: &[u8] = b"dwcp/3";

/// What one daemon asks another for.
pub const CONTROL_PROTOCOL: &[u8] = b"novacron/1";

/// The name by which a session's streams ask for it.
#[must_use]
pub fn server_name(session: SessionId) -> String {
    // A letter first: a name of digits alone is no host's name.
    let digits = session.bytes().into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let digits = digits.filter_map(|digit| char::from_digit(digit.into(), 16));
    std::iter::once('s').chain(digits).collect()
}

/// The session that is asked for by this name.
#[must_use]
pub fn session_of(server_name: &str) -> Option<SessionId> {
    let digits = server_name.strip_prefix('s')?.as_bytes();
    let mut bytes = [0; 16];
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let digit = |at: usize| char::from(*pair.get(at)?).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    SessionId::new(bytes)
}

/// The key that the other end has shown, and proven to have, once the handshake is done.
#[must_use]
pub fn shown_key(connection: &rustls::CommonState) -> Option<PublicKey> {
    connection.peer_certificates()?.first().and_then(|shown| PublicKey::from_info(shown))
}

/// Whose keys are known.
pub trait KnownPeers: fmt::Debug + Send + Sync {
    /// Whether this is the key of somebody who may be at the other end.
    fn knows(&self, key: &PublicKey) -> bool;
}

/// One peer alone.
impl KnownPeers for PublicKey {
    fn knows(&self, key: &PublicKey) -> bool {
        self == key
    }
}

/// How an end that connects speaks TLS.
#[derive(Clone, Debug)]
pub struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// As `own`, to one of `peers`, for this protocol.
    ///
    /// # Panics
    /// When rustls has no TLS 1.3.
    #[must_use]
    pub fn new(own: &KeyPair, peers: Arc<dyn KnownPeers>, protocol: &[u8]) -> Self {
        let provider = provider();
        let verifier = Arc::new(Verifier::new(peers, &provider));
        let resolver = Arc::new(AlwaysResolvesClientRawPublicKeys::new(own.certified()));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has suites of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(resolver);
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption = Resumption::disabled();
        Self(Arc::new(config))
    }

    /// A connection that is about to be made to this name.
    ///
    /// # Errors
    /// When the name is none.
    pub(super) fn connection(&self, name: String) -> Result<rustls::Connection, Error> {
        let name =
            ServerName::try_from(name).map_err(|_| Error::General("a server's name".into()))?;
        Ok(rustls::ClientConnection::new(Arc::clone(&self.0), name)?.into())
    }

    /// What other users of rustls take.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }
}

/// How an end that is connected to speaks TLS.
#[derive(Clone, Debug)]
pub struct TlsServer(Arc<ServerConfig>);

impl TlsServer {
    /// As `own`, for one of `peers`, in this protocol.
    ///
    /// # Panics
    /// When rustls has no TLS 1.3.
    #[must_use]
    pub fn new(own: &KeyPair, peers: Arc<dyn KnownPeers>, protocol: &[u8]) -> Self {
        let provider = provider();
        let verifier = Arc::new(Verifier::new(peers, &provider));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has suites of TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own.certified())));
        config.alpn_protocols = vec![protocol.to_vec()];
        // Nothing is ever resumed: a key is proven anew on every stream.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Self(Arc::new(config))
    }

    pub(super) fn connection(&self) -> Result<rustls::Connection, Error> {
        Ok(rustls::ServerConnection::new(Arc::clone(&self.0))?.into())
    }

    /// What other users of rustls take.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Knows peers by their keys.
#[derive(Debug)]
struct Verifier {
    peers: Arc<dyn KnownPeers>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(peers: Arc<dyn KnownPeers>, provider: &CryptoProvider) -> Self {
        Self { peers, algorithms: provider.signature_verification_algorithms }
    }

    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        match PublicKey::from_info(shown) {
            Some(key) if self.peers.knows(&key) => Ok(()),
            Some(_) | None => {
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let info = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &info, signed, &self.algorithms)
    }
}

/// Only TLS 1.3 is spoken here.
fn too_old() -> Error {
    Error::General("only TLS 1.3 is spoken here".to_owned())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(shown).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_found_again_by_its_name_and_nothing_else_is_one() {
        let session = SessionId::new(std::array::from_fn(|index| index as u8 * 17)).unwrap();
        let name = server_name(session);
        assert_eq!(session_of(&name), Some(session));
        let zeros = format!("s{}", "0".repeat(32));
        for other in ["", "s", &name[1..], &name[..32], &format!("{name}0"), &zeros, "novacron"] {
            assert_eq!(session_of(other), None, "{other}");
        }
        assert_eq!(session_of(&format!("s{}", "g".repeat(32))), None);
        assert_eq!(session_of(&format!("s{}", "é".repeat(16))), None);
    }
}
