//! The public face: configuration, opening and closing, reading and proving.

use crate::checkpoint::{Checkpoint, LogKey, Publisher};
use crate::committer::Committer;
use crate::error::{CloseError, OpenError, ReadError};
use crate::openings::{Damage, Opening, OpeningPosition};
use crate::priority::yield_to_shards;
use crate::queue::{Appender, Waker};
use crate::receipts::{self, Busy, Receipts, WaitSender};
use crate::recovery::{FolderLock, recover};
use crate::shared::{LogStatus, RingPositions, Shared};
use crate::store::StoreLimits;
use crate::tree::{TileCache, Tree};
use crate::{LeafBytes, committer, filer, slot, store};
use crossbeam_channel::{Sender, bounded};
use haca_wire::message::log::ReceiptStates;
use haca_wire::{Digest, RequestId, Stage};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

/// How the log is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The log's own folder; created if it is not there.
    pub dir: PathBuf,
    /// The log's name in its checkpoints; also the name of its key.
    pub origin: String,
    /// Leaves that each shard's ring holds. What the log is behind by when it stalls, before requests are refused.
    pub queue_capacity: usize,
    /// Bytes of openings that each appender's ring holds, 64 for each opening among them. Also bounds one opening.
    pub opening_ring_bytes: usize,
    /// A new segment file of openings is begun after so many bytes; segments are deleted whole.
    pub opening_segment_bytes: u64,
    /// Leaves in one commit at most.
    pub max_group: usize,
    /// Checkpoints are at least this far apart, so an entry has one at most this long, and the time it takes to
    /// write it, after it became durable.
    pub checkpoint_interval: Duration,
    /// Blocks of the store's index kept in memory, bytes.
    pub cache_bytes: u64,
    /// Request ids in memory, bytes: a third for those that are not sorted yet, the rest for the filter that knows a
    /// fresh id without reading the disk. With 53 million ids in the log the usual 96 MiB let one fresh id of a hundred
    /// pass to the disk, with twice as many one of ten; a log that grows far beyond wants more, or each leaf costs a
    /// read of some ten microseconds.
    pub id_bytes: u64,
    /// Request ids that may be waited for at the same time.
    pub max_waiting_ids: usize,
    /// How long closing goes on trying when the store takes no commits.
    pub close_patience: Duration,
    /// What is read again when the log opens.
    pub audit: Audit,
}

/// How much of the log is read again when it opens. The root over every kept checkpoint is compared in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audit {
    /// The last few thousand leaves.
    Tail,
    /// Every leaf.
    Whole,
}

impl LogConfig {
    /// The usual settings.
    pub fn new(dir: impl Into<PathBuf>, origin: impl Into<String>) -> Self {
        Self {
            dir: dir.into(),
            origin: origin.into(),
            queue_capacity: 65_536,
            opening_ring_bytes: 4 << 20,
            opening_segment_bytes: 64 << 20,
            max_group: 4096,
            checkpoint_interval: Duration::from_millis(100),
            cache_bytes: 16 << 20,
            id_bytes: 96 << 20,
            max_waiting_ids: 1 << 20,
            close_patience: Duration::from_secs(5),
            audit: Audit::Tail,
        }
    }

    /// Upper bound of what the log holds in memory with so many appenders, bytes.
    pub fn memory_bytes(&self, appenders: usize) -> u64 {
        let rings = appenders * (self.queue_capacity * slot::LEN + self.opening_ring_bytes);
        let group = self.max_group * committer::BYTES_PER_LEAF;
        let waits = self.max_waiting_ids * receipts::BYTES_PER_ID + receipts::CACHE_BYTES;
        self.store_limits().memory_bytes() + (rings + group + waits) as u64
    }

    pub(crate) fn store_limits(&self) -> StoreLimits {
        StoreLimits { cache_bytes: self.cache_bytes, id_bytes: self.id_bytes, max_group: self.max_group }
    }

