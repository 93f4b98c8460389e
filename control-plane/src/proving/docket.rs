//! What one verifier has to judge, and where its verdicts go: the node's side of a verifier, within it or apart.
//!
//! Proofs come in the order in which they were recorded, all that are there at once. A verdict is in the store before it
//! goes to the log, its id follows from proof and verifier, and a verifier's cursor moves only past records whose verdicts
//! are durable: so it may be killed at any time. The verdicts of the first verifier of the panel are those that callers
//! are given.

use super::ProofMetrics;
use super::events::EventLog;
use super::judge::Case;
use super::store::{Record, State, Store, StoreError};
use super::workbench::WorkbenchError;
use crossbeam_channel::Sender;
use haca_settle::ReadError;
use haca_wire::event::{Event, VerdictEvent, verdict_id};
use haca_wire::merkle::leaf_hash;
use haca_wire::{Digest, Leaf, RequestId};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Why nothing is judged now. Trying again may help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Log(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Model(#[from] WorkbenchError),
    #[error("the log does not answer")]
    LogAnswersNot,
}

/// What a verifier says of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ruling {
    Verdict(Box<VerdictEvent>),
    /// It cannot judge, and why.
    None(String),
}

/// Rulings that are none of the cases that were given, or not signed by the verifier.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misruling(pub(crate) &'static str);

/// What all dockets share.
pub(crate) struct Registrar {
    pub(crate) log: EventLog,
    pub(crate) store: Arc<Store>,
    pub(crate) metrics: Arc<ProofMetrics>,
    /// The verifiers' keys.
    pub(crate) panel: Vec<Digest>,
    /// Openings that are kept for verifiers that are behind.
    pub(crate) keep: u64,
    /// Told when requests are settled.
    pub(crate) judged: Sender<()>,
}

/// The docket of one verifier.
pub(crate) struct Docket {
    registrar: Arc<Registrar>,
    verifier: Digest,
    batch: Option<Batch>,
}

/// What was given to the verifier and is not ruled on.
#[derive(Default)]
struct Batch {
    cases: Vec<(Record, Case)>,
    /// Verdicts of before the last stop, which are perhaps not logged.
    standing: Vec<VerdictEvent>,
    /// Records of which the log holds another proof, with that.
    adopted: Vec<Record>,
    /// Requests without anything to judge.
    failed: Vec<Record>,
    next: u64,
}

impl Batch {
    fn fail(&mut self, record: &Record, why: &str) -> usize {
        tracing::error!(request = %record.request, why, "its proof cannot be judged");
        self.failed.push(Record { state: State::Failed(why.to_owned()), ..record.clone() });
        0
    }
}

impl Docket {
    pub(crate) fn new(registrar: Arc<Registrar>, verifier: Digest) -> Self {
        Self { registrar, verifier, batch: None }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.registrar.log.is_stopping()
    }

    fn is_first(&self) -> bool {
        self.registrar.panel.first() == Some(&self.verifier)
    }

