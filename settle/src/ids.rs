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
use crate::store::{StoreLimits, during, parse_index, request_id};
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use haca_wire::RequestId;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// Request ids and the indices of their leaves. Written by the committer alone, read by anyone.
pub(crate) struct IdIndex {
    /// Id to index, big-endian; and under [`COVERED`] how many leaves this covers.
    runs: Keyspace,
    /// The ids of the leaves after these.
    recent: RwLock<HashMap<RequestId, u64>>,
    run_length: usize,
}

impl IdIndex {
    pub(crate) fn open(database: &Database, limits: &StoreLimits) -> Result<Self, StoreError> {
        let runs = database
            .keyspace("ids", KeyspaceCreateOptions::default)
            .map_err(during("opening the keyspace of request ids"))?;
        let run_length = limits.id_run_length();
        Ok(Self { runs, recent: RwLock::new(HashMap::with_capacity(run_length)), run_length })
    }

    /// How many leaves, from the first on, the index on disk covers.
    pub(crate) fn covered(&self) -> Result<u64, StoreError> {
        let found = self.runs.get(COVERED).map_err(during("reading how far the request ids go"))?;
        found.map_or(Ok(0), |bytes| parse_index(&bytes, "how far the request ids go"))
    }

    /// Where the leaf of a request is, durable or not.
    pub(crate) fn get(&self, id: &RequestId) -> Result<Option<u64>, StoreError> {
        // Memory first: an id leaves it only after it has come to the disk.
        let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner).get(id).copied();
        if recent.is_some() {
            return Ok(recent);
        }
        let found = self.runs.get(id.0).map_err(during("reading a request id"))?;
        found.map(|bytes| parse_index(&bytes, "index of a request id")).transpose()
    }

    /// Adds the ids of leaves that are in the store, the first of them at `first`.
    pub(crate) fn add(&self, first: u64, leaves: &[LeafBytes]) {
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        recent.extend(leaves.iter().map(request_id).zip(first..));
    }

    /// Whether memory holds enough ids for a run.
    pub(crate) fn is_run_due(&self) -> bool {
        self.recent.read().unwrap_or_else(PoisonError::into_inner).len() >= self.run_length
    }

    /// Moves the ids of the first `durable` leaves to disk.
    pub(crate) fn write_run(&self, durable: u64) -> Result<(), StoreError> {
        let mut run: Vec<([u8; 16], u64)> = {
            let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
            recent.iter().filter(|(_, index)| **index < durable).map(|(id, index)| (id.0, *index)).collect()
        };
        let Some(last) = run.iter().map(|(_, index)| *index).max() else { return Ok(()) };
        run.sort_unstable();
        let failed = || during("writing a run of request ids");
        let mut table = self.runs.start_ingestion().map_err(failed())?;
        // Shorter than any id, it sorts before those it is a prefix of, too.
        table.write(COVERED, (last + 1).to_be_bytes()).map_err(failed())?;
        for (id, index) in run {
            table.write(id, index.to_be_bytes()).map_err(failed())?;
        }
        table.finish().map_err(failed())?;
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, index| *index > last);
        Ok(())
    }

    /// Tables that no compaction has sorted into the others yet.
    pub(crate) fn unsorted_tables(&self) -> usize {
        self.runs.l0_table_count()
    }
}

/// Memory for an id of a run: its place in a hash table that is at least 7/16 full (25 bytes each), in the sorted
/// run, and its hash for the table's filter.
pub(crate) const BYTES_PER_RECENT_ID: u64 = 128;
/// One byte, so it is no request id.
const COVERED: [u8; 1] = [0];
