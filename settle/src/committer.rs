//! The one thread that writes: drains the rings, drops what the log already holds, commits the rest as a group.
//!
//! While one fsync runs, the next group gathers in the rings; commits begin at least [`PACE`] apart unless a group is
//! full, since a commit costs the processor as much as many leaves. When the disk fails (it is full, say) the group
//! stays in memory and is written again until it is durable. Meanwhile the rings fill and the shards refuse requests;
//! nothing that was taken is lost.

use crate::error::ReadError;
use crate::group::Group;
use crate::ids::Screened;
use crate::log::LogConfig;
use crate::opening_writer::OpeningWriter;
use crate::queue::Waker;
use crate::shared::Shared;
use crate::slot::{self, Slot};
use crate::tree::{CompleteTile, Edge};
use crossbeam_channel::Sender;
use haca_wire::Digest;
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

/// Memory for each leaf of a group: itself and its hash, what the filter said, its nodes in tiles.
pub(crate) const BYTES_PER_LEAF: usize = 512;

pub(crate) struct Committer {
    shared: Arc<Shared>,
    waker: Arc<Waker>,
    grown: Sender<()>,
    progress: Sender<()>,
    dir: PathBuf,
    max_group: usize,
    close_patience: Duration,

    rings: Vec<Consumer<Slot>>,
    /// Leaves taken from each ring since the log opened.
    taken: Vec<u64>,
    /// The ring to begin with, so that none is always last.
    first_ring: usize,
    openings: OpeningWriter,

    group: Group,
    /// Of each leaf of the group that is to be looked at, what the filter says.
    screened: Vec<Screened>,
    hashes: Vec<Digest>,
    /// The tree with the group, once it has grown, and the tiles that the group completes.
    edge: Edge,
    tiles: Vec<CompleteTile>,
}

impl Committer {
    pub(crate) fn new(
        config: &LogConfig,
        shared: Arc<Shared>,
        (rings, opening_rings): (Vec<Consumer<Slot>>, Vec<Consumer<u8>>),
        (group, edge): (Group, Edge),
        waker: Arc<Waker>,
        grown: Sender<()>,
        progress: Sender<()>,
    ) -> Self {
        let openings =
            OpeningWriter::new(opening_rings, config.opening_segment_bytes, shared.store.openings());
        Self {
            shared,
            waker,
            grown,
            progress,
            dir: config.dir.clone(),
            max_group: config.max_group,
            close_patience: config.close_patience,
            taken: vec![0; rings.len()],
            rings,
            first_ring: 0,
            openings,
            group,
            screened: Vec::with_capacity(config.max_group),
            hashes: Vec::with_capacity(config.max_group),
            edge,
            tiles: Vec::new(),
        }
    }

    /// Runs until the log closes and the rings are empty.
    pub(crate) fn run(mut self) -> Result<(), Unsettled> {
        self.waker.attach();
        loop {
            let begun = Instant::now();
            self.take();
            if self.group.taken() > 0 {
                self.settle()?;
                self.gather(begun);
            } else if self.shared.is_closing() {
                return Ok(());
            } else {
                let ready = || self.shared.is_closing() || self.rings.iter().any(|ring| !ring.is_empty());
                self.waker.park_unless(ready);
            }
        }
    }

    /// Lets the next group grow before it is committed. No shard needs to wake the committer meanwhile.
    fn gather(&self, begun: Instant) {
        let waiting: usize = self.rings.iter().map(Consumer::slots).sum();
        if waiting < self.max_group && !self.shared.is_closing() {
            std::thread::sleep(PACE.saturating_sub(begun.elapsed()));
        }
    }

