//! What became of each request of mode `zk`, on disk: an LSM store that the services share.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `records` | request id | [`Record`] |
//! | `queue` | sequence, `u64` big-endian | request id: records in the order in which they were made |
//! | `openings` | request id | the opening of a proven request, as long as a verifier needs it |
//! | `verdicts` | request id ‖ verifier's key | that verifier's verdict |
//! | `keys` | id of a verification key | its bytes |
//! | `cursors` | name, or verifier's key | `u64` little-endian: how far the prover and each verifier have come |
//!
//! What a call has written is durable when it returns.

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use haca_settle::OpeningPosition;
use haca_wire::event::{Event, ProofEvent, VerdictEvent};
use haca_wire::{Digest, Leaf, ModelId, RequestId};
use std::path::Path;

/// Why the store does not read or write.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store itself.
    #[error("the store of proofs: {0}")]
    Store(#[from] fjall::Error),
    /// What it holds is not what is written.
    #[error(
        "the store of proofs is damaged: {0}; restore the folder zk/store from a copy, or move it away: requests that were answered before then stay without proof"
    )]
    Damaged(&'static str),
}

/// What became of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) request: RequestId,
    /// Index of its leaf in the log.
    pub(crate) index: u64,
    pub(crate) leaf_hash: Digest,
    pub(crate) model: ModelId,
    pub(crate) state: State,
}

/// How far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // All but few are proven.
pub(crate) enum State {
    /// Proven; with the output's integers.
    Proved { proof: ProofEvent, output: Vec<i64> },
    /// It cannot be proven, for this reason.
    Failed(String),
}

pub(crate) struct Store {
    database: Database,
    records: Keyspace,
    queue: Keyspace,
    openings: Keyspace,
    verdicts: Keyspace,
    keys: Keyspace,
    cursors: Keyspace,
}

impl Store {
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let database = Database::builder(dir).cache_size(CACHE_BYTES).worker_threads(1).open()?;
        let keyspace = |name| database.keyspace(name, KeyspaceCreateOptions::default);
        let (records, queue, keys) = (keyspace("records")?, keyspace("queue")?, keyspace("keys")?);
        let (openings, verdicts, cursors) =
            (keyspace("openings")?, keyspace("verdicts")?, keyspace("cursors")?);
        Ok(Self { records, queue, openings, verdicts, keys, cursors, database })
    }

    pub(crate) fn record(&self, request: &RequestId) -> Result<Option<Record>, StoreError> {
        let Some(bytes) = self.records.get(request.0)? else { return Ok(None) };
        decode(*request, &bytes).map(Some).ok_or(StoreError::Damaged("a record does not read"))
    }

    /// Adds a record at the end of the queue, with the opening that verifiers need. There is one writer.
    pub(crate) fn add(&self, record: &Record, opening: Option<&[u8]>) -> Result<(), StoreError> {
        let last = self.queue.last_key_value().map(fjall::Guard::key).transpose()?;
        let next = last.map(|key| sequence(&key)).transpose()?.map_or(0, |last| last + 1);
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        batch.insert(&self.records, record.request.0, encode(record));
        batch.insert(&self.queue, next.to_be_bytes(), record.request.0);
        if let Some(opening) = opening {
            batch.insert(&self.openings, record.request.0, opening);
        }
        Ok(batch.commit()?)
    }

    /// Keeps verdicts, and writes records anew that are in the queue.
    pub(crate) fn judge(
        &self,
        verdicts: &[(RequestId, VerdictEvent)],
        records: &[Record],
    ) -> Result<(), StoreError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (request, verdict) in verdicts {
            batch.insert(&self.verdicts, verdict_key(request, &verdict.verifier), verdict.encode());
        }
        for record in records {
            batch.insert(&self.records, record.request.0, encode(record));
        }
        Ok(batch.commit()?)
    }

    /// What a verifier found of the proof of a request.
    pub(crate) fn verdict(
        &self,
        request: &RequestId,
        verifier: &Digest,
    ) -> Result<Option<VerdictEvent>, StoreError> {
        self.verdicts.get(verdict_key(request, verifier))?.map(|bytes| verdict(&bytes)).transpose()
    }

    /// What all verifiers found that have looked.
    pub(crate) fn verdicts(&self, request: &RequestId) -> Result<Vec<VerdictEvent>, StoreError> {
        let found = self.verdicts.prefix(request.0);
        found.map(|entry| verdict(&entry.value()?)).collect()
    }

    /// The opening of a proven request, unless all verifiers have passed it.
    pub(crate) fn opening(&self, request: &RequestId) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.openings.get(request.0)?.map(|bytes| bytes.to_vec()))
    }

    /// Records from a sequence number on, at most `count`, and the number to go on from.
    pub(crate) fn queued(&self, from: u64, count: usize) -> Result<(Vec<Record>, u64), StoreError> {
        let (mut records, mut next) = (Vec::new(), from);
        for entry in self.queue.range(from.to_be_bytes()..).take(count) {
            let (key, request) = entry.into_inner()?;
            next = sequence(&key)? + 1;
            let request = RequestId::from_slice(&request).ok_or(StoreError::Damaged("the queue"))?;
            records.push(self.record(&request)?.ok_or(StoreError::Damaged("a queued record is missing"))?);
        }
        Ok((records, next))
    }

    /// The bytes of a verification key that proofs name.
    pub(crate) fn key(&self, id: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.keys.get(id.0)?.map(|bytes| bytes.to_vec()))
    }

    pub(crate) fn add_key(&self, id: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        if self.keys.get(id.0)?.is_some() {
            return Ok(());
        }
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        batch.insert(&self.keys, id.0, bytes);
        Ok(batch.commit()?)
    }

    /// Openings before this are proven or known not to be.
    pub(crate) fn proved_until(&self) -> Result<OpeningPosition, StoreError> {
        Ok(OpeningPosition(self.cursor(PROVED)?))
    }

    pub(crate) fn set_proved_until(&self, position: OpeningPosition) -> Result<(), StoreError> {
        self.set_cursor(PROVED, position.0)
    }

    /// Records of the queue before this are judged by this verifier, and the log holds its verdicts.
    pub(crate) fn judged_until(&self, verifier: &Digest) -> Result<u64, StoreError> {
        self.cursor(&verifier.to_string())
    }

    pub(crate) fn set_judged_until(&self, verifier: &Digest, sequence: u64) -> Result<(), StoreError> {
        self.set_cursor(&verifier.to_string(), sequence)
    }

    /// Forgets the openings that all of these verifiers have passed, and those that `keep` records came after. Callers may
    /// do so at the same time.
    pub(crate) fn forget_openings(&self, verifiers: &[Digest], keep: u64) -> Result<(), StoreError> {
        let last = self.queue.last_key_value().map(fjall::Guard::key).transpose()?;
        let last = last.map(|key| sequence(&key)).transpose()?.unwrap_or(0);
        let mut until = last + 1;
        for verifier in verifiers {
            until = until.min(self.judged_until(verifier)?);
        }
        let (from, until) = (self.cursor(FORGOTTEN)?, until.max((last + 1).saturating_sub(keep)));
        if from >= until {
            return Ok(());
        }
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for entry in self.queue.range(from.to_be_bytes()..until.to_be_bytes()) {
            batch.remove(&self.openings, entry.value()?);
        }
        batch.insert(&self.cursors, FORGOTTEN, until.to_le_bytes());
        Ok(batch.commit()?)
    }

    fn cursor(&self, name: &str) -> Result<u64, StoreError> {
        let Some(bytes) = self.cursors.get(name)? else { return Ok(0) };
        let bytes = bytes[..].try_into().map_err(|_| StoreError::Damaged("a cursor"))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn set_cursor(&self, name: &str, value: u64) -> Result<(), StoreError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        batch.insert(&self.cursors, name, value.to_le_bytes());
        Ok(batch.commit()?)
    }
}

