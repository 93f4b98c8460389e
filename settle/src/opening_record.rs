//! An opening as it lies in a shard's ring and on disk: a header, and behind it the opening's own bytes.
//!
//! | offset | bytes | holds |
//! |---|---|---|
//! | 0 | 8 | XXH3-64 of everything behind it, by which a record that was torn or damaged is known |
//! | 8 | 4 | length of the opening |
//! | 12 | 4 | the leaf's number among those of its ring, modulo 2³² |
//! | 16 | 32 | hash of the leaf |
//! | 48 | 16 | request id |
//! | 64 | | the opening |
//!
//! Integers are little-endian. The leaf's number is for the committer, who learns from it which openings belong to the
//! leaves that it has taken. It stays in the record because the record goes to disk straight from the ring.

use crate::LeafBytes;
use crate::slot::leaf_request_id;
use haca_wire::{Digest, RequestId};
use xxhash_rust::xxh3::Xxh3Default;

/// What an opening can have at most. The input and output of a request are far smaller; a reader that meets a damaged
/// length asks for no more memory than this.
pub(crate) const MAX_OPENING: usize = 16 << 20;

/// Bytes that an opening of `len` bytes takes with its header.
pub(crate) const fn record_len(len: usize) -> usize {
    Header::LEN.saturating_add(len)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header(pub(crate) [u8; Header::LEN]);

impl Header {
    pub(crate) const LEN: usize = 64;

    /// The header of the opening that the parts make up, in all `len` bytes.
    pub(crate) fn new(number: u64, leaf: &LeafBytes, hash: &Digest, len: u32, parts: &[&[u8]]) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..16].copy_from_slice(&(number as u32).to_le_bytes());
        bytes[16..48].copy_from_slice(&hash.0);
        bytes[48..].copy_from_slice(&leaf_request_id(leaf).0);
        let checksum = checksum(&bytes, parts);
        bytes[..8].copy_from_slice(&checksum.to_le_bytes());
        Self(bytes)
    }

    /// Length of the opening, whatever it says.
    pub(crate) fn opening_len(&self) -> usize {
        u32::from_le_bytes(self.array(8)) as usize
    }

    /// Length of the record, whatever it says.
    pub(crate) fn record_len(&self) -> usize {
        record_len(self.opening_len())
    }

    /// Whether the leaf is among the first `taken` of its ring. The rings hold far fewer than 2³¹.
    pub(crate) fn is_of_first(&self, taken: u64) -> bool {
        let number = u32::from_le_bytes(self.array(12));
        (number.wrapping_sub(taken as u32) as i32) < 0
    }

    pub(crate) fn leaf_hash(&self) -> Digest {
        Digest(self.array(16))
    }

    pub(crate) fn request(&self) -> RequestId {
        RequestId(self.array(48))
    }

    /// Whether header and opening are what was written.
    pub(crate) fn is_intact(&self, opening: &[u8]) -> bool {
        u64::from_le_bytes(self.array(0)) == checksum(&self.0, &[opening])
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        *self.0[at..].first_chunk().expect("every field ends within the header")
    }
}

fn checksum(header: &[u8; Header::LEN], parts: &[&[u8]]) -> u64 {
    let mut hasher = Xxh3Default::new();
    hasher.update(&header[8..]);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use haca_wire::Leaf;

    #[test]
    fn a_record_gives_back_its_parts_and_knows_when_it_was_changed() {
        let mut leaf = [3; Leaf::LEN];
        leaf[8..24].fill(9);
        let header = Header::new(7, &leaf, &Digest([5; 32]), 6, &[b"abc", b"", b"def"]);
        assert_eq!((header.opening_len(), header.record_len()), (6, 70));
        assert_eq!((header.leaf_hash(), header.request()), (Digest([5; 32]), RequestId([9; 16])));
        assert!(header.is_intact(b"abcdef"));
        assert!(!header.is_intact(b"abcdeg") && !header.is_intact(b"abcde"));
        for at in 0..Header::LEN {
            let mut changed = header;
            changed.0[at] ^= 1;
            assert!(!changed.is_intact(b"abcdef"), "{at}");
        }
        // What a file has where nothing was written.
        assert!(!Header([0; Header::LEN]).is_intact(b""));
    }

    #[test]
    fn a_leaf_is_known_to_be_taken_across_the_end_of_its_number() {
        let is_taken = |number: u64, taken: u64| {
            Header::new(number, &[0; Leaf::LEN], &Digest([0; 32]), 0, &[]).is_of_first(taken)
        };
        for base in [0, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40] {
            assert!(!is_taken(base, base) && is_taken(base, base + 1));
            assert!(is_taken(base, base + (1 << 24)) && !is_taken(base + (1 << 24), base));
        }
    }
}
