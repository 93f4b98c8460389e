//! The store under the log: the file of leaves, what follows from them, in memory and in runs, and their openings.
//!
//! The leaves are the log. Where each request's leaf is and the tiles of the tree follow from them: of the last leaves
//! they are in memory, of the others in [`runs`](crate::runs) or in the file of leaves itself, which holds the leaf
//! hashes. A run is a shortcut and never the only copy of anything, so it is written long after its leaves, in one
//! sorted piece, by a thread of its own.
//!
//! Memory is bounded by [`StoreLimits`]. Calls block for as long as the disk does: no shard comes here.

use crate::error::{ReadError, StoreError};
use crate::group::{BLOCK, Group};
use crate::id_filter::IdFilter;
use crate::id_hash::{IdHash, IdSecret};
use crate::ids::{Claims, Ids};
use crate::leaf_file::LeafFile;
use crate::openings::Openings;
use crate::recent_tiles::{self, RecentTiles};
use crate::runs::{Covered, MAX_RUN, Run, Runs};
use crate::tree::{CompleteTile, Edge, TILE_WIDTH};
use crate::{LeafBytes, id_table, slot};
use haca_wire::merkle::leaf_hash_each;
use haca_wire::{Digest, RequestId};
use std::path::Path;

/// What the store may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreLimits {
    /// Blocks of the runs kept in memory, bytes.
    pub(crate) cache_bytes: u64,
    /// The filter over all request ids, and those that are in no run yet, bytes.
    pub(crate) id_bytes: u64,
    /// Leaves in one commit at most.
    pub(crate) max_group: usize,
}

impl StoreLimits {
    /// Upper bound of what the store holds in memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let run = (self.run_length() * BYTES_PER_RUN_LEAF) as u64;
        self.cache_bytes + self.filter_bytes() + run + WRITING_BYTES + recent_tiles::BYTES as u64
    }

    /// The filter over all ids: with the usual settings 64 MiB, good for 53 million.
    fn filter_bytes(&self) -> u64 {
        self.id_bytes / 3 * 2
    }

    /// Leaves in a run: the more, the fewer runs there are to be merged.
    pub(crate) fn run_length(&self) -> usize {
        let fit = (self.id_bytes - self.filter_bytes()) / BYTES_PER_RUN_LEAF as u64;
        // At least two groups, else every one of them would be a run.
        (fit as usize).clamp(2 * self.max_group, MAX_RUN)
    }
}

/// The open store.
pub(crate) struct Store {
    leaves: LeafFile,
    tiles: RecentTiles,
    ids: Ids,
    runs: Runs,
    openings: Openings,
    run_length: usize,
    max_group: usize,
}

impl Store {
    /// Opens the store, or creates it, and reads the leaves that no run accounts for; returns the tree too.
    ///
    /// What is behind the last whole leaf, and behind the last whole opening, stays there until [`Store::cut`].
    pub(crate) fn open(dir: &Path, limits: &StoreLimits) -> Result<(Self, Edge), ReadError> {
        let leaves = LeafFile::open(&dir.join(LEAVES))?;
        let runs = Runs::open(&dir.join(RUNS), limits.cache_bytes)?;
        let openings = Openings::open(&dir.join(OPENINGS))?;
        let Covered { leaves: covered, secret } = match runs.covered()? {
            Some(covered) => covered,
            None => Covered { leaves: 0, secret: draw_secret()? },
        };
        let room = leaves.room()?;
        if room < covered {
            return Err(ReadError::LostLeaves { leaves: room, covered });
        }
        let mut filter =
            Some(IdFilter::new(limits.filter_bytes())).filter(|filter| filter.is_good_for(covered));
        if let Some(filter) = &mut filter {
            runs.for_each_id(|id| filter.insert(id))?;
        }
        let run_length = limits.run_length();
        let ids = Ids::new(secret, covered, run_length, filter);
        let store = Self {
            leaves,
            tiles: RecentTiles::default(),
            ids,
            runs,
            openings,
            run_length,
            max_group: limits.max_group,
        };
        store.leaves.set_len(covered);
        let edge = store.recall(covered, room)?;
        Ok((store, edge))
    }

