//! Our data plane: one pinned shard that polls, with an application that sends back what it gets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use haca_dataplane::metrics::ShardMetrics;
use haca_dataplane::quic::{QuicLimits, TlsIdentity};
use haca_dataplane::server::{Server, ServerConfig};
use haca_dataplane::shard::inbox::Inbox;
use haca_dataplane::shard::{Application, Arrival, ConnectionKey, Turn};
use haca_dataplane::transport::ring::RingLimits;

use super::announce_at;
use crate::rpc::transport::{ALPN, CONNECTION_WINDOW, IDLE_TIMEOUT, Identity, STREAM_WINDOW, STREAMS};

/// More connections than any case opens.
const CONNECTIONS: usize = 1024;
/// Nothing is sent to the shard but the packets.
const INBOX: usize = 16;

pub(super) fn serve(cpu: usize) -> anyhow::Result<()> {
    let identity = Identity::generate()?;
    let pin = identity.pin();
    let config = ServerConfig {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        cpus: vec![cpu],
        // Polling is on, as in a deployment that cares for latency: the shard never parks.
        spin: None,
        quic: QuicLimits {
            max_streams: STREAMS,
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
            idle_timeout: IDLE_TIMEOUT,
        },
        max_connections: CONNECTIONS,
        max_backlog: CONNECTION_WINDOW as usize,
        ring: RingLimits { receive_buffers: 256, send_slots: 256 },
        drain_timeout: Duration::from_secs(1),
    };
    let identity = TlsIdentity { certificate: identity.certificate, key: identity.key };
    let inbox = Arc::new(Inbox::new(INBOX).context("cannot make the shard's inbox")?);
    let metrics = vec![Arc::new(ShardMetrics::default())];
    let server = Server::start(&config, &identity, ALPN, vec![inbox], metrics, vec![|| Echo])?;
    announce_at(server.address(), Some(pin))?;
    Ok(server.join()?)
}

struct Echo;

impl Application for Echo {
    type Session = ();
    type Stream = ();
    type Message = ();

    fn connected(&mut self, _connection: ConnectionKey, _remote: SocketAddr) {}

    fn opened(&mut self) {}

    fn received(&mut self, arrival: Arrival<'_, Self>, bytes: &[u8], turn: &mut Turn<'_>) {
        turn.outbox.write(arrival.key, |out| out.extend_from_slice(bytes));
    }

    fn ended(&mut self, arrival: Arrival<'_, Self>, turn: &mut Turn<'_>) {
        turn.outbox.finish(arrival.key);
    }

    fn reset(&mut self, _: Arrival<'_, Self>, _: &mut Turn<'_>) {}
    fn disconnected(&mut self, (): ()) {}

    fn message(&mut self, (): (), _turn: &mut Turn<'_>) {}

    fn end_of_turn(&mut self, _turn: &mut Turn<'_>) {}

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn drain(&mut self) {}
}
