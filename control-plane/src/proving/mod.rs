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
//! | `workbench` | models, their circuits and keys |
//! | `events` | the log as the services use it |
//! | `queue`, `dispatch` | what is to be proven and who has it; the thread that hands it out and keeps what comes back |
//! | `attempt`, `prover` | proving one request; the prover within the node |
//! | `docket` | what one verifier has to judge, and where its verdicts go |
//! | `judge`, `verifier` | judging proofs; the verifier within the node |
//! | `desk` | who waits for proofs |
//! | `threads` | starting a service, and learning that it broke |
//!
//! A prover that is behind makes the node refuse requests of mode `zk` once [`ZkSettings::max_pending`] wait; the others
//! are not touched. Threads have a low priority and stay off the shards' cores where there are other cores.

mod attempt;
mod desk;
mod dispatch;
mod docket;
mod events;
mod judge;
mod prover;
mod queue;
mod store;
mod threads;
mod verifier;
mod workbench;

use crate::proving::desk::{Counter, DeskThread, Wait};
use crate::proving::dispatch::{Dispatch, Dispatcher, Workers};
use crate::proving::docket::{Docket, Registrar};
use crate::proving::events::{EventLog, LogView};
use crate::proving::judge::Judge;
use crate::proving::prover::ProverThread;
use crate::proving::store::Store;
use crate::proving::threads::{Broken, spawn, spawn_with_pool};
use crate::proving::verifier::VerifierThread;
use crate::proving::workbench::{Models, Workbench};
use crossbeam_channel::{Receiver, Sender, bounded};
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
    pub disagreements: AtomicU64,
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
        let shards = node.cpus().to_vec();
        let handle = node.log();
        let stopping = Arc::new(AtomicBool::new(false));
        let view = LogView::new(handle.clone(), Arc::clone(&stopping));
        let appender =
            node.take_event_appender().expect("a node that was started with a prover keeps an appender");
        let log = EventLog::new(view.clone(), appender);
        let metrics = Arc::new(ProofMetrics::default());
        let broken = Broken::default();
        let (recorded, has_recorded) = bounded(1);
        let (judged, has_judged) = bounded(1);
        let (opened, has_opened) = bounded(1);
        let (stored, until) =
            (self.store.proved_until().map_err(|source| self.store_error(source))?, node.openings_at_start());
        // A log that was begun anew has openings before the cursor of the one before.
        let from = if stored <= until { stored } else { OpeningPosition::default() };
        self.backlog.resume(left_over(&handle, from, until));

        let threads = match self.settings.prover_threads {
            0 => spare_cores(&shards),
            threads => threads,
        };
        let (models, max) = (self.models(), self.settings.max_constraints);
        let (keys, store, backlog, key) = (self.dir.join("keys"), self.store, self.backlog, self.key);
        let (workers, said) = Workers::new();
        let first = key.public();
        let registrar = Arc::new(Registrar {
            log: log.clone(),
            store: Arc::clone(&store),
            metrics: Arc::clone(&metrics),
            panel: vec![first],
            keep: MAX_KEPT,
            judged,
        });
        let mut running = Running { stopping, threads: Vec::new(), broken: broken.clone(), metrics, backlog };
        let dispatcher = Dispatcher {
            log,
            store: Arc::clone(&store),
            backlog: Arc::clone(&running.backlog),
            metrics: Arc::clone(&running.metrics),
            patience: PATIENCE,
            said,
            opened: has_opened,
            announced: self.announced,
            recorded,
            state: Dispatch::new(from),
        };
        let watch = view.clone();
        let desk = DeskThread {
            log: view.clone(),
            store,
            verifier: first,
            asked: self.asked,
            judged: has_judged,
            waits: Vec::new(),
        };
        running.start(spawn("dispatcher", shards.clone(), &broken, || dispatcher.run()))?;
        running.start(spawn("openings", shards.clone(), &broken, move || watch.watch_openings(&opened)))?;
        running.start(spawn("proof-desk", shards.clone(), &broken, || desk.run()))?;
        let (worker, log) = (workers.join(true), view.clone());
        let workbench = Workbench::new(models.clone(), &keys, max);
        running.start(spawn_with_pool("prover", shards.clone(), threads, &broken, |pool| {
            ProverThread { worker, log, workbench, pool }.run();
        }))?;
        let (judge, metrics) = (Judge::new(models), Arc::clone(&running.metrics));
        let docket = Docket::new(Arc::clone(&registrar), first);
        running.start(spawn_with_pool("verifier", shards, 1, &broken, move |pool| {
            let (log, recorded) = (view, has_recorded);
            VerifierThread { docket, judge, key, pool, log, metrics, recorded }.run();
        }))?;
        Ok(running)
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

/// Cores without a shard; at least one.
fn spare_cores(shards: &[usize]) -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(shards.len()).max(1))
}

/// Models whose keys are to be made ahead.
const MAX_ANNOUNCED: usize = 64;
/// What a proof is thought to take before one was made.
const FIRST_PACE: Duration = Duration::from_millis(500);
const READ_AHEAD: usize = 4 << 20;
/// How long a prover has for one proof. Of the largest circuit that is proven a key takes minutes on one core.
const PATIENCE: Duration = Duration::from_secs(600);
/// Openings that are kept for verifiers that are behind.
const MAX_KEPT: u64 = 65_536;
