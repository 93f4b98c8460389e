//! The same for single rows on AVX2, where a look-up of keys takes a gather: thirty-two trees at a time, in bytes.
//!
//! Of a key a branch asks only where it stands among the thresholds of its feature. So a row's keys are first replaced by
//! their ranks, the numbers of thresholds below them, and a branch compares a rank with its threshold's place. A feature
//! with more thresholds than a byte can count is several scales, each with some of them. A tree's mask lies in four
//! vectors of bytes, so the bytes that a comparison gives act on each as they are.

use core::arch::x86_64::*;
use std::collections::HashMap;

use super::avx2::first_open;
use super::{Branch, LEAVES, Leaves, WINDOW, in_order, next_branches};
use crate::exec::scratch::Scratch;
use crate::model::plan::Region;

/// Trees in a step.
pub(super) const LANES: usize = 32;
/// Thresholds of a scale: a rank is one of one more.
const MOST: usize = 255;
/// Vectors of a tree's mask.
const PLANES: usize = LEAVES / 8;
/// Thresholds of a block.
const BLOCK: usize = 16;

/// Thresholds in order: two vectors.
#[derive(Debug)]
#[repr(align(64))]
struct Block([i32; BLOCK]);

/// Thresholds of a feature: a block of the last threshold of each block that follows, then these. After the last threshold
/// stand such as no key is above.
#[derive(Debug)]
struct Scale {
    feature: u32,
    first: u32,
}

/// One branch of each of thirty-two trees, or a branch that always holds. Each array is a vector.
#[derive(Debug)]
#[repr(align(32))]
struct Step {
    /// The leaves that a branch rules out when it does not hold, the first leaves' byte first.
    ruled_out: [[u8; LANES]; PLANES],
    /// Scales, from the step's first on: four bits, and the highest for the second half of a window.
    scales: [u8; LANES],
    /// The places of the thresholds among their scales, less 128.
    places: [i8; LANES],
}

#[derive(Debug)]
pub(super) struct PackedRanks {
    scales: Vec<Scale>,
    thresholds: Vec<Block>,
    steps: Vec<Step>,
    /// The first scale of each step.
    firsts: Vec<u32>,
    /// Where the steps of each group of trees end.
    ends: Vec<u32>,
    features: usize,
}