fn sequence(key: &[u8]) -> Result<u64, StoreError> {
    Ok(u64::from_be_bytes(key.try_into().map_err(|_| StoreError::Damaged("the queue"))?))
}

fn verdict_key(request: &RequestId, verifier: &Digest) -> [u8; RequestId::LEN + Digest::LEN] {
    let mut key = [0; _];
    key[..RequestId::LEN].copy_from_slice(&request.0);
    key[RequestId::LEN..].copy_from_slice(&verifier.0);
    key
}

fn verdict(bytes: &[u8]) -> Result<VerdictEvent, StoreError> {
    match Event::decode(bytes) {
        Ok(Event::Verdict(verdict)) => Ok(verdict),
        _ => Err(StoreError::Damaged("a verdict")),
    }
}

const PROVED: &str = "proved";
const FORGOTTEN: &str = "forgotten";
const CACHE_BYTES: u64 = 4 << 20;

const VERSION: u8 = 2;
const STATE_PROVED: u8 = 0;
const STATE_FAILED: u8 = 1;

fn encode(record: &Record) -> Vec<u8> {
    let state = match &record.state {
        State::Proved { .. } => STATE_PROVED,
        State::Failed(_) => STATE_FAILED,
    };
    let mut bytes = vec![VERSION, state];
    bytes.extend_from_slice(&record.index.to_le_bytes());
    bytes.extend_from_slice(&record.leaf_hash.0);
    bytes.extend_from_slice(&record.model.0);
    match &record.state {
        State::Proved { proof, output } => {
            bytes.extend_from_slice(&proof.encode());
            haca_wire::opening::push_output(output, &mut bytes);
        }
        State::Failed(why) => bytes.extend_from_slice(why.as_bytes()),
    }
    bytes
}

