//! The rows that a batch takes and gives.

use haca_wire::{Digest, Dtype, sha256, tensor};
use std::ops::Range;

/// The rows of a batch as they travel, one for each slot, to be hashed together.
pub(super) struct Rows {
    /// What is hashed in front of a row, by element type.
    heads: [tensor::Head; 2],
    /// Elements of a row.
    pub(super) elements: usize,
    /// Room for a row of the widest type in each slot.
    bytes: Vec<u8>,
    pub(super) hashes: Vec<Digest>,
}

impl Rows {
    pub(super) fn new(dims: &[u32], elements: usize, slots: usize) -> Self {
        let heads = [Dtype::F32, Dtype::I16].map(|dtype| tensor::Head::new(dtype, dims));
        let bytes = vec![0; slots * elements * Dtype::F32.size()];
        Self { heads, elements, bytes, hashes: Vec::with_capacity(slots) }
    }

    fn place(&self, slot: usize, dtype: Dtype) -> Range<usize> {
        let start = slot * self.elements * Dtype::F32.size();
        start..start + self.elements * dtype.size()
    }

    pub(super) fn get(&self, slot: usize, dtype: Dtype) -> &[u8] {
        &self.bytes[self.place(slot, dtype)]
    }

    pub(super) fn get_mut(&mut self, slot: usize, dtype: Dtype) -> &mut [u8] {
        let place = self.place(slot, dtype);
        &mut self.bytes[place]
    }

    /// Hashes the rows of the first slots, which have these types.
    pub(super) fn hash(&mut self, dtypes: impl Iterator<Item = Dtype>) {
        self.hashes.clear();
        let mut hashes = std::mem::take(&mut self.hashes);
        let row = |(slot, dtype)| {
            let head = match dtype {
                Dtype::F32 => &self.heads[0],
                Dtype::I16 => &self.heads[1],
            };
            head.before(self.get(slot, dtype))
        };
        sha256::digest_each(dtypes.enumerate().map(row), |hash| hashes.push(hash));
        self.hashes = hashes;
    }
}
