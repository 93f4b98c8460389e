//! Trees laid out for walking many at once, without branches.
//!
//! A node is one 64-bit word: threshold, feature, and the place of its two children, which lie side by side; so a step
//! is a load, a load of the key, a compare and an add. A leaf steps to itself, so that trees of different depths walk
//! together. Eight walks in flight hide the loads' latency. The order of trees is free because the sums are exact:
//! they are sorted by depth, so that walks in flight end together.

#[cfg(target_arch = "x86_64")]
use super::bitvector::{self, PackedBits};
use super::scratch::Scratch;
use super::{Backend, scalar};
use crate::model::graph::Trees;
use crate::model::plan::Region;

/// Walks in flight: measured, fewer wait for loads and more spill registers.
const LANES: usize = 8;
/// Steps between checks whether all walks have ended: a check costs about two steps.
const STEPS: usize = 3;

/// Fewer rows are taken one by one on AVX2: a block of up to eight takes as long as four to six of them.
#[cfg(target_arch = "x86_64")]
const LEAST_ROWS_AVX2: usize = 5;

#[derive(Debug)]
pub(crate) struct PackedForest {
    /// Bits 0..16: first child, relative to the tree's first word; 16..32: feature; 32..64: threshold. None of these if
    /// there are `bits`.
    words: Vec<u64>,
    /// What a leaf adds to the single sum, if `direct`; else the leaf.
    payloads: Vec<i32>,
    direct: bool,
    /// First word of each tree, in order of depth.
    firsts: Vec<u32>,
    /// Features that are read.
    features: usize,
    #[cfg(target_arch = "x86_64")]
    bits: Option<PackedBits>,
}

impl PackedForest {
    /// Packs the trees, unless one of them, or the features, exceed 16 bits: those are left to the reference.
    pub(crate) fn new(trees: &Trees) -> Option<PackedForest> {
        let features = trees.features.iter().max().map_or(0, |&most| most as usize + 1);
        if features > 1 << 16 {
            return None;
        }
        let direct = direct_leaves(trees);
        #[cfg(target_arch = "x86_64")]
        let bits = direct.as_ref().and_then(|values| PackedBits::new(trees, values));
        let mut order: Vec<(u32, usize)> =
            (0..trees.trees()).map(|tree| (depth(trees, tree), tree)).collect();
        order.sort_unstable();
        let mut forest = PackedForest {
            words: Vec::new(),
            payloads: Vec::new(),
            direct: direct.is_some(),
            firsts: Vec::with_capacity(order.len()),
            features,
            #[cfg(target_arch = "x86_64")]
            bits,
        };
        #[cfg(target_arch = "x86_64")]
        if forest.bits.is_some() {
            return Some(forest);
        }
        for (_, tree) in order {
            let (start, end) = (trees.tree_nodes[tree] as usize, trees.tree_nodes[tree + 1] as usize);
            let words = 1 + 2 * (end - start);
            if words > 1 << 16 || forest.words.len() + words > u32::MAX as usize {
                return None;
            }
            forest.firsts.push(forest.words.len() as u32);
            let children = (start..end).flat_map(|node| [trees.when_true[node], trees.when_false[node]]);
            for (place, reference) in std::iter::once(trees.roots[tree]).chain(children).enumerate() {
                let (threshold, feature, child, payload) = match usize::try_from(reference) {
                    Ok(node) => (trees.thresholds[node], trees.features[node], 1 + 2 * (node - start), 0),
                    Err(_) => {
                        let leaf = !reference;
                        let payload = direct.as_ref().map_or(leaf, |values| values[leaf as usize]);
                        // Every key is at most the largest, so the walk stays.
                        (i32::MAX, 0, place, payload)
                    }
                };
                let word = u64::from(threshold as u32) << 32 | u64::from(feature) << 16 | child as u64;
                forest.words.push(word);
                forest.payloads.push(payload);
            }
        }
        Some(forest)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let walked = self.words.len() * 8 + self.payloads.len() * 4 + self.firsts.len() * 4;
        #[cfg(target_arch = "x86_64")]
        return walked + self.bits.as_ref().map_or(0, PackedBits::memory_bytes);
        #[cfg(not(target_arch = "x86_64"))]
        walked
    }

    /// Bytes of branches that a backend reads for a row alone; 0 where trees are walked.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
    pub(crate) fn row_bytes(&self, backend: Backend) -> usize {
        #[cfg(target_arch = "x86_64")]
        return self.bits.as_ref().map_or(0, |bits| bits.row_bytes(backend));
        #[cfg(not(target_arch = "x86_64"))]
        0
    }

    /// Vectors of working memory.
    pub(super) fn work_words(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        return self.bits.as_ref().map_or(0, PackedBits::work_words);
        #[cfg(not(target_arch = "x86_64"))]
        0
    }

    /// As [`PackedForest::execute`], sixteen rows at a time where the trees allow it and there are enough.
    ///
    /// # Safety
    /// The processor must have AVX-512 F and CD.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512cd")]
    pub(crate) unsafe fn execute_avx512(
        &self,
        trees: &Trees,
        scratch: &mut Scratch,
        from: Region,
        to: Region,
        rows: usize,
    ) {
        let Some(bits) = &self.bits else { return self.execute(trees, scratch, from, to, 0..rows) };
        let single = in_blocks(rows, bitvector::LEAST_ROWS, |first, count| {
            // SAFETY: the features are this function's own condition.
            let sums = unsafe { bits.sums(scratch, from, first, count) };
            finish(trees, scratch, to, first, &sums[..count]);
        });
        for row in single..rows {
            // SAFETY: as above.
            let sum = unsafe { bits.sum(scratch, from, row) };
            finish(trees, scratch, to, row, &[sum]);
        }
    }