    /// The proofs after the cursor, once the log holds them; of those that lie in the log before `until`. `None` if there
    /// is nothing to do.
    pub(crate) fn next(&mut self, until: u64) -> Result<Option<Vec<Case>>, Fault> {
        let Registrar { store, log, .. } = &*self.registrar;
        let from = store.judged_until(&self.verifier)?;
        let (mut records, mut next) = store.queued(from, MAX_BATCH)?;
        if records.is_empty() {
            return Ok(None);
        }
        let proofs: Vec<_> = records
            .iter()
            .filter_map(|record| match &record.state {
                State::Proved { proof, .. } => Some(*proof),
                State::Failed(_) => None,
            })
            .collect();
        let ids: Vec<RequestId> = proofs.iter().map(|proof| proof.id).collect();
        let mut places = log.settled(&ids).ok_or(Fault::LogAnswersNot)?;
        if places.contains(&None) {
            // Recorded just before the last stop, and never appended.
            let missing = proofs.iter().zip(&places).filter(|(_, place)| place.is_none());
            log.append(&missing.map(|(proof, _)| proof.encode()).collect::<Vec<_>>());
            places = log.settled(&ids).ok_or(Fault::LogAnswersNot)?;
        }
        let mut places = places.into_iter();
        let (mut batch, mut keys, mut bytes) = (Batch::default(), HashMap::new(), 0);
        for at in 0..records.len() {
            if matches!(records[at].state, State::Failed(_)) {
                continue;
            }
            let (index, hash) = places.next().flatten().ok_or(Fault::LogAnswersNot)?;
            if index >= until || bytes > MAX_BATCH_BYTES {
                next -= (records.len() - at) as u64;
                records.truncate(at);
                break;
            }
            bytes += self.enlist(&records[at], index, hash, &mut keys, &mut batch)?;
        }
        if records.is_empty() {
            return Ok(None);
        }
        let cases = batch.cases.iter().map(|(_, case)| case.clone()).collect();
        self.batch = Some(Batch { next, ..batch });
        Ok(Some(cases))
    }

    /// Adds a proven request to the batch. Returns about how many bytes it has.
    fn enlist(
        &self,
        record: &Record,
        index: u64,
        hash: Digest,
        keys: &mut HashMap<Digest, Arc<[u8]>>,
        batch: &mut Batch,
    ) -> Result<usize, Fault> {
        let Registrar { store, log, .. } = &*self.registrar;
        if let Some(verdict) = store.verdict(&record.request, &self.verifier)? {
            batch.standing.push(verdict);
            return Ok(0);
        }
        let State::Proved { proof, output } = &record.state else { return Ok(0) };
        let (mut proof, mut record) = (*proof, record.clone());
        if hash != proof.hash() {
            // The proof that the log holds counts: an earlier store may have recorded it. Ids follow from leaves, so a
            // caller can also have taken the id for a request: then there is no proof in the log.
            match log.handle.leaf(index)?.map(|leaf| Event::decode(&leaf)) {
                Some(Ok(Event::Proof(logged))) => proof = logged,
                _ => {
                    return Ok(batch.fail(&record, "the log holds another request under the id of its proof"));
                }
            }
            record.state = State::Proved { proof, output: output.clone() };
            batch.adopted.push(record.clone());
        }
        let leaf = log.handle.leaf(record.index)?.and_then(|bytes| Leaf::decode(&bytes).ok());
        let Some(leaf) = leaf.filter(|leaf| leaf.hash() == record.leaf_hash) else {
            return Ok(batch.fail(&record, "the log holds no such receipt"));
        };
        let Some(opening) = store.opening(&record.request)? else {
            // It was proven before this verifier was admitted, or while it was too far behind.
            self.registrar.metrics.missed.fetch_add(1, Relaxed);
            return Ok(0);
        };
        let key = match keys.get(&proof.key) {
            Some(key) => Arc::clone(key),
            None => match store.key(&proof.key)? {
                Some(bytes) => Arc::clone(keys.entry(proof.key).or_insert(Arc::from(bytes))),
                None => return Ok(batch.fail(&record, "its verification key is not at hand")),
            },
        };
        let size = opening.len() + 2 * Leaf::LEN;
        batch.cases.push((record, Case { leaf, proof, index, opening, key }));
        Ok(size)
    }

