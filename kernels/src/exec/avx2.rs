//! Dense layers in 256-bit integer vectors.
//!
//! Every function needs a processor with AVX2. All pointers stay inside what [`Rows`] promises; the layout they rest on
//! is [`super::dense`]'s.

use core::arch::x86_64::*;

use super::attention::curve::gelu;
use super::dense::{GROUP, Lanes, Output, PackedDense, Rows, TILE};
use crate::model::graph::Activation;
use crate::spec::activation::{NARROW_SEGMENTS, one};
use crate::spec::rounding::requantize;

/// Pairs of inputs in one turn of the innermost loop, whose own instructions would be four of 26 in each pair's turn.
const TURN: usize = 2;
/// Rows that go through all groups before the next ones do: the inputs of so many stay in the second-level cache, even of
/// wide layers.
const BLOCK: usize = 64;

/// Computes a dense layer.
///
/// # Safety
/// The processor must have AVX2, and the rows must be as [`Rows`] says.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn dense(layer: &PackedDense, weights: *const Lanes, rows: &Rows) {
    let tiles = layer.tiles();
    for row in (0..rows.rows).step_by(BLOCK) {
        // SAFETY: the caller's condition: these are some of its rows.
        let rows = unsafe { rows.part(row, BLOCK) };
        for first in (0..tiles).step_by(GROUP) {
            // Rows together by tiles: weights are loaded once for all, and sums leave registers for both.
            // SAFETY: the caller's condition.
            unsafe {
                match tiles - first {
                    1 => group::<8, 1>(layer, weights, first, &rows),
                    2 => group::<4, 2>(layer, weights, first, &rows),
                    3 => group::<3, 3>(layer, weights, first, &rows),
                    _ => group::<2, GROUP>(layer, weights, first, &rows),
                }
            }
        }
    }
}

/// Computes a group of `T` tiles for all rows, `R` at a time; its weights stay in the first-level cache meanwhile.
///
/// # Safety
/// As [`dense`]; `first` is the group's first tile, of `T`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn group<const R: usize, const T: usize>(
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
        if layer.narrow_biases.is_empty() {
            while row < rows {
                let sums = wide_sums::<T>(layer, weights, x.add(row * x_stride));
                store_wide(layer, first, &sums, y, row * y_stride);
                row += 1;
            }
            return;
        }
        let store = |sums: &[__m256i; T], row: usize| match whole {
            true => store_whole::<T>(layer, first, sums, y, row * y_stride),
            false => store::<T>(layer, first, sums, y, row * y_stride),
        };
        while row + R <= rows {
            let sums = sums::<R, T>(layer, weights, x.add(row * x_stride), x_stride);
            for (index, sums) in sums.iter().enumerate() {
                store(sums, row + index);
            }
            row += R;
        }
        while row < rows {
            let [sums] = sums::<1, T>(layer, weights, x.add(row * x_stride), x_stride);
            store(&sums, row);
            row += 1;
        }
    }
}

/// Sums without bias, in 32 bits. Partial sums may wrap; the whole sum is proven to fit, so it is exact.
///
/// # Safety
/// AVX2; `T * pairs` vectors at `weights`; the layer's runs in each of `R` rows at `x`.
#[target_feature(enable = "avx2")]
unsafe fn sums<const R: usize, const T: usize>(
    layer: &PackedDense,
    mut weights: *const Lanes,
    x: *const i16,
    stride: usize,
) -> [[__m256i; T]; R] {
    let mut sums = [[_mm256_setzero_si256(); T]; R];
    let pairs = layer.run_pairs;
    for &run in &layer.runs {
        let mut one = |pair: usize| {
            // SAFETY: the caller has the runs' values in each of `R` rows; unaligned reads are asked for.
            let x: [__m256i; R] = std::array::from_fn(|row| unsafe {
                _mm256_set1_epi32(x.add(row * stride + run + 2 * pair).cast::<i32>().read_unaligned())
            });
            for tile in 0..T {
                // SAFETY: the caller has `T * pairs` vectors, and `Lanes` is aligned as a vector is.
                let weight = unsafe { _mm256_load_si256(weights.add(pair * T + tile).cast()) };
                for (sums, &x) in sums.iter_mut().zip(&x) {
                    sums[tile] = _mm256_add_epi32(sums[tile], _mm256_madd_epi16(x, weight));
                }
            }
        };
        let turns = pairs / TURN * TURN;
        for pair in (0..turns).step_by(TURN) {
            for ahead in 0..TURN {
                one(pair + ahead);
            }
        }
        for pair in turns..pairs {
            one(pair);
        }
        weights = weights.wrapping_add(pairs * T);
    }
    sums
}

