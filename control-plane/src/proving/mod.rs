//! Mode `zk` after the answer: proving, verifying, and telling who waits.
//!
//! ```text
//! shard ─► log: leaf + opening ─► dispatcher ◄─► provers
//!                                     └─► store ─► log: proof ─► dockets ◄─► verifiers
//!                                                                  └─► store ─► log: verdict ─► desk ─► shard
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `store` | what became of each request, on disk |
//! | `workbench`, `proving_keys` | models, their circuits and keys |
//! | `events` | the log as the services use it |
//! | `queue`, `dispatch` | what is to be proven and who has it; the thread that hands it out and keeps what comes back |
//! | `workers` | who proves, and what they say to that thread |
//! | `damaged` | going on behind a damaged opening |
//! | `attempt`, `prover` | proving one request; the prover within the node |
//! | `docket` | what one verifier has to judge, and where its verdicts go |
//! | `judge`, `verifier` | judging proofs; the verifier within the node |
//! | `desk` | who waits for proofs |
//! | `apart` | provers and verifiers in other processes |
//! | `start` | which services a node has |
//! | `threads` | starting a service, and learning that it broke |
//!
//! A prover that is behind makes the node refuse requests of mode `zk` once [`ZkSettings::max_pending`] wait; the others
//! are not touched. Threads have a low priority and stay off the shards' cores where there are other cores.

pub mod apart;
mod attempt;
mod damaged;
mod desk;
mod dispatch;
mod docket;
mod events;
mod judge;
mod prover;
mod proving_keys;
mod queue;
mod start;
mod store;
mod threads;
mod verifier;
mod workbench;
mod workers;