    fn check(&self, key: &LogKey) -> Result<(), OpenError> {
        let limits = [
            ("queue_capacity", self.queue_capacity as u64, 1 << 24),
            ("opening_ring_bytes", self.opening_ring_bytes as u64, 1 << 32),
            ("opening_segment_bytes", self.opening_segment_bytes, 1 << 40),
            ("max_group", self.max_group as u64, store::MAX_GROUP as u64),
            ("max_waiting_ids", self.max_waiting_ids as u64, 1 << 28),
        ];
        for (setting, value, most) in limits {
            if value == 0 || value > most {
                let why = format!("{value} is not between 1 and {most}");
                return Err(OpenError::Config { setting, why });
            }
        }
        if self.origin != key.origin() {
            let why = format!("{:?} is not the name of the key, {:?}", self.origin, key.origin());
            return Err(OpenError::Config { setting: "origin", why });
        }
        Ok(())
    }
}

/// An open log. Closing it, or dropping it, makes durable what the appenders handed over.
pub struct Log {
    handle: LogHandle,
    waker: Arc<Waker>,
    threads: Option<Threads>,
    /// Let go of last, after every file is closed.
    _lock: FolderLock,
}

struct Threads {
    committer: JoinHandle<Result<(), committer::Unsettled>>,
    publisher: JoinHandle<Result<(), String>>,
    receipts: JoinHandle<()>,
    filer: JoinHandle<()>,
    /// Dropped to say that the log closes.
    closing: Sender<()>,
}

impl Log {
    /// Opens or creates the log, with one appender for each shard.
    ///
    /// # Errors
    /// If the store is behind a published checkpoint or does not agree with it, if another process holds the log, or
    /// if it was written in another format, under another origin or with another key.
    pub fn open(
        config: LogConfig,
        key: LogKey,
        appenders: usize,
    ) -> Result<(Self, Vec<Appender>), OpenError> {
        config.check(&key)?;
        // On a thread of its own, whose low priority the store's worker inherits; the caller's stays as it is.
        let recovered = std::thread::scope(|scope| {
            let recovering = scope.spawn(|| {
                yield_to_shards();
                recover(&config, &key)
            });
            recovering.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        let positions: Arc<[RingPositions]> = (0..appenders).map(|_| RingPositions::default()).collect();
        let shared = Arc::new(Shared::new(
            Arc::clone(&positions),
            recovered.store,
            recovered.edge.clone(),
            recovered.checkpoint,
        ));
        let waker = Arc::new(Waker::default());
        let (appenders, rings) = (0..appenders)
            .map(|index| Appender::new(&config, index, Arc::clone(&positions), Arc::clone(&waker)))
            .unzip::<_, _, Vec<_>, (Vec<_>, Vec<_>)>();

        let (grown, has_grown) = bounded(1);
        let (closing, is_closing) = bounded(0);
        let (progress, has_progressed) = bounded(1);
        let (waits, asked) = receipts::channel(&shared, config.max_waiting_ids);
        let committer = Committer::new(
            &config,
            Arc::clone(&shared),
            rings,
            (recovered.group, recovered.edge),
            Arc::clone(&waker),
            grown,
            progress.clone(),
        );
        let publisher = Publisher {
            shared: Arc::clone(&shared),
            key,
            files: recovered.files,
            interval: config.checkpoint_interval,
            grown: has_grown,
            closing: is_closing,
            progress,
        };
        let receipts = Receipts::new(Arc::clone(&shared), asked, has_progressed);
        let filing = Arc::clone(&shared);
        let dir = &config.dir;
        let threads = Threads {
            committer: spawn(dir, "log-committer", move || committer.run())?,
            publisher: spawn(dir, "log-publisher", move || publisher.run())?,
            receipts: spawn(dir, "log-receipts", move || receipts.run())?,
            filer: spawn(dir, "log-filer", move || filer::run(&filing))?,
            closing,
        };
        let handle = LogHandle { shared, waits };
        Ok((Self { handle, waker, threads: Some(threads), _lock: recovered.lock }, appenders))
    }

    /// A handle for everyone but the shards' hot path.
    pub fn handle(&self) -> LogHandle {
        self.handle.clone()
    }

    /// Takes what is in the rings, makes it durable, publishes a last checkpoint and answers who waits. Appenders
    /// that are still there then find no room.
    ///
    /// # Errors
    /// If something that was taken could not be made durable within [`LogConfig::close_patience`], or the last
    /// checkpoint could not be published.
    pub fn close(mut self) -> Result<(), CloseError> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Result<(), CloseError> {
        let Some(threads) = self.threads.take() else { return Ok(()) };
        self.handle.shared.closing.store(true, Ordering::Release);
        drop(threads.closing);
        self.handle.shared.store.openings().close();
        self.waker.wake();
        // Each thread ends when the one before it has: the channels between them close.
        let committed = threads.committer.join();
        let published = threads.publisher.join();
        let answered = threads.receipts.join();
        self.handle.shared.filing.close();
        let filed = threads.filer.join();
        self.handle.shared.store.close();
        let unsettled = committed.map_err(|_| CloseError::Panicked("committer"))?;
        unsettled.map_err(|u| CloseError::Unsettled { unsettled: u.leaves, cause: u.cause })?;
        published.map_err(|_| CloseError::Panicked("publisher"))?.map_err(CloseError::Checkpoint)?;
        answered.map_err(|_| CloseError::Panicked("receipts"))?;
        filed.map_err(|_| CloseError::Panicked("filer"))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            tracing::error!(%error, "the log was dropped and did not close cleanly");
        }
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Log").field(&self.handle.status()).finish()
    }
}

fn spawn<T: Send + 'static>(
    dir: &std::path::Path,
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, OpenError> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(|| {
        yield_to_shards();
        run()
    });
    spawned.map_err(|source| OpenError::Io { path: dir.join(name), source })
}