    /// Keeps and logs what the verifier says of the cases that it was given last, in their order.
    pub(crate) fn enter(&mut self, rulings: Vec<Ruling>) -> Result<Result<(), Misruling>, Fault> {
        let mut ruled = Vec::with_capacity(rulings.len());
        let Some(Batch { cases, standing, adopted, failed, next }) = &self.batch else {
            return Ok(Err(Misruling("it rules on what it was not given")));
        };
        if rulings.len() != cases.len() {
            return Ok(Err(Misruling("it does not rule on each case")));
        }
        let mut failed = if self.is_first() { failed.clone() } else { Vec::new() };
        for ((record, case), ruling) in cases.iter().zip(rulings) {
            match ruling {
                Ruling::Verdict(verdict) => {
                    if let Err(wrong) = self.check(case, &verdict) {
                        return Ok(Err(wrong));
                    }
                    if !verdict.accepted {
                        let (request, key, verifier) = (record.request, case.proof.key, self.verifier);
                        tracing::error!(%request, %key, %verifier, "ALARM: a proof does not hold");
                    }
                    ruled.push((record.request, *verdict));
                }
                Ruling::None(why) => {
                    tracing::error!(request = %record.request, verifier = %self.verifier, why, "its proof cannot be judged");
                    if self.is_first() {
                        failed.push(Record { state: State::Failed(why), ..record.clone() });
                    }
                }
            }
        }
        let Registrar { store, metrics, log, panel, keep, judged } = &*self.registrar;
        let mut records = if self.is_first() { adopted.clone() } else { Vec::new() };
        records.retain(|record| failed.iter().all(|other| other.request != record.request));
        metrics.failed.fetch_add(failed.len() as u64, Relaxed);
        records.extend(failed);
        store.judge(&ruled, &records)?;
        self.compare(&ruled)?;

        let verdicts: Vec<VerdictEvent> =
            standing.iter().copied().chain(ruled.iter().map(|(_, verdict)| *verdict)).collect();
        log.append(&verdicts.iter().map(VerdictEvent::encode).collect::<Vec<_>>());
        let ids: Vec<RequestId> = verdicts.iter().map(|verdict| verdict.id).collect();
        let settled = log.settled(&ids).ok_or(Fault::LogAnswersNot)?;
        for (verdict, place) in verdicts.iter().zip(settled) {
            let (index, hash) = place.ok_or(Fault::LogAnswersNot)?;
            if hash != leaf_hash(&verdict.encode()) {
                tracing::error!(index, id = %verdict.id, "ALARM: a request took a verdict's id; it has none in the log");
            }
        }
        store.set_judged_until(&self.verifier, *next)?;
        store.forget_openings(panel, *keep)?;
        self.batch = None;
        let _ = judged.try_send(());
        Ok(Ok(()))
    }

    fn check(&self, case: &Case, verdict: &VerdictEvent) -> Result<(), Misruling> {
        if verdict.verifier != self.verifier {
            Err(Misruling("a verdict is another verifier's"))
        } else if verdict.proof != case.proof.hash()
            || verdict.index != case.index
            || verdict.id != verdict_id(&verdict.proof, &self.verifier)
        {
            Err(Misruling("a verdict is on another proof"))
        } else if !verdict.is_signed() {
            Err(Misruling("a verdict is not signed by its verifier"))
        } else {
            Ok(())
        }
    }

    /// Counts new verdicts, and tells where they differ from other verifiers'.
    fn compare(&self, ruled: &[(RequestId, VerdictEvent)]) -> Result<(), Fault> {
        let Registrar { store, metrics, .. } = &*self.registrar;
        for (request, verdict) in ruled {
            if self.is_first() {
                let counter = if verdict.accepted { &metrics.accepted } else { &metrics.refused };
                counter.fetch_add(1, Relaxed);
            }
            for other in store.verdicts(request)? {
                if other.accepted == verdict.accepted {
                    continue;
                }
                metrics.disagreements.fetch_add(1, Relaxed);
                let says = |verdict: &VerdictEvent| if verdict.accepted { "accepts" } else { "refuses" };
                tracing::error!(
                    %request,
                    proof = %verdict.proof,
                    "ALARM: verifiers disagree: {} {} it, {} {} it",
                    verdict.verifier,
                    says(verdict),
                    other.verifier,
                    says(&other),
                );
            }
        }
        Ok(())
    }
}

/// Proofs that are checked together at most.
const MAX_BATCH: usize = 1024;
/// A batch is not added to when it has so many bytes.
const MAX_BATCH_BYTES: usize = 4 << 20;
