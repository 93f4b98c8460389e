//! What is derived from the leaves and sorted on disk: where each request's leaf is, and the upper tiles of the tree.
//!
//! A *run* is what follows from some hundred thousand consecutive leaves. It is written as one sorted table past
//! journal and write buffer (fjall's ingestion, which is atomic and fsynced), and tells up to which leaf everything is
//! accounted for, so whoever opens the log reads the leaves from there on again. One keyspace holds
//!
//! | key | value |
//! |---|---|
//! | 0 | leaves accounted for, and the secret that ids are hashed with |
//! | 1, bucket, index of the run's first leaf | of each of the run's ids in the bucket the rest of its hash and its leaf's place in the run |
//! | 2, level, index | the tile's 256 nodes |
//!
//! with all numbers in keys big-endian. An entry for each id would cost the store's merging forty times what a bucket
//! of two dozen does, for it counts entries and not bytes; and merged runs lie so that one range holds a whole bucket.
//! The rest of a hash is short, so what is found is a candidate, and the leaf decides.
//!
//! A run is only written of leaves that are durable: else a power cut could leave ids of leaves that are gone.

use crate::error::{ReadError, StoreError};
use crate::id_hash::{IdHash, IdSecret};
use crate::tree::{CompleteTile, TILE_WIDTH};
use fjall::compaction::Leveled;
use fjall::config::{CompressionPolicy, FilterPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use haca_wire::Digest;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// The runs on disk. Calls block for as long as the disk does.
pub(crate) struct Runs {
    dir: PathBuf,
    cache_bytes: u64,
    /// Held for one read, and for writing only while it is opened again. `None` if that failed or the log is closed.
    open: RwLock<Option<Open>>,
}

struct Open {
    database: Database,
    runs: Keyspace,
}

/// How far the runs go.
#[derive(Clone, Copy)]
pub(crate) struct Covered {
    /// Leaves, from the first on, that are accounted for.
    pub(crate) leaves: u64,
    pub(crate) secret: IdSecret,
}

/// What is to be written as a run.
pub(crate) struct Run<'a> {
    pub(crate) secret: IdSecret,
    /// Index of the first leaf.
    pub(crate) first: u64,
    /// The hash of each leaf's request id.
    pub(crate) ids: &'a [IdHash],
    /// Tiles above the lowest level that these leaves completed, in order.
    pub(crate) tiles: &'a [Arc<CompleteTile>],
}

