//! Softmax in 256-bit vectors. What does not fill a vector is computed one by one.

use crate::model::graph::{Softmax, Tensor};
use crate::spec::curve::EXP2_MAXIMUM;
use crate::spec::softmax::Scale;

#[derive(Debug)]
pub(crate) struct PackedSoftmax {
    group: usize,
    /// Elements of a row.
    len: usize,
    scale: Scale,
    /// From this distance to the largest on, exponentials are the same: the product with the scale then fits 31 bits.
    farthest: i32,
    exponent: i32,
    maximum: i32,
}

impl PackedSoftmax {
    pub(crate) fn new(softmax: &Softmax, output: &Tensor) -> PackedSoftmax {
        let scale = Scale { multiplier: softmax.multiplier, shift: softmax.shift.into() };
        let farthest = (i128::from(EXP2_MAXIMUM) << scale.shift) / i128::from(scale.multiplier) + 1;
        PackedSoftmax {
            group: softmax.group,
            len: output.len(),
            scale,
            farthest: farthest.min(i32::MAX.into()) as i32,
            exponent: output.exponent,
            maximum: output.maximum as i32,
        }
    }

    /// Vectors of working memory: a group's exponentials.
    pub(crate) fn work_words(&self) -> usize {
        self.group.div_ceil(16)
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use core::arch::x86_64::*;

    use super::PackedSoftmax;
    use crate::exec::attention::curve::exp2;
    use crate::exec::recurrent::Words;
    use crate::exec::scratch::Scratch;
    use crate::model::plan::{Arena, Region};
    use crate::spec::curve::EXP2_MAXIMUM;
    use crate::spec::rounding::requantize;
    use crate::spec::softmax::share;

    /// Elements in a vector.
    const LANES: usize = 8;

    /// Where a group is read.
    #[derive(Clone, Copy)]
    enum Input {
        I16(*const i16),
        I32(*const i32),
    }

    impl Input {
        /// # Safety
        /// AVX2; eight elements from `at` on.
        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn vector(self, at: usize) -> __m256i {
            // SAFETY: the caller's condition; unaligned reads are asked for.
            unsafe {
                match self {
                    Input::I16(x) => _mm256_cvtepi16_epi32(_mm_loadu_si128(x.add(at).cast())),
                    Input::I32(x) => _mm256_loadu_si256(x.add(at).cast()),
                }
            }
        }

        /// # Safety
        /// An element at `at`.
        unsafe fn element(self, at: usize) -> i32 {
            // SAFETY: the caller's condition.
            unsafe {
                match self {
                    Input::I16(x) => x.add(at).read().into(),
                    Input::I32(x) => x.add(at).read(),
                }
            }
        }
    }

    impl PackedSoftmax {
        /// Computes rows `0..rows`.
        ///
        /// # Safety
        /// The processor must have AVX2.
        #[target_feature(enable = "avx2")]
        pub(in crate::exec) unsafe fn execute(
            &self,
            scratch: &mut Scratch,
            from: Region,
            to: Region,
            rows: usize,
        ) {
            for row in 0..rows {
                let (x, y) = (scratch.start(from, row), scratch.start(to, row));
                let (i16s, i32s, work) = scratch.parts_mut();
                let input_len = if from.arena == Arena::I16 { i16s.len() } else { i32s.len() };
                assert!(from.arena != Arena::I64 && to.arena == Arena::I16);
                assert!(x + self.len <= input_len && y + self.len <= i16s.len());
                let work = Words::flat(&mut work.words);
                assert!(work.len() >= self.group && self.len.is_multiple_of(self.group));
                let base = i16s.as_mut_ptr();
                for first in (0..self.len).step_by(self.group) {
                    // SAFETY: asserted above, for all groups of the row.
                    unsafe {
                        let input = match from.arena {
                            Arena::I16 => Input::I16(base.add(x + first).cast_const()),
                            _ => Input::I32(i32s.as_ptr().add(x + first)),
                        };
                        self.group(input, base.add(y + first), work.as_mut_ptr());
                    }
                }
            }
        }

        /// # Safety
        /// AVX2; a group at each pointer.
        #[target_feature(enable = "avx2")]
        unsafe fn group(&self, x: Input, y: *mut i16, work: *mut i32) {
            let vectors = self.group / LANES * LANES;
            // SAFETY: all places are below the group's length.
            unsafe {
                let mut largest = i32::MIN;
                if vectors > 0 {
                    let mut most = x.vector(0);
                    for at in (LANES..vectors).step_by(LANES) {
                        most = _mm256_max_epi32(most, x.vector(at));
                    }
                    largest = lanes(most).into_iter().fold(largest, i32::max);
                }
                for at in vectors..self.group {
                    largest = largest.max(x.element(at));
                }
                let mut sums = _mm256_setzero_si256();
                for at in (0..vectors).step_by(LANES) {
                    let value = self.exponential(_mm256_sub_epi32(_mm256_set1_epi32(largest), x.vector(at)));
                    _mm256_storeu_si256(work.add(at).cast(), value);
                    sums = _mm256_add_epi32(sums, value);
                }
                let mut sum: i32 = lanes(sums).into_iter().sum();
                for at in vectors..self.group {
                    let value = self.scale.exponential(i64::from(largest) - i64::from(x.element(at)));
                    work.add(at).write(value);
                    sum += value;
                }
                let (factor, shift) = share(sum as u64, self.exponent);
                let half = _mm256_set1_epi32(1 << (shift - 1));
                for at in (0..vectors).step_by(LANES) {
                    let value = _mm256_loadu_si256(work.add(at).cast());
                    let product = _mm256_mullo_epi32(value, _mm256_set1_epi32(factor));
                    let value = _mm256_sra_epi32(_mm256_add_epi32(product, half), _mm_cvtsi32_si128(shift));
                    let value = _mm256_min_epi32(value, _mm256_set1_epi32(self.maximum));
                    let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packs_epi32(value, value));
                    _mm_storeu_si128(y.add(at).cast(), _mm256_castsi256_si128(packed));
                }
                for at in vectors..self.group {
                    let product = i64::from(work.add(at).read()) * i64::from(factor);
                    y.add(at).write(requantize(product, shift, 0, self.maximum.into()) as i16);
                }
            }
        }

        /// Exponentials of distances below the largest.
        #[inline]
        #[target_feature(enable = "avx2")]
        fn exponential(&self, below: __m256i) -> __m256i {
            let below = _mm256_min_epi32(below, _mm256_set1_epi32(self.farthest));
            let (multiplier, count) =
                (_mm256_set1_epi32(self.scale.multiplier), _mm_cvtsi32_si128(self.scale.shift));
            let scaled = |below: __m256i| _mm256_srl_epi64(_mm256_mul_epi32(below, multiplier), count);
            let (even, odd) = (scaled(below), scaled(_mm256_srli_epi64::<32>(below)));
            let argument = _mm256_blend_epi32::<0xaa>(even, _mm256_slli_epi64::<32>(odd));
            exp2(_mm256_min_epi32(argument, _mm256_set1_epi32(EXP2_MAXIMUM)))
        }
    }

    #[target_feature(enable = "avx2")]
    fn lanes(vector: __m256i) -> [i32; LANES] {
        let mut lanes = [0; LANES];
        // SAFETY: eight lanes are written into an array of eight.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), vector) };
        lanes
    }
}
