//! The LSM store under the log: leaves and tiles, written together or not at all, and the index of request ids,
//! which follows them.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `leaves` | index, big-endian | the leaf |
//! | `tiles` | level, index big-endian, piece | 8 of the tile's 256 nodes |
//! | `ids` | request id | index, big-endian; see [`ids`](crate::ids) |
//!
//! No value is longer than 300 bytes, on purpose. After a power cut the journal may lack any sector (512 bytes) of
//! what was not fsynced yet. Then fjall 3.1.13 leaves the torn batch out if an entry's header is missing, but does
//! not open at all if only a value is damaged. So every sector must hold the beginning of an entry.
//!
//! Memory is bounded by [`StoreLimits`]. Calls block for as long as the disk does: no shard comes here.

use crate::LeafBytes;
use crate::error::{ReadError, StoreError};
use crate::ids::{BYTES_PER_RECENT_ID, IdIndex};
use crate::tree::{CompleteTile, TILE_WIDTH};
use fjall::config::FilterPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use haca_wire::merkle::leaf_hash;
use haca_wire::{Digest, RequestId};
use std::path::Path;
use std::time::Duration;

/// What the store may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreLimits {
    /// Blocks of the store's files kept in memory, bytes.
    pub(crate) cache_bytes: u64,
    /// Entries not yet written to sorted files, bytes: of leaves and tiles up to four times their share of this,
    /// of request ids at most this.
    pub(crate) write_buffer_bytes: u64,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, write_buffer_bytes: 24 << 20 }
    }
}

impl StoreLimits {
    /// Upper bound of what the store holds in memory: the cache, for leaves and tiles one active and
    /// [`MAX_FLUSHES`] + 1 sealed write buffers that are five eighths of `write_buffer_bytes` together, and the
    /// request ids.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.cache_bytes + self.write_buffer_bytes * (MAX_FLUSHES as u64 + 2)
    }

    /// Request ids that are kept in memory before they are written as a run. The more there are, the fewer runs
    /// are there to be merged.
    pub(crate) fn id_run_length(&self) -> usize {
        ((self.write_buffer_bytes.max(MIN_WRITE_BUFFER) - self.id_filter_bytes()) / BYTES_PER_RECENT_ID)
            as usize
    }

    /// The filter over the ids on disk: with the usual settings 8 MiB, good for 6.7 million.
    pub(crate) fn id_filter_bytes(&self) -> u64 {
        self.write_buffer_bytes.max(MIN_WRITE_BUFFER) / 3
    }
}

/// One group of new entries.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Index of the first leaf.
    pub(crate) first: u64,
    pub(crate) leaves: Vec<LeafBytes>,
    pub(crate) tiles: Vec<CompleteTile>,
}

/// The open store. Its files are closed when it is dropped.
pub(crate) struct Store {
    database: Database,
    leaves: Keyspace,
    tiles: Keyspace,
    ids: IdIndex,
}

impl Store {
    /// Opens the store, or creates it. Of the leaves in it the first `durable` are known to be so.
    pub(crate) fn open(dir: &Path, limits: &StoreLimits, durable: u64) -> Result<Self, StoreError> {
        let database = Database::builder(dir)
            .cache_size(limits.cache_bytes)
            .worker_threads(WORKERS)
            .max_journaling_size(MAX_JOURNAL_BYTES)
            // Leaves and tiles are hashes for the most part, which do not compress.
            .journal_compression(fjall::CompressionType::None)
            .open()
            .map_err(during("opening the store"))?;
        let keyspace = |name, share: u64| {
            let bytes = (limits.write_buffer_bytes / share).max(MIN_WRITE_BUFFER);
            database
                .keyspace(name, || {
                    // What is looked up by index is there: a filter would only cost.
                    KeyspaceCreateOptions::default()
                        .max_memtable_size(bytes)
                        .filter_policy(FilterPolicy::disabled())
                })
                .map_err(during("opening a keyspace"))
        };
        // By how fast each grows: about 300 bytes for each leaf in `leaves`, 40 in `tiles`.
        let leaves = keyspace("leaves", 2)?;
        let tiles = keyspace("tiles", 8)?;
        let ids = IdIndex::open(&database, limits)?;
        let store = Self { database, leaves, tiles, ids };
        store.recall_ids(durable)?;
        Ok(store)
    }