impl Runs {
    pub(crate) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let open = Open::new(dir, cache_bytes)?;
        Ok(Self { dir: dir.to_owned(), cache_bytes, open: RwLock::new(Some(open)) })
    }

    /// Opens the runs afresh: after an error in one of its threads the store takes no more writes.
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // Its files are closed before they are opened again.
        *open = None;
        *open = Some(Open::new(&self.dir, self.cache_bytes)?);
        Ok(())
    }

    /// Closes the files. Nothing can be read from here on.
    pub(crate) fn close(&self) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn with<T>(&self, read: impl FnOnce(&Open) -> Result<T, StoreError>) -> Result<T, ReadError> {
        match &*self.open.read().unwrap_or_else(PoisonError::into_inner) {
            Some(open) => Ok(read(open)?),
            None => Err(ReadError::Reopening),
        }
    }

    /// How far the runs go; `None` if there are none.
    pub(crate) fn covered(&self) -> Result<Option<Covered>, ReadError> {
        self.with(|open| {
            let found = open.runs.get(COVERED).map_err(during("reading how far the runs go"))?;
            found.map(|bytes| parse_covered(&bytes)).transpose()
        })
    }

    /// The indices of leaves whose request may have this hash: usually one or none.
    pub(crate) fn candidates(&self, hash: IdHash) -> Result<Vec<u64>, ReadError> {
        let mut candidates = Vec::new();
        self.with(|open| {
            for entry in open.runs.range(bucket_key(hash.bucket(), 0)..=bucket_key(hash.bucket(), u64::MAX)) {
                let (key, value) = entry.into_inner().map_err(during("looking for a request id"))?;
                let (_, first) = parse_bucket_key(&key)?;
                let of_hash = parse_bucket(&value)?.filter(|(rest, _)| *rest == hash.rest());
                candidates.extend(of_hash.map(|(_, place)| first + u64::from(place)));
            }
            Ok(())
        })?;
        Ok(candidates)
    }

    /// Shows `each` every id's hash.
    pub(crate) fn for_each_id(&self, mut each: impl FnMut(IdHash)) -> Result<(), ReadError> {
        self.with(|open| {
            for entry in open.runs.prefix([IDS]) {
                let (key, value) = entry.into_inner().map_err(during("reading the request ids"))?;
                let (bucket, _) = parse_bucket_key(&key)?;
                parse_bucket(&value)?.for_each(|(rest, _)| each(IdHash::from_parts(bucket, rest)));
            }
            Ok(())
        })
    }

    /// The nodes of a complete tile above the lowest level.
    pub(crate) fn tile(&self, level: u8, index: u64) -> Result<Vec<Digest>, ReadError> {
        let found = self.with(|open| {
            let found = open.runs.get(tile_key(level, index)).map_err(during("reading a tile"))?;
            found.map(|bytes| parse_tile(&bytes)).transpose()
        })?;
        found.ok_or(ReadError::MissingTile { level, index })
    }

    /// Writes a run. When it returns `Ok` the run is durable; after an error it may be there whole or not at all, and
    /// writing it again is harmless.
    pub(crate) fn write(&self, run: &Run<'_>) -> Result<(), ReadError> {
        self.with(|open| {
            open.wait_for_merging()?;
            let failed = || during("writing a run");
            let mut table = open.runs.start_ingestion().map_err(failed())?;
            let mut covered = [0; 24];
            covered[..8].copy_from_slice(&(run.first + run.ids.len() as u64).to_be_bytes());
            covered[8..].copy_from_slice(&run.secret.0);
            table.write(COVERED, covered).map_err(failed())?;
            let mut entries = Buckets::sort(run.ids);
            while let Some((bucket, entries)) = entries.next_filled() {
                table.write(bucket_key(bucket, run.first), entries).map_err(failed())?;
            }
            for tile in run.tiles {
                let nodes: Vec<u8> = tile.nodes.iter().flat_map(|node| node.0).collect();
                table.write(tile_key(tile.level, tile.index), nodes).map_err(failed())?;
            }
            table.finish().map_err(failed())
        })
    }

    /// Bytes on disk.
    pub(crate) fn disk_bytes(&self) -> Result<u64, ReadError> {
        self.with(|open| open.database.disk_space().map_err(during("measuring the runs")))
    }
}

impl Open {
    fn new(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let database = Database::builder(dir)
            .cache_size(cache_bytes)
            .worker_threads(WORKERS)
            .open()
            .map_err(during("opening the store of runs"))?;
        let options = || {
            KeyspaceCreateOptions::default()
                // What is looked up by its key is there: a filter would only cost.
                .filter_policy(FilterPolicy::disabled())
                // Hashes do not compress.
                .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
                .compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(RUNS_MERGED)))
        };
        let runs = database.keyspace("runs", options).map_err(during("opening the keyspace of runs"))?;
        Ok(Self { database, runs })
    }

    /// Waits until the store's worker has caught up, so that a look-up never meets very many unmerged runs.
    fn wait_for_merging(&self) -> Result<(), StoreError> {
        loop {
            // Fails once the worker has died, as it does on a full disk.
            self.database.persist(PersistMode::Buffer).map_err(during("merging runs"))?;
            if self.runs.l0_table_count() < MAX_UNMERGED {
                return Ok(());
            }
            std::thread::sleep(MERGING_POLL);
        }
    }
}

/// A run's ids by bucket.
struct Buckets {
    entries: Vec<[u8; ENTRY_LEN]>,
    /// Where each bucket ends in `entries`.
    ends: Vec<u32>,
    next: usize,
}

impl Buckets {
    /// Sorts by counting: two passes, and what is within a bucket keeps its order.
    fn sort(ids: &[IdHash]) -> Self {
        let mut ends = vec![0u32; IdHash::BUCKETS];
        ids.iter().for_each(|id| ends[usize::from(id.bucket())] += 1);
        let mut start = 0;
        for end in &mut ends {
            (*end, start) = (start, start + *end);
        }
        // Now each says where its bucket starts, and placing an entry moves it on.
        let mut entries = vec![[0; ENTRY_LEN]; ids.len()];
        for (place, id) in (0u32..).zip(ids) {
            let at = &mut ends[usize::from(id.bucket())];
            entries[*at as usize] = entry(id.rest(), place);
            *at += 1;
        }
        Self { entries, ends, next: 0 }
    }

