//! A group of shards on one address: starts the threads, hands letters to them, stops them.

use crate::metrics::ShardMetrics;
use crate::quic::{QuicError, QuicLimits, TlsIdentity, settings};
use crate::shard::inbox::{Inbox, Letter};
use crate::shard::{Application, Shard, ShardConfig};
use crate::steering::MAX_SHARDS;
use crate::transport::ring::RingLimits;
use crate::transport::socket::{ListenError, bind_group};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// What a group of shards is made of.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The cores, one shard on each.
    pub cpus: Vec<usize>,
    /// How long a shard polls after its last work before it parks; `None`: it never parks.
    pub spin: Option<Duration>,
    /// What each connection may use.
    pub quic: QuicLimits,
    /// Connections of one shard at a time.
    pub max_connections: usize,
    /// Bytes of answers that may wait for one slow reader.
    pub max_backlog: usize,
    /// The ring's memory, of each shard.
    pub ring: RingLimits,
    /// How long a drain waits for callers, at most.
    pub drain_timeout: Duration,
}

/// Why a group of shards did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Not a number of shards there can be.
    #[error("{0} shards asked for; there can be 1 to {MAX_SHARDS}")]
    Shards(usize),
    /// The address is not to be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// TLS or QUIC settings.
    #[error(transparent)]
    Quic(#[from] QuicError),
    /// A shard's thread or ring.
    #[error(
        "shard {shard} on core {cpu}: {reason}; a shard needs Linux 6.1 or later, io_uring permitted \
         (kernel.io_uring_disabled=0), the core in the process's cpu set, and 512 KiB of locked memory (ulimit -l)"
    )]
    Shard {
        /// Which shard.
        shard: usize,
        /// Its core.
        cpu: usize,
        /// What failed.
        reason: String,
    },
}

/// A running group of shards.
#[derive(Debug)]
pub struct Server<M> {
    address: SocketAddr,
    inboxes: Vec<Arc<Inbox<M>>>,
    metrics: Vec<Arc<ShardMetrics>>,
    threads: Vec<(usize, ExecutorJoinHandle<io::Result<()>>)>,
    stopped: Arc<AtomicUsize>,
}

/// Counts a shard that has stopped, in whatever way.
struct StopCount(Arc<AtomicUsize>);

impl Drop for StopCount {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// Glommio's own rings carry nothing but the wake-up of a parked shard.
const EXECUTOR_MEMORY: usize = 64 << 10;

impl<M> Server<M> {
    /// Binds the sockets, starts one pinned thread for each core, and returns once every shard serves.
    /// `applications` makes each shard's application on the shard's own thread.
    ///
    /// # Errors
    /// See [`ServerError`]; nothing is left running.
    pub fn start<A, F>(
        config: &ServerConfig,
        identity: &TlsIdentity,
        alpn: &[u8],
        inboxes: Vec<Arc<Inbox<M>>>,
        metrics: Vec<Arc<ShardMetrics>>,
        applications: Vec<F>,
    ) -> Result<Self, ServerError>
    where
        M: Send + 'static,
        A: Application<Message = M>,
        F: FnOnce() -> A + Send + 'static,
    {
        let shards = config.cpus.len();
        if shards == 0 || shards > MAX_SHARDS {
            return Err(ServerError::Shards(shards));
        }
        assert!(inboxes.len() == shards && metrics.len() == shards && applications.len() == shards);
        let (endpoint_config, server_config) = settings(identity, alpn, &config.quic)?;
        let server_config = Arc::new(server_config);
        let sockets = bind_group(config.listen, shards)?;
        let address = sockets[0].local_addr().map_err(|error| ServerError::Shard {
            shard: 0,
            cpu: config.cpus[0],
            reason: error.to_string(),
        })?;
        let stopped = Arc::new(AtomicUsize::new(0));
        let mut server = Self { address, inboxes, metrics, threads: Vec::with_capacity(shards), stopped };
        for (index, (socket, application)) in sockets.into_iter().zip(applications).enumerate() {
            let cpu = config.cpus[index];
            let fail = |reason: String| ServerError::Shard { shard: index, cpu, reason };
            let shard_config = ShardConfig {
                index: index as u8,
                max_connections: config.max_connections,
                max_backlog: config.max_backlog,
                spin: config.spin,
                ring: config.ring,
                drain_timeout: config.drain_timeout,
            };
            let (endpoint_config, server_config) = (endpoint_config.clone(), Arc::clone(&server_config));
            let (inbox, metrics) = (Arc::clone(&server.inboxes[index]), Arc::clone(&server.metrics[index]));
            let (ready, started) = mpsc::channel();
            let stop_count = StopCount(Arc::clone(&server.stopped));
            let thread = LocalExecutorBuilder::new(Placement::Fixed(cpu))
                .name(&format!("shard-{index}"))
                .io_memory(EXECUTOR_MEMORY)
                .ring_depth(16)
                .spawn(move || async move {
                    let _stop_count = stop_count;
                    let made = Shard::new(
                        shard_config,
                        socket,
                        &endpoint_config,
                        server_config,
                        inbox,
                        metrics,
                        application(),
                    );
                    let (shard, outcome) = match made {
                        Ok(shard) => (Some(shard), Ok(())),
                        Err(error) => (None, Err(error)),
                    };
                    // The starter waits for this, so it is there.
                    let _ = ready.send(outcome);
                    match shard {
                        Some(shard) => shard.run().await,
                        None => Ok(()),
                    }
                });
            let outcome = match thread {
                Ok(thread) => {
                    server.threads.push((cpu, thread));
                    match started.recv() {
                        Ok(Ok(())) => Ok(()),
                        Ok(Err(error)) => Err(fail(error.to_string())),
                        Err(_) => Err(fail("its thread ended before it served".to_owned())),
                    }
                }
                Err(error) => Err(fail(error.to_string())),
            };
            // On an error the server is dropped, and takes the shards before this one with it.
            outcome?;
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the shards count.
    pub fn metrics(&self) -> &[Arc<ShardMetrics>] {
        &self.metrics
    }

    /// How many shards have stopped: a drain stops all of them, a fault one.
    pub fn stopped(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.stopped)
    }

    /// Tells every shard to finish what it has and stop.
    pub fn drain(&self) {
        for inbox in &self.inboxes {
            let mut letter = Letter::Drain;
            // A full inbox is being emptied by its shard at this moment, unless that has stopped.
            while let Err(back) = inbox.send(letter) {
                if self.stopped.load(Ordering::Acquire) > 0 {
                    break;
                }
                letter = back;
                std::thread::yield_now();
            }
        }
    }

    /// Waits until every shard has stopped.
    ///
    /// # Errors
    /// The first shard that failed.
    pub fn join(mut self) -> Result<(), ServerError> {
        self.join_threads()
    }

    fn join_threads(&mut self) -> Result<(), ServerError> {
        let mut result = Ok(());
        for (shard, (cpu, thread)) in self.threads.drain(..).enumerate() {
            let reason = match thread.join() {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            result = result.and(Err(ServerError::Shard { shard, cpu, reason }));
        }
        result
    }
}

impl<M> Drop for Server<M> {
    /// Nothing is left running, whichever way the server goes.
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.drain();
            // Whoever wanted to know how they ended has called `join`.
            let _ = self.join_threads();
        }
    }
}
