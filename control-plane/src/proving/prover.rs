//! The prover: takes the openings of requests of mode `zk` in the order of the log, proves each, and appends the proof to
//! the log as an event of the request's leaf.
//!
//! Owns one thread, and a pool of its own for the arithmetic, both of low priority and off the shards' cores where there
//! are others. It may be killed at any time: a proof is in the store before its event goes to the log, the event's id
//! follows from the leaf, and the cursor moves only past openings that have a record.

use super::ProofMetrics;
use super::events::EventLog;
use super::store::{Record, State, Store};
use super::workbench::{Workbench, WorkbenchError};
use haca_dataplane::Backlog;
use haca_dataplane::clock::unix_now;
use haca_settle::{Opening as StoredOpening, OpeningPosition, ReadError};
use haca_verifier::zk::{Binding, Proof, ProverError};
use haca_wire::event::{self, ProofEvent};
use haca_wire::opening::Opening;
use haca_wire::{Digest, Leaf, Mode, ModelId};
use rand_core::OsRng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Why an opening is not proven now.
#[derive(Debug, thiserror::Error)]
enum Fault {
    /// Trying again may help.
    #[error(transparent)]
    Log(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] super::store::StoreError),
    #[error(transparent)]
    Bench(WorkbenchError),
    /// The node stops.
    #[error("the prover stops")]
    Stopped,
}

