//! One connection of a shard: QUIC's state machine, the application's state, and answers that QUIC cannot take yet.

use super::application::{Application, Arrival, Pending, Turn};
use super::outbox::{ConnectionKey, StreamKey};
use crate::metrics::ShardMetrics;
use bytes::Bytes;
use quinn_proto::{Dir, Event, FinishError, ReadError, StreamEvent, StreamId, VarInt, WriteError};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

/// Bytes taken from QUIC at a time: whole packets, so never less than was received at once.
const CHUNK: usize = 64 * 1024;

pub(super) struct Connection<A: Application> {
    pub(super) quic: quinn_proto::Connection,
    pub(super) key: ConnectionKey,
    pub(super) is_dirty: bool,
    /// Answers owed.
    pub(super) pending: u32,
    /// Answer bytes that wait for flow control, over all streams.
    pub(super) backlog: usize,
    /// We have closed it; QUIC only waits for the peer to notice.
    closed: bool,
    session: Option<A::Session>,
    streams: HashMap<StreamId, Stream<A::Stream>, BuildHasherDefault<StreamIdHasher>>,
}

struct Stream<S> {
    state: S,
    pending: u32,
    /// The caller has ended its side.
    ended: bool,
    /// Our side is to be ended behind the backlog.
    finishing: bool,
    /// The caller does not want what we write.
    stopped: bool,
    backlog: Vec<u8>,
}

impl<A: Application> Connection<A> {
    pub(super) fn new(quic: quinn_proto::Connection, key: ConnectionKey) -> Self {
        Self {
            quic,
            key,
            is_dirty: false,
            pending: 0,
            backlog: 0,
            closed: false,
            session: None,
            streams: HashMap::default(),
        }
    }

    /// Gives the application everything that QUIC has for it.
    pub(super) fn drain_events(&mut self, application: &mut A, turn: &mut Turn<'_>, metrics: &ShardMetrics) {
        while let Some(event) = self.quic.poll() {
            match event {
                Event::Connected => {
                    metrics.connections_opened.add(1);
                    self.session = Some(application.connected(self.key, self.quic.remote_address()));
                }
                Event::ConnectionLost { .. } => self.disconnect(application, metrics),
                Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => {
                    while let Some(id) = self.quic.streams().accept(Dir::Bi) {
                        let stream = Stream {
                            state: application.opened(),
                            pending: 0,
                            ended: false,
                            finishing: false,
                            stopped: false,
                            backlog: Vec::new(),
                        };
                        self.streams.insert(id, stream);
                        self.read(id, application, turn);
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) => self.read(id, application, turn),
                Event::Stream(StreamEvent::Writable { id }) => self.write(id, &[]),
                Event::Stream(StreamEvent::Stopped { id, .. }) => {
                    // The caller does not want the answers: RFC 9000 section 3.5 asks for a reset.
                    let _ = self.quic.send_stream(id).reset(VarInt::from_u32(0));
                    if let Some(stream) = self.streams.get_mut(&id) {
                        self.backlog -= stream.backlog.len();
                        stream.backlog = Vec::new();
                        stream.finishing = true;
                        stream.stopped = true;
                    }
                    self.close_if_done(id);
                }
                Event::Stream(
                    StreamEvent::Opened { dir: Dir::Uni }
                    | StreamEvent::Finished { .. }
                    | StreamEvent::Available { .. },
                )
                | Event::HandshakeDataReady
                | Event::DatagramReceived
                | Event::DatagramsUnblocked => {}
            }
        }
    }

    /// Takes the application's state away; nothing is given to it after this.
    pub(super) fn disconnect(&mut self, application: &mut A, metrics: &ShardMetrics) {
        if let Some(session) = self.session.take() {
            metrics.connections_closed.add(1);
            application.disconnected(session);
        }
        self.streams.clear();
        self.pending = 0;
        self.backlog = 0;
    }

    /// Writes behind what is waiting; what QUIC does not take waits too.
    pub(super) fn write(&mut self, id: StreamId, mut bytes: &[u8]) {
        if self.closed {
            return;
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        // quinn-proto looks at the connection's limit before it looks at the stream, so a stopped stream could be called
        // blocked, and nothing would ever unblock it.
        if stream.stopped {
            return self.close_if_done(id);
        }
        let mut send = self.quic.send_stream(id);
        let mut sent = 0;
        let blocked = loop {
            let from_backlog = sent < stream.backlog.len();
            let next = if from_backlog { &stream.backlog[sent..] } else { bytes };
            if next.is_empty() {
                break false;
            }
            match send.write(next) {
                Ok(taken) if from_backlog => sent += taken,
                Ok(taken) => bytes = &bytes[taken..],
                Err(WriteError::Blocked) => break true,
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                    sent = stream.backlog.len();
                    bytes = &[];
                }
            }
        };
        self.backlog -= sent;
        stream.backlog.drain(..sent);
        if blocked {
            self.backlog += bytes.len();
            stream.backlog.extend_from_slice(bytes);
        }
        self.close_if_done(id);
    }

    /// Takes `count` answers off what the stream owes.
    pub(super) fn answered(&mut self, id: StreamId, count: u32) {
        self.pending = self.pending.saturating_sub(count);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.pending = stream.pending.saturating_sub(count);
            stream.finishing |= stream.ended && stream.pending == 0;
        }
    }