/// Sums without bias, in 64 bits. A pair of products fits 32 bits because no weight is -32768.
///
/// # Safety
/// As [`sums`], for one row.
#[target_feature(enable = "avx2")]
unsafe fn wide_sums<const T: usize>(
    layer: &PackedDense,
    mut weights: *const Lanes,
    x: *const i16,
) -> [[i64; TILE]; T] {
    let mut sums = [[_mm256_setzero_si256(); 2]; T];
    for &run in &layer.runs {
        for pair in 0..layer.run_pairs {
            // SAFETY: the caller has the runs' values at `x`; an unaligned read is asked for.
            let x = unsafe { _mm256_set1_epi32(x.add(run + 2 * pair).cast::<i32>().read_unaligned()) };
            for (tile, [low, high]) in sums.iter_mut().enumerate() {
                // SAFETY: the caller has `T * pairs` vectors, and `Lanes` is aligned as a vector is.
                let weight = unsafe { _mm256_load_si256(weights.add(pair * T + tile).cast()) };
                let products = _mm256_madd_epi16(x, weight);
                let upper = _mm256_extracti128_si256::<1>(products);
                *low = _mm256_add_epi64(*low, _mm256_cvtepi32_epi64(_mm256_castsi256_si128(products)));
                *high = _mm256_add_epi64(*high, _mm256_cvtepi32_epi64(upper));
            }
        }
        weights = weights.wrapping_add(layer.run_pairs * T);
    }
    sums.map(|halves| {
        let mut lanes = [0; TILE];
        // SAFETY: eight 64-bit lanes are written into an array of eight.
        unsafe {
            _mm256_storeu_si256(lanes.as_mut_ptr().cast(), halves[0]);
            _mm256_storeu_si256(lanes.as_mut_ptr().add(4).cast(), halves[1]);
        }
        lanes
    })
}

/// Adds bias and half, shifts, clamps, applies the activation, and stores one row's tiles at `y + at`.
///
/// # Safety
/// AVX2; the row at `at` has room for the tiles; the sums are proven to fit 32 bits.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn store<const T: usize>(
    layer: &PackedDense,
    first: usize,
    sums: &[__m256i; T],
    y: Output,
    at: usize,
) {
    let minimum = _mm256_set1_epi32(layer.minimum as i32);
    let maximum = _mm256_set1_epi32(layer.maximum as i32);
    let biases = layer.narrow_biases[first * TILE..][..T * TILE].as_ptr();
    let shifts = layer.shifts[first * TILE..][..T * TILE].as_ptr();
    for (tile, &sum) in sums.iter().enumerate() {
        // SAFETY: both slices were just taken to have `T` tiles.
        let (bias, shift) = unsafe {
            (
                _mm256_loadu_si256(biases.add(tile * TILE).cast()),
                _mm256_loadu_si256(shifts.add(tile * TILE).cast()),
            )
        };
        let scaled = _mm256_srav_epi32(_mm256_add_epi32(sum, bias), shift);
        let value = _mm256_min_epi32(_mm256_max_epi32(scaled, minimum), maximum);
        let value = match layer.activation {
            // A leaky one comes after packing.
            Activation::None | Activation::Leaky(_) => value,
            // A result is nowhere above its argument, which is bounded.
            Activation::Gelu => gelu(false, layer.exponent, value),
            Activation::GeluTanh => gelu(true, layer.exponent, value),
            // SAFETY: AVX2 is this function's own condition.
            activation => unsafe { activate(activation, layer.exponent, value) },
        };
        let (place, lanes) = (at + (first + tile) * TILE, layer.lanes(first + tile));
        // SAFETY: the caller's row has room for all outputs, and for whole tiles where it is padded.
        unsafe {
            match y {
                Output::I32(y) if lanes == TILE => _mm256_storeu_si256(y.add(place).cast(), value),
                Output::I32(y) => {
                    let mut buffer = [0i32; TILE];
                    _mm256_storeu_si256(buffer.as_mut_ptr().cast(), value);
                    y.add(place).copy_from_nonoverlapping(buffer.as_ptr(), lanes);
                }
                Output::I16(y) => {
                    // Packing works within 128-bit halves: both halves' results lie in the even quarters.
                    let packed = _mm256_packs_epi32(value, value);
                    let packed = _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(packed));
                    let packed = match layer.activation {
                        // The product is the larger one exactly if the value is negative: the slope is below 1.
                        Activation::Leaky(slope) => {
                            _mm_max_epi16(packed, _mm_mulhrs_epi16(packed, _mm_set1_epi16(slope)))
                        }
                        _ => packed,
                    };
                    if lanes == TILE {
                        _mm_storeu_si128(y.add(place).cast(), packed);
                    } else {
                        let mut buffer = [0i16; TILE];
                        _mm_storeu_si128(buffer.as_mut_ptr().cast(), packed);
                        y.add(place).copy_from_nonoverlapping(buffer.as_ptr(), lanes);
                    }
                }
            }
        }
    }
}

