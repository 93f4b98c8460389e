//! The leaves of one commit, gathered as they will lie in the file.
//!
//! The file is written past the page cache, in whole blocks. So the group's memory begins with what is durable already
//! of the block in which the group starts, and ends with zeros up to the end of the block in which it ends.

use crate::slot::{self, Slot};

/// What the file is written in: a multiple of every common device's own block.
pub(crate) const BLOCK: usize = 4096;

pub(crate) struct Group {
    /// Never grows, so the first aligned byte stays where it is.
    memory: Vec<u8>,
    /// The first byte of `memory` that lies on a block's boundary.
    aligned: usize,
    /// Index of the first leaf.
    first: u64,
    /// Leaves that belong to the group.
    kept: usize,
    /// Leaves before the next one that is to be looked at; the kept ones are among them.
    seen: usize,
    /// Leaves that were taken.
    taken: usize,
    capacity: usize,
}

impl Group {
    /// An empty group at the end of a file of `first` leaves. `tail` is what the last block holds of these.
    pub(crate) fn new(capacity: usize, first: u64, tail: &[u8]) -> Self {
        let memory = vec![0; capacity * slot::LEN + 3 * BLOCK];
        let aligned = memory.as_ptr().align_offset(BLOCK);
        assert!(aligned < BLOCK, "memory can be aligned to a block");
        let mut group = Self { memory, aligned, first, kept: 0, seen: 0, taken: 0, capacity };
        assert_eq!(group.head(), tail.len(), "the tail is what lies before the first leaf in its block");
        group.memory[aligned..aligned + tail.len()].copy_from_slice(tail);
        group
    }

    /// Index of the first leaf.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Leaves that were taken, whether or not they will be kept.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// Leaves that can still be taken.
    pub(crate) fn room(&self) -> usize {
        self.capacity - self.taken
    }

    /// Takes leaves. There must be room for them.
    pub(crate) fn take(&mut self, slots: &[Slot]) {
        assert!(slots.len() <= self.room(), "no more is taken than there is room for");
        let at = self.place(self.taken);
        self.memory[at..at + slots.len() * slot::LEN].copy_from_slice(slots.as_flattened());
        self.taken += slots.len();
    }

    /// The leaves that were taken and not yet looked at.
    pub(crate) fn unseen(&self) -> &[Slot] {
        self.slots(self.seen, self.taken)
    }

    /// Keeps the next unseen leaf, which becomes the last of the group.
    pub(crate) fn keep(&mut self) {
        if self.kept < self.seen {
            let (from, to) = (self.place(self.seen), self.place(self.kept));
            self.memory.copy_within(from..from + slot::LEN, to);
        }
        self.kept += 1;
        self.pass();
    }

    /// Leaves the next unseen leaf out.
    pub(crate) fn pass(&mut self) {
        assert!(self.seen < self.taken, "there is a leaf to look at");
        self.seen += 1;
    }

    /// The leaves that are kept.
    pub(crate) fn kept(&self) -> &[Slot] {
        self.slots(0, self.kept)
    }

    /// What is to be written, and where in the file: whole blocks.
    pub(crate) fn blocks(&mut self) -> (&[u8], u64) {
        assert_eq!(self.seen, self.taken, "every leaf has been looked at");
        let end = self.place(self.kept);
        let padded = self.aligned + (end - self.aligned).next_multiple_of(BLOCK);
        self.memory[end..padded].fill(0);
        (&self.memory[self.aligned..padded], self.first * slot::LEN as u64 - self.head() as u64)
    }

    /// Makes ready for the next group, once this one is durable.
    pub(crate) fn advance(&mut self) {
        let end = self.place(self.kept);
        let last_block = self.aligned + (end - self.aligned) / BLOCK * BLOCK;
        self.memory.copy_within(last_block..end, self.aligned);
        self.first += self.kept as u64;
        (self.kept, self.seen, self.taken) = (0, 0, 0);
    }

    /// Durable bytes before the first leaf in its block.
    fn head(&self) -> usize {
        (self.first * slot::LEN as u64 % BLOCK as u64) as usize
    }

    fn place(&self, at: usize) -> usize {
        self.aligned + self.head() + at * slot::LEN
    }

    fn slots(&self, from: usize, to: usize) -> &[Slot] {
        let (slots, rest) = self.memory[self.place(from)..self.place(to)].as_chunks();
        assert!(rest.is_empty(), "leaves lie back to back");
        slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(with: u64) -> Slot {
        let mut slot = [0; slot::LEN];
        slot[..8].copy_from_slice(&with.to_le_bytes());
        slot[slot::LEN - 8..].copy_from_slice(&with.to_le_bytes());
        slot
    }

    proptest! {
        /// Whatever is taken and kept, group by group, the file holds what was kept, in order, and zeros to the end of
        /// its last block.
        #[test]
        fn the_blocks_of_all_groups_together_are_the_kept_leaves(
            groups in prop::collection::vec(prop::collection::vec(any::<bool>(), 0..40), 1..12),
        ) {
            let (mut group, mut file, mut expected, mut next) = (Group::new(40, 0, &[]), Vec::new(), Vec::new(), 0);
            for keep in groups {
                for _ in &keep {
                    next += 1;
                    group.take(&[filled(next)]);
                }
                for keep in keep {
                    let slot = group.unseen()[0];
                    if keep {
                        expected.push(slot);
                        group.keep();
                    } else {
                        group.pass();
                    }
                }
                prop_assert_eq!(group.first() as usize + group.kept().len(), expected.len());
                let (blocks, offset) = group.blocks();
                prop_assert_eq!(blocks.as_ptr() as usize % BLOCK + blocks.len() % BLOCK + offset as usize % BLOCK, 0);
                file.truncate(offset as usize);
                file.extend_from_slice(blocks);
                group.advance();
            }
            let bytes = expected.as_flattened();
            prop_assert_eq!(&file[..bytes.len()], bytes);
            prop_assert!(file[bytes.len()..].iter().all(|byte| *byte == 0));
            // And it can be taken up again from the file.
            let tail = bytes.len() % BLOCK;
            let mut again = Group::new(1, expected.len() as u64, &bytes[bytes.len() - tail..]);
            prop_assert_eq!(&again.blocks().0[..tail], &bytes[bytes.len() - tail..]);
        }
    }
}