    /// Reads the leaves from `covered` on, as far as they are whole, and takes up again what follows from them.
    fn recall(&self, covered: u64, room: u64) -> Result<Edge, ReadError> {
        // What a start finds is the log, whether or not somebody was told so before; so it must not be lost again.
        self.leaves.sync()?;
        let mut edge = Edge::load(self, covered)?;
        let (mut hashes, mut complete) = (Vec::new(), Vec::new());
        while edge.size() < room {
            // All of them or none are in a run, and so are the tiles that they complete.
            if self.is_run_due() {
                self.ids.seal();
                self.file_sealed()?;
            }
            let count = (room - edge.size()).min(READ_AHEAD).min(self.max_group as u64);
            let slots = self.leaves.slots(edge.size(), count as usize)?;
            hashes.clear();
            leaf_hash_each(slots.iter().map(|slot| &slot::leaf(slot)[..]), |hash| hashes.push(hash));
            let intact =
                slots.iter().zip(&hashes).take_while(|(slot, hash)| slot::hash(slot) == **hash).count();
            slots[..intact].iter().for_each(|slot| self.ids.add(slot::request_id(slot)));
            edge.append(&hashes[..intact], &mut complete);
            self.leaves.set_len(edge.size());
            self.tiles.add(complete.drain(..));
            if intact < slots.len() {
                break;
            }
        }
        match room - edge.size() {
            0..=LONGEST_TEAR => Ok(edge),
            behind => Err(ReadError::DamagedLeaf { index: edge.size(), behind }),
        }
    }

    /// Cuts off what a torn group left behind the last leaf and the last opening.
    pub(crate) fn cut(&self) -> Result<(), ReadError> {
        self.openings.cut()?;
        Ok(self.leaves.cut()?)
    }

    /// The openings of leaves.
    pub(crate) fn openings(&self) -> &Openings {
        &self.openings
    }

    /// An empty group to follow the last leaf.
    pub(crate) fn next_group(&self) -> Result<Group, StoreError> {
        self.leaves.next_group(self.max_group)
    }

    /// Makes the group durable; see [`LeafFile::commit`]. Its ids are claimed already.
    pub(crate) fn commit(&self, group: &mut Group) -> Result<(), StoreError> {
        self.leaves.commit(group)
    }

    /// Adds the tiles that a durable group completed.
    pub(crate) fn add_tiles(&self, tiles: impl Iterator<Item = CompleteTile>) {
        self.tiles.add(tiles);
    }

    /// Whether the ids of another group might not find room.
    pub(crate) fn is_run_due(&self) -> bool {
        self.ids.growing() + self.max_group > self.run_length
    }

    /// Seals what has gathered in memory, which must be of durable leaves only.
    pub(crate) fn seal(&self) {
        self.ids.seal();
    }

    /// Writes what is sealed as a run.
    pub(crate) fn file_sealed(&self) -> Result<(), ReadError> {
        let Some(table) = self.ids.sealed() else { return Ok(()) };
        let tiles = self.tiles.upper_within(table.end());
        self.runs.write(&Run {
            secret: self.ids.secret(),
            first: table.first(),
            ids: table.hashes(),
            tiles: &tiles,
        })?;
        self.tiles.forget_upper_within(table.end());
        drop(table);
        self.ids.forget_sealed();
        Ok(())
    }

    /// Opens the runs afresh, after an error.
    pub(crate) fn reopen_runs(&self) -> Result<(), StoreError> {
        self.runs.reopen()
    }

    /// Closes the runs.
    pub(crate) fn close(&self) {
        self.runs.close();
    }

    /// How many leaves there are.
    pub(crate) fn len(&self) -> u64 {
        self.leaves.len()
    }

    /// The leaf at `index`, durable or not.
    pub(crate) fn leaf(&self, index: u64) -> Result<Option<LeafBytes>, StoreError> {
        self.leaves.leaf(index)
    }

    /// All leaves from `first` on, in order.
    pub(crate) fn leaves_from(&self, first: u64) -> impl Iterator<Item = Result<LeafBytes, ReadError>> {
        (first..self.len()).map(|index| self.leaf(index)?.ok_or(ReadError::MissingLeaf { index }))
    }

    /// The stored hashes of the leaves in this range.
    pub(crate) fn leaf_hashes(&self, first: u64, end: u64) -> Result<Vec<Digest>, StoreError> {
        self.leaves.hashes(first, (end - first) as usize)
    }

    /// The nodes of a complete tile.
    pub(crate) fn tile(&self, level: u8, index: u64) -> Result<Vec<Digest>, ReadError> {
        match self.tiles.get(level, index) {
            Some(tile) => Ok(tile.nodes.clone()),
            None if level == 0 => Ok(self.leaves.hashes(index * TILE_WIDTH as u64, TILE_WIDTH)?),
            None => self.runs.tile(level, index),
        }
    }

