//! TLS with a pinned key: the node's certificate is self-signed, and what names the node is its public key.

use haca_wire::Digest;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};
use sha2::{Digest as _, Sha256};
use std::sync::{Arc, OnceLock};

/// Accepts exactly one key. Name, dates and issuer of the certificate say nothing here and are not looked at; that
/// the peer holds the private half is proven by the handshake's signature, which is checked as in any TLS.
#[derive(Debug)]
pub(crate) struct PinnedKey {
    pin: Digest,
    provider: Arc<CryptoProvider>,
    seen: OnceLock<Digest>,
}

impl PinnedKey {
    pub(crate) fn new(pin: Digest) -> Arc<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Arc::new(Self { pin, provider, seen: OnceLock::new() })
    }

    pub(crate) fn pin(&self) -> Digest {
        self.pin
    }

    /// The pin of the key the node showed, if that was another one than it should have been.
    pub(crate) fn other_key(&self) -> Option<Digest> {
        self.seen.get().copied().filter(|seen| *seen != self.pin)
    }

    /// The client's side of a QUIC handshake with the holder of this key.
    pub(crate) fn config(self: &Arc<Self>, alpn: &[u8]) -> QuicClientConfig {
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring's suites include those of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(self.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        // A session is resumed by nobody: tickets would only cost the handshake bytes.
        config.resumption = rustls::client::Resumption::disabled();
        QuicClientConfig::try_from(config).expect("ring's TLS 1.3 suites include the one of QUIC's Initials")
    }
}

impl ServerCertVerifier for PinnedKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate =
            webpki::EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let seen = Digest(Sha256::digest(certificate.subject_public_key_info()).into());
        // One connection, one handshake: a second certificate would be ignored here and refused below.
        let seen = self.seen.get_or_init(|| seen);
        if *seen != self.pin {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // QUIC knows no TLS older than 1.3 (RFC 9001 section 4.2).
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
