//! Who waits for proofs, and the thread that answers them.

use super::events::LogView;
use super::store::{Record, State, Store, StoreError};
use crossbeam_channel::{Receiver, Sender};
use haca_dataplane::proving::{ProofReply, ProofsBusy};
use haca_settle::ReadError;
use haca_wire::event::ProofEvent;
use haca_wire::message::proof::{ProofState, ProofStates};
use haca_wire::vocabulary::ProofOutcome;
use haca_wire::{Digest, Leaf, Mode, RequestId};
use std::sync::Arc;
use std::time::Duration;

/// Why nobody is answered now. Trying again may help.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Log(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A question.
pub(super) struct Wait {
    ids: Vec<RequestId>,
    /// The log holds all of them, or is known not to hold those that it does not.
    logged: bool,
    reply: ProofReply,
}

/// The asking end.
#[derive(Clone)]
pub(super) struct Counter(Sender<Wait>);

/// Questions that are waited with at a time. Each is of at most as many requests as a frame may name.
const MAX_WAITS: usize = 1024;

impl Counter {
    pub(super) fn new() -> (Self, Receiver<Wait>) {
        let (sender, receiver) = crossbeam_channel::bounded(MAX_WAITS);
        (Self(sender), receiver)
    }

    pub(super) fn ask(&self, ids: Vec<RequestId>, reply: ProofReply) -> Result<(), ProofsBusy> {
        self.0.try_send(Wait { ids, logged: false, reply }).map_err(|_| ProofsBusy)
    }
}

pub(super) struct DeskThread {
    pub(super) log: LogView,
    pub(super) store: Arc<Store>,
    /// Whose verdicts callers are given.
    pub(super) verifier: Digest,
    pub(super) asked: Receiver<Wait>,
    /// Something was settled.
    pub(super) judged: Receiver<()>,
    pub(super) waits: Vec<Wait>,
}

impl DeskThread {
    pub(super) fn run(mut self) {
        while !self.log.is_stopping() {
            crossbeam_channel::select! {
                recv(self.asked) -> wait => self.waits.extend(wait),
                recv(self.judged) -> _ => {}
                default(IDLE) => {}
            }
            while self.waits.len() < MAX_WAITS {
                let Ok(wait) = self.asked.try_recv() else { break };
                self.waits.push(wait);
            }
            self.answer();
        }
        for wait in self.waits.drain(..).chain(self.asked.try_iter()) {
            (wait.reply)(Err("the node is shutting down; ask again when it is back".to_owned()));
        }
    }

    fn answer(&mut self) {
        let mut at = 0;
        while at < self.waits.len() {
            match self.states(at) {
                Ok(Some(states)) => {
                    let wait = self.waits.swap_remove(at);
                    (wait.reply)(states);
                }
                Ok(None) => at += 1,
                Err(fault) => {
                    tracing::error!(%fault, "nobody is told of proofs now; trying again");
                    self.log.sleep(RETRY);
                    return;
                }
            }
        }
    }

    /// What to answer; `None` if it is not there yet.
    fn states(&mut self, at: usize) -> Result<Option<Result<ProofStates, String>>, Fault> {
        if !self.waits[at].logged {
            let mut durable = true;
            for id in &self.waits[at].ids {
                durable &= self.log.handle.index_of(id)?.is_some();
            }
            // Who has an answer has its leaf in the log's queue, so this waits for one commit at most.
            if !durable && self.log.settled(&self.waits[at].ids).is_none() {
                return Ok(None);
            }
            self.waits[at].logged = true;
        }
        let wait = &self.waits[at];
        let mut entries = Vec::with_capacity(wait.ids.len());
        let mut keys = std::collections::BTreeMap::new();
        let mut bytes = 0;
        for id in &wait.ids {
            let Some(entry) = self.state(id)? else { return Ok(None) };
            if let Some((ProofEvent { key, .. }, _)) = entry.events
                && !keys.contains_key(&key.0)
            {
                let key_bytes = self.store.key(&key)?.unwrap_or_default();
                bytes += key_bytes.len();
                keys.insert(key.0, key_bytes);
            }
            bytes += ENTRY_BYTES + 8 * entry.output.len() + entry.detail.len();
            if bytes > MAX_ANSWER_BYTES {
                return Ok(Some(Err(format!(
                    "the answer has more than {MAX_ANSWER_BYTES} bytes; ask for fewer"
                ))));
            }
            entries.push(entry);
        }
        Ok(Some(Ok(ProofStates { entries, keys: keys.into_values().collect() })))
    }

    /// What became of a request; `None` if it is on its way.
    fn state(&self, id: &RequestId) -> Result<Option<ProofState>, Fault> {
        let none = |outcome, detail: &str| {
            let detail = detail.to_owned();
            Ok(Some(ProofState { outcome, events: None, output: Vec::new(), detail }))
        };
        let Some(index) = self.log.handle.index_of(id)? else {
            return none(ProofOutcome::Unknown, "the log holds no receipt of this request");
        };
        let leaf = self.log.handle.leaf(index)?;
        let mode = leaf.and_then(|leaf| Leaf::decode(&leaf).ok()).map(|leaf| leaf.mode);
        if mode != Some(Mode::Zk) {
            return none(ProofOutcome::Unknown, "its receipt is not of mode zk");
        }
        let (proof, output) = match self.store.record(id)? {
            None => return Ok(None),
            Some(Record { state: State::Failed(why), .. }) => return none(ProofOutcome::Failed, &why),
            Some(Record { state: State::Proved { proof, output }, .. }) => (proof, output),
        };
        let Some(verdict) = self.store.verdict(id, &self.verifier)? else { return Ok(None) };
        if self.log.handle.index_of(&verdict.id)?.is_none() {
            return Ok(None);
        }
        let outcome = if verdict.accepted { ProofOutcome::Proved } else { ProofOutcome::Refused };
        Ok(Some(ProofState { outcome, events: Some((proof, verdict)), output, detail: String::new() }))
    }
}

const IDLE: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_secs(1);
/// Of an entry: its two events and what frames them.
const ENTRY_BYTES: usize = 700;
/// Below what a client takes in one answer.
const MAX_ANSWER_BYTES: usize = 3 << 20;