    /// Takes leaves from the rings, in turn, up to one group.
    fn take(&mut self) {
        let rings = self.rings.len();
        for offset in 0..rings {
            let at = (self.first_ring + offset) % rings;
            let count = self.rings[at].slots().min(self.group.room());
            let chunk = self.rings[at].read_chunk(count).expect("no more is asked for than the ring holds");
            let (front, back) = chunk.as_slices();
            self.group.take(front);
            self.group.take(back);
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
            tracing::error!(leaves = self.group.taken(), error = %text, "the log takes no commits; trying again");
            self.shared.set_stall(Some(Arc::clone(&text)));
            if self.shared.is_closing() {
                let give_up = *give_up.get_or_insert_with(|| Instant::now() + self.close_patience);
                if Instant::now() >= give_up {
                    return Err(Unsettled { leaves: self.shared.queued(), cause: text.to_string() });
                }
            }
            std::thread::sleep(backoff);
            backoff = (backoff * 2).min(LAST_RETRY);
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
        self.make_room()?;
        self.sort_out()?;
        // Before the leaves: with a leaf, its opening is durable. Those of leaves that are not kept must leave the ring too.
        self.openings.write(self.shared.store.openings(), &self.taken)?;
        if self.group.kept().is_empty() {
            return Ok(());
        }
        self.grow_tree();
        self.shared.store.commit(&mut self.group)?;
        self.shared.counters.commits.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Hands what has gathered in memory to the filer before it leaves no room for the ids of a group.
    fn make_room(&mut self) -> Result<(), ReadError> {
        // With leaves of a group among them, the ids are not all of durable leaves.
        if self.group.kept().is_empty() && self.shared.store.is_run_due() {
            self.shared.filing.wait().map_err(ReadError::Unfiled)?;
            self.shared.store.seal();
            self.shared.filing.submit();
        }
        Ok(())
    }

    /// Keeps the leaves that the log does not hold in the group.
    fn sort_out(&mut self) -> Result<(), ReadError> {
        let store = &self.shared.store;
        let counters = &self.shared.counters;
        let first = self.group.first();
        let mut claims = store.claims();
        claims.screen(self.group.unseen(), &mut self.screened);
        for screened in &self.screened {
            let leaf = &self.group.unseen()[0];
            let held = match claims.find_or_add(slot::request_id(leaf), screened)? {
                None => {
                    self.group.keep();
                    continue;
                }
                Some(index) if index < first => store.leaf(index)?.ok_or(ReadError::MissingLeaf { index })?,
                Some(index) => *slot::leaf(&self.group.kept()[(index - first) as usize]),
            };
            match held == *slot::leaf(leaf) {
                true => counters.duplicates.fetch_add(1, Relaxed),
                false => counters.conflicts.fetch_add(1, Relaxed),
            };
            self.group.pass();
        }
        Ok(())
    }

    /// Gives the group its place in the tree, once.
    fn grow_tree(&mut self) {
        if self.edge.size() > self.group.first() {
            return;
        }
        self.hashes.clear();
        self.hashes.extend(self.group.kept().iter().map(slot::hash));
        self.edge.append(&self.hashes, &mut self.tiles);
    }

    /// Shows the others what has become durable, and makes ready for the next group.
    fn publish(&mut self) {
        // The tree before the positions: who finds his leaf settled finds it in the tree.
        if !self.group.kept().is_empty() {
            self.shared.store.add_tiles(self.tiles.drain(..));
            self.shared.publish_durable(self.edge.clone());
            // A full channel already says so.
            let _ = self.grown.try_send(());
        }
        // After the tree: who reads an opening finds its leaf, if there is one.
        self.openings.publish(self.shared.store.openings());
        for (ring, taken) in self.shared.rings.iter().zip(&self.taken) {
            ring.settled.store(*taken, Release);
        }
        let _ = self.progress.try_send(());
        self.group.advance();
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.set_stall(Some("the log's committer panicked; restart the process".into()));
        }
    }
}

/// Time from the begin of one commit to that of the next. A commit costs the processor as much as five hundred leaves,
/// and where the log shares its core with a shard, some requests wait for it; who waits for durability waits at most
/// this much longer.
const PACE: Duration = Duration::from_millis(20);
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// A disk that is full stays so for a while.
const LAST_RETRY: Duration = Duration::from_secs(1);
