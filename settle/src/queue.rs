//! The rings from one shard to the committer, and how the committer is woken.
//!
//! Each ring has one producer, owned by a shard's thread, and one consumer, owned by the committer's. A push copies
//! 296 bytes into memory that was allocated when the log opened; the opening of a leaf, where it has one, goes before it
//! into a second ring, of bytes. The only system call a shard can make here is the one that wakes a committer that
//! sleeps.

use crate::LeafBytes;
use crate::log::LogConfig;
use crate::opening_record::{Header, MAX_OPENING, record_len};
use crate::shared::RingPositions;
use crate::slot::{self, Slot};
use haca_wire::Digest;
use haca_wire::merkle::leaf_hash;
use rtrb::{Consumer, Producer, RingBuffer};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

/// The ring is full. The shard admits no more requests than [`Appender::free`] and, where it has openings,
/// [`Appender::free_opening_bytes`] allow, so it does not see this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the ring to the settlement log is full; check free() and free_opening_bytes() before admitting a batch"
)]
pub struct Full;

/// A shard's end of its ring to the log. Never blocks and never allocates.
pub struct Appender {
    ring: Producer<Slot>,
    /// Records of openings; see [`opening_record`](crate::opening_record).
    openings: Producer<u8>,
    /// Leaves appended since the log opened.
    appended: u64,
    index: usize,
    positions: Arc<[RingPositions]>,
    waker: Arc<Waker>,
}

impl Appender {
    pub(crate) fn new(
        config: &LogConfig,
        index: usize,
        positions: Arc<[RingPositions]>,
        waker: Arc<Waker>,
    ) -> (Self, (Consumer<Slot>, Consumer<u8>)) {
        let (ring, leaves) = RingBuffer::new(config.queue_capacity);
        let (openings, opening_bytes) = RingBuffer::new(config.opening_ring_bytes);
        (Self { ring, openings, appended: 0, index, positions, waker }, (leaves, opening_bytes))
    }

    /// Leaves that can be appended now; zero once the log is closed. A shard admits no batch larger than this.
    pub fn free(&mut self) -> usize {
        if self.ring.is_abandoned() { 0 } else { self.ring.slots() }
    }

    /// Bytes of openings that can be appended now, each counted as [`Appender::opening_cost`] says; zero once the log is
    /// closed.
    pub fn free_opening_bytes(&mut self) -> usize {
        if self.openings.is_abandoned() { 0 } else { self.openings.slots() }
    }

    /// Bytes of the ring that an opening of `len` bytes takes.
    pub const fn opening_cost(len: usize) -> usize {
        record_len(len)
    }

    /// Hashes a leaf and hands it to the log. The committer may not notice before [`Appender::wake`].
    ///
    /// # Errors
    /// [`Full`] if [`Appender::free`] is zero; the leaf is not taken.
    pub fn append(&mut self, leaf: &LeafBytes) -> Result<(), Full> {
        self.append_hashed(leaf, &leaf_hash(leaf))
    }

    /// The same for a leaf whose hash (`SHA-256(0x00 ‖ leaf)`) is known, which must be right: the log takes it into its
    /// tree as it is, and a leaf that does not hash to it counts as damaged.
    ///
    /// # Errors
    /// [`Full`] if [`Appender::free`] is zero; the leaf is not taken.
    pub fn append_hashed(&mut self, leaf: &LeafBytes, hash: &Digest) -> Result<(), Full> {
        debug_assert_eq!(*hash, leaf_hash(leaf));
        self.ring.push(slot::new(leaf, hash)).map_err(|_| Full)?;
        self.appended += 1;
        // Whoever asks for this leaf's receipt after its response has left must see it counted.
        self.positions[self.index].appended.store(self.appended, Ordering::Release);
        Ok(())
    }

