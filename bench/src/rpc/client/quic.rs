//! The QUIC client: `quinn-proto` driven inline, one connection for each lane.

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use bytes::BytesMut;
use haca_dataplane::transport::bursts::Place;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, Event, StreamEvent,
};
use rustls::client::Resumption;

use super::{Clock, Sockets};
use crate::load::{Generator, Issue, Nanos};
use crate::rpc::ring::{Received, UdpRing};
use crate::rpc::transport::{Pin, PinnedServer, SERVER_NAME, crypto_provider, quinn_transport};

/// All connections together may take this long to be ready for requests.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Most datagrams in one send: enough that the call's own cost is small beside theirs (16 let us send a tenth less), few
/// enough that the server starts on the first ones while we still work on the others.
const MAX_DATAGRAMS: usize = 32;
/// Datagrams after which answers are handed out and new requests sent, for the same reason.
const RECEIVE_GROUP: usize = 32;
/// Packets are carved from pieces of this size; it comes free again when all of them have been read.
const ARENA: usize = 256 * 1024;

/// What is said on one connection. It writes and reads the connection's streams and sends nothing itself.
pub(crate) trait Dialogue {
    /// Whether requests may start. Asked after every packet until it is so.
    fn is_ready(&self) -> bool;
    /// A request due at `intended`; it is written with the next [`Self::write`].
    fn start(&mut self, intended: Nanos);
    /// Writes as much as flow control and stream credit allow.
    fn write(&mut self, connection: &mut Connection) -> anyhow::Result<()>;
    /// Reads what `event` says is there; calls `answered` for each request that completes.
    fn read(
        &mut self,
        connection: &mut Connection,
        event: &StreamEvent,
        answered: impl FnMut(Nanos),
    ) -> anyhow::Result<()>;
    /// When each request without an answer was due.
    fn unanswered(&self) -> Vec<Nanos>;
}

/// Many connections to one server, each with its dialogue.
pub(crate) struct Client<D> {
    ring: UdpRing,
    endpoint: Endpoint,
    server: SocketAddrV4,
    sockets: Sockets,
    lanes: Vec<Lane<D>>,
    dirty: Vec<usize>,
    next_timer: Option<Instant>,
    arena: BytesMut,
    /// Whether the kernel is asked when packets arrived.
    takes_kernel_times: bool,
    /// When the last packet of those read together arrived, since the Unix epoch, if it is.
    arrived: Option<Duration>,
    /// For answers of the endpoint itself, which a client has none of.
    response: Vec<u8>,
}

struct Lane<D> {
    handle: ConnectionHandle,
    connection: Connection,
    /// Present from the end of the handshake on.
    dialogue: Option<D>,
    timer: Option<Instant>,
    dirty: bool,
}

impl<D: Dialogue> Client<D> {
    /// Opens `count` connections and waits until each is ready for requests. `dialogue` is called for each after
    /// its handshake.
    ///
    /// # Errors
    /// When they are not ready in time, or one of them fails.
    pub(crate) fn connect(
        server: SocketAddrV4,
        config: &ClientConfig,
        sockets: Sockets,
        count: usize,
        mut dialogue: impl FnMut(&mut Connection) -> anyhow::Result<D>,
    ) -> anyhow::Result<Self> {
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
        let mut lanes = Vec::with_capacity(count);
        for _ in 0..count {
            let (handle, connection) =
                endpoint.connect(Instant::now(), config.clone(), server.into(), SERVER_NAME)?;
            // Handles of connections that are never removed count up, so a handle is its lane's index.
            assert_eq!(handle.0, lanes.len(), "quinn-proto numbers its connections from zero");
            lanes.push(Lane { handle, connection, dialogue: None, timer: None, dirty: true });
        }
        let mut client = Self {
            ring: UdpRing::new(sockets.open(server, count)?, MAX_DATAGRAMS)?,
            endpoint,
            server,
            sockets,
            dirty: (0..count).collect(),
            lanes,
            next_timer: None,
            arena: BytesMut::with_capacity(ARENA),
            takes_kernel_times: false,
            arrived: None,
            response: Vec::new(),
        };
        let limit = Instant::now() + CONNECT_LIMIT;
        while !client.lanes.iter().all(|lane| lane.dialogue.as_ref().is_some_and(D::is_ready)) {
            let now = Instant::now();
            anyhow::ensure!(
                now < limit,
                "the server at {server} did not get {count} connections ready in time"
            );
            client.read_packets(now)?;
            client.take_events(|_, _| ())?;
            for (index, lane) in client.lanes.iter_mut().enumerate() {
                if lane.dialogue.is_none() && !lane.connection.is_handshaking() {
                    lane.dialogue = Some(dialogue(&mut lane.connection)?);
                    mark(lane, index, &mut client.dirty);
                }
            }
            client.send_packets(now)?;
        }
        Ok(client)
    }

