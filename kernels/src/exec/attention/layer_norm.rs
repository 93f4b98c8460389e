//! Layer normalisation in 256-bit vectors. What does not fill a vector is computed one by one.

use crate::model::graph::{LayerNorm, Tensor};
use crate::model::validate::Proof;
use crate::spec::layer_norm::NORMALIZED_EXPONENT;

#[derive(Debug)]
pub(crate) struct PackedLayerNorm {
    /// Elements of a row.
    len: usize,
    epsilon: i64,
    multipliers: Vec<i32>,
    offsets: Vec<i64>,
    /// The offsets, with the half of the shift, of eight elements at a time: those at even places first.
    lanes: Vec<i64>,
    shift: i32,
    minimum: i32,
    maximum: i32,
}

impl PackedLayerNorm {
    /// `None` where a shifted sum may not fit 32 bits.
    pub(crate) fn new(norm: &LayerNorm, output: &Tensor, proof: Proof) -> Option<PackedLayerNorm> {
        if proof.accumulator_bits != 32 {
            return None;
        }
        let shift = NORMALIZED_EXPONENT + norm.exponent - output.exponent;
        let half = 1 << (shift - 1);
        let order = [0, 2, 4, 6, 1, 3, 5, 7];
        let of_eight = |eight: &[i64; 8]| order.map(|place| eight[place] + half);
        let lanes = norm.offsets.as_chunks().0.iter().flat_map(of_eight).collect();
        Some(PackedLayerNorm {
            len: output.len(),
            epsilon: norm.epsilon,
            multipliers: norm.multipliers.clone(),
            offsets: norm.offsets.clone(),
            lanes,
            shift,
            minimum: output.minimum as i32,
            maximum: output.maximum as i32,
        })
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.multipliers.len() * 4 + (self.offsets.len() + self.lanes.len()) * 8
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use core::arch::x86_64::*;

    use super::PackedLayerNorm;
    use crate::exec::dense::Output;
    use crate::exec::scratch::Scratch;
    use crate::model::plan::{Arena, Region};
    use crate::spec::layer_norm::Moments;
    use crate::spec::rounding::requantize;

    /// Elements in a vector of 32 bits each.
    const LANES: usize = 8;

    /// A rounding shift to the right of signed 64-bit lanes whose half is added already, and whose magnitude is below
    /// 2^62: AVX2 has logical shifts only, so a multiple of the divisor makes them positive meanwhile.
    #[derive(Clone, Copy)]
    struct Shift {
        bias: __m256i,
        count: __m128i,
        back: __m256i,
    }

    impl Shift {
        #[target_feature(enable = "avx2")]
        fn new(shift: i32) -> Shift {
            Shift {
                bias: _mm256_set1_epi64x(1 << 62),
                count: _mm_cvtsi32_si128(shift),
                back: _mm256_set1_epi64x(1 << (62 - shift)),
            }
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        fn right(self, value: __m256i) -> __m256i {
            let shifted = _mm256_srl_epi64(_mm256_add_epi64(value, self.bias), self.count);
            _mm256_sub_epi64(shifted, self.back)
        }
    }

    impl PackedLayerNorm {
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
            let group = self.multipliers.len();
            for row in 0..rows {
                let (x, y) = (scratch.start(from, row), scratch.start(to, row));
                let (i16s, i32s, _) = scratch.parts_mut();
                let output_len = if to.arena == Arena::I16 { i16s.len() } else { i32s.len() };
                assert!(from.arena == Arena::I16 && to.arena != Arena::I64);
                assert!(x + self.len <= i16s.len() && y + self.len <= output_len);
                assert!(self.len.is_multiple_of(group));
                let base = i16s.as_mut_ptr();
                for first in (0..self.len).step_by(group) {
                    // SAFETY: asserted above, for all groups of the row.
                    unsafe {
                        let output = match to.arena {
                            Arena::I16 => Output::I16(base.add(y + first)),
                            _ => Output::I32(i32s.as_mut_ptr().add(y + first)),
                        };
                        self.group(base.add(x + first).cast_const(), output);
                    }
                }
            }
        }

        /// # Safety
        /// AVX2; a group at both pointers.
        #[target_feature(enable = "avx2")]
        unsafe fn group(&self, x: *const i16, y: Output) {
            let group = self.multipliers.len();
            let vectors = group / LANES * LANES;
            // SAFETY: all places are below the group's length; `lanes` has `vectors` offsets.
            unsafe {
                let moments = self.moments(x);
                let (length, sum) = (_mm256_set1_epi32(group as i32), _mm256_set1_epi32(moments.sum as i32));
                let factor = _mm256_set1_epi32(moments.factor);
                let half = _mm256_set1_epi64x(1 << (moments.shift - 1));
                let (normalize, round) = (Shift::new(moments.shift), Shift::new(self.shift));
                let bounds = (_mm256_set1_epi32(self.minimum), _mm256_set1_epi32(self.maximum));
                for at in (0..vectors).step_by(LANES) {
                    let value = _mm256_cvtepi16_epi32(_mm_loadu_si128(x.add(at).cast()));
                    let distance = _mm256_sub_epi32(_mm256_mullo_epi32(value, length), sum);
                    let multipliers = _mm256_loadu_si256(self.multipliers.as_ptr().add(at).cast());
                    let scaled = |distance: __m256i, multipliers: __m256i, offsets: *const i64| {
                        let product = _mm256_add_epi64(_mm256_mul_epi32(distance, factor), half);
                        let product = _mm256_mul_epi32(normalize.right(product), multipliers);
                        round.right(_mm256_add_epi64(product, _mm256_loadu_si256(offsets.cast())))
                    };
                    let offsets = self.lanes.as_ptr().add(at);
                    let even = scaled(distance, multipliers, offsets);
                    let odd = scaled(
                        _mm256_srli_epi64::<32>(distance),
                        _mm256_srli_epi64::<32>(multipliers),
                        offsets.add(LANES / 2),
                    );
                    let value = _mm256_blend_epi32::<0xaa>(even, _mm256_slli_epi64::<32>(odd));
                    let value = _mm256_min_epi32(_mm256_max_epi32(value, bounds.0), bounds.1);
                    match y {
                        Output::I32(y) => _mm256_storeu_si256(y.add(at).cast(), value),
                        Output::I16(y) => {
                            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packs_epi32(value, value));
                            _mm_storeu_si128(y.add(at).cast(), _mm256_castsi256_si128(packed));
                        }
                    }
                }
                for at in vectors..group {
                    let normalized = moments.normalized(group as i64, x.add(at).read().into());
                    let sum = normalized * i64::from(self.multipliers[at]) + self.offsets[at];
                    let value = requantize(sum, self.shift, self.minimum.into(), self.maximum.into());
                    match y {
                        Output::I32(y) => y.add(at).write(value as i32),
                        Output::I16(y) => y.add(at).write(value as i16),
                    }
                }
            }
        }

        /// # Safety
        /// AVX2; a group at `x`.
        #[target_feature(enable = "avx2")]
        unsafe fn moments(&self, x: *const i16) -> Moments {
            const HALVES: usize = 2 * LANES;
            let group = self.multipliers.len();
            let vectors = group / HALVES * HALVES;
            let (ones, low) = (_mm256_set1_epi16(1), _mm256_set1_epi64x(0xffff_ffff));
            let (mut sums, mut squares) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            for at in (0..vectors).step_by(HALVES) {
                // SAFETY: below the group's length; an unaligned read is asked for.
                let x = unsafe { _mm256_loadu_si256(x.add(at).cast()) };
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(x, ones));
                // Two squares of 2^30 are 2^31: without sign they fit.
                let pairs = _mm256_madd_epi16(x, x);
                let even = _mm256_and_si256(pairs, low);
                squares = _mm256_add_epi64(squares, _mm256_add_epi64(even, _mm256_srli_epi64::<32>(pairs)));
            }
            let (mut sum, mut square) = ([0i32; LANES], [0i64; LANES / 2]);
            // SAFETY: both arrays are as long as a vector.
            unsafe {
                _mm256_storeu_si256(sum.as_mut_ptr().cast(), sums);
                _mm256_storeu_si256(square.as_mut_ptr().cast(), squares);
            }
            let mut totals = (sum.iter().map(|&sum| i64::from(sum)).sum::<i64>(), square.iter().sum::<i64>());
            for at in vectors..group {
                // SAFETY: below the group's length.
                let value = i64::from(unsafe { x.add(at).read() });
                totals = (totals.0 + value, totals.1 + value * value);
            }
            Moments::new(group as i64, totals.0, totals.1, self.epsilon)
        }
    }
}
