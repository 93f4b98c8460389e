//! Where each request's leaf is: the index that keeps a request from being logged twice.
//!
//! The leaves are the truth and this follows from them, so it is not written with each commit. The ids of the last
//! leaves are kept in memory; once there are enough they are sorted and written as one table past journal and write
//! buffer (fjall's ingestion, which is atomic and fsynced). The same table says up to which leaf the index goes, so
//! whoever opens the store reads the leaves from there on again. Against an entry in each commit this saves a
//! skiplist entry, a journal entry and a flush for each leaf.
//!
//! A run is written only of leaves that are durable: else a power cut could leave ids of leaves that are gone.

use crate::LeafBytes;
use crate::error::StoreError;
use crate::id_filter::IdFilter;
use crate::store::{StoreLimits, during, parse_index, request_id};
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use haca_wire::RequestId;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Request ids and the indices of their leaves. Written by the committer alone, read by anyone.
pub(crate) struct IdIndex {
    /// Id to index, big-endian; and under [`COVERED`] how many leaves this covers.
    runs: Keyspace,
    memory: RwLock<Memory>,
    run_length: usize,
}

struct Memory {
    /// The ids of the leaves after those that the runs cover, and of the leaves about to be committed.
    recent: HashMap<RequestId, u64>,
    /// The ids on disk; none if there were too many to read when the log opened.
    filter: Option<IdFilter>,
}

impl IdIndex {
    pub(crate) fn open(database: &Database, limits: &StoreLimits) -> Result<Self, StoreError> {
        let runs = database
            .keyspace("ids", KeyspaceCreateOptions::default)
            .map_err(during("opening the keyspace of request ids"))?;
        let run_length = limits.id_run_length();
        let index = Self {
            runs,
            memory: RwLock::new(Memory { recent: HashMap::with_capacity(run_length), filter: None }),
            run_length,
        };
        let mut filter = IdFilter::new(limits.id_filter_bytes());
        if index.covered()? <= filter.capacity() {
            for entry in index.runs.iter() {
                let key = entry.key().map_err(during("reading the request ids"))?;
                // The entry under `COVERED` is no id.
                RequestId::from_slice(&key).iter().for_each(|id| filter.insert(id));
            }
            index.write().filter = Some(filter);
        }
        Ok(index)
    }

    /// How many leaves, from the first on, the index on disk covers.
    pub(crate) fn covered(&self) -> Result<u64, StoreError> {
        let found = self.runs.get(COVERED).map_err(during("reading how far the request ids go"))?;
        found.map_or(Ok(0), |bytes| parse_index(&bytes, "how far the request ids go"))
    }

    /// Where the leaf of a request is, durable or not.
    pub(crate) fn get(&self, id: &RequestId) -> Result<Option<u64>, StoreError> {
        // Memory first: an id leaves it only after it has come to the disk.
        let memory = self.read();
        match memory.recent.get(id) {
            Some(index) => Ok(Some(*index)),
            None if !memory.may_be_on_disk(id) => Ok(None),
            None => {
                drop(memory);
                self.look_up(id)
            }
        }
    }

    /// For the committer to find and add the ids of a group; others wait until it is dropped.
    pub(crate) fn claims(&self) -> Claims<'_> {
        Claims { memory: self.write(), index: self }
    }

    fn look_up(&self, id: &RequestId) -> Result<Option<u64>, StoreError> {
        let found = self.runs.get(id.0).map_err(during("reading a request id"))?;
        found.map(|bytes| parse_index(&bytes, "index of a request id")).transpose()
    }

    /// Adds the ids of leaves, the first of them at `first`.
    pub(crate) fn add(&self, first: u64, leaves: &[LeafBytes]) {
        self.write().recent.extend(leaves.iter().map(request_id).zip(first..));
    }

    /// Whether memory holds enough ids for a run.
    pub(crate) fn is_run_due(&self) -> bool {
        self.read().recent.len() >= self.run_length
    }

    /// Moves the ids of the first `durable` leaves to disk.
    pub(crate) fn write_run(&self, durable: u64) -> Result<(), StoreError> {
        let mut run: Vec<([u8; 16], u64)> = {
            let memory = self.read();
            memory
                .recent
                .iter()
                .filter(|(_, index)| **index < durable)
                .map(|(id, index)| (id.0, *index))
                .collect()
        };
        let Some(last) = run.iter().map(|(_, index)| *index).max() else { return Ok(()) };
        run.sort_unstable();
        let failed = || during("writing a run of request ids");
        let mut table = self.runs.start_ingestion().map_err(failed())?;
        // Shorter than any id, it sorts before those it is a prefix of, too.
        table.write(COVERED, (last + 1).to_be_bytes()).map_err(failed())?;
        for (id, index) in &run {
            table.write(*id, index.to_be_bytes()).map_err(failed())?;
        }
        table.finish().map_err(failed())?;
        let mut memory = self.write();
        if let Some(filter) = &mut memory.filter {
            run.iter().for_each(|(id, _)| filter.insert(&RequestId(*id)));
        }
        memory.recent.retain(|_, index| *index > last);
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tables that no compaction has sorted into the others yet.
    pub(crate) fn unsorted_tables(&self) -> usize {
        self.runs.l0_table_count()
    }
}

