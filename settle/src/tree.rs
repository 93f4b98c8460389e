//! The RFC 6962 tree over the log's leaves, kept as the 256-wide tiles of C2SP `tlog-tiles`.
//!
//! A tile of level L holds 256 neighbouring nodes of tree level 8·L; what lies between two tile levels is hashed
//! again when it is needed. Complete tiles never change and live in the store. The rightmost, incomplete tile of
//! each level is the [`Edge`]: a few tiles in memory however large the log is, from which the root of the whole
//! tree follows without a read.

use crate::error::ReadError;
use crate::store::Store;
use haca_wire::Digest;
use haca_wire::merkle::{node_hash, node_hash_each};
use std::cell::RefCell;
use tlog_tiles::tlog::{self, Hash, HashReader};

/// Levels of the tree that one tile spans (C2SP `tlog-tiles` fixes it).
pub(crate) const TILE_HEIGHT: u32 = 8;
/// Nodes in a complete tile.
pub(crate) const TILE_WIDTH: usize = 1 << TILE_HEIGHT;

/// A tile that has just become complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CompleteTile {
    pub(crate) level: u8,
    pub(crate) index: u64,
    pub(crate) nodes: Vec<Digest>,
}

/// A tile with the nodes between its own level and the next tile level; `rows[0]` is what is stored.
#[derive(Debug, Clone, Default)]
struct Tile {
    rows: [Vec<[u8; Digest::LEN]>; TILE_HEIGHT as usize],
}

impl Tile {
    /// Nodes of the lowest row for which there is room.
    fn room(&self) -> usize {
        TILE_WIDTH - self.rows[0].len()
    }

    /// Appends nodes of the lowest row, for which there must be room. Returns the tile's own root once it is complete.
    fn extend(&mut self, nodes: &[Digest]) -> Option<Digest> {
        assert!(nodes.len() <= self.room(), "a tile has 256 nodes");
        for (height, row) in self.rows.iter_mut().enumerate() {
            if row.is_empty() {
                row.reserve_exact(TILE_WIDTH >> height);
            }
        }
        self.rows[0].extend(nodes.iter().map(|node| node.0));
        // Row by row, not node by node: many pairs are hashed at once.
        for height in 1..self.rows.len() {
            let [.., below, row] = &mut self.rows[..=height] else {
                unreachable!("rows lie above each other")
            };
            let (pairs, _odd) = below[2 * row.len()..].as_chunks();
            node_hash_each(pairs, |parent| row.push(parent.0));
        }
        match &self.rows[self.rows.len() - 1][..] {
            [left, right] => Some(node_hash(&Digest(*left), &Digest(*right))),
            _ => None,
        }
    }

    fn from_nodes(nodes: &[Digest]) -> (Self, Option<Digest>) {
        let mut tile = Self::default();
        let root = tile.extend(nodes);
        (tile, root)
    }

    fn node(&self, row: u32, at: u64) -> Option<Digest> {
        self.rows[row as usize].get(at as usize).copied().map(Digest)
    }
}

/// The right edge of the tree: everything that is not in a complete tile.
#[derive(Debug, Clone, Default)]
pub(crate) struct Edge {
    size: u64,
    tiles: Vec<Tile>,
}

impl Edge {
    /// Leaves in the tree.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Appends leaves; tiles that they complete are added to `complete`.
    pub(crate) fn append(&mut self, mut leaf_hashes: &[Digest], complete: &mut Vec<CompleteTile>) {
        while !leaf_hashes.is_empty() {
            let room = self.tile(0).room();
            let (now, later) = leaf_hashes.split_at(room.min(leaf_hashes.len()));
            self.append_within_a_tile(now, complete);
            leaf_hashes = later;
        }
    }

    fn append_within_a_tile(&mut self, leaf_hashes: &[Digest], complete: &mut Vec<CompleteTile>) {
        self.size += leaf_hashes.len() as u64;
        let mut root = self.tile(0).extend(leaf_hashes);
        for level in 0.. {
            let Some(node) = root else { break };
            let [nodes, ..] = std::mem::take(&mut self.tile(level).rows);
            complete.push(CompleteTile {
                level: level as u8,
                index: (self.size >> (TILE_HEIGHT * (level as u32 + 1))) - 1,
                nodes: nodes.into_iter().map(Digest).collect(),
            });
            root = self.tile(level + 1).extend(&[node]);
        }
    }

