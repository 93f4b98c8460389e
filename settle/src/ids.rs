//! Where each request's leaf is: the index that keeps a request from being logged twice.
//!
//! The leaves are the truth and this follows from them. The ids of the last leaves are in memory, in a table that
//! grows; when there are enough the table is sealed and another one grows, while the [`filer`](crate::filer) writes
//! the sealed one as a run. A filter over all ids, in memory and on disk, answers most questions alone.

use crate::error::ReadError;
use crate::id_filter::IdFilter;
use crate::id_hash::{IdHash, IdSecret};
use crate::id_table::IdTable;
use crate::slot::{self, Slot};
use crate::store::Store;
use haca_wire::RequestId;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Request ids and the indices of their leaves. Written by the committer and the filer, read by anyone.
pub(crate) struct Ids {
    secret: IdSecret,
    memory: RwLock<Memory>,
}

struct Memory {
    /// All ids; none if there were too many of them when the log opened.
    filter: Option<IdFilter>,
    /// The ids of the last leaves, and of those about to be committed.
    growing: IdTable,
    /// The ids of the leaves before those, while they are written as a run.
    sealed: Option<Arc<IdTable>>,
    /// The table that grows next.
    spare: Option<IdTable>,
}

impl Memory {
    fn may_contain(&self, hash: IdHash) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_contain(hash))
    }

    fn add(&mut self, id: RequestId, hash: IdHash) {
        if let Some(filter) = &mut self.filter {
            filter.insert(hash);
        }
        self.growing.add(id, hash);
    }

    fn find(&self, id: &RequestId, hash: IdHash) -> Option<u64> {
        let sealed = || self.sealed.as_ref().and_then(|table| table.find(id, hash));
        self.growing.find(id, hash).or_else(sealed)
    }
}

impl Ids {
    /// Without any ids, the next leaf being the one at `first`. The filter must have been told of those on disk.
    pub(crate) fn new(secret: IdSecret, first: u64, run_length: usize, filter: Option<IdFilter>) -> Self {
        let table = || IdTable::new(run_length);
        let mut growing = table();
        growing.restart(first);
        let memory = Memory { filter, growing, sealed: None, spare: Some(table()) };
        Self { secret, memory: RwLock::new(memory) }
    }

    pub(crate) fn secret(&self) -> IdSecret {
        self.secret
    }

    /// For the committer to find and add the ids of a group; others wait until it is dropped.
    pub(crate) fn claims<'a>(&'a self, store: &'a Store) -> Claims<'a> {
        Claims { memory: self.write(), store, secret: self.secret }
    }

    /// Where the leaf of a request is, if memory or the filter can tell; else the hash to look for on disk.
    pub(crate) fn get(&self, id: &RequestId) -> Result<Option<u64>, IdHash> {
        let hash = self.secret.hash(id);
        let memory = self.read();
        match memory.may_contain(hash) {
            false => Ok(None),
            // Memory first: an id leaves it only after it has come to the disk.
            true => memory.find(id, hash).map(Some).ok_or(hash),
        }
    }

    /// Adds the id of the next leaf, which is known to be new.
    pub(crate) fn add(&self, id: RequestId) {
        let hash = self.secret.hash(&id);
        self.write().add(id, hash);
    }

    /// How many ids are in the table that grows.
    pub(crate) fn growing(&self) -> usize {
        self.read().growing.len()
    }

    /// Seals the table that grows, which must hold ids of durable leaves only. The one sealed before must be filed.
    pub(crate) fn seal(&self) {
        let mut memory = self.write();
        assert!(memory.sealed.is_none(), "one table is filed at a time");
        let mut next = memory.spare.take().expect("the table that was filed grows next");
        next.restart(memory.growing.end());
        let full = std::mem::replace(&mut memory.growing, next);
        memory.sealed = Some(Arc::new(full));
    }

    /// The sealed table.
    pub(crate) fn sealed(&self) -> Option<Arc<IdTable>> {
        self.read().sealed.clone()
    }

    /// Forgets the sealed table, which is on disk now. Nobody else may still hold it.
    pub(crate) fn forget_sealed(&self) {
        let mut memory = self.write();
        let sealed = memory.sealed.take().and_then(Arc::into_inner);
        memory.spare = Some(sealed.expect("only the one who filed it held the sealed table"));
    }

    fn read(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to add ids, for one group: with a lock for each id no two of their cache misses could overlap.
pub(crate) struct Claims<'a> {
    memory: RwLockWriteGuard<'a, Memory>,
    store: &'a Store,
    secret: IdSecret,
}

/// An id's hash, and whether the filter knew it before any id of the group was added.
pub(crate) struct Screened {
    hash: IdHash,
    known: bool,
}

impl Claims<'_> {
    /// Asks the filter about many leaves at once: its cache misses then overlap, and it is at hand when each of them
    /// is claimed.
    pub(crate) fn screen(&self, slots: &[Slot], screened: &mut Vec<Screened>) {
        screened.clear();
        let hashes = slots.iter().map(|slot| self.secret.hash(&slot::request_id(slot)));
        screened.extend(hashes.map(|hash| Screened { hash, known: false }));
        // Apart from hashing: the less there is between two misses, the more of them overlap.
        screened.iter_mut().for_each(|id| id.known = self.memory.may_contain(id.hash));
    }

    /// Where the leaf of a request is; if there is none, it will be the next leaf.
    pub(crate) fn find_or_add(
        &mut self,
        id: RequestId,
        &Screened { hash, known }: &Screened,
    ) -> Result<Option<u64>, ReadError> {
        let memory = &mut *self.memory;
        // Once more: another leaf of the same group may be of the same request.
        if known || memory.may_contain(hash) {
            let found = match memory.find(&id, hash) {
                None => self.store.find_filed(&id, hash)?,
                found => found,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        memory.add(id, hash);
        Ok(None)
    }
}