    /// Ends our side of a stream behind what was written.
    pub(super) fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.finishing = true;
        }
        self.close_if_done(id);
    }

    pub(super) fn close(&mut self, now: Instant, code: u32, reason: String) {
        if self.closed {
            return;
        }
        self.closed = true;
        self.streams.clear();
        self.backlog = 0;
        self.pending = 0;
        self.quic.close(now, VarInt::from_u32(code), Bytes::from(reason));
    }

    fn read(&mut self, id: StreamId, application: &mut A, turn: &mut Turn<'_>) {
        let (Some(session), Some(stream)) = (&mut self.session, self.streams.get_mut(&id)) else { return };
        let mut receive = self.quic.recv_stream(id);
        let Ok(mut chunks) = receive.read(true) else { return };
        let key = StreamKey { connection: self.key, id };
        loop {
            let pending = Pending { connection: &mut self.pending, stream: &mut stream.pending };
            let arrival = Arrival { key, session, stream: &mut stream.state, pending };
            match chunks.next(CHUNK) {
                Ok(Some(chunk)) => application.received(arrival, &chunk.bytes, turn),
                Ok(None) => {
                    stream.ended = true;
                    let pending = Pending { connection: &mut self.pending, stream: &mut stream.pending };
                    let arrival = Arrival { key, session, stream: &mut stream.state, pending };
                    application.ended(arrival, turn);
                    if stream.pending == 0 {
                        // Through the outbox, because what was answered in this turn is still in there.
                        turn.outbox.finish(key);
                    }
                    break;
                }
                Err(ReadError::Blocked) => break,
                Err(ReadError::Reset(_)) => {
                    stream.ended = true;
                    application.reset(arrival, turn);
                    if stream.pending == 0 {
                        turn.outbox.finish(key);
                    }
                    break;
                }
            }
        }
        // A window update, if one is due, goes out with the transmit that ends the turn.
        let _ = chunks.finalize();
    }

    /// Ends our side if that was asked for and nothing waits; forgets the stream if the caller has ended its side too.
    fn close_if_done(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        if !stream.finishing || !stream.backlog.is_empty() {
            return;
        }
        match self.quic.send_stream(id).finish() {
            Ok(()) | Err(FinishError::Stopped(_) | FinishError::ClosedStream) => {}
        }
        if stream.ended {
            self.streams.remove(&id);
        }
    }
}

/// Stream ids are small consecutive numbers, and no peer may have more than its limit of them open.
#[derive(Default)]
struct StreamIdHasher(u64);

impl Hasher for StreamIdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