    /// The incomplete tile of this level; levels are begun from the lowest up.
    fn tile(&mut self, level: usize) -> &mut Tile {
        if self.tiles.len() == level {
            self.tiles.push(Tile::default());
        }
        &mut self.tiles[level]
    }

    /// The root of the tree; the hash of the empty string for the empty tree (RFC 6962 section 2.1).
    pub(crate) fn root(&self) -> Digest {
        let mut root: Option<Digest> = None;
        for level in 0..u64::BITS {
            if self.size >> level & 1 == 1 {
                let peak = self.node(level, (self.size >> level) - 1).expect("every peak lies in the edge");
                root = Some(root.map_or(peak, |right| node_hash(&peak, &right)));
            }
        }
        root.unwrap_or(Digest(tlog::EMPTY_HASH.0))
    }

    /// A complete node that lies in the edge; `None` if it lies in a complete tile.
    fn node(&self, level: u32, index: u64) -> Option<Digest> {
        let (tile_level, row) = (level / TILE_HEIGHT, level % TILE_HEIGHT);
        let tile = index >> (TILE_HEIGHT - row);
        if tile != self.size.checked_shr(TILE_HEIGHT * (tile_level + 1)).unwrap_or(0) {
            return None;
        }
        self.tiles.get(tile_level as usize)?.node(row, index - (tile << (TILE_HEIGHT - row)))
    }

    /// The edge of the tree over the store's first `size` leaves, from complete tiles and the last few leaves.
    pub(crate) fn load(store: &Store, size: u64) -> Result<Self, ReadError> {
        let mut edge = Self { size, tiles: Vec::new() };
        for level in 0u32.. {
            let nodes_here = size.checked_shr(TILE_HEIGHT * level).unwrap_or(0);
            if nodes_here == 0 {
                break;
            }
            let first = nodes_here & !(TILE_WIDTH as u64 - 1);
            let nodes: Result<Vec<Digest>, ReadError> = match level {
                0 => Ok(store.leaf_hashes(first, nodes_here)?),
                _ => (first..nodes_here)
                    .map(|index| {
                        let (_, root) = Tile::from_nodes(&store.tile(level as u8 - 1, index)?);
                        Ok(root.expect("a stored tile has 256 nodes"))
                    })
                    .collect(),
            };
            edge.tiles.push(Tile::from_nodes(&nodes?).0);
        }
        Ok(edge)
    }
}

/// Tiles from the store with their inner nodes, so that neighbouring proofs do not hash them again.
/// One owner, no lock: 16 KiB a tile.
#[derive(Debug)]
pub(crate) struct TileCache {
    entries: Vec<CachedTile>,
    capacity: usize,
    clock: u64,
}

#[derive(Debug)]
struct CachedTile {
    level: u8,
    index: u64,
    used: u64,
    tile: Tile,
}

impl TileCache {
    /// Bytes of one cached tile: 510 nodes, and its rows' headers.
    pub(crate) const TILE_BYTES: usize = 512 * Digest::LEN + 256;

    pub(crate) fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a cache holds at least the tile that is being read");
        Self { entries: Vec::with_capacity(capacity), capacity, clock: 0 }
    }

    fn tile(&mut self, store: &Store, level: u8, index: u64) -> Result<&Tile, ReadError> {
        self.clock += 1;
        let at = match self.entries.iter().position(|e| e.level == level && e.index == index) {
            Some(at) => at,
            None => {
                let (tile, _) = Tile::from_nodes(&store.tile(level, index)?);
                let entry = CachedTile { level, index, used: 0, tile };
                if self.entries.len() < self.capacity {
                    self.entries.push(entry);
                    self.entries.len() - 1
                } else {
                    let oldest = (0..self.entries.len()).min_by_key(|&at| self.entries[at].used);
                    let oldest = oldest.expect("a full cache is not empty");
                    self.entries[oldest] = entry;
                    oldest
                }
            }
        };
        self.entries[at].used = self.clock;
        Ok(&self.entries[at].tile)
    }
}