/// As [`store`], of whole tiles, without an activation or with a leaky one.
///
/// # Safety
/// As [`store`], and the last tile is whole.
#[target_feature(enable = "avx2")]
unsafe fn store_whole<const T: usize>(
    layer: &PackedDense,
    first: usize,
    sums: &[__m256i; T],
    y: Output,
    at: usize,
) {
    let biases = layer.narrow_biases[first * TILE..][..T * TILE].as_ptr();
    let shifts = layer.shifts[first * TILE..][..T * TILE].as_ptr();
    let scaled: [__m256i; T] = std::array::from_fn(|tile| {
        // SAFETY: both slices were just taken to have `T` tiles.
        let (bias, shift) = unsafe {
            (
                _mm256_loadu_si256(biases.add(tile * TILE).cast()),
                _mm256_loadu_si256(shifts.add(tile * TILE).cast()),
            )
        };
        _mm256_srav_epi32(_mm256_add_epi32(sums[tile], bias), shift)
    });
    let place = at + first * TILE;
    match y {
        Output::I32(y) => {
            let minimum = _mm256_set1_epi32(layer.minimum as i32);
            let maximum = _mm256_set1_epi32(layer.maximum as i32);
            for (tile, &value) in scaled.iter().enumerate() {
                let value = _mm256_min_epi32(_mm256_max_epi32(value, minimum), maximum);
                // SAFETY: the caller's row has room for whole tiles.
                unsafe { _mm256_storeu_si256(y.add(place + tile * TILE).cast(), value) };
            }
        }
        Output::I16(y) => {
            // The bounds are of 16 bits, so packing may saturate before them.
            let minimum = _mm256_set1_epi16(layer.minimum as i16);
            let maximum = _mm256_set1_epi16(layer.maximum as i16);
            for (index, tiles) in scaled.chunks(2).enumerate() {
                let packed = _mm256_packs_epi32(tiles[0], tiles[tiles.len() - 1]);
                let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
                let mut packed = _mm256_min_epi16(_mm256_max_epi16(packed, minimum), maximum);
                if let Activation::Leaky(slope) = layer.activation {
                    // As in `store`.
                    packed = _mm256_max_epi16(packed, _mm256_mulhrs_epi16(packed, _mm256_set1_epi16(slope)));
                }
                // SAFETY: the caller's row has room for whole tiles.
                unsafe {
                    let y = y.add(place + index * 2 * TILE);
                    match tiles.len() {
                        2 => _mm256_storeu_si256(y.cast(), packed),
                        _ => _mm_storeu_si128(y.cast(), _mm256_castsi256_si128(packed)),
                    }
                }
            }
        }
    }
}