    /// For the committer to find and add the ids of a group.
    pub(crate) fn claims(&self) -> Claims<'_> {
        self.ids.claims(self)
    }

    /// Where the leaf of a request is, durable or not.
    pub(crate) fn index_of(&self, id: &RequestId) -> Result<Option<u64>, ReadError> {
        self.ids.get(id).or_else(|hash| self.find_filed(id, hash))
    }

    /// Where the leaf of a request is, if a run holds it.
    pub(crate) fn find_filed(&self, id: &RequestId, hash: IdHash) -> Result<Option<u64>, ReadError> {
        for index in self.runs.candidates(hash)? {
            let leaf = self.leaf(index)?.ok_or(ReadError::MissingLeaf { index })?;
            if slot::leaf_request_id(&leaf) == *id {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Bytes on disk.
    pub(crate) fn disk_bytes(&self) -> Result<u64, ReadError> {
        Ok(self.leaves.bytes().unwrap_or(0) + self.runs.disk_bytes()? + self.openings.bytes())
    }
}

fn draw_secret() -> Result<IdSecret, StoreError> {
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).map_err(|error| StoreError {
        what: "drawing a secret to hash request ids with",
        source: std::io::Error::other(error).into(),
    })?;
    Ok(IdSecret(secret))
}

const LEAVES: &str = "leaves";
const RUNS: &str = "runs";
const OPENINGS: &str = "openings";
/// Leaves in one commit at most, whatever is configured.
pub(crate) const MAX_GROUP: usize = 1 << 16;
/// What a power cut can leave behind the last whole leaf: a group, and zeros up to the end of its block. Where more
/// follows, it was not torn but damaged.
const LONGEST_TEAR: u64 = (MAX_GROUP + BLOCK / slot::LEN) as u64;
/// Leaves that are read at once when the log opens: some 300 KiB.
const READ_AHEAD: u64 = 1024;
/// Memory for each leaf of a run: the id in each of two tables, and its place among the sorted.
const BYTES_PER_RUN_LEAF: usize = 2 * id_table::BYTES_PER_ID + 8;
/// What the store takes for itself while it writes and merges runs: buffers of some tables.
const WRITING_BYTES: u64 = 4 << 20;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::slot::Slot;
    use haca_wire::Leaf;
    use haca_wire::merkle::leaf_hash;

    pub(crate) fn limits(id_bytes: u64, max_group: usize) -> StoreLimits {
        StoreLimits { cache_bytes: 1 << 20, id_bytes, max_group }
    }

    /// A store and its tree, grown as the committer does it.
    pub(crate) struct Grown {
        pub(crate) store: Store,
        pub(crate) edge: Edge,
        group: Group,
    }

    impl Grown {
        pub(crate) fn open(dir: &Path, limits: &StoreLimits) -> Self {
            let (store, edge) = Store::open(dir, limits).unwrap();
            store.cut().unwrap();
            let group = store.next_group().unwrap();
            Self { store, edge, group }
        }

        pub(crate) fn append(&mut self, leaves: &[LeafBytes]) {
            for leaves in leaves.chunks(self.group.room()) {
                let slots: Vec<Slot> = leaves.iter().map(|leaf| slot::new(leaf, &leaf_hash(leaf))).collect();
                self.group.take(&slots);
                let (mut screened, mut tiles) = (Vec::new(), Vec::new());
                let mut claims = self.store.claims();
                claims.screen(&slots, &mut screened);
                for (slot, screened) in slots.iter().zip(&screened) {
                    assert_eq!(claims.find_or_add(slot::request_id(slot), screened).unwrap(), None);
                    self.group.keep();
                    self.edge.append(&[slot::hash(slot)], &mut tiles);
                }
                drop(claims);
                self.store.commit(&mut self.group).unwrap();
                self.store.add_tiles(tiles.into_iter());
                self.group.advance();
            }
        }
    }

    fn leaf(number: u64) -> LeafBytes {
        let mut leaf = [7; Leaf::LEN];
        leaf[8..16].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
        leaf
    }

    fn leaves(numbers: std::ops::Range<u64>) -> Vec<LeafBytes> {
        numbers.map(leaf).collect()
    }

    fn check(store: &Store, count: u64) {
        for number in 0..count {
            let id = slot::leaf_request_id(&leaf(number));
            assert_eq!(store.index_of(&id).unwrap(), Some(number), "{number}");
            assert_eq!(store.leaf(number).unwrap(), Some(leaf(number)));
        }
        assert_eq!(store.index_of(&slot::leaf_request_id(&leaf(count))).unwrap(), None);
        assert_eq!(store.leaf(count).unwrap(), None);
        let tiles = count / TILE_WIDTH as u64;
        for index in 0..tiles {
            let range = index * TILE_WIDTH as u64..(index + 1) * TILE_WIDTH as u64;
            let hashes: Vec<_> = range.map(|number| leaf_hash(&leaf(number))).collect();
            assert_eq!(store.tile(0, index).unwrap(), hashes);
        }
    }

    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => copy(&entry.path(), &to.join(entry.file_name())),
                false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
            }
        }
    }

    fn covered(store: &Store) -> u64 {
        store.runs.covered().unwrap().map_or(0, |covered| covered.leaves)
    }

    #[test]
    fn everything_is_found_while_it_gathers_while_it_is_sealed_in_runs_and_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let limits = limits(0, 300);
        let mut grown = Grown::open(dir.path(), &limits);
        let mut len = 0;
        // More runs than are merged together.
        for round in 0..12 {
            assert!(!grown.store.is_run_due());
            grown.append(&leaves(len..len + 590));
            assert!(grown.store.is_run_due());
            len += 590;
            let sealed = len;
            grown.store.seal();
            check(&grown.store, len);
            grown.append(&leaves(len..len + 10));
            len += 10;
            check(&grown.store, len);
            grown.store.file_sealed().unwrap();
            check(&grown.store, len);
            if round % 3 == 0 {
                let root = grown.edge.root();
                drop(grown);
                grown = Grown::open(dir.path(), &limits);
                assert_eq!((grown.edge.size(), grown.edge.root()), (len, root));
                check(&grown.store, len);
            }
            assert_eq!(covered(&grown.store), sealed);
        }
    }

    #[test]
    fn runs_that_are_behind_are_written_when_the_store_opens() {
        let dir = tempfile::tempdir().unwrap();
        Grown::open(dir.path(), &limits(96 << 20, 300)).append(&leaves(0..1700));
        let grown = Grown::open(dir.path(), &limits(0, 300));
        // Each as soon as another group might not fit.
        assert_eq!((covered(&grown.store), grown.store.ids.growing()), (1200, 500));
        check(&grown.store, 1700);
    }

    #[test]
    fn a_run_that_was_half_written_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let (before, after) = (dir.path().join("before"), dir.path().join("after"));
        let limits = limits(0, 300);
        std::fs::create_dir(&before).unwrap();
        Grown::open(&before, &super::tests::limits(96 << 20, 300)).append(&leaves(0..600));
        copy(&before, &after);
        let grown = Grown::open(&after, &limits);
        let reached = covered(&grown.store);
        assert!(reached > 0);
        drop(grown);
        // The tables are there, and nothing yet that names them.
        for entry in std::fs::read_dir(after.join("runs/keyspaces")).unwrap() {
            let (tables, name) = (entry.as_ref().unwrap().path().join("tables"), entry.unwrap().file_name());
            copy(&tables, &before.join("runs/keyspaces").join(name).join("tables"));
        }
        let grown = Grown::open(&before, &limits);
        assert_eq!((covered(&grown.store), grown.edge.size()), (reached, 600));
        check(&grown.store, 600);
    }

    #[test]
    fn leaves_that_were_damaged_or_lost_are_not_taken_for_the_end_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let limits = limits(96 << 20, 4096);
        let count = LONGEST_TEAR + 5;
        let mut grown = Grown::open(dir.path(), &limits);
        grown.append(&leaves(0..count));
        let path = dir.path().join(LEAVES);
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let change = |index: u64| {
            use std::os::unix::fs::FileExt;
            let (mut byte, at) = ([0], index * slot::LEN as u64 + 100);
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        };
        drop(grown);
        change(2);
        match Store::open(dir.path(), &limits) {
            Err(ReadError::DamagedLeaf { index: 2, behind }) => assert!(behind >= count - 2),
            other => panic!("{:?}", other.map(|_| ())),
        }
        change(2);
        let grown = Grown::open(dir.path(), &limits);
        assert_eq!(grown.edge.size(), count);
        // Once a run accounts for it, a damaged leaf is found when it is read.
        grown.store.seal();
        grown.store.file_sealed().unwrap();
        change(2);
        assert!(grown.store.leaf(2).is_err());
        drop(grown);
        file.set_len(1000 * slot::LEN as u64).unwrap();
        match Store::open(dir.path(), &limits) {
            Err(ReadError::LostLeaves { leaves: 1000, covered }) => assert_eq!(covered, count),
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
}
