//! The same on AVX2, for blocks of rows: eight to a vector.

use core::arch::x86_64::*;

use super::{LEAVES, PackedBits, ROWS};
use crate::exec::scratch::Scratch;
use crate::model::plan::Region;

/// Rows in a vector.
const LANES: usize = 8;

impl PackedBits {
    /// The sums of `rows` rows from row `first` on, at most sixteen, without base values.
    ///
    /// # Safety
    /// The processor must have AVX2.
    #[target_feature(enable = "avx2")]
    pub(in crate::exec) unsafe fn sums_avx2(
        &self,
        scratch: &mut Scratch,
        from: Region,
        first: usize,
        rows: usize,
    ) -> [i64; ROWS] {
        self.spread(scratch, from, first, rows);
        match rows <= LANES {
            true => self.sum_vectors::<1>(scratch),
            false => self.sum_vectors::<{ ROWS / LANES }>(scratch),
        }
    }

    /// The sums of the first `VECTORS` times eight of the rows that were spread.
    #[target_feature(enable = "avx2")]
    fn sum_vectors<const VECTORS: usize>(&self, scratch: &mut Scratch) -> [i64; ROWS] {
        let (_, _, work) = scratch.parts_mut();
        let words = &work.words[..self.features];
        let mut sums = [[_mm256_setzero_si256(); 2]; VECTORS];
        let mut branch = 0;
        for (&end, leaves) in self.ends.iter().zip(&self.leaves) {
            let mut open = [_mm256_set1_epi32(-1); VECTORS];
            for branch in &self.branches[branch..end as usize] {
                let (threshold, mask) =
                    (_mm256_set1_epi32(branch.threshold), _mm256_set1_epi32(branch.mask as i32));
                // SAFETY: every feature is below `features`, the length of `words`.
                let keys = unsafe { words.get_unchecked(branch.feature as usize) }.0.as_ptr();
                for (vector, open) in open.iter_mut().enumerate() {
                    // SAFETY: `Words` is sixteen keys, aligned to 64 bytes, and `VECTORS` is at most two.
                    let keys = unsafe { _mm256_load_si256(keys.add(vector * LANES).cast()) };
                    let fails = _mm256_cmpgt_epi32(keys, threshold);
                    *open = _mm256_andnot_si256(_mm256_andnot_si256(mask, fails), *open);
                }
            }
            branch = end as usize;
            for (sums, open) in sums.iter_mut().zip(open) {
                let values = look_up(&leaves.0, first_open(open));
                let upper = _mm256_extracti128_si256::<1>(values);
                sums[0] = _mm256_add_epi64(sums[0], _mm256_cvtepi32_epi64(_mm256_castsi256_si128(values)));
                sums[1] = _mm256_add_epi64(sums[1], _mm256_cvtepi32_epi64(upper));
            }
        }
        let mut all = [0; ROWS];
        for (sum, four) in sums.as_flattened().iter().zip(all.as_chunks_mut::<4>().0) {
            // SAFETY: four values of 64 bits are written into as many.
            unsafe { _mm256_storeu_si256(four.as_mut_ptr().cast(), *sum) };
        }
        all
    }
}

/// The number of the first leaf that is open, in each lane: leading zeros, of which 31 is the most, since the last leaf
/// is always open.
#[target_feature(enable = "avx2")]
pub(super) fn first_open(open: __m256i) -> __m256i {
    // Floats tell the highest bit by their exponent. Without the sign's bit, and without the bit below the highest, the
    // conversion neither is of a negative number nor rounds up to the next power of two. Of zero, which stands for the
    // last leaf, the exponent is far below that of any other.
    let open = _mm256_srli_epi32::<1>(open);
    let highest = _mm256_andnot_si256(_mm256_srli_epi32::<1>(open), open);
    let exponent = _mm256_srli_epi32::<23>(_mm256_castps_si256(_mm256_cvtepi32_ps(highest)));
    let leaf = _mm256_sub_epi32(_mm256_set1_epi32(127 + 30), exponent);
    _mm256_min_epi32(leaf, _mm256_set1_epi32(LEAVES as i32 - 1))
}

/// The entry of each lane: four vectors are permuted by the low bits, and the others choose among them.
#[target_feature(enable = "avx2")]
fn look_up(table: &[i32; LEAVES], places: __m256i) -> __m256i {
    let permuted = |part: usize| {
        // SAFETY: each of the table's four parts is a vector.
        let entries = unsafe { _mm256_loadu_si256(table.as_ptr().add(part * LANES).cast()) };
        _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(entries, places))
    };
    let third = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(places));
    let fourth = _mm256_castsi256_ps(_mm256_slli_epi32::<27>(places));
    let low = _mm256_blendv_ps(permuted(0), permuted(1), third);
    let high = _mm256_blendv_ps(permuted(2), permuted(3), third);
    _mm256_castps_si256(_mm256_blendv_ps(low, high, fourth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[target_feature(enable = "avx2")]
    fn firsts(open: [u32; LANES]) -> [i32; LANES] {
        let mut out = [0; LANES];
        // SAFETY: both arrays are vectors.
        unsafe {
            let leaves = first_open(_mm256_loadu_si256(open.as_ptr().cast()));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), leaves);
        }
        out
    }

    #[test]
    fn the_first_open_leaf_is_the_highest_bit() {
        if !is_x86_feature_detected!("avx2") {
            return;
        }
        let mut state = 1u32;
        for leaf in 0..32 {
            let below = |bits: u32| 1 << (31 - leaf) | bits & ((1u64 << (31 - leaf)) - 1) as u32;
            let open: [u32; LANES] = std::array::from_fn(|lane| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                below([0, !0, state, state >> 7, state << 3, !1, 1, 0x7fff_ffff][lane])
            });
            // SAFETY: the processor has AVX2, as was seen above.
            assert_eq!(unsafe { firsts(open) }, [leaf; LANES], "{open:x?}");
        }
    }
}
