//! Who waits for proofs, and the thread that answers them.

use super::events::LogView;
use super::store::{Record, State, Store, StoreError};
use crossbeam_channel::{Receiver, Sender};
use haca_dataplane::proving::{ProofReply, ProofsBusy};
use haca_settle::{OpeningPosition, ReadError};
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
    /// Once the log holds all of them, or is known not to hold those that it does not: the end of the openings then.
    logged: Option<OpeningPosition>,
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
        self.0.try_send(Wait { ids, logged: None, reply }).map_err(|_| ProofsBusy)
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
        if let Err(fault) = self.try_to_answer() {
            tracing::error!(%fault, "nobody is told of proofs now; trying again");
            self.log.sleep(RETRY);
        }
    }

    fn try_to_answer(&mut self) -> Result<(), Fault> {
        let missing = self.look_up()?;
        self.reply()?;
        // All others first: this takes a commit of the log.
        if !missing.is_empty() && self.ask_log(&missing) { self.reply() } else { Ok(()) }
    }

    /// Replies to those of whose requests everything is known.
    fn reply(&mut self) -> Result<(), Fault> {
        let mut at = 0;
        while at < self.waits.len() {
            match self.states(at)? {
                Some(states) => (self.waits.swap_remove(at).reply)(states),
                None => at += 1,
            }
        }
        Ok(())
    }

    /// Learns who waits for requests that the log holds. Returns the others' that it does not hold now.
    fn look_up(&mut self) -> Result<Vec<RequestId>, Fault> {
        let mut missing = Vec::new();
        let end = self.log.handle.openings_end();
        for wait in self.waits.iter_mut().filter(|wait| wait.logged.is_none()) {
            let before = missing.len();
            for id in &wait.ids {
                if self.log.handle.index_of(id)?.is_none() {
                    missing.push(*id);
                }
            }
            if missing.len() == before {
                wait.logged = Some(end);
            }
        }
        missing.sort_unstable();
        missing.dedup();
        Ok(missing)
    }

    /// Asks the log about requests that it does not hold, together: who has an answer has its leaf in the log's queue, so
    /// that takes one commit at most. False if the log does not say now.
    fn ask_log(&mut self, missing: &[RequestId]) -> bool {
        if missing.chunks(ASKED_TOGETHER).any(|ids| self.log.settled(ids).is_none()) {
            return false;
        }
        let end = self.log.handle.openings_end();
        for wait in &mut self.waits {
            wait.logged.get_or_insert(end);
        }
        true
    }

    /// What to answer; `None` if it is not there yet.
    fn states(&mut self, at: usize) -> Result<Option<Result<ProofStates, String>>, Fault> {
        let wait = &self.waits[at];
        let Some(opened) = wait.logged else { return Ok(None) };
        let mut entries = Vec::with_capacity(wait.ids.len());
        let mut keys = std::collections::BTreeMap::new();
        let mut bytes = 0;
        for id in &wait.ids {
            let Some(entry) = self.state(id, opened)? else { return Ok(None) };
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

    /// What became of a request, whose opening is before `opened`; `None` if it is on its way.
    fn state(&self, id: &RequestId, opened: OpeningPosition) -> Result<Option<ProofState>, Fault> {
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
        let mut record = self.store.record(id)?;
        if record.is_none() && self.store.proved_until()? >= opened {
            // The prover has passed its opening. It may have done so since the record was looked for.
            record = self.store.record(id)?;
            if record.is_none() {
                return none(
                    ProofOutcome::Failed,
                    "what it would be proven from is lost; see the node's log",
                );
            }
        }
        let (proof, output) = match record {
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
/// Request ids in one question to the log.
const ASKED_TOGETHER: usize = 512;
/// Of an entry: its two events and what frames them.
const ENTRY_BYTES: usize = 700;
/// Below what a client takes in one answer.
const MAX_ANSWER_BYTES: usize = 3 << 20;
