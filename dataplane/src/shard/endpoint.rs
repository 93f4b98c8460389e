//! The QUIC side of a shard: the endpoint, its connections, and who of them has something to do. No I/O here: packets
//! come in through [`receive`](ShardEndpoint::receive) and go out through [`transmit`](ShardEndpoint::transmit).

use super::ShardConfig;
use super::application::{Application, Turn};
use super::connection::Connection;
use super::deadlines::Deadlines;
use super::outbox::{Command, ConnectionKey, Outbox};
use crate::metrics::ShardMetrics;
use crate::steering::ShardConnectionIds;
use crate::transport::bursts::Place;
use crate::transport::ring::Ring;
use crate::transport::{Datagram, Outgoing};
use bytes::BytesMut;
use haca_wire::Status;
use quinn_proto::{
    ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, Incoming, ServerConfig, Transmit,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Packets of the endpoint itself (refusals, resets, version negotiation) that wait for a send slot. More are dropped,
/// as the network might: their peers ask again.
const MAX_STATELESS: usize = 64;

/// Bytes of outbox kept from turn to turn: more than a turn of full batches of small answers takes.
const OUTBOX_KEPT: usize = 1 << 20;

pub(super) struct ShardEndpoint<A: Application> {
    application: A,
    quic: Endpoint,
    connections: Vec<Option<Box<Connection<A>>>>,
    open: usize,
    max_connections: usize,
    max_backlog: usize,
    /// Connections with something to do, each once.
    dirty: Vec<usize>,
    /// The same while `dirty` is being gone through.
    dirty_next: Vec<usize>,
    deadlines: Deadlines,
    outbox: Outbox,
    stateless: VecDeque<(Outgoing, Vec<u8>)>,
    scratch: Vec<u8>,
    /// Counts connections, so that a key outlives its connection without meaning another.
    generation: u32,
    draining: bool,
    metrics: Arc<ShardMetrics>,
}

impl<A: Application> ShardEndpoint<A> {
    pub(super) fn new(
        config: &ShardConfig,
        endpoint_config: &EndpointConfig,
        server_config: Arc<ServerConfig>,
        metrics: Arc<ShardMetrics>,
        application: A,
    ) -> Self {
        let mut endpoint_config = endpoint_config.clone();
        let shard = config.index;
        endpoint_config.cid_generator(move || Box::new(ShardConnectionIds { shard }));
        Self {
            application,
            quic: Endpoint::new(Arc::new(endpoint_config), Some(server_config), true, None),
            connections: Vec::with_capacity(config.max_connections),
            open: 0,
            max_connections: config.max_connections,
            max_backlog: config.max_backlog,
            dirty: Vec::with_capacity(config.max_connections),
            dirty_next: Vec::with_capacity(config.max_connections),
            deadlines: Deadlines::default(),
            outbox: Outbox::default(),
            stateless: VecDeque::with_capacity(MAX_STATELESS),
            scratch: Vec::with_capacity(2048),
            generation: 0,
            draining: false,
            metrics,
        }
    }

    /// Takes what one receive brought.
    pub(super) fn receive(&mut self, now: Instant, datagram: &Datagram<'_>) {
        // quinn-proto decrypts in place and keeps what it needs, so it wants memory of its own.
        let mut bytes = BytesMut::from(datagram.payload);
        while !bytes.is_empty() {
            let packet = bytes.split_to(datagram.stride.min(bytes.len()));
            self.metrics.datagrams_received.add(1);
            self.scratch.clear();
            let event = self.quic.handle(
                now,
                datagram.remote,
                datagram.local_ip,
                datagram.ecn,
                packet,
                &mut self.scratch,
            );
            match event {
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    if let Some(connection) = self.connections.get_mut(handle.0).and_then(Option::as_mut) {
                        connection.quic.handle_event(event);
                        mark_dirty(&mut self.dirty, connection, handle.0);
                    }
                }
                Some(DatagramEvent::NewConnection(incoming)) => self.greet(now, incoming),
                Some(DatagramEvent::Response(transmit)) => self.queue_stateless(&transmit),
                None => {}
            }
        }
    }

    /// Gives the application what has arrived, runs what is ready and applies what it wants written. Says whether there
    /// was anything to do.
    pub(super) fn work(&mut self, now: Instant) -> bool {
        let Self { connections, dirty, deadlines, .. } = self;
        deadlines.due(now, |index| {
            if let Some(connection) = connections[index].as_mut() {
                connection.quic.handle_timeout(now);
                mark_dirty(dirty, connection, index);
            }
        });
        let due = self.application.deadline().is_some_and(|deadline| deadline <= now);
        if self.dirty.is_empty() && !due {
            return false;
        }
        let mut turn = Turn { now, outbox: &mut self.outbox };
        for &index in &self.dirty {
            if let Some(connection) = self.connections[index].as_mut() {
                connection.drain_events(&mut self.application, &mut turn, &self.metrics);
            }
        }
        self.application.end_of_turn(&mut turn);
        self.apply_outbox(now);
        true
    }

    pub(super) fn message(&mut self, now: Instant, message: A::Message) {
        self.application.message(message, &mut Turn { now, outbox: &mut self.outbox });
        self.apply_outbox(now);
    }

    /// Sends what connections have to send, while there are slots. Says whether anything was sent or still waits.
    pub(super) fn transmit(&mut self, now: Instant, ring: &mut Ring) -> bool {
        let mut sent = 0;
        while ring.can_send() {
            let Some((outgoing, bytes)) = self.stateless.pop_front() else { break };
            ring.send(Place::default(), |buffer| {
                buffer.extend_from_slice(&bytes);
                Some(outgoing)
            });
            sent += 1;
        }
        std::mem::swap(&mut self.dirty, &mut self.dirty_next);
        for index in self.dirty_next.drain(..) {
            let Some(connection) = self.connections[index].as_mut() else { continue };
            connection.is_dirty = false;
            let (mut emptied, mut after) = (false, Place::default());
            while ring.can_send() && !emptied {
                let segments = ring.max_segments();
                let place = ring.send(after, |buffer| {
                    let transmit = connection.quic.poll_transmit(now, segments, buffer)?;
                    sent += 1;
                    Some(Outgoing::from(&transmit))
                });
                emptied = place.is_none();
                after = place.unwrap_or(after);
            }
            if !emptied {
                mark_dirty(&mut self.dirty, connection, index);
            }
            // Endpoint events come of transmitting too (new connection ids, the end of a connection).
            while let Some(event) = connection.quic.poll_endpoint_events() {
                if let Some(event) = self.quic.handle_event(ConnectionHandle(index), event) {
                    connection.quic.handle_event(event);
                    mark_dirty(&mut self.dirty, connection, index);
                }
            }
            self.deadlines.set(index, connection.quic.poll_timeout());
            if connection.quic.is_drained() {
                connection.disconnect(&mut self.application, &self.metrics);
                self.connections[index] = None;
                self.deadlines.set(index, None);
                self.open -= 1;
                self.dirty.retain(|dirty| *dirty != index);
            }
        }
        self.metrics.sends.add(sent);
        sent > 0 || !self.dirty.is_empty()
    }

    pub(super) fn after_transmit(&mut self) {
        self.application.after_transmit();
    }

    /// When [`work`](Self::work) must be called even if nothing arrives.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [self.deadlines.next(), self.application.deadline()].into_iter().flatten().min()
    }

    /// Takes no new connections and no new requests from now on.
    pub(super) fn drain(&mut self) {
        self.draining = true;
        self.application.drain();
    }

    /// Whether every request has its answer and QUIC has taken all of it.
    pub(super) fn owes_nothing(&self) -> bool {
        self.connections.iter().flatten().all(|connection| connection.pending == 0 && connection.backlog == 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// Closes every connection because the node shuts down.
    pub(super) fn close_all(&mut self, now: Instant) {
        for (index, connection) in self.connections.iter_mut().enumerate() {
            if let Some(connection) = connection {
                connection.close(now, Status::Draining as u32, "the node is shutting down".to_owned());
                mark_dirty(&mut self.dirty, connection, index);
            }
        }
    }

    fn greet(&mut self, now: Instant, incoming: Incoming) {
        self.scratch.clear();
        if self.draining || self.open >= self.max_connections {
            self.metrics.connections_refused.add(1);
            let transmit = self.quic.refuse(incoming, &mut self.scratch);
            return self.queue_stateless(&transmit);
        }
        // RFC 9000 section 8.1.2: once half the table is taken, strangers prove their address first.
        if self.open > self.max_connections / 2
            && incoming.may_retry()
            && !incoming.remote_address_validated()
        {
            if let Ok(transmit) = self.quic.retry(incoming, &mut self.scratch) {
                self.queue_stateless(&transmit);
            }
            return;
        }
        match self.quic.accept(incoming, now, &mut self.scratch, None) {
            Ok((handle, quic)) => {
                let index = handle.0;
                if index >= self.connections.len() {
                    self.connections.resize_with(index + 1, || None);
                }
                self.generation = self.generation.wrapping_add(1);
                let key = ConnectionKey { index: index as u32, generation: self.generation };
                let connection = self.connections[index].insert(Box::new(Connection::new(quic, key)));
                mark_dirty(&mut self.dirty, connection, index);
                self.open += 1;
            }
            Err(error) => {
                self.metrics.connections_refused.add(1);
                if let Some(transmit) = error.response {
                    self.queue_stateless(&transmit);
                }
            }
        }
    }

    fn queue_stateless(&mut self, transmit: &Transmit) {
        if self.stateless.len() < MAX_STATELESS {
            self.stateless.push_back((Outgoing::from(transmit), self.scratch[..transmit.size].to_vec()));
        }
    }

    fn apply_outbox(&mut self, now: Instant) {
        let mut start = 0;
        for command in self.outbox.commands.drain(..) {
            let key = match &command {
                Command::Write { stream, .. } | Command::Finish { stream } => stream.connection,
                Command::Close { connection, .. } => *connection,
            };
            let index = key.index as usize;
            let connection = (self.connections[index].as_mut()).filter(|connection| connection.key == key);
            match command {
                Command::Write { stream, end, answers } => {
                    let bytes = &self.outbox.bytes[start..end];
                    start = end;
                    let Some(connection) = connection else { continue };
                    connection.answered(stream.id, answers);
                    connection.write(stream.id, bytes);
                    if connection.backlog > self.max_backlog {
                        self.metrics.backlog_overflows.add(1);
                        let reason = format!("more than {} bytes of answers were not read", self.max_backlog);
                        connection.close(now, Status::LimitExceeded as u32, reason);
                    }
                    mark_dirty(&mut self.dirty, connection, index);
                }
                Command::Finish { stream } => {
                    let Some(connection) = connection else { continue };
                    connection.finish(stream.id);
                    mark_dirty(&mut self.dirty, connection, index);
                }
                Command::Close { code, reason, .. } => {
                    let Some(connection) = connection else { continue };
                    connection.close(now, code, reason);
                    mark_dirty(&mut self.dirty, connection, index);
                }
            }
        }
        self.outbox.bytes.clear();
        // One turn's outlier is not kept for ever.
        self.outbox.bytes.shrink_to(OUTBOX_KEPT);
    }
}

fn mark_dirty<A: Application>(dirty: &mut Vec<usize>, connection: &mut Connection<A>, index: usize) {
    if !connection.is_dirty {
        connection.is_dirty = true;
        dirty.push(index);
    }
}