    /// From now on an answer's time is when the kernel got it, or the last of the packets that were read with it, not when
    /// this client read them; and [`flush`](super::Client::flush) returns when what it sends has left.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub(crate) fn take_kernel_times(&mut self) -> anyhow::Result<()> {
        self.takes_kernel_times = true;
        self.ring.stamp_arrivals()
    }

    /// How long ago the last packet arrived, if the kernel says so.
    fn age_of_arrival(&self) -> Nanos {
        let age = |arrived| {
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(arrived)
        };
        self.arrived.map(age).unwrap_or_default().into()
    }

    /// Feeds what has arrived to the connections and marks those that got something.
    fn read_packets(&mut self, now: Instant) -> anyhow::Result<bool> {
        self.ring.poll()?;
        let mut datagrams = 0;
        self.arrived = None;
        while datagrams < RECEIVE_GROUP {
            let Some(received) = self.ring.receive()? else { break };
            self.arrived = self.arrived.max(received.arrived);
            datagrams += self.decode(now, &received);
            self.ring.recycle(received);
        }
        Ok(datagrams > 0)
    }

    /// Says how many datagrams there were.
    fn decode(&mut self, now: Instant, received: &Received) -> usize {
        let mut datagrams = 0;
        for datagram in self.ring.payload(received).chunks(received.stride) {
            datagrams += 1;
            self.arena.reserve(datagram.len().max(ARENA / 64));
            self.arena.extend_from_slice(datagram);
            let packet = self.arena.split();
            let event = self.endpoint.handle(
                now,
                SocketAddr::V4(self.server),
                None,
                None,
                packet,
                &mut self.response,
            );
            match event {
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    let lane = &mut self.lanes[handle.0];
                    lane.connection.handle_event(event);
                    mark(lane, handle.0, &mut self.dirty);
                }
                // A packet for a connection it does not know; a client takes none and owes no answer.
                Some(DatagramEvent::Response(_) | DatagramEvent::NewConnection(_)) | None => {}
            }
        }
        datagrams
    }

    /// Works through the events of marked connections; `answered` gets the lane and when the request was due.
    fn take_events(&mut self, mut answered: impl FnMut(usize, Nanos)) -> anyhow::Result<()> {
        for &index in &self.dirty {
            let lane = &mut self.lanes[index];
            while let Some(event) = lane.connection.poll() {
                match event {
                    Event::Stream(event) => {
                        if let Some(dialogue) = &mut lane.dialogue {
                            dialogue.read(&mut lane.connection, &event, |due| answered(index, due))?;
                        }
                    }
                    Event::ConnectionLost { reason } => bail!("connection {index} was lost: {reason}"),
                    Event::HandshakeDataReady
                    | Event::Connected
                    | Event::DatagramReceived
                    | Event::DatagramsUnblocked => {}
                }
            }
        }
        Ok(())
    }

    /// Runs timers that are due, and sends whatever marked connections have to send.
    fn send_packets(&mut self, now: Instant) -> anyhow::Result<bool> {
        if self.next_timer.is_some_and(|at| at <= now) {
            self.run_timers(now)?;
        }
        let any = !self.dirty.is_empty();
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            self.send_lane(index, now)?;
        }
        self.dirty = dirty;
        Ok(any)
    }

    fn send_lane(&mut self, index: usize, now: Instant) -> anyhow::Result<()> {
        let lane = &mut self.lanes[index];
        lane.dirty = false;
        if let Some(dialogue) = &mut lane.dialogue {
            dialogue.write(&mut lane.connection)?;
        }
        let mut after = Place::default();
        loop {
            while let Some(event) = lane.connection.poll_endpoint_events() {
                if let Some(event) = self.endpoint.handle_event(lane.handle, event) {
                    lane.connection.handle_event(event);
                }
            }
            let sent = self.ring.send(self.sockets.of(index), None, after, |buffer| {
                let transmit = lane.connection.poll_transmit(now, MAX_DATAGRAMS, buffer)?;
                Some(transmit.segment_size.unwrap_or(transmit.size))
            })?;
            let Some(place) = sent else { break };
            after = place;
        }
        lane.timer = lane.connection.poll_timeout();
        self.next_timer = self.next_timer.into_iter().chain(lane.timer).min();
        Ok(())
    }

    /// `next_timer` can be earlier than any timer still set, never later: the scan here finds the truth.
    fn run_timers(&mut self, now: Instant) -> anyhow::Result<()> {
        self.next_timer = None;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            match lane.timer {
                Some(at) if at <= now => {
                    lane.connection.handle_timeout(now);
                    anyhow::ensure!(!lane.connection.is_closed(), "connection {index} was idle for too long");
                    mark(lane, index, &mut self.dirty);
                }
                other => self.next_timer = self.next_timer.into_iter().chain(other).min(),
            }
        }
        Ok(())
    }
}

