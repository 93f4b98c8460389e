//! QUIC settings, made once and shared by all shards: a retried or moved packet must mean the same on each of them.

use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{AckFrequencyConfig, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::Duration;

/// The node's TLS key and its self-signed certificate. Callers pin the key, so no authority is asked.
#[derive(Debug)]
pub struct TlsIdentity {
    /// The certificate, DER.
    pub certificate: CertificateDer<'static>,
    /// The private key, PKCS #8 DER.
    pub key: PrivatePkcs8KeyDer<'static>,
}

/// What a connection may use.
#[derive(Debug, Clone)]
pub struct QuicLimits {
    /// Streams a caller may have open.
    pub max_streams: u32,
    /// Bytes a caller may send ahead on one stream.
    pub stream_window: u32,
    /// Bytes a caller may send ahead on a connection.
    pub connection_window: u32,
    /// A connection without a packet for this long ends.
    pub idle_timeout: Duration,
}

/// Why the QUIC settings cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// The certificate or key is not usable.
    #[error(
        "the node's TLS key or certificate is not usable: {0}; remove tls.key and tls.crt to have new ones made"
    )]
    Tls(#[from] rustls::Error),
    /// A limit is out of QUIC's range.
    #[error("idle timeout of {0:?} is out of QUIC's range")]
    IdleTimeout(Duration),
}

/// RTT to assume before the first sample. Callers are in the same building; the default of 333 ms makes one lost first
/// packet cost a second.
const INITIAL_RTT: Duration = Duration::from_millis(2);

/// Makes the settings for endpoints that speak `alpn`.
///
/// # Errors
/// If the identity is not usable or a limit is out of range.
pub fn settings(
    identity: &TlsIdentity,
    alpn: &[u8],
    limits: &QuicLimits,
) -> Result<(EndpointConfig, ServerConfig), QuicError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key().into())?;
    tls.alpn_protocols = vec![alpn.to_vec()];
    // 0-RTT data can be replayed, and a replayed request would be answered twice.
    tls.max_early_data_size = 0;
    let crypto =
        QuicServerConfig::try_from(tls).expect("the provider has the suite that QUIC's first packets need");
    let token_key =
        ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &secret(identity, b"haca token key")).extract(b"");
    let mut server = ServerConfig::new(Arc::new(crypto), Arc::new(token_key));

    let mut transport = TransportConfig::default();
    let idle_timeout = IdleTimeout::try_from(limits.idle_timeout)
        .map_err(|_| QuicError::IdleTimeout(limits.idle_timeout))?;
    // Callers that speak ACK_FREQUENCY are asked not to sit on an acknowledgement: it is what frees the next answer.
    let mut acks = AckFrequencyConfig::default();
    acks.max_ack_delay(Some(Duration::from_millis(5)));
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.max_streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(limits.stream_window))
        .receive_window(VarInt::from_u32(limits.connection_window))
        .send_window(u64::from(limits.connection_window))
        // Answers of one batch leave in the order they were written; round-robin would cut them into more packets.
        .send_fairness(false)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(idle_timeout))
        .initial_rtt(INITIAL_RTT)
        .ack_frequency_config(Some(acks));
    server.transport_config(Arc::new(transport));

    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret(identity, b"haca reset key"));
    let mut endpoint = EndpointConfig::new(Arc::new(reset_key));
    // Receive buffers hold whole GRO bursts, so the largest datagram fits.
    endpoint.max_udp_payload_size(65_527).expect("RFC 9000 section 18.2 allows it");
    Ok((endpoint, server))
}

/// A secret that survives a restart, so that callers of a node that was restarted are told at once.
fn secret(identity: &TlsIdentity, purpose: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(purpose).chain_update(identity.key.secret_pkcs8_der()).finalize().into()
}
