//! The ids of consecutive leaves, in memory: those that are not on disk yet.

use crate::id_hash::IdHash;
use haca_wire::RequestId;
use hashbrown::HashTable;

pub(crate) struct IdTable {
    /// Index of the first leaf.
    first: u64,
    /// By the leaf's place after the first.
    ids: Vec<RequestId>,
    hashes: Vec<IdHash>,
    /// Places. The ids themselves lie apart, in the order they came, so that adding one touches little memory.
    places: HashTable<u32>,
}

impl IdTable {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            first: 0,
            ids: Vec::with_capacity(capacity),
            hashes: Vec::with_capacity(capacity),
            places: HashTable::with_capacity(capacity),
        }
    }

    /// Empties the table; the next leaf is the one at `first`.
    pub(crate) fn restart(&mut self, first: u64) {
        self.first = first;
        self.ids.clear();
        self.hashes.clear();
        self.places.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Index of the first leaf.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Index after that of the last leaf.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.ids.len() as u64
    }

    /// Hashes of the ids, by place.
    pub(crate) fn hashes(&self) -> &[IdHash] {
        &self.hashes
    }

    pub(crate) fn find(&self, id: &RequestId, hash: IdHash) -> Option<u64> {
        let found = self.places.find(hash.spread(), |place| self.ids[*place as usize] == *id);
        found.map(|place| self.first + u64::from(*place))
    }

    /// Adds the id of the next leaf, which must not be there.
    pub(crate) fn add(&mut self, id: RequestId, hash: IdHash) {
        let place = self.ids.len() as u32;
        self.ids.push(id);
        self.hashes.push(hash);
        let hashes = &self.hashes;
        self.places.insert_unique(hash.spread(), place, |place| hashes[*place as usize].spread());
    }
}

/// Memory for each id: itself, its hash, and its place in a hash table that is at least 7/16 full (5 bytes each).
pub(crate) const BYTES_PER_ID: usize = 36;
