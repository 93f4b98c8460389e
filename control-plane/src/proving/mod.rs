//! Mode `zk` after the answer: proving, verifying, and telling who waits.
//!
//! ```text
//! shard ─► log: leaf + opening ─► prover ─► store ─► log: proof ─► verifier ─► store ─► log: verdict ─► desk ─► shard
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `store` | what became of each request, on disk |
//! | `workbench` | models, their circuits and keys |
//! | `events` | the log as the services use it |
//! | `prover`, `verifier`, `desk` | the services, a thread each |
//!
//! A prover that is behind makes the node refuse requests of mode `zk` once [`ZkSettings::max_pending`] wait; the others
//! are not touched. Its threads have a low priority and stay off the shards' cores where there are other cores.

mod desk;
mod events;
mod prover;
mod store;
mod verifier;
mod workbench;

use crate::proving::desk::{Counter, DeskThread, Wait};
use crate::proving::events::{EventLog, LogView};
use crate::proving::prover::ProverThread;
use crate::proving::store::Store;
use crate::proving::verifier::VerifierThread;
use crate::proving::workbench::{Models, Workbench};
use crossbeam_channel::{Receiver, Sender, bounded};
use haca_dataplane::background;
use haca_dataplane::config::ZkSettings;
use haca_dataplane::keys::{self, KeyError};
use haca_dataplane::{Backlog, Node, Proving};
use haca_settle::{LogHandle, OpeningPosition};
use haca_wire::ModelId;
use haca_wire::event::VerifierKey;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

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
    /// What proofs took together, in nanoseconds.
    pub prove_nanos: AtomicU64,
    /// What checking them took together, in nanoseconds.
    pub verify_nanos: AtomicU64,
    /// When the request that is being proven was read, in nanoseconds since 1970-01-01 UTC; zero: none is.
    pub oldest: AtomicU64,
}

/// Prover and verifier of one data directory, before the node is there.
pub struct Services {
    dir: PathBuf,
    settings: ZkSettings,
    store: Arc<Store>,
    key: VerifierKey,
    backlog: Arc<Backlog>,
    counter: Counter,
    asked: Receiver<Wait>,
    announce: Sender<ModelId>,
    announced: Receiver<ModelId>,
}

impl Services {
    /// Opens what they keep under `data`.
    ///
    /// # Errors
    /// If it cannot be read or made.
    pub fn open(data: &Path, settings: &ZkSettings) -> Result<Self, ProvingError> {
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
            dir,
            settings: settings.clone(),
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
                let admit = || workbench::circuit(model, max).and_then(|_| models.keep(&id, file));
                let admitted = catch_unwind(AssertUnwindSafe(admit));
                let admitted = admitted.map_err(|_| "its circuit cannot be written; see the node's log")?;
                admitted.map_err(|error| {
                    tracing::warn!(model = %id, %error, "served without mode zk");
                    error.to_caller()
                })?;
                // Full: its key is made with its first proof.
                let _ = announce.try_send(id);
                Ok(())
            }),
            ask: Arc::new(move |ids, reply| counter.ask(ids, reply)),
            backlog: Arc::clone(&self.backlog),
            verifier: self.key.public(),
        }
    }

    /// Starts them on the log of the node that was started with [`Services::proving`].
    ///
    /// # Errors
    /// If the store does not read or no thread can be started.
    ///
    /// # Panics
    /// If the node was not started so, or its appenders were taken before.
    pub fn start(self, node: &mut Node) -> Result<Running, ProvingError> {
        let appenders = node.take_event_appenders();
        let [for_prover, for_verifier] =
            <[_; 2]>::try_from(appenders).expect("a node that was started with a prover keeps two appenders");
        let shards = node.cpus().to_vec();
        let handle = node.log();
        let stopping = Arc::new(AtomicBool::new(false));
        let view = || LogView::new(handle.clone(), Arc::clone(&stopping));
        let metrics = Arc::new(ProofMetrics::default());
        let (recorded, has_recorded) = bounded(1);
        let (judged, has_judged) = bounded(1);
        let (stored, until) =
            (self.store.proved_until().map_err(|source| self.store_error(source))?, node.openings_at_start());
        // A log that was begun anew has openings before the cursor of the one before.
        let from = if stored <= until { stored } else { OpeningPosition::default() };
        self.backlog.resume(left_over(&handle, from, until));

        let threads = match self.settings.prover_threads {
            0 => spare_cores(&shards),
            threads => threads,
        };
        let models = self.models();
        let max = self.settings.max_constraints;
        let (keys, store, backlog) = (self.dir.join("keys"), self.store, self.backlog);
        let prover = {
            let log = EventLog::new(view(), for_prover);
            let (store, backlog, metrics) = (Arc::clone(&store), Arc::clone(&backlog), Arc::clone(&metrics));
            let workbench = Workbench::new(models.clone(), &keys, max);
            let announced = self.announced;
            spawn_with_pool("prover", shards.clone(), threads, move |pool| {
                ProverThread { at: from, log, store, workbench, pool, backlog, metrics, announced, recorded }
                    .run();
            })?
        };
        let verifier = {
            let log = EventLog::new(view(), for_verifier);
            let (store, metrics, key) = (Arc::clone(&store), Arc::clone(&metrics), self.key);
            let (recorded, known) = (has_recorded, verifier::Known::default());
            spawn_with_pool("verifier", shards.clone(), 1, move |pool| {
                VerifierThread { log, store, models, key, pool, metrics, recorded, judged, known }.run();
            })?
        };
        let desk = {
            let log = view();
            let (asked, judged) = (self.asked, has_judged);
            spawn("proof-desk", shards, move || {
                DeskThread { log, store, asked, judged, waits: Vec::new() }.run();
            })?
        };
        Ok(Running { stopping, threads: vec![prover, verifier, desk], metrics, backlog })
    }

    fn store_error(&self, source: StoreError) -> ProvingError {
        ProvingError::Store { path: self.dir.join("store"), source }
    }
}