impl PackedRanks {
    /// Packs the branches of trees, in the order of the trees. `None` if there are too many.
    pub(super) fn new<'a>(trees: impl ExactSizeIterator<Item = &'a [Branch]> + Clone) -> Option<PackedRanks> {
        let mut asked: Vec<(u32, i32)> =
            trees.clone().flatten().map(|branch| (branch.feature, branch.threshold)).collect();
        asked.sort_unstable();
        asked.dedup();
        let parts = asked.chunk_by(|a, b| a.0 == b.0).flat_map(|asked| asked.chunks(MOST));
        let mut packed = PackedRanks {
            scales: Vec::new(),
            thresholds: Vec::new(),
            steps: Vec::new(),
            firsts: Vec::new(),
            ends: Vec::with_capacity(trees.len().div_ceil(LANES)),
            features: asked.last().map_or(0, |&(feature, _)| feature as usize + 1),
        };
        let mut places = HashMap::with_capacity(asked.len());
        for part in parts {
            let (scale, first) = (packed.scales.len() as u32, packed.thresholds.len());
            places.extend(part.iter().zip(0..).map(|(&asked, place)| (asked, (scale, place))));
            packed.scales.push(Scale { feature: part[0].0, first: u32::try_from(first).ok()? });
            let threshold = |place: usize| part.get(place).map_or(i32::MAX, |&(_, threshold)| threshold);
            let block = |of: &dyn Fn(usize) -> usize| Block(std::array::from_fn(|at| threshold(of(at))));
            packed.thresholds.push(block(&|at| at * BLOCK + BLOCK - 1));
            let first_places = (0..=part.len()).step_by(BLOCK);
            packed.thresholds.extend(first_places.map(|first| block(&|at| first + at)));
        }
        let trees: Vec<&[Branch]> = trees.collect();
        for group in trees.chunks(LANES) {
            let ranked = |branch: &Branch| {
                let (feature, place): (u32, i32) = places[&(branch.feature, branch.threshold)];
                Branch { feature, threshold: place, mask: branch.mask }
            };
            let mut pending: Vec<Vec<Branch>> =
                group.iter().map(|branches| in_order(branches.iter().map(ranked))).collect();
            while let Some((first, branches)) = next_branches::<LANES>(&mut pending, packed.rank_bytes()) {
                packed.steps.push(Step::new(first, &branches));
                packed.firsts.push(first);
            }
            packed.ends.push(u32::try_from(packed.steps.len()).ok()?);
        }
        Some(packed)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.scales.len() * size_of::<Scale>()
            + self.thresholds.len() * size_of::<Block>()
            + self.ends.len() * 4
            + self.step_bytes()
    }

    /// Bytes of all steps.
    pub(super) fn step_bytes(&self) -> usize {
        self.steps.len() * (size_of::<Step>() + size_of::<u32>())
    }

    /// Bytes of a row's ranks, for any window.
    fn rank_bytes(&self) -> usize {
        self.scales.len().max(WINDOW)
    }

    /// Vectors of working memory.
    pub(super) fn work_words(&self) -> usize {
        self.rank_bytes().div_ceil(size_of::<super::Words>())
    }

    /// The number of a scale's thresholds that are below a key. Two blocks are compared, whatever the key: a search by halves
    /// would be foreseen wrongly half of the time.
    ///
    /// # Safety
    /// The processor must have AVX2, and the scale must be one of these.
    #[target_feature(enable = "avx2")]
    unsafe fn below(&self, scale: &Scale, key: i32) -> usize {
        let (key, first) = (_mm256_set1_epi32(key), scale.first as usize);
        // SAFETY: a scale has its first block, and after it one for each number that this can give.
        unsafe {
            let block = below_in(self.thresholds.get_unchecked(first), key);
            block * BLOCK + below_in(self.thresholds.get_unchecked(first + 1 + block), key)
        }
    }

    /// The sum of one row's leaves, of which there are tables for whole groups of trees.
    ///
    /// # Safety
    /// The processor must have AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn sum(
        &self,
        leaves: &[Leaves],
        scratch: &mut Scratch,
        from: Region,
        row: usize,
    ) -> i64 {
        assert!(from.stride >= self.features && leaves.len() >= self.ends.len() * LANES);
        let start = scratch.start(from, row);
        let (_, keys, work) = scratch.parts_mut();
        let keys = &keys[start..start + self.features];
        // SAFETY: every pattern of bits is an integer of either width.
        let (_, ranks, _) = unsafe { work.words.align_to_mut::<i8>() };
        let ranks = &mut ranks[..self.rank_bytes()];
        for (rank, scale) in ranks.iter_mut().zip(&self.scales) {
            // SAFETY: the scale is one of these.
            let below = unsafe { self.below(scale, keys[scale.feature as usize]) };
            *rank = (below as u8).wrapping_sub(128) as i8;
        }
        let (mut sum, mut step) = (0, 0);
        for (&end, leaves) in self.ends.iter().zip(leaves.as_chunks::<LANES>().0) {
            let mut open = [_mm256_set1_epi8(-1); PLANES];
            let steps = step..end as usize;
            for (step, &first) in self.steps[steps.clone()].iter().zip(&self.firsts[steps]) {
                // SAFETY: a window of ranks lies within them, as `next_branches` made it, and a step's arrays are vectors.
                unsafe {
                    let window = ranks.as_ptr().add(first as usize);
                    let half = |half: usize| {
                        _mm256_broadcastsi128_si256(_mm_loadu_si128(window.add(half * WINDOW / 2).cast()))
                    };
                    let load = |bytes: *const u8| _mm256_load_si256(bytes.cast());
                    // A shuffle gives zero where the highest bit is set.
                    let scales = load(step.scales.as_ptr());
                    let others = _mm256_xor_si256(scales, _mm256_set1_epi8(i8::MIN));
                    let ranks = _mm256_or_si256(
                        _mm256_shuffle_epi8(half(0), scales),
                        _mm256_shuffle_epi8(half(1), others),
                    );
                    let fails = _mm256_cmpgt_epi8(ranks, load(step.places.as_ptr().cast()));
                    for (open, ruled_out) in open.iter_mut().zip(&step.ruled_out) {
                        *open = _mm256_andnot_si256(_mm256_and_si256(fails, load(ruled_out.as_ptr())), *open);
                    }
                }
            }
            step = end as usize;
            let mut numbers = [[0; 8]; LANES / 8];
            for (numbers, open) in numbers.iter_mut().zip(masks(open)) {
                // SAFETY: eight lanes of 32 bits are written into as many.
                unsafe { _mm256_storeu_si256(numbers.as_mut_ptr().cast(), first_open(open)) };
            }
            for (leaves, &number) in leaves.iter().zip(numbers.as_flattened()) {
                let number: u32 = number;
                sum += i64::from(leaves.0[number as usize % LEAVES]);
            }
        }
        sum
    }
}

/// The number of thresholds of a block that are below the key in all lanes.
#[target_feature(enable = "avx2")]
fn below_in(block: &Block, key: __m256i) -> usize {
    let half = |half: usize| {
        // SAFETY: a block is two aligned vectors.
        let thresholds = unsafe { _mm256_load_si256(block.0.as_ptr().cast::<__m256i>().add(half)) };
        _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(key, thresholds)))
    };
    // They are the first ones.
    (half(0) | half(1) << 8).trailing_ones() as usize
}

impl Step {
    fn new(first: u32, branches: &[Option<Branch>; LANES]) -> Step {
        let mut step = Step { ruled_out: [[0; LANES]; PLANES], scales: [0; LANES], places: [i8::MAX; LANES] };
        for (tree, branch) in branches.iter().enumerate() {
            let Some(branch) = branch else { continue };
            let lane = lane(tree);
            let scale = (branch.feature - first) as u8;
            step.scales[lane] = (scale % 16) | ((scale / 16) << 7);
            step.places[lane] = (branch.threshold - 128) as i8;
            for (plane, byte) in step.ruled_out.iter_mut().zip((!branch.mask).to_be_bytes()) {
                plane[lane] = byte;
            }
        }
        step
    }
}

/// The byte of a tree, so that [`masks`] has the trees in order: interleaving works within the halves of a vector.
fn lane(tree: usize) -> usize {
    tree / 8 * 4 + tree % 4 + tree % 8 / 4 * 16
}

/// The masks of eight trees in each vector.
#[target_feature(enable = "avx2")]
fn masks(planes: [__m256i; PLANES]) -> [__m256i; LANES / 8] {
    let [highest, high, low, lowest] = planes;
    let (lower, upper) = (_mm256_unpacklo_epi8(lowest, low), _mm256_unpacklo_epi8(high, highest));
    let (lower_rest, upper_rest) = (_mm256_unpackhi_epi8(lowest, low), _mm256_unpackhi_epi8(high, highest));
    [
        _mm256_unpacklo_epi16(lower, upper),
        _mm256_unpackhi_epi16(lower, upper),
        _mm256_unpacklo_epi16(lower_rest, upper_rest),
        _mm256_unpackhi_epi16(lower_rest, upper_rest),
    ]
}
