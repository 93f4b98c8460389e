//! The Merkle tree of RFC 6962 (section 2.1): the same hashing for the small tree over a batch and for the log.

use crate::ids::Digest;
use crate::sha256::{Message, digest_each};

/// `SHA-256(0x00 ‖ leaf)`, RFC 6962 section 2.1.
pub fn leaf_hash(leaf: &[u8]) -> Digest {
    leaf_message(leaf).digest()
}

/// Calls `take` with the [`leaf_hash`] of each leaf, in order; quicker than one by one.
pub fn leaf_hash_each<'a>(leaves: impl IntoIterator<Item = &'a [u8]>, take: impl FnMut(Digest)) {
    digest_each(leaves.into_iter().map(leaf_message), take);
}

/// `SHA-256(0x01 ‖ left ‖ right)`, RFC 6962 section 2.1.
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    node_message(&[left.0, right.0]).digest()
}

/// Calls `take` with the [`node_hash`] of each pair, in order; quicker than one by one.
pub fn node_hash_each<'a>(pairs: impl IntoIterator<Item = &'a [[u8; 32]; 2]>, take: impl FnMut(Digest)) {
    digest_each(pairs.into_iter().map(node_message), take);
}

fn leaf_message(leaf: &[u8]) -> Message<'_> {
    Message { head: &[0], body: leaf }
}

fn node_message(pair: &[[u8; 32]; 2]) -> Message<'_> {
    Message { head: &[1], body: pair.as_flattened() }
}

/// The tree over one batch's leaf hashes. Its memory is reused from batch to batch.
///
/// Pairing neighbours level by level and promoting an odd last node unchanged gives the tree of RFC 6962, whose
/// left part is the largest power of two that is smaller than the whole.
#[derive(Debug)]
pub struct BatchTree {
    /// All levels, one after the other, the leaves first.
    nodes: Vec<[u8; 32]>,
    /// Where each level starts in `nodes`.
    starts: Vec<usize>,
}

impl BatchTree {
    /// A tree that holds up to `max_leaves` leaves without allocating again.
    pub fn with_capacity(max_leaves: usize) -> Self {
        Self { nodes: Vec::with_capacity(2 * max_leaves + 64), starts: Vec::with_capacity(64) }
    }

    /// Replaces the tree by the one over `leaves` and returns its root.
    ///
    /// # Panics
    /// If `leaves` is empty: a batch has at least one request.
    pub fn build(&mut self, leaves: &[Digest]) -> Digest {
        assert!(!leaves.is_empty(), "a batch has at least one leaf");
        self.nodes.clear();
        self.starts.clear();
        self.nodes.extend(leaves.iter().map(|leaf| leaf.0));
        let mut start = 0;
        loop {
            self.starts.push(start);
            let end = self.nodes.len();
            let width = end - start;
            if width == 1 {
                return Digest(self.nodes[start]);
            }
            self.nodes.resize(end + width.div_ceil(2), [0; 32]);
            let (done, parents) = self.nodes.split_at_mut(end);
            let (pairs, odd) = done[start..].as_chunks::<2>();
            let mut places = parents.iter_mut();
            node_hash_each(pairs, |parent| {
                *places.next().expect("there is a place for each pair's parent") = parent.0;
            });
            if let ([promoted], Some(place)) = (odd, places.next()) {
                *place = *promoted;
            }
            start = end;
        }
    }

    /// Appends the inclusion path of leaf `index` to `path`, the sibling nearest the leaf first.
    ///
    /// # Panics
    /// If `index` is not a leaf of the tree last built.
    pub fn path(&self, mut index: usize, path: &mut Vec<u8>) {
        for (level, &start) in self.starts.iter().enumerate() {
            let end = self.starts.get(level + 1).copied().unwrap_or(self.nodes.len());
            assert!(start + index < end, "no such leaf");
            if let Some(sibling) = self.nodes[start..end].get(index ^ 1) {
                path.extend_from_slice(sibling);
            }
            index /= 2;
        }
    }
}