/// Why there will be no proof.
#[derive(Debug, thiserror::Error)]
enum Unprovable {
    #[error(transparent)]
    Bench(#[from] WorkbenchError),
    #[error("its opening is not one of its model's")]
    Opening,
    #[error("the model refuses the row: {0}")]
    Row(String),
    #[error("the circuit gives another output than the node gave")]
    Output,
    #[error(transparent)]
    Prover(#[from] ProverError),
    #[error("the prover panicked; see the node's log")]
    Panicked,
}

impl Unprovable {
    fn to_caller(&self) -> String {
        match self {
            Self::Bench(error) => error.to_caller(),
            other => other.to_string(),
        }
    }
}

/// A proof, with what a verifier needs beside it.
struct Made {
    proof: Proof,
    opening: Opening,
    /// Id and bytes of the verification key.
    key: (Digest, Vec<u8>),
}

pub(super) struct ProverThread {
    /// Openings before this are through; the store may know an earlier place.
    pub(super) at: OpeningPosition,
    pub(super) log: EventLog,
    pub(super) store: Arc<Store>,
    pub(super) workbench: Workbench,
    pub(super) pool: rayon::ThreadPool,
    pub(super) backlog: Arc<Backlog>,
    pub(super) metrics: Arc<ProofMetrics>,
    /// Models that are served: their keys are made before somebody waits for them.
    pub(super) announced: crossbeam_channel::Receiver<ModelId>,
    /// Told when there is a new record.
    pub(super) recorded: crossbeam_channel::Sender<()>,
}

impl ProverThread {
    pub(super) fn run(mut self) {
        while !self.log.is_stopping() {
            if let Err(fault) = self.turn()
                && !matches!(fault, Fault::Stopped)
            {
                tracing::error!(%fault, "nothing is proven now; trying again");
                self.log.sleep(RETRY);
            }
        }
    }

    /// Proves what the log holds after the cursor, as far as one reading goes.
    fn turn(&mut self) -> Result<(), Fault> {
        let openings = self.log.handle.openings(self.at, WINDOW_BYTES)?;
        if openings.is_empty() {
            self.metrics.oldest.store(0, Relaxed);
            if let Ok(model) = self.announced.try_recv() {
                self.make_ready(&model);
                return Ok(());
            }
            self.log.handle.wait_for_openings(self.at, IDLE);
            return Ok(());
        }
        for opening in &openings {
            while let Err(fault) = self.take(opening) {
                if matches!(fault, Fault::Stopped) {
                    return Err(fault);
                }
                // The disk, most likely. The opening has its turn until it is through.
                tracing::error!(%fault, request = %opening.request, "not proven yet; trying again");
                self.log.sleep(RETRY);
            }
            // Once for each opening, also if what follows fails.
            self.at = opening.next;
            self.backlog.leave(1);
        }
        self.store.set_proved_until(self.at)?;
        self.log.handle.release_openings(self.at)?;
        Ok(())
    }

    fn make_ready(&mut self, model: &ModelId) {
        let begun = Instant::now();
        let Self { workbench, pool, .. } = self;
        let ready = || pool.install(|| workbench.get(model).map(|bench| bench.prover.verifying_key().id()));
        match catch_unwind(AssertUnwindSafe(ready)) {
            Ok(Ok(key)) => {
                tracing::info!(%model, %key, seconds = begun.elapsed().as_secs_f64(), "ready to prove");
            }
            Ok(Err(error)) => tracing::error!(%model, %error, "cannot be proven"),
            Err(_) => tracing::error!(%model, "cannot be proven: the prover panicked"),
        }
    }

    /// Sees to it that an opening has a record, if its leaf is in the log.
    fn take(&mut self, opening: &StoredOpening) -> Result<(), Fault> {
        if self.log.is_stopping() {
            return Err(Fault::Stopped);
        }
        let Some(index) = self.log.handle.index_of(&opening.request)? else { return Ok(()) };
        let Some(bytes) = self.log.handle.leaf(index)? else { return Ok(()) };
        let leaf = Leaf::decode(&bytes).ok().filter(|leaf| {
            // The log keeps the first leaf of a request: this may be the opening of another.
            leaf.mode == Mode::Zk && leaf.hash() == opening.leaf_hash
        });
        let Some(leaf) = leaf else { return Ok(()) };
        if self.store.record(&opening.request)?.is_some() {
            return Ok(());
        }
        self.metrics.oldest.store(leaf.received, Relaxed);
        let begun = Instant::now();
        let proven = self.prove(&leaf, &opening.bytes);
        let took = begun.elapsed();
        let state = match proven {
            Ok(Made { proof, opening, key }) => {
                self.backlog.set_pace(took);
                let id = event::proof_id(&leaf.hash());
                self.store.add_key(&key.0, &key.1)?;
                let proof = ProofEvent { id, index, time: unix_now(), key: key.0, proof: proof.to_bytes() };
                State::Proved { proof, opening }
            }
            Err(Unprovable::Bench(error)) if error.may_pass() => return Err(Fault::Bench(error)),
            Err(reason) => {
                tracing::error!(request = %opening.request, model = %leaf.model, %reason, "cannot be proven");
                State::Failed(reason.to_caller())
            }
        };
        let (request, leaf_hash) = (opening.request, opening.leaf_hash);
        let record = Record { request, index, leaf_hash, model: leaf.model, state };
        self.store.add(&record)?;
        match &record.state {
            State::Proved { proof, .. } => {
                self.metrics.proved.fetch_add(1, Relaxed);
                self.metrics.prove_nanos.fetch_add(took.as_nanos() as u64, Relaxed);
                self.log.append(&[proof.encode()]);
            }
            State::Judged { .. } | State::Failed(_) => drop(self.metrics.failed.fetch_add(1, Relaxed)),
        }
        let _ = self.recorded.try_send(());
        Ok(())
    }

    fn prove(&mut self, leaf: &Leaf, bytes: &[u8]) -> Result<Made, Unprovable> {
        let Self { workbench, pool, .. } = self;
        let attempt = AssertUnwindSafe(|| pool.install(|| attempt(workbench, leaf, bytes)));
        // A panic must not end the service: the request gets its record, and a bench is only memory.
        catch_unwind(attempt).unwrap_or(Err(Unprovable::Panicked))
    }
}

fn attempt(workbench: &mut Workbench, leaf: &Leaf, bytes: &[u8]) -> Result<Made, Unprovable> {
    let bench = workbench.get(&leaf.model)?;
    let model = bench.circuit.model();
    let opening = Opening::decode(bytes, model.input_len(), model.output_len()).ok_or(Unprovable::Opening)?;
    let staged = bench.stager.stage(0, haca_kernels::Dtype::F32, &opening.input);
    staged.map_err(|error| Unprovable::Row(error.to_string()))?;
    let key = bench.prover.verifying_key();
    let (key, key_bytes) = (key.id(), key.to_bytes());
    let witness = bench.circuit.witness(&bench.stager.staged(0), &Binding::new(leaf, &key));
    if witness.output != opening.output {
        return Err(Unprovable::Output);
    }
    let proof = bench.prover.prove(&witness.assignment, &mut OsRng)?;
    Ok(Made { proof, opening, key: (key, key_bytes) })
}

/// Openings that are read at once.
const WINDOW_BYTES: usize = 1 << 20;
/// How long the thread sleeps without looking for a model that was announced, or the end.
const IDLE: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_secs(1);
