//! What the log's threads show each other and the outside: counters, the newest durable tree, the newest checkpoint.
//!
//! Each value has one writer. The locks guard a pointer and are held for a copy of it.

use crate::checkpoint::Checkpoint;
use crate::filer::Filing;
use crate::store::Store;
use crate::tree::Edge;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, PoisonError, RwLock};

/// How far one ring has come. A cache line of its own, since another shard's lies next to it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct RingPositions {
    /// Leaves appended, written by the shard.
    pub(crate) appended: AtomicU64,
    /// Of these, the ones that are durable or were found to be there already; written by the committer.
    pub(crate) settled: AtomicU64,
}

/// The state between the log's threads.
pub(crate) struct Shared {
    pub(crate) rings: Arc<[RingPositions]>,
    pub(crate) closing: AtomicBool,
    pub(crate) store: Store,
    pub(crate) filing: Filing,
    durable: RwLock<Arc<Edge>>,
    checkpoint: RwLock<Option<Arc<Checkpoint>>>,
    stall: RwLock<Option<Arc<str>>>,
    checkpoint_failure: RwLock<Option<Arc<str>>>,
    pub(crate) counters: Counters,
}

/// Written by one thread each, read by anyone.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) durable: AtomicU64,
    pub(crate) checkpointed: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    pub(crate) stalled: AtomicBool,
    pub(crate) checkpoint_failing: AtomicBool,
    pub(crate) disk_bytes: AtomicU64,
    pub(crate) waiting_ids: AtomicU64,
}

/// Where the log stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogStatus {
    /// Entries that are durable.
    pub tree_size: u64,
    /// Entries under the newest published checkpoint.
    pub checkpointed: u64,
    /// Leaves taken from shards and not yet durable.
    pub queued: u64,
    /// Group commits since the log opened.
    pub commits: u64,
    /// Checkpoints published since the log opened.
    pub checkpoints: u64,
    /// Leaves that the log already held, byte for byte, and did not append again.
    pub duplicates: u64,
    /// Leaves refused because the log holds another one for the same request.
    pub conflicts: u64,
    /// The store does not take commits now; nothing is lost, the rings fill, commits are tried again.
    pub stalled: bool,
    /// Checkpoints cannot be published now; entries still become durable.
    pub checkpoint_failing: bool,
    /// What the store, or else the file system under the checkpoint, said last while failing.
    pub error: Option<Arc<str>>,
    /// Bytes that the store uses on disk, as of the last checkpoint.
    pub disk_bytes: u64,
    /// Request ids that someone waits for.
    pub waiting_ids: u64,
}

impl Shared {
    pub(crate) fn new(
        rings: Arc<[RingPositions]>,
        store: Store,
        edge: Edge,
        checkpoint: Option<Checkpoint>,
    ) -> Self {
        let counters = Counters::default();
        counters.durable.store(edge.size(), Relaxed);
        counters.checkpointed.store(checkpoint.as_ref().map_or(0, |c| c.tree_size), Relaxed);
        counters.disk_bytes.store(store.disk_bytes().unwrap_or(0), Relaxed);
        Self {
            rings,
            closing: AtomicBool::new(false),
            store,
            filing: Filing::default(),
            durable: RwLock::new(Arc::new(edge)),
            checkpoint: RwLock::new(checkpoint.map(Arc::new)),
            stall: RwLock::default(),
            checkpoint_failure: RwLock::default(),
            counters,
        }
    }

    /// The newest durable tree.
    pub(crate) fn durable(&self) -> Arc<Edge> {
        Arc::clone(&self.durable.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn publish_durable(&self, edge: Edge) {
        self.counters.durable.store(edge.size(), Release);
        *self.durable.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(edge);
    }

    /// The newest published checkpoint.
    pub(crate) fn checkpoint(&self) -> Option<Arc<Checkpoint>> {
        self.checkpoint.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn publish_checkpoint(&self, checkpoint: Checkpoint) {
        self.counters.checkpointed.store(checkpoint.tree_size, Release);
        self.counters.checkpoints.fetch_add(1, Relaxed);
        *self.checkpoint.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(checkpoint));
    }

    pub(crate) fn set_stall(&self, error: Option<Arc<str>>) {
        self.counters.stalled.store(error.is_some(), Release);
        *self.stall.write().unwrap_or_else(PoisonError::into_inner) = error;
    }

    pub(crate) fn set_checkpoint_failure(&self, error: Option<Arc<str>>) {
        self.counters.checkpoint_failing.store(error.is_some(), Release);
        *self.checkpoint_failure.write().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// Measures the store's files again.
    pub(crate) fn refresh_disk_bytes(&self) {
        // While the store is being opened again the last figure stands.
        if let Ok(bytes) = self.store.disk_bytes() {
            self.counters.disk_bytes.store(bytes, Relaxed);
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Acquire)
    }

    /// Leaves appended by shards and not settled.
    pub(crate) fn queued(&self) -> u64 {
        let queued = |ring: &RingPositions| {
            // Settled first: it never passes appended, so the difference cannot become negative.
            let settled = ring.settled.load(Acquire);
            ring.appended.load(Acquire).saturating_sub(settled)
        };
        self.rings.iter().map(queued).sum()
    }

    pub(crate) fn status(&self) -> LogStatus {
        let counters = &self.counters;
        let stalled = counters.stalled.load(Acquire);
        let checkpoint_failing = counters.checkpoint_failing.load(Acquire);
        let text =
            |lock: &RwLock<Option<Arc<str>>>| lock.read().unwrap_or_else(PoisonError::into_inner).clone();
        let error = match (stalled, checkpoint_failing) {
            (true, _) => text(&self.stall),
            (false, true) => text(&self.checkpoint_failure),
            (false, false) => None,
        };
        LogStatus {
            tree_size: counters.durable.load(Acquire),
            checkpointed: counters.checkpointed.load(Acquire),
            queued: self.queued(),
            commits: counters.commits.load(Relaxed),
            checkpoints: counters.checkpoints.load(Relaxed),
            duplicates: counters.duplicates.load(Relaxed),
            conflicts: counters.conflicts.load(Relaxed),
            stalled,
            checkpoint_failing,
            error,
            disk_bytes: counters.disk_bytes.load(Relaxed),
            waiting_ids: counters.waiting_ids.load(Relaxed),
        }
    }
}
