//! The file of leaves: the log itself.
//!
//! Leaf number `i` lies at byte `296 · i` with its hash (see [`slot`]), so nothing needs to remember where
//! it is; behind the last one come zeros up to the end of the block. A leaf is written once and never moved: a store
//! that sorts would write it again and again, and its order is known.
//!
//! A group is one write of whole blocks past the page cache (`O_DIRECT`), and one `fdatasync`. Through the page cache
//! the processor spends more on finding a page for each 13 leaves than on everything else that is done for them. Where
//! the file system knows no direct writes, the same goes through the cache.
//!
//! **After a power cut** any sector of what was not fsynced may be missing. That is at most the last group, since the
//! next is not begun before fsync has returned. Its first block also holds durable leaves, which are written again
//! with the same bytes, so whichever version of a sector the disk kept, they are there. Recovery reads on from the last
//! leaf known to be durable, for as long as each leaf hashes to what is stored with it; the first that does not ends
//! the log, and the file is cut there before anything is appended, so nothing behind it can ever come back.

use crate::LeafBytes;
use crate::error::StoreError;
use crate::group::{BLOCK, Group};
use crate::slot::{self, Slot};
use haca_wire::Digest;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};

pub(crate) struct LeafFile {
    /// Past the page cache, if the file system can.
    writer: File,
    reader: File,
    /// Leaves in the file.
    len: AtomicU64,
}

impl LeafFile {
    /// Opens the file, or creates it. How many leaves it holds is for recovery to find out.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = || during("opening the file of leaves");
        let open =
            |flags| File::options().write(true).create(true).truncate(false).custom_flags(flags).open(path);
        let writer = match open(libc::O_DIRECT) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(0),
            opened => opened,
        };
        let writer = writer.map_err(failed())?;
        let reader = File::open(path).map_err(failed())?;
        Ok(Self { writer, reader, len: AtomicU64::new(0) })
    }

    /// Leaves in the file: those that recovery counted and those that were committed since.
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Acquire)
    }

    /// How many leaves the file is long enough for.
    pub(crate) fn room(&self) -> Result<u64, StoreError> {
        Ok(self.bytes().map_err(during("asking for the length of the file of leaves"))? / slot::LEN as u64)
    }

    /// Says that the first `len` leaves are there.
    pub(crate) fn set_len(&self, len: u64) {
        self.len.store(len, Release);
    }

    /// Makes durable what is in the file.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.writer.sync_all().map_err(during("syncing the file of leaves"))
    }

    /// Cuts off, durably, what lies behind the last leaf.
    pub(crate) fn cut(&self) -> Result<(), StoreError> {
        let end = self.len() * slot::LEN as u64;
        let cut = || -> std::io::Result<()> {
            if self.bytes()? != end {
                self.writer.set_len(end)?;
                self.writer.sync_all()?;
            }
            Ok(())
        };
        cut().map_err(during("cutting the file of leaves"))
    }

    /// An empty group to follow the last leaf.
    pub(crate) fn next_group(&self, capacity: usize) -> Result<Group, StoreError> {
        let end = self.len() * slot::LEN as u64;
        let start = end / BLOCK as u64 * BLOCK as u64;
        let mut tail = vec![0; (end - start) as usize];
        let read = self.reader.read_exact_at(&mut tail, start);
        read.map_err(during("reading the last block of leaves"))?;
        Ok(Group::new(capacity, self.len(), &tail))
    }

    /// Writes the group. When it returns `Ok`, fsync has returned: the group is durable. After an error any part of it
    /// may be there; writing the same group again is all that it takes.
    pub(crate) fn commit(&self, group: &mut Group) -> Result<(), StoreError> {
        assert_eq!(group.first(), self.len(), "a group follows the one before it");
        let (blocks, offset) = group.blocks();
        self.writer.write_all_at(blocks, offset).map_err(during("writing a group of leaves"))?;
        self.writer.sync_data().map_err(during("syncing a group of leaves"))?;
        self.set_len(group.first() + group.kept().len() as u64);
        Ok(())
    }

    /// The leaf at `index`, durable or not.
    pub(crate) fn leaf(&self, index: u64) -> Result<Option<LeafBytes>, StoreError> {
        if index >= self.len() {
            return Ok(None);
        }
        let slot = self.slots(index, 1)?[0];
        if !slot::is_intact(&slot) {
            let why = format!("leaf {index} does not hash to what was stored with it");
            return Err(during("reading a leaf")(Error::new(ErrorKind::InvalidData, why)));
        }
        Ok(Some(*slot::leaf(&slot)))
    }

    /// The stored hashes of `count` leaves from `first` on, which must be there.
    pub(crate) fn hashes(&self, first: u64, count: usize) -> Result<Vec<Digest>, StoreError> {
        Ok(self.slots(first, count)?.iter().map(slot::hash).collect())
    }

    /// `count` leaves with their hashes from `first` on, for which the file must be long enough.
    pub(crate) fn slots(&self, first: u64, count: usize) -> Result<Vec<Slot>, StoreError> {
        let mut slots = vec![[0; slot::LEN]; count];
        let read = self.reader.read_exact_at(slots.as_flattened_mut(), first * slot::LEN as u64);
        read.map_err(during("reading leaves"))?;
        Ok(slots)
    }

    pub(crate) fn bytes(&self) -> std::io::Result<u64> {
        Ok(self.reader.metadata()?.len())
    }
}

fn during(what: &'static str) -> impl Fn(Error) -> StoreError {
    move |source| StoreError { what, source: source.into() }
}
