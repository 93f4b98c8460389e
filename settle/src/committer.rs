//! The one thread that writes: drains the rings, drops what the log already holds, commits the rest as a group.
//!
//! While one fsync runs, the next group gathers in the rings; if that one is small when the fsync returns, it is
//! given [`GATHER`] more, since a commit costs the processor as much as many leaves. When the store fails (a full
//! disk, say) the group stays in memory and is tried again, on a store that is opened afresh, until it is durable.
//! Meanwhile the rings fill and the shards refuse requests; nothing that was taken is lost.

use crate::LeafBytes;
use crate::error::ReadError;
use crate::log::LogConfig;
use crate::queue::Waker;
use crate::recovery::open_store;
use crate::shared::Shared;
use crate::store::{Group, Store, StoreLimits, request_id};
use crate::tree::Edge;
use crossbeam_channel::Sender;
use haca_wire::merkle::leaf_hash;
use rtrb::Consumer;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::{Duration, Instant};

/// What was taken and could not be made durable before the log had to close.
#[derive(Debug)]
pub(crate) struct Unsettled {
    pub(crate) leaves: u64,
    pub(crate) cause: String,
}

/// Memory for each leaf of a group: as it came, in the group, in the store's batch, in the journal's buffer, with
/// its keys and list nodes. Rounded up.
pub(crate) const BYTES_PER_LEAF: usize = 2048;

pub(crate) struct Committer {
    shared: Arc<Shared>,
    waker: Arc<Waker>,
    grown: Sender<()>,
    progress: Sender<()>,
    dir: PathBuf,
    limits: StoreLimits,
    max_group: usize,
    close_patience: Duration,

    rings: Vec<Consumer<LeafBytes>>,
    /// Leaves taken from each ring since the log opened.
    taken: Vec<u64>,
    /// The ring to begin with, so that none is always last.
    first_ring: usize,

    /// Leaves taken from the rings and not settled.
    incoming: Vec<LeafBytes>,
    /// Of each, whether the store must be asked for its request.
    may_be_on_disk: Vec<bool>,
    /// How many of them have been looked up.
    sorted: usize,
    group: Group,
    /// The tree with the group, once that is hashed.
    edge: Edge,
}

impl Committer {
    pub(crate) fn new(
        config: &LogConfig,
        shared: Arc<Shared>,
        rings: Vec<Consumer<LeafBytes>>,
        edge: Edge,
        waker: Arc<Waker>,
        grown: Sender<()>,
        progress: Sender<()>,
    ) -> Self {
        Self {
            shared,
            waker,
            grown,
            progress,
            dir: config.dir.clone(),
            limits: config.store_limits(),
            max_group: config.max_group,
            close_patience: config.close_patience,
            taken: vec![0; rings.len()],
            rings,
            first_ring: 0,
            incoming: Vec::with_capacity(config.max_group),
            may_be_on_disk: Vec::with_capacity(config.max_group),
            sorted: 0,
            group: Group { first: edge.size(), ..Group::default() },
            edge,
        }
    }

    /// Runs until the log closes and the rings are empty.
    pub(crate) fn run(mut self) -> Result<(), Unsettled> {
        self.waker.attach();
        loop {
            self.take();
            if !self.incoming.is_empty() {
                self.settle()?;
                self.gather();
            } else if self.shared.is_closing() {
                return Ok(());
            } else {
                let ready = || self.shared.is_closing() || self.rings.iter().any(|ring| !ring.is_empty());
                self.waker.park_unless(ready);
            }
        }
    }

    /// Lets a small group grow before it is committed. No shard needs to wake the committer meanwhile.
    fn gather(&self) {
        let waiting: usize = self.rings.iter().map(Consumer::slots).sum();
        if waiting < self.max_group.min(WORTH_A_COMMIT) && !self.shared.is_closing() {
            std::thread::sleep(GATHER);
        }
    }

    /// Takes leaves from the rings, in turn, up to one group.
    fn take(&mut self) {
        let rings = self.rings.len();
        for offset in 0..rings {
            let at = (self.first_ring + offset) % rings;
            let room = self.max_group - self.incoming.len();
            let count = self.rings[at].slots().min(room);
            let chunk = self.rings[at].read_chunk(count).expect("no more is asked for than the ring holds");
            let (front, back) = chunk.as_slices();
            self.incoming.extend_from_slice(front);
            self.incoming.extend_from_slice(back);
            chunk.commit_all();
            self.taken[at] += count as u64;
        }
        if rings > 0 {
            self.first_ring = (self.first_ring + 1) % rings;
        }
    }