impl<D: Dialogue> super::Client for Client<D> {
    fn receive(&mut self, now: Instant, clock: Clock, generator: &mut Generator) -> anyhow::Result<bool> {
        let any = self.read_packets(now)?;
        if any {
            // In this order: what comes between the two makes an answer later, not earlier.
            let age = self.age_of_arrival();
            let now = Nanos(clock.now().0.saturating_sub(age.0));
            self.take_events(|lane, intended| generator.answered(lane, intended, now))?;
        }
        Ok(any)
    }

    fn start(&mut self, issue: Issue, _now: Nanos) -> anyhow::Result<()> {
        let lane = &mut self.lanes[issue.lane];
        lane.dialogue.as_mut().context("the handshake is not done")?.start(issue.intended);
        mark(lane, issue.lane, &mut self.dirty);
        Ok(())
    }

    fn flush(&mut self, now: Instant) -> anyhow::Result<bool> {
        let any = self.send_packets(now)?;
        if self.takes_kernel_times {
            self.ring.poll()?;
        }
        Ok(any)
    }

    fn give_up(&mut self, now: Nanos, generator: &mut Generator) {
        for (index, lane) in self.lanes.iter().enumerate() {
            for intended in lane.dialogue.iter().flat_map(D::unanswered) {
                generator.lost(index, intended, now);
            }
        }
    }
}

fn mark<D>(lane: &mut Lane<D>, index: usize, dirty: &mut Vec<usize>) {
    if !lane.dirty {
        lane.dirty = true;
        dirty.push(index);
    }
}

/// Offers one protocol and one cipher suite, and takes the certificate with this pin.
///
/// # Errors
/// When rustls does not take the settings.
pub(crate) fn client_config(pin: Pin, alpn: &[u8]) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(crypto_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("the cipher suite we offer is not one of TLS 1.3")?
        .dangerous()
        .with_custom_certificate_verifier(PinnedServer::new(pin, &provider))
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    // Each connection does its whole handshake, as separate clients would.
    tls.resumption = Resumption::disabled();
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(quinn_transport()));
    Ok(config)
}
