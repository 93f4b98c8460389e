//! Trees without walking, on sixteen rows at a time: QuickScorer (Lucchese et al., SIGIR 2015) over rows.
//!
//! A tree's leaves are numbered in the order of its branches, `when_true` first. A branch whose condition does not hold
//! rules out the leaves under `when_true`: a mask. The first leaf that no such branch rules out is the one a walk would
//! reach, because every leaf before it lies under `when_true` of a branch on the walk that did not hold. So all branches
//! of a tree are compared, in any order, with no load that waits for another; for sixteen rows that is less work than
//! sixteen walks. For single rows it is sixteen trees at a time: each brings its branches in order of their features,
//! so that in each step all look up keys within a window of 32, which is one instruction. It takes trees of at most 32
//! leaves, as boosting grows them; a tree whose branches share a child is unfolded. This is AVX-512; on AVX2 blocks of rows
//! are done likewise (`avx2`), and single rows by ranks (`ranks`).

mod avx2;
mod ranks;

use core::arch::x86_64::*;

use super::Backend;
use super::recurrent::Words;
use super::scratch::Scratch;
use crate::model::graph::Trees;
use crate::model::plan::Region;
use ranks::PackedRanks;

/// Rows in a vector.
pub(super) const ROWS: usize = 16;
/// Fewer rows are taken one by one.
pub(super) const LEAST_ROWS: usize = 4;
/// Keys of a window.
const WINDOW: usize = 32;
/// Trees in a step.
const LANES: usize = 16;
/// Leaves of a tree: bits of a mask.
const LEAVES: usize = 32;

#[derive(Debug, Clone)]
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

/// One branch of each of sixteen trees, or a branch that always holds.
#[derive(Debug)]
struct Step {
    thresholds: [i32; LANES],
    masks: [u32; LANES],
    /// Features, from `first` on.
    places: [u8; LANES],
    first: u32,
}

#[derive(Debug)]
pub(super) struct PackedBits {
    branches: Vec<Branch>,
    /// Where the branches of each tree end.
    ends: Vec<u32>,
    /// For whole groups of trees.
    leaves: Vec<Leaves>,
    /// For single rows on AVX-512.
    steps: Vec<Step>,
    /// Where the steps of each group of trees end.
    group_ends: Vec<u32>,
    /// For single rows on AVX2.
    ranks: PackedRanks,
    features: usize,
}

impl PackedBits {
    /// Packs trees of which every leaf adds one value to the one sum, unless one has too many leaves. Their order is
    /// free because the sum is exact: trees of like sizes go together.
    pub(super) fn new(trees: &Trees, values: &[i32]) -> Option<PackedBits> {
        let unfolded = trees.roots.iter().map(|&root| unfold(trees, values, root));
        let mut unfolded = unfolded.collect::<Option<Vec<_>>>()?;
        unfolded.sort_by_key(|(branches, _)| branches.len());
        let features = trees.features.iter().max().map_or(0, |&most| most as usize + 1);
        let mut packed = PackedBits {
            branches: Vec::new(),
            ends: Vec::with_capacity(unfolded.len()),
            leaves: Vec::with_capacity(unfolded.len().next_multiple_of(ranks::LANES)),
            steps: Vec::new(),
            group_ends: Vec::with_capacity(unfolded.len().div_ceil(LANES)),
            ranks: PackedRanks::new(unfolded.iter().map(|(branches, _)| &branches[..]))?,
            features,
        };
        for (branches, leaves) in &unfolded {
            packed.branches.extend_from_slice(branches);
            packed.ends.push(u32::try_from(packed.branches.len()).ok()?);
            packed.leaves.push(Leaves(std::array::from_fn(|leaf| leaves.get(leaf).copied().unwrap_or(0))));
        }
        if Backend::Avx512Vnni.is_available() {
            for group in unfolded.chunks(LANES) {
                let mut pending: Vec<Vec<Branch>> =
                    group.iter().map(|(branches, _)| in_order(branches.iter().cloned())).collect();
                while let Some((first, branches)) = next_branches(&mut pending, packed.window_words() * LANES)
                {
                    packed.steps.push(Step::new(first, &branches));
                }
                packed.group_ends.push(u32::try_from(packed.steps.len()).ok()?);
            }
        }
        packed.leaves.resize_with(unfolded.len().next_multiple_of(ranks::LANES), || Leaves([0; LEAVES]));
        Some(packed)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.branches.len() * size_of::<Branch>()
            + (self.ends.len() + self.group_ends.len()) * 4
            + self.leaves.len() * size_of::<Leaves>()
            + self.steps.len() * size_of::<Step>()
            + self.ranks.memory_bytes()
    }

