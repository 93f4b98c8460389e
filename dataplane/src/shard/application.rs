//! What a shard does with the bytes of a stream: the seam between transport and purpose.

use super::outbox::{ConnectionKey, Outbox, StreamKey};
use std::net::SocketAddr;
use std::time::Instant;

/// The purpose of a shard. One value per shard, on the shard's thread; its methods must not block.
pub trait Application: Sized + 'static {
    /// What it keeps of a connection.
    type Session;
    /// What it keeps of a stream. Streams may be as many as requests, so this should be small.
    type Stream;
    /// What other threads tell it.
    type Message: Send + 'static;

    /// A connection was established.
    fn connected(&mut self, connection: ConnectionKey, remote: SocketAddr) -> Self::Session;

    /// The caller opened a stream.
    fn opened(&mut self) -> Self::Stream;

    /// Bytes arrived on a stream, in order.
    fn received(&mut self, arrival: Arrival<'_, Self>, bytes: &[u8], turn: &mut Turn<'_>);

    /// The caller has ended its side of the stream; nothing more will be received on it. The shard ends its own side
    /// once every expected answer has been written.
    fn ended(&mut self, arrival: Arrival<'_, Self>, turn: &mut Turn<'_>);

    /// The caller took back the rest of the stream. What it asked for before that is still answered.
    fn reset(&mut self, arrival: Arrival<'_, Self>, turn: &mut Turn<'_>);

    /// The connection is gone; answers to it are discarded from now on.
    fn disconnected(&mut self, session: Self::Session);

    /// Another thread had something to say.
    fn message(&mut self, message: Self::Message, turn: &mut Turn<'_>);

    /// Everything that had arrived has been received: run what is ready.
    fn end_of_turn(&mut self, turn: &mut Turn<'_>);

    /// What was written in this turn is with the kernel: the place for what callers need not wait for.
    fn after_transmit(&mut self) {}

    /// When [`end_of_turn`](Self::end_of_turn) must be called even if nothing arrives.
    fn deadline(&self) -> Option<Instant>;

    /// The node is shutting down: refuse what comes from now on, finish what is there.
    fn drain(&mut self);
}

/// Where bytes arrived.
pub struct Arrival<'a, A: Application> {
    /// The stream, for answers.
    pub key: StreamKey,
    /// The connection's state.
    pub session: &'a mut A::Session,
    /// The stream's state.
    pub stream: &'a mut A::Stream,
    /// What has been asked and not answered.
    pub pending: Pending<'a>,
}

/// Requests without an answer. Each answer written through [`Outbox::answer`] takes one off.
pub struct Pending<'a> {
    pub(super) connection: &'a mut u32,
    pub(super) stream: &'a mut u32,
}

impl Pending<'_> {
    /// One more answer is owed on this stream: it stays open until then.
    pub fn expect_answer(&mut self) {
        *self.connection += 1;
        *self.stream += 1;
    }

    /// Answers owed on the whole connection.
    pub fn on_connection(&self) -> u32 {
        *self.connection
    }
}

/// One turn of the shard, as the application sees it.
pub struct Turn<'a> {
    /// When what is being handled was read.
    pub now: Instant,
    /// Where answers go.
    pub outbox: &'a mut Outbox,
}
