//! The QUIC connection to a node: pinned, and tuned for a node nearby. For sessions of callers, and for those of services.

use crate::client::ClientOptions;
use crate::conversation::disconnected;
use crate::error::ClientError;
use crate::tls::PinnedKey;
use haca_wire::Digest;
use quinn::{ConnectionError, TransportErrorCode, VarInt};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// TLS alert 120, `no_application_protocol` (RFC 7301 section 3.2).
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// The node is asked to acknowledge this soon, instead of after 25 ms: the loss of the last packet of a burst is
/// noticed the sooner.
const MAX_ACK_DELAY: Duration = Duration::from_millis(2);

/// A round trip within a rack, with a margin for a busy node. QUIC's own 333 ms would make the loss of the first
/// packet cost a second; too short a guess only costs a few repeated packets (RFC 9002 section 6.2.2).
const INITIAL_RTT: Duration = Duration::from_millis(2);

/// A socket from which the address can be reached. Must be called within a tokio runtime, which then runs it.
///
/// # Errors
/// [`ClientError::Socket`].
pub fn endpoint(address: SocketAddr) -> Result<quinn::Endpoint, ClientError> {
    let local: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    quinn::Endpoint::client(SocketAddr::new(local, 0))
        .map_err(|error| ClientError::Socket { address, reason: error.to_string() })
}

/// Connects to the node with the pinned key, and to no other. How long it may take is for the caller to bound.
///
/// # Errors
/// If there is another node, or one that does not speak `alpn`, or none.
pub async fn connect(
    endpoint: &quinn::Endpoint,
    address: SocketAddr,
    pin: Digest,
    alpn: &[u8],
    options: &ClientOptions,
) -> Result<quinn::Connection, ClientError> {
    let pinned = PinnedKey::new(pin);
    let mut config = quinn::ClientConfig::new(Arc::new(pinned.config(alpn)));
    config.transport_config(Arc::new(transport(options)));
    // The name goes into the handshake and means nothing: the key names the node.
    endpoint
        .connect_with(config, address, "haca-node")
        .map_err(|error| ClientError::Socket { address, reason: error.to_string() })?
        .await
        .map_err(|error| handshake_failed(address, &pinned, alpn, &error))
}

/// Where to reach a node that writes this address. One that listens on every address writes the unspecified one; from its
/// own machine that is the loopback. (Sent to as it stands, answers would come from another address than was asked, and
/// QUIC would not take them.)
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn transport(options: &ClientOptions) -> quinn::TransportConfig {
    let mut acks = quinn::AckFrequencyConfig::default();
    acks.max_ack_delay(Some(MAX_ACK_DELAY));
    let mut transport = quinn::TransportConfig::default();
    transport
        .initial_rtt(INITIAL_RTT)
        .ack_frequency_config(Some(acks))
        .keep_alive_interval(Some(options.keep_alive))
        // A duration that QUIC cannot state is as good as none.
        .max_idle_timeout(options.idle_timeout.try_into().ok())
        // The node opens no streams.
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        // A lane that has begun a frame ends it before another lane's: no frame waits for a half of another.
        .send_fairness(false);
    transport
}

/// What the failure of a handshake is called.
fn handshake_failed(
    address: SocketAddr,
    pinned: &PinnedKey,
    alpn: &[u8],
    error: &ConnectionError,
) -> ClientError {
    let wrong_protocol =
        || ClientError::WrongProtocol { address, alpn: String::from_utf8_lossy(alpn).into_owned() };
    if let Some(seen) = pinned.other_key() {
        return ClientError::WrongPin { address, pin: pinned.pin(), seen };
    }
    let alert = match error {
        ConnectionError::VersionMismatch => return wrong_protocol(),
        ConnectionError::TransportError(error) => error.code,
        ConnectionError::ConnectionClosed(close) => close.error_code,
        _ => return disconnected(address, error),
    };
    if alert == TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL) {
        return wrong_protocol();
    }
    disconnected(address, error)
}