    /// Bytes of branches that a backend reads for a row alone; the reference walks.
    pub(super) fn row_bytes(&self, backend: Backend) -> usize {
        match backend {
            Backend::Scalar => 0,
            Backend::Avx2 => self.ranks.step_bytes(),
            Backend::Avx512Vnni => self.steps.len() * size_of::<Step>(),
        }
    }

    /// Vectors of a row's keys, for any window.
    fn window_words(&self) -> usize {
        self.features.div_ceil(LANES).max(WINDOW / LANES)
    }

    /// Vectors of working memory.
    pub(super) fn work_words(&self) -> usize {
        self.features.max(self.window_words()).max(self.ranks.work_words())
    }

    /// The sum of one row, without base values.
    ///
    /// # Safety
    /// The processor must have AVX-512 F and CD.
    #[target_feature(enable = "avx512f,avx512cd")]
    pub(super) unsafe fn sum(&self, scratch: &mut Scratch, from: Region, row: usize) -> i64 {
        assert!(from.stride >= self.features);
        let start = scratch.start(from, row);
        let (_, keys, work) = scratch.parts_mut();
        let words = Words::flat(&mut work.words[..self.window_words()]);
        words[..self.features].copy_from_slice(&keys[start..start + self.features]);
        let (mut low, mut high) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        let lane_leaves = _mm512_mullo_epi32(
            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
            _mm512_set1_epi32(LEAVES as i32),
        );
        let mut at = 0;
        for (&end, leaves) in self.group_ends.iter().zip(self.leaves.as_chunks::<LANES>().0) {
            let mut open = _mm512_set1_epi32(-1);
            for step in &self.steps[at..end as usize] {
                // SAFETY: a step's arrays are a vector, or a quarter of one; its window lies within `words`, as
                // `next_branches` made it.
                unsafe {
                    let window = words.as_ptr().add(step.first as usize);
                    let places = _mm512_cvtepu8_epi32(_mm_loadu_si128(step.places.as_ptr().cast()));
                    let keys = _mm512_permutex2var_epi32(
                        _mm512_loadu_si512(window.cast()),
                        places,
                        _mm512_loadu_si512(window.add(LANES).cast()),
                    );
                    let thresholds = _mm512_loadu_si512(step.thresholds.as_ptr().cast());
                    let fails = _mm512_cmpgt_epi32_mask(keys, thresholds);
                    let masks = _mm512_loadu_si512(step.masks.as_ptr().cast());
                    open = _mm512_mask_and_epi32(open, fails, open, masks);
                }
            }
            at = end as usize;
            let places = _mm512_add_epi32(lane_leaves, _mm512_lzcnt_epi32(open));
            // SAFETY: a leaf's number is below 32, because the last is never ruled out; a group has sixteen tables.
            let values = unsafe { _mm512_i32gather_epi32::<4>(places, leaves.as_ptr().cast()) };
            low = _mm512_add_epi64(low, _mm512_cvtepi32_epi64(_mm512_castsi512_si256(values)));
            let upper = _mm512_extracti64x4_epi64::<1>(values);
            high = _mm512_add_epi64(high, _mm512_cvtepi32_epi64(upper));
        }
        _mm512_reduce_add_epi64(_mm512_add_epi64(low, high))
    }