/// Reads nodes of the durable tree, and proves with them.
pub(crate) struct Tree<'a> {
    store: &'a Store,
    edge: &'a Edge,
    cache: RefCell<&'a mut TileCache>,
    /// What went wrong in the last read: the proof library's own error cannot carry it.
    failure: RefCell<Option<ReadError>>,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(store: &'a Store, edge: &'a Edge, cache: &'a mut TileCache) -> Self {
        Self { store, edge, cache: RefCell::new(cache), failure: RefCell::new(None) }
    }

    /// The node `index` of tree level `level`. The subtree under it must be complete.
    fn node(&self, level: u32, index: u64) -> Result<Digest, ReadError> {
        assert!(
            (index + 1) << level <= self.edge.size(),
            "proofs are only asked for within the durable tree"
        );
        if let Some(node) = self.edge.node(level, index) {
            return Ok(node);
        }
        let (tile_level, row) = ((level / TILE_HEIGHT) as u8, level % TILE_HEIGHT);
        let tile = index >> (TILE_HEIGHT - row);
        let mut cache = self.cache.borrow_mut();
        let nodes = cache.tile(self.store, tile_level, tile)?;
        Ok(nodes.node(row, index - (tile << (TILE_HEIGHT - row))).expect("a stored tile has 256 nodes"))
    }

    /// The hash of leaf `index`.
    pub(crate) fn leaf_hash(&self, index: u64) -> Result<Digest, ReadError> {
        self.node(0, index)
    }

    /// The root of the tree over the first `size` leaves.
    pub(crate) fn root(&self, size: u64) -> Result<Digest, ReadError> {
        self.check(size, size)?;
        self.finish(tlog::tree_hash(size, self)).map(|hash| Digest(hash.0))
    }

    /// The path from leaf `index` to the root of the tree over the first `size` leaves. RFC 6962 section 2.1.1.
    pub(crate) fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Digest>, ReadError> {
        self.check(index.saturating_add(1), size)?;
        self.finish(tlog::prove_record(size, index, self)).map(to_digests)
    }

    /// The proof that the tree over the first `new` leaves extends the one over the first `old`. RFC 6962
    /// section 2.1.2; empty for an empty old tree, which every tree extends.
    pub(crate) fn consistency(&self, old: u64, new: u64) -> Result<Vec<Digest>, ReadError> {
        self.check(old, new)?;
        if old == 0 {
            return Ok(Vec::new());
        }
        self.finish(tlog::prove_tree(new, old, self)).map(to_digests)
    }

    fn check(&self, what: u64, tree_size: u64) -> Result<(), ReadError> {
        let durable = self.edge.size();
        match what <= tree_size && tree_size <= durable {
            true => Ok(()),
            false => Err(ReadError::OutOfRange { what, tree_size, durable }),
        }
    }

    fn finish<T>(&self, result: Result<T, tlog::Error>) -> Result<T, ReadError> {
        result.map_err(|_| self.failure.take().expect("sizes were checked, so only reading nodes can fail"))
    }
}

impl HashReader for Tree<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, tlog::Error> {
        let read = |&stored: &u64| {
            let (level, index) = tlog::split_stored_hash_index(stored);
            match self.node(level.into(), index) {
                Ok(node) => Ok(Hash(node.0)),
                Err(error) => {
                    *self.failure.borrow_mut() = Some(error);
                    Err(tlog::Error::InvalidTile)
                }
            }
        };
        indexes.iter().map(read).collect()
    }
}