    /// Takes the ids of the leaves that the index on disk does not cover into memory again.
    fn recall_ids(&self, durable: u64) -> Result<(), StoreError> {
        for entry in self.leaves_from(self.ids.covered()?) {
            let (index, leaf) = entry?;
            self.ids.add(index, &[leaf]);
            if index < durable {
                self.write_due_ids(index + 1)?;
            }
        }
        Ok(())
    }

    /// Writes the ids of the first `durable` leaves to disk if enough have gathered in memory.
    pub(crate) fn write_due_ids(&self, durable: u64) -> Result<(), StoreError> {
        if self.ids.is_run_due() {
            self.ids.write_run(durable)?;
        }
        Ok(())
    }

    /// How many leaves there are.
    pub(crate) fn len(&self) -> Result<u64, StoreError> {
        let Some(last) = self.leaves.last_key_value() else { return Ok(0) };
        let key = last.key().map_err(during("reading the last leaf's key"))?;
        Ok(1 + parse_index(&key, "leaf key")?)
    }

    /// Writes the group. When it returns `Ok`, fsync has returned: the group is durable. After an error it may be
    /// there whole or not at all, and the store must be opened again; writing the same group again is harmless.
    pub(crate) fn commit(&self, group: &Group) -> Result<(), StoreError> {
        self.wait_for_flushes()?;
        let entries = group.leaves.len() + group.tiles.len() * (TILE_WIDTH / PIECE_WIDTH);
        let batch = OwnedWriteBatch::with_capacity(self.database.clone(), entries);
        let mut batch = batch.durability(Some(PersistMode::SyncData));
        for (index, leaf) in (group.first..).zip(&group.leaves) {
            batch.insert(&self.leaves, index.to_be_bytes(), &leaf[..]);
        }
        for tile in &group.tiles {
            assert_eq!(tile.nodes.len(), TILE_WIDTH, "only complete tiles are stored");
            for (piece, nodes) in (0..).zip(tile.nodes.chunks(PIECE_WIDTH)) {
                batch.insert(&self.tiles, piece_key(tile.level, tile.index, piece), piece_bytes(nodes));
            }
        }
        batch.commit().map_err(during("committing a group"))
    }

    /// Waits until the store's worker has caught up.
    ///
    /// fjall 3.1.13 itself waits inside a commit while four write buffers of a keyspace are sealed, and waits for
    /// ever if its worker has died, as it does on a full disk. Waiting here, where a dead worker is noticed, keeps it
    /// from coming to that.
    fn wait_for_flushes(&self) -> Result<(), StoreError> {
        while self.database.outstanding_flushes() >= MAX_FLUSHES
            || self.leaves.l0_table_count() >= MAX_L0_TABLES
            || self.ids.unsorted_tables() >= MAX_L0_TABLES
        {
            // Fails once the worker has died.
            self.database.persist(PersistMode::Buffer).map_err(during("waiting for the store's worker"))?;
            std::thread::sleep(FLUSH_POLL);
        }
        Ok(())
    }

    /// The leaf at `index`, durable or not.
    pub(crate) fn leaf(&self, index: u64) -> Result<Option<LeafBytes>, StoreError> {
        let found = self.leaves.get(index.to_be_bytes()).map_err(during("reading a leaf"))?;
        found.map(|bytes| bytes[..].try_into().map_err(|_| malformed("leaf"))).transpose()
    }

    /// The hash of the leaf at `index`, which must be there.
    pub(crate) fn leaf_hash(&self, index: u64) -> Result<Digest, ReadError> {
        let leaf = self.leaf(index)?;
        leaf.map(|leaf| leaf_hash(&leaf)).ok_or(ReadError::MissingLeaf { index })
    }

