//! `--wait proved`: what becomes of the proofs of mode `zk`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use haca_client::{Client, ClientError, LoggedProof, ProofState, ReceiptState};
use haca_wire::vocabulary::ProofOutcome;
use haca_wire::{RequestId, Stage};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Answers, percentile};
use crate::cli::progress;
use crate::cli::session::{self, Session};

/// Questions that wait at a time, each about one proof, so that it is known when that one is there. Nodes prove in about
/// the order of their answers: the next question is about a proof that comes later.
const WAITING: usize = 16;

/// What became of the proofs, by row, and when that was known.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    states: BTreeMap<usize, (ProofState, Duration)>,
    logged: BTreeMap<usize, Events>,
    expected: Vec<Duration>,
}

/// What the log says of a proof's two events.
#[derive(Debug)]
struct Events {
    proof: ReceiptState,
    verdict: ReceiptState,
}

impl Proofs {
    /// Waits until every answer is proven, or will not be; with `logged`, also until the log's checkpoints cover the proofs.
    pub(super) fn wait(session: &Session, answers: &Answers, logged: bool) -> anyhow::Result<Proofs> {
        let bar = progress::bar(answers.len() as u64, "proved");
        let mut waiting = JoinSet::new();
        let mut left = answers.iter();
        let mut next = |waiting: &mut JoinSet<_>| {
            if let Some((&row, answer)) = left.next() {
                let (client, arrived) = (Arc::clone(&session.client), answer.arrived);
                waiting.spawn(wait_for(client, row, answer.leaf.request, arrived));
            }
        };
        let states = session.wait(async {
            let mut states = BTreeMap::new();
            let in_flight = session.client.welcome().limits.max_in_flight as usize;
            (0..WAITING.min(in_flight)).for_each(|_| next(&mut waiting));
            while let Some(ended) = waiting.join_next().await {
                let ended = ended.expect("a question neither panics nor is aborted before the first failure");
                match ended {
                    Ok((row, state, took)) => drop(states.insert(row, (state, took))),
                    Err((row, error)) => {
                        waiting.shutdown().await;
                        return Err((row, error));
                    }
                }
                bar.inc(1);
                next(&mut waiting);
            }
            Ok(states)
        });
        bar.finish_and_clear();
        let states = states.map_err(|(row, error)| {
            session::of(session.address, error).context(format!("the proof of row {row}"))
        })?;
        let mut expected: Vec<_> = answers.values().filter_map(|answer| answer.proof_delay).collect();
        expected.sort_unstable();
        let mut proofs = Proofs { states, logged: BTreeMap::new(), expected };
        if logged {
            proofs.logged = proofs.events(session)?;
        }
        Ok(proofs)
    }

    /// What the log says of the events of every proof, by row. Both are in it once a proof is there.
    fn events(&self, session: &Session) -> anyhow::Result<BTreeMap<usize, Events>> {
        let client = &session.client;
        let events: Vec<_> =
            self.states.iter().filter_map(|(row, (state, _))| Some((*row, state.events?))).collect();
        let mut logged = BTreeMap::new();
        // Two ids of each must fit into one question.
        let rows = (client.welcome().limits.max_await_ids as usize / 2).max(1);
        let bar = progress::bar(events.len() as u64, Stage::Checkpointed.as_str());
        for events in events.chunks(rows) {
            let ids: Vec<RequestId> =
                events.iter().flat_map(|(_, (proof, verdict))| [proof.id, verdict.id]).collect();
            let states = session.call(client.await_receipts(Stage::Checkpointed, &ids))?;
            for ((row, _), [proof, verdict]) in events.iter().zip(states.as_chunks::<2>().0) {
                logged.insert(*row, Events { proof: proof.clone(), verdict: verdict.clone() });
            }
            bar.inc(events.len() as u64);
        }
        bar.finish_and_clear();
        Ok(logged)
    }

    /// What goes into the receipt file of a row.
    pub(super) fn of(&self, row: usize) -> Option<LoggedProof<'_>> {
        let ((state, _), Events { proof, verdict }) = (self.states.get(&row)?, self.logged.get(&row)?);
        Some(LoggedProof { state, proof, verdict })
    }

    /// The first answer that has no accepted proof, as an error.
    pub(super) fn all_proved(&self, session: &Session, answers: &Answers) -> anyhow::Result<()> {
        let missing = || self.states.iter().filter(|(_, (state, _))| state.outcome != ProofOutcome::Proved);
        let Some((row, (state, _))) = missing().next() else { return Ok(()) };
        let why = match (state.outcome, state.detail.as_str()) {
            (ProofOutcome::Refused, "") => "its verifier refused the proof",
            (_, "") => "the node does not say why",
            (_, detail) => detail,
        };
        Err(anyhow!(
            "{}: {} of {} answers have no accepted proof, first row {row} (request {}): {}: {why}; do not rely on \
             those answers",
            session.address,
            missing().count(),
            answers.len(),
            state.id,
            state.outcome,
        ))
    }

    fn proved(&self) -> usize {
        self.states.values().filter(|(state, _)| state.outcome == ProofOutcome::Proved).count()
    }

    /// From each answer until its proof was known, sorted.
    fn taken(&self) -> Vec<Duration> {
        let proved = self.states.values().filter(|(state, _)| state.outcome == ProofOutcome::Proved);
        let mut taken: Vec<_> = proved.map(|(_, took)| *took).collect();
        taken.sort_unstable();
        taken
    }

    pub(super) fn as_text(&self) -> String {
        let (taken, expected) = (self.taken(), &self.expected);
        format!(
            "proofs    {} of {}, {:.1} s p50 and {:.1} s at most after the answer; the node expected {:.1} s and {:.1} s\n",
            self.proved(),
            self.states.len(),
            percentile(&taken, 50).as_secs_f64(),
            percentile(&taken, 100).as_secs_f64(),
            percentile(expected, 50).as_secs_f64(),
            percentile(expected, 100).as_secs_f64(),
        )
    }

    pub(super) fn as_json(&self) -> serde_json::Value {
        let seconds = |sorted: &[Duration]| {
            json!({
                "p50": percentile(sorted, 50).as_secs_f64(),
                "max": percentile(sorted, 100).as_secs_f64(),
            })
        };
        json!({
            "proved": self.proved(),
            "asked": self.states.len(),
            "seconds": seconds(&self.taken()),
            "expected_seconds": seconds(&self.expected),
        })
    }
}

type Waited = Result<(usize, ProofState, Duration), (usize, ClientError)>;

/// What became of the proof of one row, and how long after its answer that was known. Waits also where too many others do.
async fn wait_for(client: Arc<Client>, row: usize, id: RequestId, arrived: Instant) -> Waited {
    loop {
        match client.await_proofs(&[id]).await {
            Ok(mut states) => {
                let state = states.pop().expect("as many states as ids");
                return Ok((row, state, arrived.elapsed()));
            }
            Err(ClientError::Refused { retry_after: Some(after), .. }) => tokio::time::sleep(after).await,
            Err(error) => return Err((row, error)),
        }
    }
}