use crate::proving::apart::Served;
use crate::proving::desk::{Counter, Wait};
use crate::proving::queue::Announced;
use crate::proving::store::Store;
use crate::proving::threads::Broken;
use crate::proving::workbench::Models;
use crossbeam_channel::{Receiver, Sender, bounded};
use haca_dataplane::config::{Config, Place, ZkSettings};
use haca_dataplane::keys::{self, KeyError};
use haca_dataplane::{Admitted, Backlog, Proving};
use haca_wire::event::VerifierKey;
use haca_wire::{Digest, ModelId};
use std::net::{SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

pub use store::StoreError;
pub use workbench::WorkbenchError;

/// Why mode `zk` is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ProvingError {
    /// The store of proofs.
    #[error("{path}: {source}")]
    Store {
        /// Its folder.
        path: PathBuf,
        /// What is wrong.
        source: StoreError,
    },
    /// The verifier's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The address for services that run apart is not to be had.
    #[error("{address} (zk.services): {source}; give another address, or none")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A thread cannot be started.
    #[error("no thread for {service}: {source}")]
    Thread {
        /// Whose.
        service: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What prover and verifier count.
#[derive(Debug, Default)]
#[allow(missing_docs)] // Where they are exported, each has a line of explanation.
pub struct ProofMetrics {
    pub proved: AtomicU64,
    pub failed: AtomicU64,
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
    /// Openings that were damaged on disk.
    pub damaged: AtomicU64,
    pub disagreements: AtomicU64,
    /// Proofs of provers that run apart which did not hold.
    pub rejected: AtomicU64,
    /// Proofs whose openings were gone when a verifier came to them.
    pub missed: AtomicU64,
    /// What proofs took together, in nanoseconds.
    pub prove_nanos: AtomicU64,
    /// What checking them took together, in nanoseconds.
    pub verify_nanos: AtomicU64,
    /// When the oldest request that is not proven was read, in nanoseconds since 1970-01-01 UTC; zero: none is.
    pub oldest: AtomicU64,
}

/// Prover and verifier of one data directory, before the node is there.
pub struct Services {
    data: PathBuf,
    dir: PathBuf,
    settings: ZkSettings,
    max_model_bytes: u64,
    /// Where services that run apart connect.
    socket: Option<(UdpSocket, SocketAddr)>,
    store: Arc<Store>,
    key: VerifierKey,
    backlog: Arc<Backlog>,
    counter: Counter,
    asked: Receiver<Wait>,
    announce: Sender<Announced>,
    announced: Receiver<Announced>,
}

impl Services {
    /// Opens what they keep under `data`.
    ///
    /// # Errors
    /// If it cannot be read or made.
    pub fn open(data: &Path, config: &Config) -> Result<Self, ProvingError> {
        let settings = &config.zk;
        let bind = |address| apart::bind(address).map_err(|source| ProvingError::Bind { address, source });
        let socket = settings.services.map(bind).transpose()?;
        let dir = data.join("zk");
        std::fs::create_dir_all(&dir).map_err(|source| ProvingError::Store {
            path: dir.clone(),
            source: StoreError::Store(source.into()),
        })?;
        let path = dir.join("store");
        let store = Store::open(&path).map_err(|source| ProvingError::Store { path, source })?;
        let key = VerifierKey::from_seed(&*keys::seed(&data.join("verifier.key"))?);
        let (counter, asked) = Counter::new();
        let (announce, announced) = bounded(MAX_ANNOUNCED);
        Ok(Self {
            data: data.to_owned(),
            dir,
            settings: settings.clone(),
            max_model_bytes: config.max_model_bytes,
            socket,
            store: Arc::new(store),
            key,
            backlog: Arc::new(Backlog::new(settings.max_pending, FIRST_PACE)),
            counter,
            asked,
            announce,
            announced,
        })
    }

    fn models(&self) -> Models {
        Models::new(self.dir.join("models"))
    }

    /// What the node is started with.
    pub fn proving(&self) -> Proving {
        let (models, announce, max) = (self.models(), self.announce.clone(), self.settings.max_constraints);
        let counter = self.counter.clone();
        Proving {
            admit: Arc::new(move |model, file| {
                let id = ModelId(model.id());
                let admit = || models.admit(model, file, max);
                let admitted = catch_unwind(AssertUnwindSafe(admit));
                let admitted = admitted.map_err(|_| "its circuit cannot be written; see the node's log")?;
                let sealed_refused = admitted.map_err(|error| {
                    tracing::warn!(model = %id, %error, "served without mode zk");
                    error.to_caller()
                })?;
                // Full: its keys are made with its first proofs.
                let _ = announce.try_send(Announced { model: id, sealed: sealed_refused.is_none() });
                Ok(Admitted { sealed_refused: sealed_refused.map(|error| error.to_caller()) })
            }),
            ask: Arc::new(move |ids, reply| counter.ask(ids, reply)),
            backlog: Arc::clone(&self.backlog),
            verifier: self.first_verifier(),
            services: self.socket.as_ref().map(|(_, address)| *address),
        }
    }

    /// Whose verdicts callers are given.
    fn first_verifier(&self) -> Digest {
        match self.settings.verifier {
            Place::Within => self.key.public(),
            Place::Apart => self.settings.verifiers.first().copied().unwrap_or_default(),
        }
    }

    fn store_error(&self, source: StoreError) -> ProvingError {
        ProvingError::Store { path: self.dir.join("store"), source }
    }
}

/// Prover and verifier at work. To be stopped before the node is.
pub struct Running {
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    broken: Broken,
    metrics: Arc<ProofMetrics>,
    backlog: Arc<Backlog>,
    served: Vec<Arc<Served>>,
    /// Ends the sessions of services that run apart.
    end_sessions: Option<oneshot::Sender<()>>,
}

impl Running {
    /// Adds a thread. If it did not start, the drop of this ends the others.
    fn start(&mut self, thread: Result<JoinHandle<()>, ProvingError>) -> Result<(), ProvingError> {
        self.threads.push(thread?);
        Ok(())
    }

    /// Says which service broke, if one has.
    pub fn broken(&self) -> impl Fn() -> Option<&'static str> + use<> {
        let broken = self.broken.clone();
        move || broken.service()
    }

    /// What they count.
    pub fn metrics(&self) -> Arc<ProofMetrics> {
        Arc::clone(&self.metrics)
    }

    /// The services that run apart and are let in.
    pub fn served(&self) -> &[Arc<Served>] {
        &self.served
    }

    /// How far the prover is behind.
    pub fn backlog(&self) -> Arc<Backlog> {
        Arc::clone(&self.backlog)
    }

    /// Stops them after the proof that is being made. What is not proven is when they start again.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        self.stopping.store(true, Relaxed);
        self.end_sessions = None;
        for thread in self.threads.drain(..) {
            // Its panic was told when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Models whose keys are to be made ahead.
const MAX_ANNOUNCED: usize = 64;
/// What a proof is thought to take before one was made.
const FIRST_PACE: Duration = Duration::from_millis(500);