fn to_digests(hashes: Vec<Hash>) -> Vec<Digest> {
    hashes.into_iter().map(|hash| Digest(hash.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{Grown, limits};
    use haca_wire::merkle::{BatchTree, is_consistent, leaf_hash, root_from_path};
    use proptest::prelude::*;

    fn leaf(index: u64) -> crate::LeafBytes {
        let mut leaf = [7; haca_wire::Leaf::LEN];
        leaf[..8].copy_from_slice(&index.to_le_bytes());
        leaf[8..16].copy_from_slice(&index.to_le_bytes());
        leaf
    }

    /// A store of `size` leaves, its edge, and the leaf hashes.
    fn grow(dir: &std::path::Path, size: u64) -> (Store, Edge, Vec<Digest>) {
        let mut grown = Grown::open(dir, &limits(96 << 20, 4096));
        let leaves: Vec<_> = (0..size).map(leaf).collect();
        grown.append(&leaves);
        let hashes = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
        (grown.store, grown.edge, hashes)
    }

    fn root(hashes: &[Digest]) -> Digest {
        BatchTree::with_capacity(hashes.len()).build(hashes)
    }

    #[test]
    fn the_root_is_that_of_the_rfc_at_every_size() {
        let (mut edge, mut complete, mut hashes) = (Edge::default(), Vec::new(), Vec::new());
        assert_eq!(
            edge.root().to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        for index in 0..1100 {
            hashes.push(leaf_hash(&leaf(index)));
            edge.append(&hashes[index as usize..=index as usize], &mut complete);
            assert_eq!(edge.root(), root(&hashes), "{index}");
        }
        assert_eq!(complete.len(), 4);
        assert_eq!(complete[3].index, 3);
        assert_eq!(complete[3].nodes, hashes[768..1024]);
    }

    #[test]
    fn a_second_tile_level_begins_after_65536_leaves() {
        let mut complete = Vec::new();
        let mut edge = Edge::default();
        let hashes: Vec<_> = (0u64..65_536 + 300).map(|i| leaf_hash(&leaf(i))).collect();
        edge.append(&hashes, &mut complete);
        assert_eq!(edge.root(), root(&hashes));
        assert_eq!(complete.iter().filter(|tile| tile.level == 0).count(), 257);
        let upper: Vec<_> = complete.iter().filter(|tile| tile.level == 1).collect();
        assert_eq!((upper.len(), upper[0].index), (1, 0));
        assert_eq!(upper[0].nodes[255], root(&hashes[65_280..65_536]));
    }

    #[test]
    fn proofs_hold_between_random_sizes_and_after_loading_again() {
        let dir = tempfile::tempdir().unwrap();
        let (store, edge, hashes) = grow(dir.path(), 66_100);
        // From the file of leaves and a tile in a run, and not from what is in memory.
        store.seal();
        store.file_sealed().unwrap();
        drop(store);
        let (store, loaded) = Store::open(dir.path(), &limits(96 << 20, 4096)).unwrap();
        assert_eq!((loaded.size(), loaded.root()), (edge.size(), edge.root()));

        // Few cases: each hashes a reference tree of up to 66,100 leaves, twice.
        let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        let mut cache = TileCache::new(4);
        let roots = |size: u64| root(&hashes[..size as usize]);
        let strategy = (1u64..=66_100, any::<prop::sample::Index>(), any::<prop::sample::Index>());
        // Sizes at which tiles begin and end are few among random ones, so they are asked for by themselves.
        let corners = [1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 66_100];
        let mut check = |size: u64, index: u64, old: u64| {
            let tree = Tree::new(&store, &loaded, &mut cache);
            let new_root = roots(size);
            assert_eq!(tree.root(size).unwrap(), new_root);
            let path = tree.inclusion(index, size).unwrap();
            assert_eq!(root_from_path(&hashes[index as usize], index, size, &path), Some(new_root));
            let proof = tree.consistency(old, size).unwrap();
            assert!(is_consistent(old, &roots(old), size, &new_root, &proof), "{old} {size}");
            assert_eq!(tree.leaf_hash(index).unwrap(), hashes[index as usize]);
        };
        for size in corners {
            corners.iter().filter(|old| **old <= size).for_each(|old| check(size, old - 1, *old));
        }
        let check = RefCell::new(check);
        runner
            .run(&strategy, |(size, index, old)| {
                (check.borrow_mut())(
                    size,
                    index.index(size as usize) as u64,
                    1 + old.index(size as usize) as u64,
                );
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn proofs_outside_the_durable_tree_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (store, edge, _) = grow(dir.path(), 300);
        let mut cache = TileCache::new(1);
        let tree = Tree::new(&store, &edge, &mut cache);
        assert!(matches!(tree.inclusion(0, 301), Err(ReadError::OutOfRange { durable: 300, .. })));
        assert!(matches!(tree.inclusion(300, 300), Err(ReadError::OutOfRange { .. })));
        assert!(matches!(tree.inclusion(u64::MAX, 300), Err(ReadError::OutOfRange { .. })));
        assert!(matches!(tree.consistency(5, 4), Err(ReadError::OutOfRange { .. })));
        assert_eq!(tree.consistency(0, 4).unwrap(), []);
        assert_eq!(tree.consistency(300, 300).unwrap(), []);
    }
}