/// Asks the log. Reading blocks on the disk, so a shard uses only [`LogHandle::await_receipts`],
/// [`LogHandle::status`] and [`LogHandle::latest_checkpoint`].
#[derive(Clone)]
pub struct LogHandle {
    shared: Arc<Shared>,
    waits: WaitSender,
}

impl LogHandle {
    /// Calls `reply` once each of the ids has reached `stage` or is known not to be in the log. It is called on a
    /// thread of the log's and must not block.
    ///
    /// An id is called unknown only after every leaf that had been appended when this was called is settled; since
    /// a response leaves after its leaf was appended, a caller that has its response is never told `unknown`.
    /// If another leaf was logged first for an id, the answer is `logged` with that leaf's hash: a caller that
    /// holds a receipt compares. If the log closes without being able to settle, `reply` is dropped.
    ///
    /// # Errors
    /// [`Busy`] if too many ids are waited for already, or the log is closed; `reply` is dropped.
    pub fn await_receipts(
        &self,
        ids: Vec<RequestId>,
        stage: Stage,
        reply: Box<dyn FnOnce(ReceiptStates) + Send>,
    ) -> Result<(), Busy> {
        self.waits.send(ids, stage, reply)
    }

    /// Where the log stands. Atomics only, unless something fails: then its text is copied too.
    pub fn status(&self) -> LogStatus {
        self.shared.status()
    }

    /// Whether the log takes no commits now. One atomic, so a shard may ask.
    pub fn is_stalled(&self) -> bool {
        self.shared.counters.stalled.load(Ordering::Acquire)
    }

    /// The newest published checkpoint.
    pub fn latest_checkpoint(&self) -> Option<Arc<Checkpoint>> {
        self.shared.checkpoint()
    }

    /// The durable leaf at `index`.
    ///
    /// # Errors
    /// If the store does not read.
    pub fn leaf(&self, index: u64) -> Result<Option<LeafBytes>, ReadError> {
        if index >= self.shared.durable().size() {
            return Ok(None);
        }
        Ok(self.shared.store.leaf(index)?)
    }

