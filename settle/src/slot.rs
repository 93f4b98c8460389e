//! A leaf as the log keeps it, in a shard's ring and on disk: the leaf's bytes and, after them, its hash in the tree.
//!
//! The hash is there because the shard knows it already, and it serves three times: the tree takes it without hashing
//! the leaf again, a proof reads it from the file as a node of the lowest level, and a slot that a power cut has torn is
//! known by it.

use crate::LeafBytes;
use haca_wire::merkle::leaf_hash;
use haca_wire::{Digest, Leaf, RequestId};

/// Bytes of a slot.
pub(crate) const LEN: usize = Leaf::LEN + Digest::LEN;

/// A leaf and its hash.
pub(crate) type Slot = [u8; LEN];

pub(crate) fn new(leaf: &LeafBytes, hash: &Digest) -> Slot {
    let mut slot = [0; LEN];
    slot[..Leaf::LEN].copy_from_slice(leaf);
    slot[Leaf::LEN..].copy_from_slice(&hash.0);
    slot
}

pub(crate) fn leaf(slot: &Slot) -> &LeafBytes {
    slot.first_chunk().expect("a slot begins with a leaf")
}

pub(crate) fn hash(slot: &Slot) -> Digest {
    Digest(*slot.last_chunk().expect("a slot ends with a hash"))
}

pub(crate) fn request_id(slot: &Slot) -> RequestId {
    leaf_request_id(leaf(slot))
}

/// The request id in an encoded leaf; see the layout in [`haca_wire::leaf`].
pub(crate) fn leaf_request_id(leaf: &LeafBytes) -> RequestId {
    RequestId::from_slice(&leaf[8..24]).expect("16 bytes make a request id")
}

/// Whether the slot was written whole.
pub(crate) fn is_intact(slot: &Slot) -> bool {
    leaf_hash(leaf(slot)) == hash(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_gives_back_its_parts_and_knows_when_it_was_changed() {
        let mut bytes = [0; Leaf::LEN];
        bytes[0] = 1;
        let mut leaf = Leaf::decode(&bytes).unwrap();
        leaf.request = RequestId([9; 16]);
        let mut slot = new(&leaf.encode(), &leaf.hash());
        assert_eq!((super::leaf(&slot), hash(&slot)), (&leaf.encode(), leaf.hash()));
        assert_eq!(request_id(&slot), RequestId([9; 16]));
        assert!(is_intact(&slot) && !is_intact(&[0; LEN]));
        for at in [0, Leaf::LEN - 1, Leaf::LEN, LEN - 1] {
            slot[at] ^= 1;
            assert!(!is_intact(&slot), "{at}");
            slot[at] ^= 1;
        }
    }
}