/// The root that `path` leads to from `leaf` at `index` in a tree of `size` leaves; `None` where index, size and
/// length of the path do not belong together. RFC 9162 section 2.1.3.2.
pub fn root_from_path(leaf: &Digest, index: u64, size: u64, path: &[Digest]) -> Option<Digest> {
    if index >= size {
        return None;
    }
    let (mut node, mut last, mut root) = (index, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return None;
        }
        if node & 1 == 1 || node == last {
            root = node_hash(sibling, &root);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            root = node_hash(&root, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(root)
}

/// Says whether the tree of `new_size` leaves with root `new_root` extends the one of `old_size` with `old_root`.
/// RFC 9162 section 2.1.4.2; an empty old tree is extended by every tree.
pub fn is_consistent(
    old_size: u64,
    old_root: &Digest,
    new_size: u64,
    new_root: &Digest,
    proof: &[Digest],
) -> bool {
    if old_size == 0 || old_size == new_size {
        return proof.is_empty() && (old_size == 0 || old_root == new_root);
    }
    if old_size > new_size {
        return false;
    }
    let mut siblings = proof.iter();
    let seed = if old_size.is_power_of_two() { Some(old_root) } else { siblings.next() };
    let Some(seed) = seed else { return false };
    let (mut node, mut last) = (old_size - 1, new_size - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut old, mut new) = (*seed, *seed);
    for sibling in siblings {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old = node_hash(sibling, &old);
            new = node_hash(sibling, &new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && old == *old_root && new == *new_root
}

/// Reads a path that is carried as concatenated digests; `None` if its length is no multiple of 32 or over
/// [`MAX_PATH`] digests.
pub fn parse_path(bytes: &[u8]) -> Option<Vec<Digest>> {
    let (digests, rest) = bytes.as_chunks::<32>();
    (rest.is_empty() && digests.len() <= MAX_PATH).then(|| digests.iter().map(|d| Digest(*d)).collect())
}

/// No tree of at most 2^64 leaves has a longer path.
pub const MAX_PATH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition of RFC 6962 section 2.1, as it stands there.
    fn reference_root(leaves: &[Digest]) -> Digest {
        match leaves {
            [one] => *one,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                node_hash(&reference_root(&leaves[..split]), &reference_root(&leaves[split..]))
            }
        }
    }

    fn leaves(count: usize) -> Vec<Digest> {
        (0..count).map(|i| leaf_hash(&i.to_le_bytes())).collect()
    }

    #[test]
    fn the_batch_tree_is_the_tree_of_the_rfc() {
        let mut tree = BatchTree::with_capacity(70);
        for count in 1..70 {
            let leaves = leaves(count);
            let root = tree.build(&leaves);
            assert_eq!(root, reference_root(&leaves), "{count}");
            for (index, leaf) in leaves.iter().enumerate() {
                let mut path = Vec::new();
                tree.path(index, &mut path);
                let path = parse_path(&path).unwrap();
                assert_eq!(root_from_path(leaf, index as u64, count as u64, &path), Some(root));
            }
        }
    }

    /// RFC 6962 section 2.1.2.
    fn reference_consistency(old: usize, leaves: &[Digest], whole: bool) -> Vec<Digest> {
        if old == leaves.len() {
            return if whole { vec![] } else { vec![reference_root(leaves)] };
        }
        let split = leaves.len().next_power_of_two() / 2;
        let (left, right) = leaves.split_at(split);
        let (mut proof, other) = if old <= split {
            (reference_consistency(old, left, whole), reference_root(right))
        } else {
            (reference_consistency(old - split, right, false), reference_root(left))
        };
        proof.push(other);
        proof
    }

    #[test]
    fn consistency_holds_between_all_sizes_and_for_no_other_root() {
        let all = leaves(20);
        for new in 1..=all.len() {
            for old in 1..=new {
                let (old_root, new_root) = (reference_root(&all[..old]), reference_root(&all[..new]));
                let proof = reference_consistency(old, &all[..new], true);
                let (o, n) = (old as u64, new as u64);
                assert!(is_consistent(o, &old_root, n, &new_root, &proof), "{old} {new}");
                assert!(!is_consistent(o, &all[0], n, &new_root, &proof) || old == 1);
                assert!(!is_consistent(o, &old_root, n, &Digest([9; 32]), &proof));
            }
        }
    }

    proptest! {
        #[test]
        fn a_changed_path_leads_elsewhere(count in 2usize..40, at in any::<prop::sample::Index>(), flip in 0usize..4096) {
            let leaves = leaves(count);
            let index = at.index(count);
            let mut tree = BatchTree::with_capacity(count);
            let root = tree.build(&leaves);
            let mut path = Vec::new();
            tree.path(index, &mut path);
            let bit = flip % (8 * path.len());
            path[bit / 8] ^= 1 << (bit % 8);
            let path = parse_path(&path).unwrap();
            prop_assert_ne!(root_from_path(&leaves[index], index as u64, count as u64, &path), Some(root));
        }

        #[test]
        fn any_numbers_lead_to_a_root_or_to_none(index in any::<u64>(), size in any::<u64>(), length in 0usize..70) {
            let path = vec![Digest([3; 32]); length];
            let _ = root_from_path(&Digest([1; 32]), index, size, &path);
            let _ = is_consistent(index, &Digest([1; 32]), size, &Digest([2; 32]), &path);
        }
    }
}
