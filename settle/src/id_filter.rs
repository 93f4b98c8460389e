//! A Bloom filter over all request ids in the log: a fresh id costs one cache line instead of a look into each run.
//!
//! Blocked: all bits of an id lie in one block of 64 bytes. Over its capacity it lets more through, each of which
//! costs a read of the index; it never says that an id is not there when it is.

use crate::huge_pages;
use crate::id_hash::IdHash;

pub(crate) struct IdFilter {
    blocks: Vec<Block>,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Block([u64; 8]);

impl IdFilter {
    /// A filter of at most so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        let blocks = (bytes / size_of::<Block>() as u64).max(1) as usize;
        let mut blocks = vec![Block([0; 8]); blocks];
        huge_pages::prefer(&mut blocks);
        Self { blocks }
    }

    /// Whether it is of use with so many ids: with four bits for each it still knows four strangers of five.
    pub(crate) fn is_good_for(&self, ids: u64) -> bool {
        ids.saturating_mul(4) <= (self.blocks.len() * size_of::<Block>() * 8) as u64
    }

    pub(crate) fn insert(&mut self, id: IdHash) {
        let (block, bits) = self.place(id);
        for (word, bit) in bits {
            self.blocks[block].0[word] |= 1 << bit;
        }
    }

    /// Whether the id may have been inserted.
    pub(crate) fn may_contain(&self, id: IdHash) -> bool {
        let (block, mut bits) = self.place(id);
        bits.all(|(word, bit)| self.blocks[block].0[word] >> bit & 1 == 1)
    }

    /// The block, from the high bits of the hash, and the bits in it, nine bits each.
    fn place(&self, id: IdHash) -> (usize, impl Iterator<Item = (usize, u32)> + use<>) {
        let hash = id.spread();
        let block = (u128::from(hash) * self.blocks.len() as u128) >> u64::BITS;
        // The block took the hash's high bits; multiplying spreads the low ones over all again.
        let bits = hash.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        let place =
            move |at: u32| ((bits >> (9 * at + 10) & 7) as usize, (bits >> (9 * at + 13) & 63) as u32);
        (block as usize, (0..BITS).map(place))
    }
}

/// Bits set for an id; with ten bits of room for each about 1 % of strangers pass, with twenty 0.1 %.
const BITS: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id_hash::IdSecret;
    use haca_wire::RequestId;

    fn id(number: u64) -> IdHash {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        IdSecret([3; 16]).hash(&RequestId(id))
    }

    #[test]
    fn what_was_inserted_passes_and_few_others_do() {
        let bytes = 64 << 10;
        let mut filter = IdFilter::new(bytes);
        let capacity = bytes * 8 / 10;
        (0..capacity).for_each(|number| filter.insert(id(number)));
        assert!((0..capacity).all(|number| filter.may_contain(id(number))));
        let strangers = (capacity..2 * capacity).filter(|number| filter.may_contain(id(*number))).count();
        assert!((strangers as u64) < capacity / 30, "{strangers} of {capacity}");
    }
}