    /// All leaves from `first` on, in order.
    pub(crate) fn leaves_from(
        &self,
        first: u64,
    ) -> impl Iterator<Item = Result<(u64, LeafBytes), StoreError>> {
        self.leaves.range(first.to_be_bytes()..).map(|entry| {
            let (key, value) = entry.into_inner().map_err(during("reading leaves"))?;
            let leaf = value[..].try_into().map_err(|_| malformed("leaf"))?;
            Ok((parse_index(&key, "leaf key")?, leaf))
        })
    }

    /// Where each request's leaf is or will be.
    pub(crate) fn ids(&self) -> &IdIndex {
        &self.ids
    }

    /// Where the leaf of a request is, durable or not.
    pub(crate) fn index_of(&self, id: &RequestId) -> Result<Option<u64>, StoreError> {
        self.ids.get(id)
    }

    /// The nodes of a complete tile.
    pub(crate) fn tile(&self, level: u8, index: u64) -> Result<Vec<Digest>, ReadError> {
        let mut nodes = Vec::with_capacity(TILE_WIDTH);
        let pieces = piece_key(level, index, 0)..=piece_key(level, index, u8::MAX);
        for piece in self.tiles.range(pieces) {
            let bytes = piece.value().map_err(during("reading a tile"))?;
            let (piece, []) = bytes.as_chunks() else { return Err(malformed("tile").into()) };
            nodes.extend(piece.iter().map(|node| Digest(*node)));
        }
        match nodes.len() {
            TILE_WIDTH => Ok(nodes),
            0 => Err(ReadError::MissingTile { level, index }),
            _ => Err(malformed("tile").into()),
        }
    }

    /// Bytes on disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.database.disk_space().unwrap_or(0)
    }
}

/// The request id in an encoded leaf; see the layout in [`haca_wire::leaf`].
pub(crate) fn request_id(leaf: &LeafBytes) -> RequestId {
    RequestId::from_slice(&leaf[8..24]).expect("16 bytes make a request id")
}

fn piece_key(level: u8, index: u64, piece: u8) -> [u8; 10] {
    let mut key = [0; 10];
    key[0] = level;
    key[1..9].copy_from_slice(&index.to_be_bytes());
    key[9] = piece;
    key
}

fn piece_bytes(nodes: &[Digest]) -> [u8; PIECE_WIDTH * Digest::LEN] {
    let mut bytes = [0; PIECE_WIDTH * Digest::LEN];
    for (place, node) in bytes.chunks_exact_mut(Digest::LEN).zip(nodes) {
        place.copy_from_slice(&node.0);
    }
    bytes
}

pub(crate) fn parse_index(bytes: &[u8], what: &'static str) -> Result<u64, StoreError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| malformed(what))
}

pub(crate) fn during(what: &'static str) -> impl Fn(fjall::Error) -> StoreError {
    move |source| StoreError { what, source }
}

fn malformed(what: &'static str) -> StoreError {
    let source =
        std::io::Error::new(std::io::ErrorKind::InvalidData, "has not the length it was written with");
    StoreError { what, source: source.into() }
}

/// Nodes in a piece of a tile: with its key and header shorter than a sector.
const PIECE_WIDTH: usize = 8;
/// One worker flushes and compacts: the log shares its machine with shards that have cores of their own.
const WORKERS: usize = 1;
/// Journals are replayed when the log opens, so this bounds how long that takes: about half a second.
const MAX_JOURNAL_BYTES: u64 = 128 << 20;
/// Sealed write buffers that may wait to be flushed; with the one in work, fewer than fjall's own limit of four.
const MAX_FLUSHES: usize = 2;
/// Unsorted tables above which commits wait for compaction; fjall slows down at 20 runs and halts at 30.
const MAX_L0_TABLES: usize = 16;
const MIN_WRITE_BUFFER: u64 = 1 << 20;
const FLUSH_POLL: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_id_lies_where_the_leaf_says() {
        let mut bytes = [0; haca_wire::Leaf::LEN];
        bytes[0] = 1;
        let mut leaf = haca_wire::Leaf::decode(&bytes).unwrap();
        leaf.request = RequestId([9; 16]);
        assert_eq!(request_id(&leaf.encode()), RequestId([9; 16]));
    }
}