/// Prover and verifier at work. To be stopped before the node is.
pub struct Running {
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    metrics: Arc<ProofMetrics>,
    backlog: Arc<Backlog>,
}

impl Running {
    /// What they count.
    pub fn metrics(&self) -> Arc<ProofMetrics> {
        Arc::clone(&self.metrics)
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
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a service of mode zk panicked");
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Openings that an earlier run left: those of this run are counted as they are answered.
fn left_over(log: &LogHandle, from: OpeningPosition, until: OpeningPosition) -> u64 {
    let (mut count, mut at) = (0, from);
    while at < until {
        let openings = match log.openings(at, READ_AHEAD) {
            Ok(openings) => openings,
            Err(error) => {
                // The prover will meet it, and say so until it is mended; the other modes go on.
                tracing::error!(%error, "openings that were left do not read");
                break;
            }
        };
        let Some(last) = openings.last() else { break };
        count += openings.iter().filter(|opening| opening.position < until).count() as u64;
        at = last.next;
    }
    count
}

/// Starts a service's thread, of low priority.
fn spawn(
    service: &'static str,
    shards: Vec<usize>,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, ProvingError> {
    let thread = std::thread::Builder::new().name(service.to_owned()).spawn(move || {
        background::yield_cores(&shards);
        run();
    });
    thread.map_err(|source| ProvingError::Thread { service, source })
}

/// The same with a pool of its own, whose threads inherit the priority.
fn spawn_with_pool(
    service: &'static str,
    shards: Vec<usize>,
    threads: usize,
    run: impl FnOnce(rayon::ThreadPool) + Send + 'static,
) -> Result<JoinHandle<()>, ProvingError> {
    let failed = move |source| ProvingError::Thread { service, source };
    let (ready, is_ready) = bounded(1);
    let thread = spawn(service, shards, move || {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(move |index| format!("{service}-{index}"))
            .build();
        match pool {
            Ok(pool) => {
                let _ = ready.send(Ok(()));
                run(pool);
            }
            Err(error) => drop(ready.send(Err(std::io::Error::other(error)))),
        }
    })?;
    match is_ready.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(source)) => Err(failed(source)),
        Err(gone) => Err(failed(std::io::Error::other(gone))),
    }
}

/// Cores without a shard; at least one.
fn spare_cores(shards: &[usize]) -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(shards.len()).max(1))
}

/// Models whose keys are to be made ahead.
const MAX_ANNOUNCED: usize = 64;
/// What a proof is thought to take before one was made.
const FIRST_PACE: Duration = Duration::from_millis(500);
const READ_AHEAD: usize = 4 << 20;