    /// The next bucket that holds anything.
    fn next_filled(&mut self) -> Option<(u16, &[u8])> {
        loop {
            let bucket = self.next;
            let end = *self.ends.get(bucket)? as usize;
            let start = bucket.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
            self.next += 1;
            if end > start {
                return Some((bucket as u16, self.entries[start..end].as_flattened()));
            }
        }
    }
}

fn entry(rest: u32, place: u32) -> [u8; ENTRY_LEN] {
    let ([a, b, c, d], [high, e, f, g]) = (rest.to_be_bytes(), place.to_be_bytes());
    assert_eq!(high, 0, "a run has fewer than 2^24 leaves");
    [a, b, c, d, e, f, g]
}

fn parse_bucket(bytes: &[u8]) -> Result<impl Iterator<Item = (u32, u32)>, StoreError> {
    let (entries, []) = bytes.as_chunks::<ENTRY_LEN>() else { return Err(malformed("bucket of ids")) };
    Ok(entries.iter().map(|[a, b, c, d, e, f, g]| {
        (u32::from_be_bytes([*a, *b, *c, *d]), u32::from_be_bytes([0, *e, *f, *g]))
    }))
}

fn bucket_key(bucket: u16, first: u64) -> [u8; 11] {
    let mut key = [IDS; 11];
    key[1..3].copy_from_slice(&bucket.to_be_bytes());
    key[3..].copy_from_slice(&first.to_be_bytes());
    key
}

fn parse_bucket_key(key: &[u8]) -> Result<(u16, u64), StoreError> {
    let key: &[u8; 11] = key.try_into().map_err(|_| malformed("key of a bucket of ids"))?;
    let [_, high, low, first @ ..] = key;
    Ok((u16::from_be_bytes([*high, *low]), u64::from_be_bytes(*first)))
}

fn tile_key(level: u8, index: u64) -> [u8; 10] {
    let mut key = [TILES; 10];
    key[1] = level;
    key[2..].copy_from_slice(&index.to_be_bytes());
    key
}

fn parse_tile(bytes: &[u8]) -> Result<Vec<Digest>, StoreError> {
    let (nodes, []) = bytes.as_chunks() else { return Err(malformed("tile")) };
    match nodes.len() {
        TILE_WIDTH => Ok(nodes.iter().map(|node| Digest(*node)).collect()),
        _ => Err(malformed("tile")),
    }
}

fn parse_covered(bytes: &[u8]) -> Result<Covered, StoreError> {
    let (leaves, secret) = bytes.split_first_chunk().ok_or_else(|| malformed("how far the runs go"))?;
    let secret = secret.try_into().map_err(|_| malformed("how far the runs go"))?;
    Ok(Covered { leaves: u64::from_be_bytes(*leaves), secret: IdSecret(secret) })
}

fn during(what: &'static str) -> impl Fn(fjall::Error) -> StoreError {
    move |source| StoreError { what, source }
}

fn malformed(what: &'static str) -> StoreError {
    let source =
        std::io::Error::new(std::io::ErrorKind::InvalidData, "has not the length it was written with");
    StoreError { what, source: source.into() }
}

const COVERED: [u8; 1] = [0];
const IDS: u8 = 1;
const TILES: u8 = 2;
/// Four bytes of the hash, three of the place.
const ENTRY_LEN: usize = 7;
/// Leaves in a run at most: what three bytes can count.
pub(crate) const MAX_RUN: usize = 1 << 24;
/// One worker merges: the log shares its machine with shards that have cores of their own.
const WORKERS: usize = 1;
/// Unmerged runs that are merged together into what is sorted already: the more, the less often that is written
/// again, and the more places there are to look for an id.
const RUNS_MERGED: u8 = 8;
/// Unmerged runs above which the next one waits.
const MAX_UNMERGED: usize = 24;
const MERGING_POLL: Duration = Duration::from_millis(2);
