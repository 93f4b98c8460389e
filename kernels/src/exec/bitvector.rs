//! Trees on sixteen rows at a time, without walking: QuickScorer (Lucchese et al., SIGIR 2015) over rows.
//!
//! A tree's leaves are numbered in the order of its branches, `when_true` first. A branch whose condition does not hold
//! rules out the leaves under `when_true`: a mask. The first leaf that no such branch rules out is the one a walk would
//! reach, because every leaf before it lies under `when_true` of a branch on the walk that did not hold. So all branches
//! of a tree are compared, in any order, with no load that waits for another; for sixteen rows that is less work than
//! sixteen walks. It takes trees of at most 32 leaves, as boosting grows them; a tree whose branches share a child is
//! unfolded.

use core::arch::x86_64::*;

use super::recurrent::Words;
use super::scratch::Scratch;
use crate::model::graph::Trees;
use crate::model::plan::Region;

/// Rows in a vector.
pub(super) const ROWS: usize = 16;
/// Fewer rows are walked: measured, four take as long either way.
pub(super) const LEAST_ROWS: usize = 5;
/// Leaves of a tree: bits of a mask.
const LEAVES: usize = 32;

#[derive(Debug)]
struct Branch {
    feature: u32,
    threshold: i32,
    /// The leaves that stay when the condition does not hold; the first leaf is the highest bit.
    mask: u32,
}

/// What each leaf of a tree adds, in order.
#[derive(Debug)]
#[repr(align(64))]
struct Leaves([i32; LEAVES]);

#[derive(Debug)]
pub(super) struct PackedBits {
    branches: Vec<Branch>,
    /// Where the branches of each tree end.
    ends: Vec<u32>,
    leaves: Vec<Leaves>,
    features: usize,
}

impl PackedBits {
    /// Packs trees of which every leaf adds one value to the one sum, unless one has too many leaves.
    pub(super) fn new(trees: &Trees, values: &[i32]) -> Option<PackedBits> {
        let features = trees.features.iter().max().map_or(0, |&most| most as usize + 1);
        let mut packed = PackedBits {
            branches: Vec::new(),
            ends: Vec::with_capacity(trees.trees()),
            leaves: Vec::with_capacity(trees.trees()),
            features,
        };
        for &root in &trees.roots {
            let mut leaves = Vec::with_capacity(LEAVES);
            packed.unfold(trees, values, root, &mut leaves)?;
            leaves.resize(LEAVES, 0);
            packed.leaves.push(Leaves(std::array::from_fn(|leaf| leaves[leaf])));
            packed.ends.push(u32::try_from(packed.branches.len()).ok()?);
        }
        Some(packed)
    }

    /// Goes through a tree in order. `None` if it has too many leaves, which also bounds the depth.
    fn unfold(&mut self, trees: &Trees, values: &[i32], at: i32, leaves: &mut Vec<i32>) -> Option<()> {
        // Whether what lies under `when_true` of a branch is still to come, or the branch's first leaf.
        enum Task {
            Visit(i32),
            After { branch: usize, first_leaf: usize },
        }
        let mut tasks = vec![Task::Visit(at)];
        let start = self.branches.len();
        while let Some(task) = tasks.pop() {
            match task {
                Task::After { branch, first_leaf } => {
                    let ruled_out =
                        (first_leaf..leaves.len()).fold(0u32, |mask, leaf| mask | 1 << (31 - leaf));
                    self.branches[branch].mask = !ruled_out;
                }
                Task::Visit(at) => match usize::try_from(at) {
                    Ok(node) => {
                        if self.branches.len() - start >= LEAVES - 1 {
                            return None;
                        }
                        let branch = self.branches.len();
                        let (feature, threshold) = (trees.features[node], trees.thresholds[node]);
                        self.branches.push(Branch { feature, threshold, mask: 0 });
                        tasks.push(Task::Visit(trees.when_false[node]));
                        tasks.push(Task::After { branch, first_leaf: leaves.len() });
                        tasks.push(Task::Visit(trees.when_true[node]));
                    }
                    Err(_) => leaves.push(values[!at as usize]),
                },
            }
        }
        Some(())
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.branches.len() * size_of::<Branch>()
            + self.ends.len() * 4
            + self.leaves.len() * size_of::<Leaves>()
    }

    /// Vectors of working memory.
    pub(super) fn work_words(&self) -> usize {
        self.features
    }

    /// The sums of `rows` rows from row `first` on, at most sixteen, without base values.
    ///
    /// # Safety
    /// The processor must have AVX-512 F and CD.
    #[target_feature(enable = "avx512f,avx512cd")]
    pub(super) unsafe fn sums(
        &self,
        scratch: &mut Scratch,
        from: Region,
        first: usize,
        rows: usize,
    ) -> [i64; ROWS] {
        assert!(rows <= ROWS && from.stride >= self.features);
        let start = scratch.start(from, first);
        let (_, keys, work) = scratch.parts_mut();
        let keys = &keys[start..start + rows * from.stride];
        let words = &mut work.words[..self.features];
        for (row, keys) in keys.chunks_exact(from.stride).enumerate() {
            words.iter_mut().zip(keys).for_each(|(word, &key)| word.0[row] = key);
        }
        // Rows that are not there keep keys of an earlier block; their sums are not read.
        let (mut low, mut high) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        let mut branch = 0;
        for (&end, leaves) in self.ends.iter().zip(&self.leaves) {
            let mut open = _mm512_set1_epi32(-1);
            for branch in &self.branches[branch..end as usize] {
                // SAFETY: every feature is below `features`, the length of `words`, each an aligned vector.
                let keys = unsafe {
                    let words: *const Words = words.as_ptr().add(branch.feature as usize);
                    _mm512_load_si512(words.cast())
                };
                let fails = _mm512_cmpgt_epi32_mask(keys, _mm512_set1_epi32(branch.threshold));
                open = _mm512_mask_and_epi32(open, fails, open, _mm512_set1_epi32(branch.mask as i32));
            }
            branch = end as usize;
            // The last leaf is never ruled out, so there is a bit.
            let leaf = _mm512_lzcnt_epi32(open);
            let table = leaves.0.as_ptr().cast::<__m512i>();
            // SAFETY: a tree's leaves are two aligned vectors.
            let values = unsafe {
                _mm512_permutex2var_epi32(_mm512_load_si512(table), leaf, _mm512_load_si512(table.add(1)))
            };
            low = _mm512_add_epi64(low, _mm512_cvtepi32_epi64(_mm512_castsi512_si256(values)));
            let upper = _mm512_extracti64x4_epi64::<1>(values);
            high = _mm512_add_epi64(high, _mm512_cvtepi32_epi64(upper));
        }
        let mut sums = [0; ROWS];
        // SAFETY: sixteen values of 64 bits are written into as many.
        unsafe {
            _mm512_storeu_si512(sums.as_mut_ptr().cast(), low);
            _mm512_storeu_si512(sums.as_mut_ptr().add(8).cast(), high);
        }
        sums
    }
}
