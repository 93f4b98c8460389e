//! The verifier: checks proofs in the order in which they were recorded, all that are there at once, signs a verdict on
//! each and appends it to the log.
//!
//! It knows nothing of circuits and proving keys: it computes the public inputs from the leaf and its opening, takes the
//! verification key that the proof names, and checks that this key was made for the leaf's model. Owns one thread. It may
//! be killed at any time: a verdict is in the store before it goes to the log, and the cursor moves only past records
//! whose verdicts are durable.

use super::ProofMetrics;
use super::events::EventLog;
use super::store::{Record, State, Store, StoreError};
use super::workbench::{Models, WorkbenchError};
use haca_dataplane::clock::unix_now;
use haca_kernels::Model;
use haca_settle::ReadError;
use haca_verifier::zk::{
    Claim, KeyError, Malformed, Proof, Refused, Statement, StatementError, VerifyingKey,
};
use haca_wire::event::{Event, ProofEvent, VerdictEvent, VerifierKey};
use haca_wire::merkle::leaf_hash;
use haca_wire::opening::Opening;
use haca_wire::{Digest, Leaf, ModelId, RequestId};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Why nothing is checked now. Trying again may help.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Log(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Model(#[from] WorkbenchError),
    #[error("the log does not answer")]
    LogAnswersNot,
}

/// Why a proof is refused.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error("the log holds no such receipt")]
    Leaf,
    #[error("its verification key is not at hand")]
    NoKey,
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Proof(#[from] Malformed),
    #[error(transparent)]
    Statement(#[from] StatementError),
    #[error(transparent)]
    Refused(#[from] Refused),
    /// There is nothing to judge: the record becomes a failed one.
    #[error("{0}")]
    Failed(String),
}

pub(super) struct VerifierThread {
    pub(super) log: EventLog,
    pub(super) store: Arc<Store>,
    pub(super) models: Models,
    pub(super) key: VerifierKey,
    pub(super) pool: rayon::ThreadPool,
    pub(super) metrics: Arc<ProofMetrics>,
    /// Told by the prover that there is a new record.
    pub(super) recorded: crossbeam_channel::Receiver<()>,
    /// Told when requests are settled.
    pub(super) judged: crossbeam_channel::Sender<()>,
    pub(super) known: Known,
}

/// Keys and models that were read. Both are immutable, and few.
#[derive(Default)]
pub(super) struct Known {
    keys: HashMap<Digest, Arc<VerifyingKey>>,
    models: HashMap<ModelId, Arc<Model>>,
}

/// A proof on its way through a batch.
struct Case {
    record: Record,
    proof: ProofEvent,
    opening: Opening,
    /// Index of the proof's leaf.
    index: u64,
    outcome: Result<(), Wrong>,
}

/// Claims of proofs under one key, each with the place of its case.
struct Batch {
    key: Arc<VerifyingKey>,
    claims: Vec<(usize, Claim)>,
}

impl VerifierThread {
    pub(super) fn run(mut self) {
        while !self.log.is_stopping() {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => drop(self.recorded.recv_timeout(IDLE)),
                Err(fault) => {
                    if !self.log.is_stopping() {
                        tracing::error!(%fault, "no proofs are checked now; trying again");
                    }
                    self.log.sleep(RETRY);
                }
            }
        }
    }

    /// Checks what is recorded after the cursor, as one batch. `false` if there is nothing.
    fn turn(&mut self) -> Result<bool, Fault> {
        let from = self.store.judged_until()?;
        let (records, next) = self.store.queued(from, MAX_BATCH)?;
        if records.is_empty() {
            return Ok(false);
        }
        let mut verdicts: Vec<VerdictEvent> = Vec::new();
        let mut open = Vec::new();
        for record in records {
            match &record.state {
                State::Proved { .. } => open.push(record),
                // Judged before the last stop, and perhaps not logged.
                State::Judged { verdict, .. } => verdicts.push(*verdict),
                State::Failed(_) => {}
            }
        }
        let judged = self.judge(open)?;
        self.store.replace(&judged)?;
        self.count(&judged);
        verdicts.extend(judged.iter().filter_map(|record| match &record.state {
            State::Judged { verdict, .. } => Some(*verdict),
            State::Proved { .. } | State::Failed(_) => None,
        }));
        let leaves: Vec<_> = verdicts.iter().map(VerdictEvent::encode).collect();
        self.log.append(&leaves);
        let ids: Vec<RequestId> = verdicts.iter().map(|verdict| verdict.id).collect();
        let settled = self.log.settled(&ids).ok_or(Fault::LogAnswersNot)?;
        for (verdict, place) in verdicts.iter().zip(settled) {
            let (index, hash) = place.ok_or(Fault::LogAnswersNot)?;
            if hash != leaf_hash(&verdict.encode()) {
                tracing::error!(index, id = %verdict.id, "ALARM: a request took a verdict's id; it has none in the log");
            }
        }
        self.store.set_judged_until(next)?;
        let _ = self.judged.try_send(());
        Ok(true)
    }

    /// Checks proofs once the log holds them.
    fn judge(&mut self, records: Vec<Record>) -> Result<Vec<Record>, Fault> {
        let mut cases = self.cases(records)?;
        // Of each key, the claims of the cases that read.
        let mut batches: HashMap<Digest, Batch> = HashMap::new();
        for (at, case) in cases.iter_mut().enumerate().filter(|(_, case)| case.outcome.is_ok()) {
            match self.claim(case)? {
                Ok((key, claim)) => {
                    let batch = batches.entry(key.id());
                    batch.or_insert_with(|| Batch { key, claims: Vec::new() }).claims.push((at, claim));
                }
                Err(wrong) => case.outcome = Err(wrong),
            }
        }
        for Batch { key, claims } in batches.into_values() {
            let (places, claims): (Vec<usize>, Vec<Claim>) = claims.into_iter().unzip();
            let begun = Instant::now();
            let outcome = self.pool.install(|| key.verify(&claims));
            self.metrics.verify_nanos.fetch_add(begun.elapsed().as_nanos() as u64, Relaxed);
            match outcome {
                Ok(()) => {}
                Err(Refused::False(failed)) => failed.iter().for_each(|&failed| {
                    cases[places[failed]].outcome = Err(Refused::False(vec![failed]).into());
                }),
                Err(refused) => {
                    places.iter().for_each(|&at| cases[at].outcome = Err(refused.clone().into()));
                }
            }
        }
        Ok(cases.into_iter().map(|case| self.verdict(case)).collect())
    }

    fn cases(&mut self, records: Vec<Record>) -> Result<Vec<Case>, Fault> {
        let mut cases: Vec<Case> = Vec::with_capacity(records.len());
        for record in records {
            let State::Proved { proof, opening } = &record.state else { continue };
            let (proof, opening) = (*proof, opening.clone());
            cases.push(Case { record, proof, opening, index: 0, outcome: Ok(()) });
        }
        if cases.is_empty() {
            return Ok(cases);
        }
        let ids: Vec<RequestId> = cases.iter().map(|case| case.proof.id).collect();
        let mut places = self.log.settled(&ids).ok_or(Fault::LogAnswersNot)?;
        if places.contains(&None) {
            // Recorded just before the last stop, and never appended.
            let missing = cases.iter().zip(&places).filter(|(_, place)| place.is_none());
            let missing: Vec<_> = missing.map(|(case, _)| case.proof.encode()).collect();
            self.log.append(&missing);
            places = self.log.settled(&ids).ok_or(Fault::LogAnswersNot)?;
        }
        for (case, place) in cases.iter_mut().zip(places) {
            let (index, hash) = place.ok_or(Fault::LogAnswersNot)?;
            case.index = index;
            if hash != case.proof.hash() {
                self.adopt(case)?;
            }
        }
        Ok(cases)
    }

    /// Takes the proof that the log holds for that of the record, where an earlier store had recorded it. Ids follow from
    /// leaves, so a caller can also have taken the id for a request: then there is no proof in the log.
    fn adopt(&self, case: &mut Case) -> Result<(), Fault> {
        let logged = self.log.handle.leaf(case.index)?.map(|leaf| Event::decode(&leaf));
        match logged {
            Some(Ok(Event::Proof(proof))) => case.proof = proof,
            _ => {
                let why = "the log holds another request under the id of its proof";
                case.outcome = Err(Wrong::Failed(why.to_owned()));
            }
        }
        Ok(())
    }

    /// What a proof claims, or why it claims nothing.
    fn claim(&mut self, case: &Case) -> Result<Result<(Arc<VerifyingKey>, Claim), Wrong>, Fault> {
        let Some(bytes) = self.log.handle.leaf(case.record.index)? else { return Ok(Err(Wrong::Leaf)) };
        let leaf = match Leaf::decode(&bytes) {
            Ok(leaf) if leaf.hash() == case.record.leaf_hash => leaf,
            _ => return Ok(Err(Wrong::Leaf)),
        };
        let key = match self.known.key(&self.store, &case.proof.key)? {
            Ok(key) => key,
            Err(wrong) => return Ok(Err(wrong)),
        };
        let model = match self.known.model(&self.models, &leaf.model) {
            Ok(model) => model,
            Err(error) if error.may_pass() => return Err(error.into()),
            // One model that is gone must not hold up the others.
            Err(error) => {
                tracing::error!(model = %leaf.model, %error, "its proofs cannot be checked");
                return Ok(Err(Wrong::Failed(error.to_caller())));
            }
        };
        let claim = || {
            let proof = Proof::from_bytes(&case.proof.proof)?;
            let statement = Statement::new(&model, &key, &leaf, &case.opening.input, &case.opening.output)?;
            Ok(Claim { proof, inputs: statement.inputs })
        };
        Ok(claim().map(|claim| (key.clone(), claim)))
    }

    fn count(&self, records: &[Record]) {
        for record in records {
            let counter = match &record.state {
                State::Judged { verdict, .. } if verdict.accepted => &self.metrics.accepted,
                State::Judged { .. } => &self.metrics.refused,
                State::Proved { .. } | State::Failed(_) => &self.metrics.failed,
            };
            counter.fetch_add(1, Relaxed);
        }
    }

    fn verdict(&self, case: Case) -> Record {
        let Case { record, proof, opening, index, outcome } = case;
        let accepted = match &outcome {
            Ok(()) => true,
            Err(Wrong::Failed(why)) => {
                tracing::error!(request = %record.request, why, "its proof cannot be judged");
                return Record { state: State::Failed(why.clone()), ..record };
            }
            Err(wrong) => {
                tracing::error!(request = %record.request, key = %proof.key, %wrong, "ALARM: a proof does not hold");
                false
            }
        };
        let verdict = self.key.verdict(&proof, index, accepted, unix_now());
        Record { state: State::Judged { proof, verdict, output: opening.output }, ..record }
    }
}

impl Known {
    fn key(&mut self, store: &Store, id: &Digest) -> Result<Result<Arc<VerifyingKey>, Wrong>, Fault> {
        if let Some(key) = self.keys.get(id) {
            return Ok(Ok(Arc::clone(key)));
        }
        let Some(bytes) = store.key(id)? else { return Ok(Err(Wrong::NoKey)) };
        let key = match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if key.id() == *id => Arc::new(key),
            Ok(_) => return Ok(Err(Wrong::NoKey)),
            Err(error) => return Ok(Err(error.into())),
        };
        bound(&mut self.keys);
        self.keys.insert(*id, Arc::clone(&key));
        Ok(Ok(key))
    }

    fn model(&mut self, models: &Models, id: &ModelId) -> Result<Arc<Model>, WorkbenchError> {
        if let Some(model) = self.models.get(id) {
            return Ok(Arc::clone(model));
        }
        let model = models.load(id)?;
        bound(&mut self.models);
        self.models.insert(*id, Arc::clone(&model));
        Ok(model)
    }
}

/// Begins anew when too many are known: they are read again as they are needed.
fn bound<K, V>(known: &mut HashMap<K, V>) {
    if known.len() >= MAX_KNOWN {
        known.clear();
    }
}

/// Proofs that are checked together at most.
const MAX_BATCH: usize = 1024;
const MAX_KNOWN: usize = 64;
const IDLE: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_secs(1);