fn decode(request: RequestId, bytes: &[u8]) -> Option<Record> {
    let ([version, state], rest) = bytes.split_first_chunk()?;
    let (index, rest) = rest.split_first_chunk()?;
    let (leaf_hash, rest) = rest.split_first_chunk()?;
    let (model, rest) = rest.split_first_chunk()?;
    let state = match (*version, *state) {
        (VERSION, STATE_PROVED) => {
            let (event, output) = rest.split_first_chunk::<{ Leaf::LEN }>()?;
            let Ok(Event::Proof(proof)) = Event::decode(event) else { return None };
            State::Proved { proof, output: integers(output)? }
        }
        (VERSION, STATE_FAILED) => State::Failed(String::from_utf8(rest.to_vec()).ok()?),
        _ => return None,
    };
    let (leaf_hash, model) = (Digest(*leaf_hash), ModelId(*model));
    Some(Record { request, index: u64::from_le_bytes(*index), leaf_hash, model, state })
}

fn integers(bytes: &[u8]) -> Option<Vec<i64>> {
    let (integers, rest) = bytes.as_chunks::<8>();
    rest.is_empty().then(|| integers.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use haca_wire::event::{PROOF_LEN, VerifierKey, proof_id};

    fn records() -> [Record; 2] {
        let leaf_hash = Digest([2; 32]);
        let proof = ProofEvent {
            id: proof_id(&leaf_hash),
            index: 3,
            time: 4,
            key: Digest([5; 32]),
            proof: [6; PROOF_LEN],
        };
        let record = |number, state| {
            let request = RequestId([number; 16]);
            Record { request, index: 3, leaf_hash, model: ModelId([1; 32]), state }
        };
        [
            record(1, State::Proved { proof, output: vec![i64::MIN, 9] }),
            record(2, State::Failed("no model".into())),
        ]
    }

    #[test]
    fn records_come_back_in_the_order_they_were_added_also_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let records = records();
        {
            let store = Store::open(dir.path()).unwrap();
            records.iter().for_each(|record| store.add(record, Some(&record.request.0)).unwrap());
            store.set_proved_until(OpeningPosition(77)).unwrap();
            store.add_key(&Digest([5; 32]), b"key").unwrap();
        }
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.queued(0, 1).unwrap(), (records[..1].to_vec(), 1));
        assert_eq!(store.queued(1, 9).unwrap(), (records[1..].to_vec(), 2));
        assert_eq!(store.queued(2, 9).unwrap(), (Vec::new(), 2));
        assert_eq!(store.proved_until().unwrap(), OpeningPosition(77));
        assert_eq!(store.key(&Digest([5; 32])).unwrap().as_deref(), Some(&b"key"[..]));
        let failed = Record { state: State::Failed("other".into()), ..records[0].clone() };
        store.judge(&[], std::slice::from_ref(&failed)).unwrap();
        assert_eq!(store.record(&failed.request).unwrap(), Some(failed));
        assert_eq!(store.record(&RequestId([9; 16])).unwrap(), None);
    }

    #[test]
    fn each_verifier_has_its_verdict_and_openings_stay_until_all_have_passed_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let [proven, _] = records();
        let State::Proved { proof, .. } = &proven.state else { unreachable!() };
        let verifiers = [10, 11].map(|seed| VerifierKey::from_seed(&[seed; 32]));
        let keys = verifiers.each_ref().map(VerifierKey::public);
        let record = |number| Record { request: RequestId([number; 16]), ..proven.clone() };
        for number in 0..4 {
            store.add(&record(number), Some(&[number])).unwrap();
        }
        let verdicts =
            [true, false].map(|accepted| verifiers[accepted as usize].verdict(proof, 1, accepted, 2));
        let request = record(2).request;
        store.judge(&verdicts.map(|verdict| (request, verdict)), &[]).unwrap();
        assert_eq!(store.verdict(&request, &keys[1]).unwrap(), Some(verdicts[0]));
        let mut found = store.verdicts(&request).unwrap();
        found.sort_by_key(|verdict| !verdict.accepted);
        assert_eq!((found, store.verdicts(&record(3).request).unwrap()), (verdicts.to_vec(), Vec::new()));

        let kept = |store: &Store| -> Vec<u8> {
            (0..4).filter(|number| store.opening(&record(*number).request).unwrap().is_some()).collect()
        };
        store.set_judged_until(&keys[0], 3).unwrap();
        store.forget_openings(&keys, 9).unwrap();
        assert_eq!(kept(&store), [0, 1, 2, 3]);
        store.set_judged_until(&keys[1], 1).unwrap();
        store.forget_openings(&keys, 9).unwrap();
        assert_eq!(
            (kept(&store), store.opening(&record(3).request).unwrap()),
            (vec![1, 2, 3], Some(vec![3]))
        );
        store.forget_openings(&keys, 2).unwrap();
        assert_eq!(kept(&store), [2, 3], "who is further behind than that misses some");
        store.forget_openings(&keys[..1], 9).unwrap();
        assert_eq!(kept(&store), [3]);
    }

    #[test]
    fn cut_and_changed_records_do_not_panic() {
        for record in records() {
            let bytes = encode(&record);
            assert_eq!(decode(record.request, &bytes), Some(record.clone()));
            for end in 0..bytes.len() {
                let _ = decode(record.request, &bytes[..end]);
            }
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 0x81;
                let _ = decode(record.request, &changed);
            }
        }
    }
}
