//! What became of each request of mode `zk`, on disk: an LSM store that prover and verifier share.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `records` | request id | [`Record`] |
//! | `queue` | sequence, `u64` big-endian | request id: records in the order in which they were made |
//! | `keys` | id of a verification key | its bytes |
//! | `cursors` | name | `u64` little-endian: how far prover and verifier have come |
//!
//! What a call has written is durable when it returns.

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use haca_settle::OpeningPosition;
use haca_wire::event::{Event, ProofEvent, VerdictEvent};
use haca_wire::opening::Opening;
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
pub(crate) enum State {
    /// Proven; what a verifier needs is kept until it has looked.
    Proved { proof: ProofEvent, opening: Opening },
    /// A verifier has looked.
    Judged { proof: ProofEvent, verdict: VerdictEvent, output: Vec<i64> },
    /// It cannot be proven, for this reason.
    Failed(String),
}

pub(crate) struct Store {
    database: Database,
    records: Keyspace,
    queue: Keyspace,
    keys: Keyspace,
    cursors: Keyspace,
}

impl Store {
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let database = Database::builder(dir).cache_size(CACHE_BYTES).worker_threads(1).open()?;
        let keyspace = |name| database.keyspace(name, KeyspaceCreateOptions::default);
        let (records, queue, keys, cursors) =
            (keyspace("records")?, keyspace("queue")?, keyspace("keys")?, keyspace("cursors")?);
        Ok(Self { records, queue, keys, cursors, database })
    }

    pub(crate) fn record(&self, request: &RequestId) -> Result<Option<Record>, StoreError> {
        let Some(bytes) = self.records.get(request.0)? else { return Ok(None) };
        decode(*request, &bytes).map(Some).ok_or(StoreError::Damaged("a record does not read"))
    }

    /// Adds a record at the end of the queue. There is one writer.
    pub(crate) fn add(&self, record: &Record) -> Result<(), StoreError> {
        let last = self.queue.last_key_value().map(fjall::Guard::key).transpose()?;
        let next = last.map(|key| sequence(&key)).transpose()?.map_or(0, |last| last + 1);
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        batch.insert(&self.records, record.request.0, encode(record));
        batch.insert(&self.queue, next.to_be_bytes(), record.request.0);
        Ok(batch.commit()?)
    }

    /// Writes records anew that are in the queue.
    pub(crate) fn replace(&self, records: &[Record]) -> Result<(), StoreError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for record in records {
            batch.insert(&self.records, record.request.0, encode(record));
        }
        Ok(batch.commit()?)
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

    /// Records of the queue before this are judged, and the log holds the verdicts.
    pub(crate) fn judged_until(&self) -> Result<u64, StoreError> {
        self.cursor(JUDGED)
    }

    pub(crate) fn set_judged_until(&self, sequence: u64) -> Result<(), StoreError> {
        self.set_cursor(JUDGED, sequence)
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

const PROVED: &str = "proved";
const JUDGED: &str = "judged";
const CACHE_BYTES: u64 = 4 << 20;

const VERSION: u8 = 1;
const STATE_PROVED: u8 = 0;
const STATE_JUDGED: u8 = 1;
const STATE_FAILED: u8 = 2;

fn encode(record: &Record) -> Vec<u8> {
    let state = match &record.state {
        State::Proved { .. } => STATE_PROVED,
        State::Judged { .. } => STATE_JUDGED,
        State::Failed(_) => STATE_FAILED,
    };
    let mut bytes = vec![VERSION, state];
    bytes.extend_from_slice(&record.index.to_le_bytes());
    bytes.extend_from_slice(&record.leaf_hash.0);
    bytes.extend_from_slice(&record.model.0);
    match &record.state {
        State::Proved { proof, opening } => {
            bytes.extend_from_slice(&proof.encode());
            bytes.extend_from_slice(&(opening.output.len() as u32).to_le_bytes());
            haca_wire::opening::push_output(&opening.output, &mut bytes);
            bytes.extend_from_slice(&opening.input);
        }
        State::Judged { proof, verdict, output } => {
            bytes.extend_from_slice(&proof.encode());
            bytes.extend_from_slice(&verdict.encode());
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
    let (model, mut rest) = rest.split_first_chunk()?;
    let mut event = || {
        let (leaf, others) = rest.split_first_chunk::<{ Leaf::LEN }>()?;
        rest = others;
        Event::decode(leaf).ok()
    };
    let state = match (*version, *state) {
        (VERSION, STATE_PROVED) => {
            let Some(Event::Proof(proof)) = event() else { return None };
            let (outputs, rest) = rest.split_first_chunk()?;
            let outputs = 8 * u32::from_le_bytes(*outputs) as usize;
            let (output, input) = rest.split_at_checked(outputs)?;
            State::Proved { proof, opening: Opening { input: input.to_vec(), output: integers(output)? } }
        }
        (VERSION, STATE_JUDGED) => {
            let (Some(Event::Proof(proof)), Some(Event::Verdict(verdict))) = (event(), event()) else {
                return None;
            };
            State::Judged { proof, verdict, output: integers(rest)? }
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

    fn records() -> [Record; 3] {
        let leaf_hash = Digest([2; 32]);
        let proof = ProofEvent {
            id: proof_id(&leaf_hash),
            index: 3,
            time: 4,
            key: Digest([5; 32]),
            proof: [6; PROOF_LEN],
        };
        let opening = Opening { input: vec![7; 12], output: vec![-8, 9] };
        let verdict = VerifierKey::from_seed(&[10; 32]).verdict(&proof, 11, true, 12);
        let record = |number, state| {
            let request = RequestId([number; 16]);
            Record { request, index: 3, leaf_hash, model: ModelId([1; 32]), state }
        };
        [
            record(1, State::Proved { proof, opening }),
            record(2, State::Judged { proof, verdict, output: vec![i64::MIN] }),
            record(3, State::Failed("no model".into())),
        ]
    }

    #[test]
    fn records_come_back_in_the_order_they_were_added_also_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let records = records();
        {
            let store = Store::open(dir.path()).unwrap();
            records.iter().for_each(|record| store.add(record).unwrap());
            store.set_proved_until(OpeningPosition(77)).unwrap();
            store.set_judged_until(1).unwrap();
            store.add_key(&Digest([5; 32]), b"key").unwrap();
        }
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.queued(0, 2).unwrap(), (records[..2].to_vec(), 2));
        assert_eq!(store.queued(store.judged_until().unwrap(), 9).unwrap(), (records[1..].to_vec(), 3));
        assert_eq!(store.queued(3, 9).unwrap(), (Vec::new(), 3));
        assert_eq!(store.proved_until().unwrap(), OpeningPosition(77));
        assert_eq!(store.key(&Digest([5; 32])).unwrap().as_deref(), Some(&b"key"[..]));
        let failed = Record { state: State::Failed("other".into()), ..records[0].clone() };
        store.replace(std::slice::from_ref(&failed)).unwrap();
        assert_eq!(store.record(&failed.request).unwrap(), Some(failed));
        assert_eq!(store.record(&RequestId([9; 16])).unwrap(), None);
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
