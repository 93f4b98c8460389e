//! Tiles of the tree that are kept in memory: of the lowest level the last ones, for who proves what has just become
//! durable; above it those that no run on disk holds yet.

use crate::tree::{CompleteTile, TILE_HEIGHT, TileCache};
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

#[derive(Default)]
pub(crate) struct RecentTiles(RwLock<Tiles>);

#[derive(Default)]
struct Tiles {
    /// Consecutive.
    lowest: VecDeque<Arc<CompleteTile>>,
    /// In the order in which they were completed.
    upper: VecDeque<Arc<CompleteTile>>,
}

impl RecentTiles {
    /// Adds tiles in the order in which they were completed.
    pub(crate) fn add(&self, tiles: impl Iterator<Item = CompleteTile>) {
        let mut recent = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for tile in tiles.map(Arc::new) {
            if tile.level > 0 {
                recent.upper.push_back(tile);
                continue;
            }
            if recent.lowest.len() == LOWEST {
                recent.lowest.pop_front();
            }
            recent.lowest.push_back(tile);
        }
    }

    pub(crate) fn get(&self, level: u8, index: u64) -> Option<Arc<CompleteTile>> {
        let recent = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if level > 0 {
            return recent.upper.iter().find(|tile| (tile.level, tile.index) == (level, index)).cloned();
        }
        let first = recent.lowest.front()?.index;
        let tile = recent.lowest.get(usize::try_from(index.checked_sub(first)?).ok()?)?;
        assert_eq!(tile.index, index, "tiles of the lowest level are completed one after the other");
        Some(Arc::clone(tile))
    }

    /// The upper tiles that the first `leaves` leaves completed, in the order of their keys.
    pub(crate) fn upper_within(&self, leaves: u64) -> Vec<Arc<CompleteTile>> {
        let recent = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut within: Vec<_> = recent.upper.iter().filter(|tile| end(tile) <= leaves).cloned().collect();
        within.sort_by_key(|tile| (tile.level, tile.index));
        within
    }

    /// Forgets these again, once they are on disk.
    pub(crate) fn forget_upper_within(&self, leaves: u64) {
        let mut recent = self.0.write().unwrap_or_else(PoisonError::into_inner);
        recent.upper.retain(|tile| end(tile) > leaves);
    }
}

/// Index after that of the last leaf under the tile.
fn end(tile: &CompleteTile) -> u64 {
    (tile.index + 1) << (TILE_HEIGHT * (u32::from(tile.level) + 1))
}

/// Tiles of the lowest level that are kept: as many leaves as are logged within a second or two.
const LOWEST: usize = 1024;
/// What they take.
pub(crate) const BYTES: usize = LOWEST * TileCache::TILE_BYTES / 2;