    /// As [`PackedBits::sum`].
    ///
    /// # Safety
    /// The processor must have AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn sum_avx2(&self, scratch: &mut Scratch, from: Region, row: usize) -> i64 {
        // SAFETY: the feature is this function's own condition.
        unsafe { self.ranks.sum(&self.leaves, scratch, from, row) }
    }

    /// Puts the keys of rows side by side: a vector for each feature. Rows that are not there keep keys of an earlier
    /// block; their sums are not read.
    fn spread(&self, scratch: &mut Scratch, from: Region, first: usize, rows: usize) {
        assert!(rows <= ROWS && from.stride >= self.features);
        let start = scratch.start(from, first);
        let (_, keys, work) = scratch.parts_mut();
        let keys = &keys[start..start + rows * from.stride];
        let words = &mut work.words[..self.features];
        for (row, keys) in keys.chunks_exact(from.stride).enumerate() {
            words.iter_mut().zip(keys).for_each(|(word, &key)| word.0[row] = key);
        }
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
        self.spread(scratch, from, first, rows);
        let (_, _, work) = scratch.parts_mut();
        let words = &work.words[..self.features];
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

/// The branches of a tree and its leaves' values in order. `None` if it has too many leaves, which also bounds the work.
fn unfold(trees: &Trees, values: &[i32], root: i32) -> Option<(Vec<Branch>, Vec<i32>)> {
    enum Task {
        Visit(i32),
        /// What lies under `when_true` of a branch has been visited: the leaves from the first on.
        Mask {
            branch: usize,
            first_leaf: usize,
        },
    }
    let (mut branches, mut leaves): (Vec<Branch>, Vec<i32>) = (Vec::new(), Vec::new());
    let mut tasks = vec![Task::Visit(root)];
    while let Some(task) = tasks.pop() {
        match task {
            Task::Mask { branch, first_leaf } => {
                let ruled_out = (first_leaf..leaves.len()).fold(0u32, |mask, leaf| mask | 1 << (31 - leaf));
                branches[branch].mask = !ruled_out;
            }
            Task::Visit(at) => match usize::try_from(at) {
                Ok(_) if branches.len() >= LEAVES - 1 => return None,
                Ok(node) => {
                    tasks.push(Task::Visit(trees.when_false[node]));
                    tasks.push(Task::Mask { branch: branches.len(), first_leaf: leaves.len() });
                    tasks.push(Task::Visit(trees.when_true[node]));
                    let (feature, threshold) = (trees.features[node], trees.thresholds[node]);
                    branches.push(Branch { feature, threshold, mask: 0 });
                }
                Err(_) => leaves.push(values[!at as usize]),
            },
        }
    }
    Some((branches, leaves))
}

impl Step {
    fn new(first: u32, branches: &[Option<Branch>; LANES]) -> Step {
        let mut step = Step { thresholds: [i32::MAX; LANES], masks: [!0; LANES], places: [0; LANES], first };
        for (lane, branch) in branches.iter().enumerate() {
            let Some(branch) = branch else { continue };
            step.thresholds[lane] = branch.threshold;
            step.masks[lane] = branch.mask;
            step.places[lane] = (branch.feature - first) as u8;
        }
        step
    }
}

/// Branches in order of their features, the first one last.
fn in_order(branches: impl Iterator<Item = Branch>) -> Vec<Branch> {
    let mut branches: Vec<Branch> = branches.collect();
    branches.sort_by_key(|branch| std::cmp::Reverse(branch.feature));
    branches
}

/// Takes the last branch of every tree whose feature is within a window from the least of all on, which ends with the
/// last of `keys` at most. `None` when none are left.
fn next_branches<const N: usize>(
    pending: &mut [Vec<Branch>],
    keys: usize,
) -> Option<(u32, [Option<Branch>; N])> {
    let least = pending.iter().filter_map(|branches| branches.last()).map(|branch| branch.feature).min()?;
    let first = least.min((keys - WINDOW) as u32);
    let mut next = [const { None }; N];
    for (next, branches) in next.iter_mut().zip(pending) {
        *next = branches.pop_if(|branch| branch.feature < first + WINDOW as u32);
    }
    Some((first, next))
}