    /// The same on AVX2.
    ///
    /// # Safety
    /// The processor must have AVX2.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    pub(crate) unsafe fn execute_avx2(
        &self,
        trees: &Trees,
        scratch: &mut Scratch,
        from: Region,
        to: Region,
        rows: usize,
    ) {
        let Some(bits) = &self.bits else { return self.execute(trees, scratch, from, to, 0..rows) };
        let single = in_blocks(rows, LEAST_ROWS_AVX2, |first, count| {
            // SAFETY: the feature is this function's own condition.
            let sums = unsafe { bits.sums_avx2(scratch, from, first, count) };
            finish(trees, scratch, to, first, &sums[..count]);
        });
        for row in single..rows {
            // SAFETY: as above.
            let sum = unsafe { bits.sum_avx2(scratch, from, row) };
            finish(trees, scratch, to, row, &[sum]);
        }
    }

    /// Computes the sums of the rows, and finishes them.
    pub(crate) fn execute(
        &self,
        trees: &Trees,
        scratch: &mut Scratch,
        from: Region,
        to: Region,
        rows: std::ops::Range<usize>,
    ) {
        for row in rows {
            let mut sum = 0;
            let targets = trees.base.len();
            scratch.i64_row_mut(to, row)[..targets].copy_from_slice(&trees.base);
            for group in self.firsts.chunks(LANES) {
                // A short group walks its last tree several times.
                let firsts: [u32; LANES] = std::array::from_fn(|lane| group[lane.min(group.len() - 1)]);
                let ends = self.walk(firsts, scratch.i32_row(from, row));
                let payloads = ends[..group.len()].iter().map(|&end| self.payloads[end as usize]);
                if self.direct {
                    sum += payloads.map(i64::from).sum::<i64>();
                } else {
                    let sums = &mut scratch.i64_row_mut(to, row)[..targets];
                    payloads.for_each(|leaf| scalar::add_leaf(trees, leaf as usize, sums));
                }
            }
            let values = scratch.i64_row_mut(to, row);
            values[0] += sum;
            scalar::finish(trees, values);
        }
    }

    /// The words at which the walks of eight trees end.
    #[inline]
    fn walk(&self, firsts: [u32; LANES], keys: &[i32]) -> [u32; LANES] {
        assert!(keys.len() >= self.features.max(1));
        let mut at = firsts;
        loop {
            let before = at;
            for _ in 0..STEPS {
                for lane in 0..LANES {
                    // SAFETY: `firsts` are places of roots, and a word's child lies in its own tree by construction
                    // in `new`, so `at` always indexes `words`.
                    let word = unsafe { *self.words.get_unchecked(at[lane] as usize) };
                    // SAFETY: every feature is below `features`, leaves have feature 0, and the length of `keys` is
                    // asserted above.
                    let key = unsafe { *keys.get_unchecked((word >> 16 & 0xffff) as usize) };
                    let right = key > (word >> 32) as i32;
                    at[lane] = firsts[lane] + (word & 0xffff) as u32 + u32::from(right);
                }
            }
            if at == before {
                return at;
            }
        }
    }
}

/// Calls `block` for blocks of rows as large as there are, given first row and number, and returns the first row that is
/// left because no `least` rows are.
#[cfg(target_arch = "x86_64")]
fn in_blocks(rows: usize, least: usize, mut block: impl FnMut(usize, usize)) -> usize {
    let mut first = 0;
    while rows - first >= least {
        let count = (rows - first).min(bitvector::ROWS);
        block(first, count);
        first += count;
    }
    first
}

/// Finishes rows from `first` on whose leaves add up to these.
#[cfg(target_arch = "x86_64")]
fn finish(trees: &Trees, scratch: &mut Scratch, to: Region, first: usize, sums: &[i64]) {
    for (row, sum) in (first..).zip(sums) {
        let values = scratch.i64_row_mut(to, row);
        values[0] = trees.base[0] + sum;
        scalar::finish(trees, values);
    }
}

/// What each leaf adds, if there is one sum and every leaf's entries add up to 32 bits.
fn direct_leaves(trees: &Trees) -> Option<Vec<i32>> {
    if trees.base.len() != 1 {
        return None;
    }
    let leaf = |leaf: &[u32]| {
        let entries = &trees.entry_values[leaf[0] as usize..leaf[1] as usize];
        i32::try_from(entries.iter().map(|&value| i64::from(value)).sum::<i64>()).ok()
    };
    trees.leaf_entries.windows(2).map(leaf).collect()
}

/// Branches on the longest way from the root of a validated tree.
fn depth(trees: &Trees, tree: usize) -> u32 {
    let (start, end) = (trees.tree_nodes[tree] as usize, trees.tree_nodes[tree + 1] as usize);
    let mut depths = vec![0u32; end - start];
    let of = |child: i32, depths: &[u32]| usize::try_from(child).map_or(0, |child| depths[child - start]);
    for node in (start..end).rev() {
        depths[node - start] =
            1 + of(trees.when_true[node], &depths).max(of(trees.when_false[node], &depths));
    }
    of(trees.roots[tree], &depths)
}
