//! What every server and the client agree on, so that implementations are compared and not settings.
//!
//! Left at each implementation's own default, because they are part of what is compared: acknowledgements,
//! pacing, the congestion controller (CUBIC in all of them), GSO, GRO and the search for a larger MTU (on in all
//! of them).

use std::fmt;
use std::net::SocketAddrV4;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use quinn_proto::{IdleTimeout, TransportConfig, VarInt};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{CipherSuite, DigitallySignedStruct, SignatureScheme};
use sha2::{Digest, Sha256};

/// The protocol of the echo.
pub(crate) const ALPN: &[u8] = b"haca-echo";
/// The name in every server's certificate. Trust comes from the pin.
pub(crate) const SERVER_NAME: &str = "localhost";
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes a peer may send ahead on one stream; far above what a window of 64-byte messages needs.
pub(crate) const STREAM_WINDOW: u32 = 1 << 20;
/// Bytes a peer may send ahead on a connection.
pub(crate) const CONNECTION_WINDOW: u32 = 8 << 20;
/// Streams a peer may have open, so that a stream a request never waits for credit.
pub(crate) const STREAMS: u32 = 1024;

/// The settings above for quinn and quinn-proto.
pub(crate) fn quinn_transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::try_from(IDLE_TIMEOUT).expect("30 s fit a QUIC variable-length integer of ms");
    transport
        .max_idle_timeout(Some(idle))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS));
    transport
}

/// A key and self-signed certificate, new with each server.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivatePkcs8KeyDer<'static>,
}

impl Identity {
    /// Generates one.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub(crate) fn generate() -> anyhow::Result<Self> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec![SERVER_NAME.to_owned()])
            .context("cannot generate a certificate")?;
        Ok(Self { certificate: cert.der().clone(), key: signing_key.serialize_der().into() })
    }

    pub(crate) fn pin(&self) -> Pin {
        Pin::of(&self.certificate)
    }
}

/// SHA-256 of a server's certificate (DER); hexadecimal in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pin([u8; 32]);

impl Pin {
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Pin {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let wrong = || format!("a certificate pin is 64 hexadecimal digits, not {text:?}");
        anyhow::ensure!(text.len() == 64 && text.is_ascii(), wrong());
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).with_context(wrong)?;
        }
        Ok(Self(bytes))
    }
}

/// Where a server listens and whom to expect there; the text a server announces itself with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddrV4,
    /// Absent for the floor, which has no handshake.
    pub(crate) pin: Option<Pin>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pin {
            Some(pin) => write!(f, "{} {pin}", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

impl FromStr for Endpoint {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (address, pin) = match text.split_once(' ') {
            Some((address, pin)) => (address, Some(pin.parse()?)),
            None => (text, None),
        };
        let address =
            address.parse().with_context(|| format!("{address:?} is not an IPv4 address and port"))?;
        Ok(Self { address, pin })
    }
}

/// ring, with the one cipher suite the client offers, so that every server encrypts with AES-128-GCM.
pub(crate) fn crypto_provider() -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

/// Accepts exactly the certificate with this pin.
#[derive(Debug)]
pub(crate) struct PinnedServer {
    pin: Pin,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedServer {
    pub(crate) fn new(pin: Pin, provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self { pin, algorithms: provider.signature_verification_algorithms })
    }
}

impl ServerCertVerifier for PinnedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if Pin::of(end_entity) == self.pin {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("QUIC has no TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announced_endpoint_reads_back() {
        let pin = Identity::generate().unwrap().pin();
        for pin in [Some(pin), None] {
            let endpoint = Endpoint { address: "127.0.0.1:4433".parse().unwrap(), pin };
            assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
        }
    }

    #[test]
    fn a_malformed_announcement_is_refused() {
        for text in
            ["", "127.0.0.1", "127.0.0.1:1 abcd", "[::1]:1", &format!("127.0.0.1:1 {}", "é".repeat(32))]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_the_pinned_certificate_is_accepted() {
        let (right, wrong) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let verifier = PinnedServer::new(right.pin(), &crypto_provider());
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let verify = |identity: &Identity| {
            verifier.verify_server_cert(&identity.certificate, &[], &name, &[], UnixTime::now())
        };
        assert!(verify(&right).is_ok());
        assert!(verify(&wrong).is_err());
    }
}