    /// The same for a leaf with its opening, given in parts that are put one behind the other: what is hashed into the
    /// leaf, and whoever proves the leaf needs. The opening is durable whenever the leaf is.
    ///
    /// # Errors
    /// [`Full`] if there is no room for the leaf or for its opening, or the opening is longer than 16 MiB; neither is
    /// taken.
    pub fn append_opened(&mut self, leaf: &LeafBytes, hash: &Digest, opening: &[&[u8]]) -> Result<(), Full> {
        let len = opening.iter().fold(0, |len: usize, part| len.saturating_add(part.len()));
        if len > MAX_OPENING || self.openings.slots() < record_len(len) || self.ring.is_full() {
            return Err(Full);
        }
        // Piece by piece: the committer reads no further than the leaf it has taken allows.
        let header = Header::new(self.appended, leaf, hash, len as u32, opening);
        for part in [&header.0[..]].iter().chain(opening) {
            self.openings.push_entire_slice(part).expect("the room was seen, and nobody else takes it");
        }
        self.append_hashed(leaf, hash)
    }

    /// Wakes the committer if it sleeps; called once after the leaves of a batch. One fence and one load if not.
    pub fn wake(&mut self) {
        self.waker.wake();
    }
}

impl std::fmt::Debug for Appender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appender").field("ring", &self.index).field("appended", &self.appended).finish()
    }
}

/// Parks and wakes the committer without losing a wake-up.
///
/// The committer announces that it parks, then looks at the rings once more; a shard publishes its leaf, then looks
/// whether the committer has announced itself. The fences order each side's write before its read, so at least one
/// of them sees the other.
#[derive(Debug, Default)]
pub(crate) struct Waker {
    parked: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Waker {
    /// Names the thread to wake. Called by that thread before it first parks.
    pub(crate) fn attach(&self) {
        self.thread.set(std::thread::current()).expect("only the one committer attaches, and once");
    }

    pub(crate) fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed)
            && self.parked.swap(false, Ordering::Relaxed)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Parks unless `ready` says that there is something to do. May return for no reason, as parking does.
    pub(crate) fn park_unless(&self, ready: impl FnOnce() -> bool) {
        self.parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !ready() {
            std::thread::park();
        }
        self.parked.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test that cannot go on fails there.
mod tests {
    use super::*;
    use haca_wire::Leaf;

    /// An appender of which nobody reads, so that its rings stay as they are.
    fn appender(config: &LogConfig) -> (Appender, (Consumer<Slot>, Consumer<u8>)) {
        Appender::new(config, 0, [RingPositions::default()].into(), Arc::default())
    }

    #[test]
    fn an_opening_for_which_there_is_no_room_is_refused_with_its_leaf() {
        let config = LogConfig {
            opening_ring_bytes: 1000,
            queue_capacity: 3,
            ..LogConfig::new("", "example.org/log")
        };
        let leaf = [0x5a; Leaf::LEN];
        let hash = leaf_hash(&leaf);
        let (mut full_of_bytes, _consumers) = appender(&config);
        assert_eq!((full_of_bytes.free_opening_bytes(), Appender::opening_cost(100)), (1000, 164));
        assert_eq!(full_of_bytes.append_opened(&leaf, &hash, &[&[0; 900], &[0; 37]]), Err(Full));
        assert_eq!(full_of_bytes.free(), 3);
        assert_eq!(full_of_bytes.append_opened(&leaf, &hash, &[&[0; 900], &[0; 36]]), Ok(()));
        assert_eq!((full_of_bytes.free(), full_of_bytes.free_opening_bytes()), (2, 0));
        assert_eq!(full_of_bytes.append_opened(&leaf, &hash, &[]), Err(Full));
        (0..2).for_each(|_| full_of_bytes.append_hashed(&leaf, &hash).unwrap());

        let (mut full_of_leaves, _consumers) = appender(&config);
        (0..3).for_each(|_| full_of_leaves.append_hashed(&leaf, &hash).unwrap());
        assert_eq!(full_of_leaves.append_opened(&leaf, &hash, &[]), Err(Full));
        assert_eq!(full_of_leaves.free_opening_bytes(), 1000);
    }
}