    /// The path from leaf `index` to the root of the tree over the first `tree_size` leaves.
    ///
    /// # Errors
    /// If there is no such leaf or no such durable tree, or the store does not read.
    pub fn inclusion(&self, index: u64, tree_size: u64) -> Result<Vec<Digest>, ReadError> {
        self.with_tree(|tree| tree.inclusion(index, tree_size))
    }

    /// The proof that the tree over the first `new` leaves extends the one over the first `old`.
    ///
    /// # Errors
    /// If `old` is larger than `new` or `new` is not durable, or the store does not read.
    pub fn consistency(&self, old: u64, new: u64) -> Result<Vec<Digest>, ReadError> {
        self.with_tree(|tree| tree.consistency(old, new))
    }

    /// The root of the tree over the first `size` leaves.
    ///
    /// # Errors
    /// If they are not durable or the store does not read.
    pub fn root(&self, size: u64) -> Result<Digest, ReadError> {
        self.with_tree(|tree| tree.root(size))
    }

    /// Where the durable leaf of a request is.
    ///
    /// # Errors
    /// If the store does not read.
    pub fn index_of(&self, id: &RequestId) -> Result<Option<u64>, ReadError> {
        let durable = self.shared.durable().size();
        Ok(self.shared.store.index_of(id)?.filter(|index| *index < durable))
    }

    /// Openings from a position on, in the order in which they were written, until they make up `max_bytes` or there
    /// are no more; at least one if there is one. Two leaves of one appender are in the order in which they were
    /// appended.
    ///
    /// The fate of their leaves is settled: each is durable, or was dropped because the log held one for the request, or
    /// was lost in a crash before it was durable. Who needs to know looks up the leaf by its request and compares its
    /// hash.
    ///
    /// A position before the first segment that is still there reads on from that one.
    ///
    /// # Errors
    /// If no intact opening begins at `from`, or the file system refuses.
    pub fn openings(&self, from: OpeningPosition, max_bytes: usize) -> Result<Vec<Opening>, ReadError> {
        self.shared.store.openings().read(from, max_bytes)
    }

    /// Looks at the damaged opening at a position, that [`openings`](Self::openings) has named; `None` if there is nothing
    /// at it. May read a whole segment.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn opening_damage(&self, position: OpeningPosition) -> Result<Option<Damage>, ReadError> {
        self.shared.store.openings().damage(position)
    }

    /// The end of the openings that can be read now.
    pub fn openings_end(&self) -> OpeningPosition {
        self.shared.store.openings().end()
    }

    /// Bytes of openings that are kept on disk.
    pub fn opening_bytes(&self) -> u64 {
        self.shared.store.openings().bytes()
    }

    /// Blocks until there is an opening behind `position`, the log closes, or the time is over; true if there is one.
    /// Once the log closes it returns at once.
    pub fn wait_for_openings(&self, position: OpeningPosition, timeout: Duration) -> bool {
        self.shared.store.openings().wait(position, timeout)
    }

    /// Deletes the segments of openings that lie wholly before `position`, save the newest, which is written.
    ///
    /// # Errors
    /// If the file system refuses. What could not be deleted is kept, and is deleted by a later call.
    pub fn release_openings(&self, position: OpeningPosition) -> Result<(), ReadError> {
        self.shared.store.openings().release(position)
    }

    fn with_tree<T>(&self, read: impl FnOnce(&Tree<'_>) -> Result<T, ReadError>) -> Result<T, ReadError> {
        let durable = self.shared.durable();
        let mut cache = TileCache::new(TILES_PER_PROOF);
        read(&Tree::new(&self.shared.store, &durable, &mut cache))
    }
}

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogHandle").field(&self.status()).finish()
    }
}

/// A proof touches two tiles of each of the at most eight levels.
const TILES_PER_PROOF: usize = 16;