    /// Makes what was taken durable, however long it takes, unless the log closes meanwhile.
    fn settle(&mut self) -> Result<(), Unsettled> {
        let mut backoff = FIRST_RETRY;
        let mut give_up = None;
        while let Err(error) = self.try_settle() {
            let text: Arc<str> = format!("{}: {error}", self.dir.display()).into();
            tracing::error!(leaves = self.incoming.len(), error = %text, "the log takes no commits; trying again");
            self.shared.set_stall(Some(Arc::clone(&text)));
            if self.shared.is_closing() {
                let give_up = *give_up.get_or_insert_with(|| Instant::now() + self.close_patience);
                if Instant::now() >= give_up {
                    return Err(Unsettled { leaves: self.shared.queued(), cause: text.to_string() });
                }
            }
            std::thread::sleep(backoff);
            backoff = (backoff * 2).min(LAST_RETRY);
            self.reopen();
        }
        if backoff > FIRST_RETRY {
            tracing::warn!(dir = %self.dir.display(), "the log takes commits again");
            self.shared.set_stall(None);
        }
        self.publish();
        Ok(())
    }

    /// One attempt. Each step picks up where the last attempt left off.
    fn try_settle(&mut self) -> Result<(), ReadError> {
        let shared = Arc::clone(&self.shared);
        shared.with_store(|store| {
            store.write_due_ids(shared.durable().size())?;
            self.sort_out(store)?;
            if self.group.leaves.is_empty() {
                return Ok(());
            }
            self.hash();
            store.commit(&self.group)?;
            self.shared.counters.commits.fetch_add(1, Relaxed);
            Ok(())
        })
    }

    /// Puts the leaves that the log does not hold into the group.
    fn sort_out(&mut self, store: &Store) -> Result<(), ReadError> {
        let first = self.group.first;
        let mut claims = store.ids().claims();
        claims.screen(&self.incoming, &mut self.may_be_on_disk);
        while let Some(leaf) = self.incoming.get(self.sorted) {
            let index = first + self.group.leaves.len() as u64;
            let may_be_on_disk = self.may_be_on_disk[self.sorted];
            let held = match claims.find_or_add(request_id(leaf), may_be_on_disk, index)? {
                None => None,
                Some(index) if index < first => {
                    Some(store.leaf(index)?.ok_or(ReadError::MissingLeaf { index })?)
                }
                Some(index) => Some(self.group.leaves[(index - first) as usize]),
            };
            match held {
                None => self.group.leaves.push(*leaf),
                Some(held) if held == *leaf => {
                    self.shared.counters.duplicates.fetch_add(1, Relaxed);
                }
                Some(_) => {
                    self.shared.counters.conflicts.fetch_add(1, Relaxed);
                }
            }
            self.sorted += 1;
        }
        Ok(())
    }

    /// Gives the group its place in the tree, once.
    fn hash(&mut self) {
        if self.edge.size() > self.shared.durable().size() {
            return;
        }
        for leaf in &self.group.leaves {
            self.edge.append(leaf_hash(leaf), &mut self.group.tiles);
        }
    }

    /// Shows the others what has become durable, and makes ready for the next group.
    fn publish(&mut self) {
        // The tree before the positions: who finds his leaf settled finds it in the tree.
        if !self.group.leaves.is_empty() {
            self.shared.publish_durable(self.edge.clone());
            // A full channel already says so.
            let _ = self.grown.try_send(());
        }
        for (ring, taken) in self.shared.rings.iter().zip(&self.taken) {
            ring.settled.store(*taken, Release);
        }
        let _ = self.progress.try_send(());
        self.incoming.clear();
        self.sorted = 0;
        self.group.leaves.clear();
        self.group.tiles.clear();
        self.group.first = self.edge.size();
    }

    /// Opens the store afresh: after an error in its journal it takes no more writes.
    ///
    /// The group that failed may be in the reopened store, out of pages that never reached the disk. It is written
    /// again under the same keys in any case, so what is then called durable was fsynced after the error.
    fn reopen(&mut self) {
        // Its files are closed before they are opened again.
        drop(self.shared.take_store());
        let promised = self.shared.durable().size();
        let opened = open_store(&self.dir, &self.limits, promised)
            .map_err(|error| error.to_string())
            .and_then(|store| {
                let found = store.len().map_err(|error| error.to_string())?;
                match found >= promised {
                    true => Ok(store),
                    false => Err(format!("the store came back with {found} of {promised} durable entries")),
                }
            });
        match opened {
            Ok(store) => {
                // The group is sorted out already, and whether it is in the store is not known.
                store.ids().add(self.group.first, &self.group.leaves);
                self.shared.put_store(store);
            }
            Err(error) => tracing::error!(dir = %self.dir.display(), error, "the log's store does not open"),
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.set_stall(Some("the log's committer panicked; restart the process".into()));
        }
    }
}

/// How long a small group gathers after the one before it: two hundred leaves at 50,000 a second.
const GATHER: Duration = Duration::from_millis(4);
/// Leaves that are committed at once: from here on the cost of the commit itself is small against theirs.
const WORTH_A_COMMIT: usize = 1024;
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// A store that is opened again replays its journal, so this is not done all the time.
const LAST_RETRY: Duration = Duration::from_secs(1);
