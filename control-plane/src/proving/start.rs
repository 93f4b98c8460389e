//! Which services a node has, and how they are joined.

use super::apart::{Admission, Desk, Listener};
use super::damaged;
use super::desk::DeskThread;
use super::dispatch::{Dispatch, Dispatcher};
use super::docket::{Docket, Registrar};
use super::events::{EventLog, LogView};
use super::judge::Judge;
use super::prover::ProverThread;
use super::threads::{Broken, spawn, spawn_with_pool};
use super::verifier::VerifierThread;
use super::workbench::Workbench;
use super::workers::Workers;
use super::{ProofMetrics, ProvingError, Running, Services};
use crossbeam_channel::bounded;
use haca_dataplane::config::Place;
use haca_dataplane::{Node, keys};
use haca_settle::{LogHandle, OpeningPosition, ReadError};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::oneshot;

impl Services {
    /// Starts them on the log of the node that was started with [`Services::proving`].
    ///
    /// # Errors
    /// If the store does not read or no thread can be started.
    ///
    /// # Panics
    /// If the node was not started so, or its appender was taken before.
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
        if from != stored {
            self.store.set_proved_until(from).map_err(|source| self.store_error(source))?;
        }
        self.backlog.resume(left_over(&handle, from, until, self.settings.skip_damaged_segments));

        let first = self.first_verifier();
        let (models, settings) = (self.models(), &self.settings);
        let others = settings.verifiers.iter().copied().filter(|verifier| *verifier != first);
        let (workers, said) = Workers::new();
        let registrar = Arc::new(Registrar {
            log: log.clone(),
            store: Arc::clone(&self.store),
            metrics: Arc::clone(&metrics),
            panel: [first].into_iter().chain(others).collect(),
            keep: settings.max_unjudged,
            judged,
        });
        let admission = Arc::new(Admission::new(&settings.provers, &settings.verifiers));
        let mut running = Running {
            stopping,
            threads: Vec::new(),
            broken: broken.clone(),
            metrics: Arc::clone(&metrics),
            backlog: Arc::clone(&self.backlog),
            served: admission.served.clone(),
            end_sessions: None,
        };
        let dispatcher = Dispatcher {
            log,
            store: Arc::clone(&self.store),
            backlog: self.backlog,
            metrics: Arc::clone(&metrics),
            patience: Duration::from_secs(settings.prover_patience_s),
            skip_damaged_segments: settings.skip_damaged_segments,
            said,
            opened: has_opened,
            announced: self.announced,
            recorded,
            state: Dispatch::new(from),
        };
        let desk = DeskThread {
            log: view.clone(),
            store: self.store,
            verifier: first,
            asked: self.asked,
            judged: has_judged,
            waits: Vec::new(),
        };
        let watch = view.clone();
        running.start(spawn("dispatcher", shards.clone(), &broken, || dispatcher.run()))?;
        running.start(spawn("openings", shards.clone(), &broken, move || watch.watch_openings(&opened)))?;
        running.start(spawn("proof-desk", shards.clone(), &broken, || desk.run()))?;
        if settings.prover == Place::Within {
            let threads = match settings.prover_threads {
                0 => spare_cores(&shards),
                threads => threads,
            };
            let (worker, log) = (workers.join(true), view.clone());
            let workbench = Workbench::new(models.clone(), &self.dir.join("keys"), settings.max_constraints);
            running.start(spawn_with_pool("prover", shards.clone(), threads, &broken, |pool| {
                ProverThread { worker, log, workbench, pool }.run();
            }))?;
        }
        if settings.verifier == Place::Within {
            let (key, metrics) = (self.key, Arc::clone(&metrics));
            let (docket, judge) = (Docket::new(Arc::clone(&registrar), first), Judge::new(models.clone()));
            running.start(spawn_with_pool("verifier", shards.clone(), 1, &broken, move |pool| {
                let (log, recorded) = (view, has_recorded);
                VerifierThread { docket, judge, key, pool, log, metrics, recorded }.run();
            }))?;
        }
        if let Some((socket, _)) = self.socket {
            let identity = keys::tls(&self.data)?;
            let (end, stop) = oneshot::channel();
            running.end_sessions = Some(end);
            let (node, max_model_bytes) = (node.connect().node_key, self.max_model_bytes);
            let patience = Duration::from_secs(settings.prover_patience_s);
            running.start(spawn_with_pool("services", shards, 1, &broken, move |pool| {
                let desk = Desk {
                    admission,
                    node,
                    workers,
                    registrar,
                    models,
                    max_model_bytes,
                    metrics,
                    patience,
                    pool,
                };
                Listener { socket, identity, desk, stop }.run();
            }))?;
        }
        Ok(running)
    }
}

/// Openings that an earlier run left: those of this run are counted as they are answered.
fn left_over(log: &LogHandle, from: OpeningPosition, until: OpeningPosition, skip_segments: bool) -> u64 {
    let (mut count, mut at) = (0, from);
    while at < until {
        let openings = match log.openings(at, READ_AHEAD) {
            Ok(openings) => openings,
            // Counted as the dispatcher will count it.
            Err(ReadError::DamagedOpening { position, .. })
                if let Ok(Some((_, next))) = damaged::pass(log, OpeningPosition(position), skip_segments) =>
            {
                count += 1;
                at = next;
                continue;
            }
            Err(error) => {
                // The dispatcher will meet it, and say so until it is mended; the other modes go on.
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

const READ_AHEAD: usize = 4 << 20;
