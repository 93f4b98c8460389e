//! Dense layers in 512-bit integer vectors, with the multiply-adds of VNNI.
//!
//! Every function needs AVX-512 F, BW and VNNI, and what [`super::avx2`] needs for the activations. The weights are
//! those of [`super::dense`]: two tiles of eight outputs are one vector here. All pointers stay inside what [`Rows`]
//! promises.

use core::arch::x86_64::*;

use super::avx2;
use super::dense::{GROUP, Lanes, Output, PackedDense, Rows, TILE};
use crate::model::graph::Activation;

/// Rows computed together: with two vectors of outputs each, sixteen accumulators, half of the registers.
const ROWS: usize = 8;
/// Sums of one row, in halves of a multiply-add's latency: pairs go to them in turn.
const TURNS: usize = 4;

/// Computes a dense layer, whose sums fit 32 bits.
///
/// # Safety
/// The processor must have AVX2 and AVX-512 F, BW and VNNI, and the rows must be as [`Rows`] says.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn dense(layer: &PackedDense, weights: *const Lanes, rows: &Rows) {
    let tiles = layer.tiles();
    assert!(layer.narrow_biases.len() == tiles * TILE);
    for first in (0..tiles).step_by(GROUP) {
        // SAFETY: the caller's condition.
        unsafe {
            match tiles - first {
                1 => avx2::group::<8, 1>(layer, weights, first, rows),
                2 => group::<1, 2>(layer, weights, first, rows),
                3 => avx2::group::<3, 3>(layer, weights, first, rows),
                _ => group::<2, 4>(layer, weights, first, rows),
            }
        }
    }
}

/// Computes a group of `V` vectors, `T` tiles, for all rows; its weights stay in the first-level cache meanwhile.
///
/// # Safety
/// As [`dense`]; `first` is the group's first tile, of `T`, which is `2 * V`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vnni")]
unsafe fn group<const V: usize, const T: usize>(
    layer: &PackedDense,
    weights: *const Lanes,
    first: usize,
    rows: &Rows,
) {
    let weights = weights.wrapping_add(first * layer.pairs());
    let &Rows { x, x_stride, y, y_stride, rows } = rows;
    let simple = matches!(layer.activation, Activation::None | Activation::Leaky(_));
    let whole = simple && layer.lanes(first + T - 1) == TILE;
    let mut row = 0;
    // SAFETY: `row` stays below `rows`, and the caller has so many.
    unsafe {
        let store = |sums: &[__m512i; V], at: usize| {
            if whole {
                store::<V>(layer, first, sums, y, at);
            } else {
                avx2::store::<T>(layer, first, &halves(sums), y, at);
            }
        };
        while row + ROWS <= rows {
            let sums = sums::<ROWS, V>(layer, weights, x.add(row * x_stride), x_stride);
            for (index, sums) in sums.iter().enumerate() {
                store(sums, (row + index) * y_stride);
            }
            row += ROWS;
        }
        while row < rows {
            let sums = sum::<V>(layer, weights, x.add(row * x_stride));
            store(&sums, row * y_stride);
            row += 1;
        }
    }
}

/// As [`avx2::store`], of whole vectors, without an activation or with a leaky one.
///
/// # Safety
/// As [`avx2::store`], and the last tile is whole.
#[target_feature(enable = "avx2,avx512f,avx512bw")]
unsafe fn store<const V: usize>(
    layer: &PackedDense,
    first: usize,
    sums: &[__m512i; V],
    y: Output,
    at: usize,
) {
    let minimum = _mm512_set1_epi32(layer.minimum as i32);
    let maximum = _mm512_set1_epi32(layer.maximum as i32);
    let biases = layer.narrow_biases[first * TILE..][..V * 2 * TILE].as_ptr();
    let shifts = layer.shifts[first * TILE..][..V * 2 * TILE].as_ptr();
    for (vector, &sum) in sums.iter().enumerate() {
        let lane = vector * 2 * TILE;
        // SAFETY: both slices were just taken to have so many vectors.
        let (bias, shift) = unsafe {
            (_mm512_loadu_si512(biases.add(lane).cast()), _mm512_loadu_si512(shifts.add(lane).cast()))
        };
        let scaled = _mm512_srav_epi32(_mm512_add_epi32(sum, bias), shift);
        let value = _mm512_min_epi32(_mm512_max_epi32(scaled, minimum), maximum);
        let place = at + first * TILE + lane;
        // SAFETY: the caller's row has room for whole tiles.
        unsafe {
            match y {
                Output::I32(y) => _mm512_storeu_si512(y.add(place).cast(), value),
                Output::I16(y) => {
                    let packed = _mm512_cvtepi32_epi16(value);
                    let packed = match layer.activation {
                        // As in `avx2::store`.
                        Activation::Leaky(slope) => {
                            _mm256_max_epi16(packed, _mm256_mulhrs_epi16(packed, _mm256_set1_epi16(slope)))
                        }
                        _ => packed,
                    };
                    _mm256_storeu_si256(y.add(place).cast(), packed);
                }
            }
        }
    }
}