impl Memory {
    fn may_be_on_disk(&self, id: &RequestId) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_contain(id))
    }
}

/// The right to add ids, for one group: with a lock for each id no two of their cache misses could overlap.
pub(crate) struct Claims<'a> {
    memory: RwLockWriteGuard<'a, Memory>,
    index: &'a IdIndex,
}

impl Claims<'_> {
    /// Which of the leaves' requests may be on disk. Asked for many at once the filter answers more quickly.
    pub(crate) fn screen(&self, leaves: &[LeafBytes], may_be_on_disk: &mut Vec<bool>) {
        may_be_on_disk.clear();
        may_be_on_disk.extend(leaves.iter().map(|leaf| self.memory.may_be_on_disk(&request_id(leaf))));
    }

    /// Where the leaf of a request is; if there is none, it will be at `index`.
    pub(crate) fn find_or_add(
        &mut self,
        id: RequestId,
        may_be_on_disk: bool,
        index: u64,
    ) -> Result<Option<u64>, StoreError> {
        match self.memory.recent.entry(id) {
            Entry::Occupied(held) => Ok(Some(*held.get())),
            Entry::Vacant(place) => {
                let found = if may_be_on_disk { self.index.look_up(&id)? } else { None };
                if found.is_none() {
                    place.insert(index);
                }
                Ok(found)
            }
        }
    }
}

/// Memory for an id of a run: its place in a hash table that is at least 7/16 full (25 bytes each), in the sorted
/// run, and its hash for the table's filter.
pub(crate) const BYTES_PER_RECENT_ID: u64 = 80;
/// One byte, so it is no request id.
const COVERED: [u8; 1] = [0];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Group, Store};

    fn leaf(number: u64) -> LeafBytes {
        let mut leaf = [7; haca_wire::Leaf::LEN];
        leaf[8..16].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
        leaf
    }

    fn commit(store: &Store, first: u64, count: u64) {
        let leaves: Vec<_> = (first..first + count).map(leaf).collect();
        store.commit(&Group { first, leaves: leaves.clone(), tiles: Vec::new() }).unwrap();
        store.ids().add(first, &leaves);
    }

    fn check(store: &Store, count: u64) {
        for number in 0..count {
            assert_eq!(store.index_of(&request_id(&leaf(number))).unwrap(), Some(number), "{number}");
        }
        assert_eq!(store.index_of(&request_id(&leaf(count))).unwrap(), None);
    }

    #[test]
    fn ids_are_found_in_memory_in_runs_and_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let limits = StoreLimits { cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20 };
        let run = limits.id_run_length() as u64;
        let store = Store::open(dir.path(), &limits, 0).unwrap();
        for first in [0, run, 2 * run] {
            commit(&store, first, run);
            // The last hundred are not known to be durable: their ids stay in memory.
            store.write_due_ids(first + run - 100).unwrap();
            assert_eq!(store.ids().covered().unwrap(), first + run - 100);
        }
        check(&store, 3 * run);
        drop(store);
        let store = Store::open(dir.path(), &limits, 3 * run).unwrap();
        check(&store, 3 * run);
        // With more ids on disk than the filter is good for there is none, and all are found all the same.
        store.ids().write().filter = None;
        check(&store, 3 * run);
    }

    #[test]
    fn an_index_that_is_behind_is_written_in_runs_when_the_store_opens() {
        let dir = tempfile::tempdir().unwrap();
        let limits = StoreLimits { cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20 };
        let run = limits.id_run_length() as u64;
        let store = Store::open(dir.path(), &limits, 0).unwrap();
        commit(&store, 0, 2 * run + 10);
        assert_eq!(store.ids().covered().unwrap(), 0);
        drop(store);
        let store = Store::open(dir.path(), &limits, u64::MAX).unwrap();
        assert_eq!(store.ids().covered().unwrap(), 2 * run);
        assert_eq!(store.ids().read().recent.len(), 10);
        check(&store, 2 * run + 10);
    }
}
