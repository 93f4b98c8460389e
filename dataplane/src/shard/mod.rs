//! A shard: one pinned thread that owns one ring, one socket, one QUIC endpoint and its connections.
//!
//! **Owner**: the shard's glommio executor runs [`Shard::run`] as its one I/O task. Nothing in here is shared: other
//! threads post to the shard's [`inbox`].
//!
//! **A turn**: take what the ring has, let QUIC digest it, give the application what it received, let the application
//! run its batches, write the answers, send. The shard polls while there is work and for a while after, then parks.
//!
//! **Never** on this thread: a lock, a file, a name look-up, a log line per request.
//!
//! What is done with the bytes is the [`Application`]'s: inference in this crate, an echo in the benchmarks.

mod application;
mod connection;
mod deadlines;
mod endpoint;
pub mod inbox;
mod outbox;

pub use application::{Application, Arrival, Pending, Turn};
pub use outbox::{ConnectionKey, Outbox, StreamKey};

use crate::metrics::ShardMetrics;
use crate::transport::ring::{Ring, RingLimits};
use endpoint::ShardEndpoint;
use inbox::{Inbox, Letter};
use quinn_proto::{EndpointConfig, ServerConfig};
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Turns between two looks at the executor's other tasks. A look costs about 100 ns, a turn with work some
/// microseconds.
const TURNS_PER_YIELD: u32 = 64;

/// A drain ends once nothing has arrived for this long: longer than a caller may delay its last acknowledgement
/// (25 ms, RFC 9000 section 18.2).
const DRAIN_QUIET: Duration = Duration::from_millis(60);

/// What a shard is made of.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    /// The shard's number.
    pub index: u8,
    /// Connections at a time; more are refused.
    pub max_connections: usize,
    /// Bytes of answers that may wait for one slow reader before its connection is closed.
    pub max_backlog: usize,
    /// How long to poll after the last work before parking; `None`: for ever.
    pub spin: Option<Duration>,
    /// The ring's memory.
    pub ring: RingLimits,
    /// How long a drain waits for callers to take their last answers, at most.
    pub drain_timeout: Duration,
}

/// One shard; see the module's text.
pub struct Shard<A: Application> {
    config: ShardConfig,
    ring: Ring,
    inbox: Arc<Inbox<A::Message>>,
    endpoint: ShardEndpoint<A>,
    metrics: Arc<ShardMetrics>,
    /// When the drain began.
    draining: Option<Instant>,
}

impl<A: Application> Shard<A> {
    /// A shard on `socket`. To be made on the thread that will run it: the ring belongs to one thread.
    ///
    /// # Errors
    /// If the kernel refuses the ring.
    pub fn new(
        config: ShardConfig,
        socket: UdpSocket,
        endpoint_config: &EndpointConfig,
        server_config: Arc<ServerConfig>,
        inbox: Arc<Inbox<A::Message>>,
        metrics: Arc<ShardMetrics>,
        application: A,
    ) -> io::Result<Self> {
        let ring = Ring::new(socket, inbox.listen()?, config.ring)?;
        let endpoint =
            ShardEndpoint::new(&config, endpoint_config, server_config, Arc::clone(&metrics), application);
        Ok(Self { config, ring, inbox, endpoint, metrics, draining: None })
    }

    /// Serves until the shard has drained.
    ///
    /// # Errors
    /// If the ring fails; nothing a peer sends leads there.
    pub async fn run(mut self) -> io::Result<()> {
        let mut now = Instant::now();
        let mut last_work = now;
        let mut turns = 0u32;
        loop {
            let idle = self.turn(&mut now)?;
            if !idle {
                last_work = now;
            }
            if self.has_drained(now, last_work) {
                return self.part(now).await;
            }
            turns = turns.wrapping_add(1);
            if idle && self.config.spin.is_some_and(|spin| now.duration_since(last_work) >= spin) {
                self.metrics.parks.add(1);
                self.ring.park(self.next_deadline(last_work), now).await?;
                now = Instant::now();
            } else if turns.is_multiple_of(TURNS_PER_YIELD) {
                glommio::executor().yield_task_queue_now().await;
            } else if idle {
                std::hint::spin_loop();
            }
        }
    }

    /// One turn; says whether there was nothing to do. Moves `now` on.
    fn turn(&mut self, now: &mut Instant) -> io::Result<bool> {
        let mut read_at = None;
        let endpoint = &mut self.endpoint;
        let turn = self.ring.turn(|datagram| {
            // The clock is read when the first packet of the turn is, and stands still for the rest of it.
            let now = *read_at.get_or_insert_with(Instant::now);
            endpoint.receive(now, &datagram);
        })?;
        *now = read_at.unwrap_or_else(Instant::now);
        self.metrics.send_errors.add(turn.send_errors);
        self.metrics.receive_buffers_exhausted.add(turn.no_buffers);
        if turn.inbox {
            self.read_inbox(*now);
        }
        let worked = self.endpoint.work(*now);
        let sent = self.endpoint.transmit(*now, &mut self.ring);
        if worked || turn.inbox {
            self.ring.submit()?;
            self.endpoint.after_transmit();
        }
        Ok(turn.is_idle() && !worked && !sent)
    }

    fn read_inbox(&mut self, now: Instant) {
        while let Some(letter) = self.inbox.take() {
            match letter {
                Letter::Application(message) => self.endpoint.message(now, message),
                Letter::Drain if self.draining.is_some() => {}
                Letter::Drain => {
                    self.draining = Some(now);
                    self.endpoint.drain();
                }
            }
        }
    }

    fn next_deadline(&self, last_work: Instant) -> Option<Instant> {
        let drain =
            self.draining.map(|since| (last_work + DRAIN_QUIET).min(since + self.config.drain_timeout));
        [self.endpoint.next_deadline(), drain].into_iter().flatten().min()
    }

    fn has_drained(&self, now: Instant, last_work: Instant) -> bool {
        let Some(since) = self.draining else { return false };
        let quiet = self.endpoint.owes_nothing() && now.duration_since(last_work) >= DRAIN_QUIET;
        let nobody = self.endpoint.is_empty();
        nobody || quiet || now.duration_since(since) >= self.config.drain_timeout
    }

    /// Closes every connection, lets the last packets leave, and gives the ring back.
    async fn part(mut self, now: Instant) -> io::Result<()> {
        self.endpoint.close_all(now);
        // Nothing of a peer can keep these turns from ending: each sends what is there and waits for the kernel only.
        while self.endpoint.transmit(now, &mut self.ring) || self.ring.sends_in_flight() > 0 {
            self.ring.turn(|_| {})?;
        }
        self.ring.close().await
    }
}