/// The tiles of a row's vectors.
#[target_feature(enable = "avx512f")]
fn halves<const V: usize, const T: usize>(sums: &[__m512i; V]) -> [__m256i; T] {
    std::array::from_fn(|tile| match tile % 2 {
        0 => _mm512_castsi512_si256(sums[tile / 2]),
        _ => _mm512_extracti64x4_epi64::<1>(sums[tile / 2]),
    })
}

/// `sum + a·b` by pairs. The compiler takes the intrinsic apart into a product and a sum, to shorten the chain where it
/// believes that latency counts; here throughput does, and two instructions have half of it (measured: 0.66 of the time at large batches).
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) fn multiply_add(mut sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: the instruction reads and writes these registers only, and the processor has it.
    unsafe {
        core::arch::asm!(
            "vpdpwssd {sum}, {a}, {b}",
            sum = inout(zmm_reg) sum,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Sums without bias, in 32 bits. Partial sums may wrap; the whole sum is proven to fit, so it is exact.
///
/// # Safety
/// AVX-512 and VNNI; `2 * V * pairs` tiles at `weights`; the layer's runs in each of `R` rows at `x`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn sums<const R: usize, const V: usize>(
    layer: &PackedDense,
    mut weights: *const Lanes,
    x: *const i16,
    stride: usize,
) -> [[__m512i; V]; R] {
    let mut sums = [[_mm512_setzero_si512(); V]; R];
    for &run in &layer.runs {
        for pair in 0..layer.run_pairs {
            // SAFETY: the caller has so many tiles.
            let weights: [__m512i; V] = std::array::from_fn(|vector| unsafe {
                _mm512_loadu_si512(weights.add((pair * V + vector) * 2).cast())
            });
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller has the runs' values in each of `R` rows; an unaligned read is asked for.
                let x = unsafe { x.add(row * stride + run + 2 * pair).cast::<i32>().read_unaligned() };
                let x = _mm512_set1_epi32(x);
                for (sum, &weight) in sums.iter_mut().zip(&weights) {
                    *sum = multiply_add(*sum, x, weight);
                }
            }
        }
        weights = weights.wrapping_add(layer.run_pairs * V * 2);
    }
    sums
}

/// As [`sums`], of one row, in sums of their own that take turns, because a multiply-add waits for the one before.
///
/// # Safety
/// As [`sums`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn sum<const V: usize>(layer: &PackedDense, mut weights: *const Lanes, x: *const i16) -> [__m512i; V] {
    let mut sums = [[_mm512_setzero_si512(); V]; TURNS];
    let pairs = layer.run_pairs;
    for &run in &layer.runs {
        let mut one = |pair: usize, turn: usize| {
            // SAFETY: as in `sums`.
            let x = unsafe { _mm512_set1_epi32(x.add(run + 2 * pair).cast::<i32>().read_unaligned()) };
            for (vector, sum) in sums[turn].iter_mut().enumerate() {
                // SAFETY: as in `sums`.
                let weight = unsafe { _mm512_loadu_si512(weights.add((pair * V + vector) * 2).cast()) };
                *sum = multiply_add(*sum, x, weight);
            }
        };
        let mut pair = 0;
        while pair + TURNS <= pairs {
            for turn in 0..TURNS {
                one(pair + turn, turn);
            }
            pair += TURNS;
        }
        for pair in pair..pairs {
            one(pair, pair % TURNS);
        }
        weights = weights.wrapping_add(pairs * V * 2);
    }
    std::array::from_fn(|vector| {
        let [a, b, c, d] = std::array::from_fn(|turn| sums[turn][vector]);
        _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d))
    })
}