/// As [`store`], from sums in 64 bits, which AVX2 cannot shift arithmetically: one by one.
///
/// # Safety
/// As [`store`], save that the sums need not fit 32 bits, and that nothing but outputs is written.
unsafe fn store_wide<const T: usize>(
    layer: &PackedDense,
    first: usize,
    sums: &[[i64; TILE]; T],
    y: Output,
    at: usize,
) {
    for (lane, &sum) in sums.as_flattened().iter().enumerate() {
        let channel = first * TILE + lane;
        if channel == layer.outputs {
            break;
        }
        let (sum, shift) = (sum + layer.biases[channel], layer.shifts[channel]);
        let value = if shift > 0 {
            // The half is in the bias.
            (sum >> shift).clamp(layer.minimum, layer.maximum)
        } else {
            requantize(sum, shift, layer.minimum, layer.maximum)
        };
        let value = layer.activation.apply(value, layer.exponent);
        // SAFETY: the caller's row has room for all tiles.
        unsafe {
            match y {
                Output::I16(y) => y.add(at + channel).write(value as i16),
                Output::I32(y) => y.add(at + channel).write(value as i32),
            }
        }
    }
}

/// `h` of `spec::activation` for eight arguments in the range of `i16`, rounded as the activation asks.
///
/// # Safety
/// AVX2.
#[target_feature(enable = "avx2")]
unsafe fn activate(activation: Activation, exponent: i32, argument: __m256i) -> __m256i {
    let table = NARROW_SEGMENTS.coefficients.as_ptr().cast::<i64>();
    let magnitude = _mm256_min_epi32(_mm256_abs_epi32(argument), _mm256_set1_epi32(i16::MAX.into()));
    let segment = _mm256_srli_epi32::<9>(magnitude);
    let local = _mm256_and_si256(magnitude, _mm256_set1_epi32(511));
    // A row of the table is three 64-bit words.
    let index = _mm256_add_epi32(segment, _mm256_slli_epi32::<1>(segment));
    let shift = NARROW_SEGMENTS.sum_exponent - exponent + i32::from(activation == Activation::Sigmoid);
    let half = _mm256_set1_epi64x(1 << (shift - 1));
    let count = _mm_cvtsi32_si128(shift);
    let evaluate = |index: __m128i, local: __m128i| {
        // SAFETY: a magnitude has 15 bits, so the segment is below 64 and the gathers stay in the table.
        let (c0, c1, c2) = unsafe {
            (
                _mm256_i32gather_epi64::<8>(table, index),
                _mm256_i32gather_epi64::<8>(table.add(1), index),
                _mm256_i32gather_epi64::<8>(table.add(2), index),
            )
        };
        let t = _mm256_cvtepi32_epi64(local);
        // c1, c2 and c1 + c2 t fit 32 bits, and the 32-bit halves that the multiplication reads are theirs.
        let inner = _mm256_add_epi64(c1, _mm256_mul_epi32(c2, t));
        let sum = _mm256_add_epi64(c0, _mm256_mul_epi32(inner, t));
        // The sum is not negative, so a logical shift is an arithmetic one.
        _mm256_srl_epi64(_mm256_add_epi64(sum, half), count)
    };
    let low = evaluate(_mm256_castsi256_si128(index), _mm256_castsi256_si128(local));
    let high = evaluate(_mm256_extracti128_si256::<1>(index), _mm256_extracti128_si256::<1>(local));
    let even = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
    let low = _mm256_permutevar8x32_epi32(low, even);
    let high = _mm256_permutevar8x32_epi32(high, even);
    let rounded = _mm256_blend_epi32::<0b1111_0000>(low, high);
    let signed = _mm256_sign_epi32(rounded, argument);
    let most = one(exponent) as i32;
    let limit = _mm256_set1_epi32(most);
    match activation {
        Activation::Tanh => _mm256_max_epi32(_mm256_min_epi32(signed, limit), _mm256_set1_epi32(-most)),
        _ => _mm256_min_epi32(_mm256_add_epi32(_mm256_set1_epi32(1 << (exponent - 1)), signed), limit),
    }
}
