//! Recurrent layers in 256-bit vectors: a group is worked through in two halves of eight units.
//!
//! Every function needs AVX2. All pointers stay inside slices whose lengths are asserted when a block is made.

use core::arch::x86_64::*;

use super::super::scratch::Block;
use super::steps::Instructions;
use super::{Constants, GATE_WORDS, PackedRecurrent, Pairs, UNITS, Words};
use crate::spec::activation::one;
use crate::spec::recurrence::STATE_BOUND;

/// Rows or steps of one product: with four gates eight accumulators, half of the registers.
const ROWS: usize = 2;
/// Units in a vector.
const HALF: usize = UNITS / 2;

/// See the module's text.
pub(in super::super) struct Avx2;

impl Instructions for Avx2 {
    unsafe fn project<const G: usize>(layer: &PackedRecurrent, at: &Block<'_>, first: usize, steps: usize) {
        // SAFETY: the caller keeps the trait's contract.
        unsafe { project::<G>(layer, at, first, steps) }
    }

    unsafe fn advance<const G: usize>(
        layer: &PackedRecurrent,
        at: &Block<'_>,
        group: usize,
        step: usize,
        before: *mut i16,
        after: *mut i16,
    ) {
        // SAFETY: the caller keeps the trait's contract.
        unsafe { advance::<G>(layer, at, group, step, before, after) }
    }
}

/// The inputs' shares of the gates' arguments for `steps` steps from step `first`, `[step][group][row][gate]`.
///
/// # Safety
/// As [`Instructions`]; there are so many steps, and shares for them.
#[target_feature(enable = "avx2")]
unsafe fn project<const G: usize>(layer: &PackedRecurrent, at: &Block<'_>, first: usize, steps: usize) {
    let (groups, pairs) = (layer.groups(), layer.features.div_ceil(2));
    for group in 0..groups {
        let constants = &layer.constants[group];
        let weights = layer.input[group * pairs * G..][..pairs * G].as_ptr();
        for row in 0..at.rows {
            let place = |step: usize| (step * groups + group) * at.rows * G + row * G;
            // SAFETY: a row has `features` values for each step, and the pair beyond an odd last one lies in the row's
            // padding; shares are there for every step, group, row and gate.
            unsafe {
                let x = at.x.add(row * at.x_stride + first * layer.features);
                for half in 0..2 {
                    let mut step = 0;
                    while step + ROWS <= steps {
                        let x = x.add(step * layer.features);
                        let sums = sums::<ROWS, G>(weights, half, pairs, x, layer.features);
                        for (index, sums) in sums.iter().enumerate() {
                            share::<G>(constants, half, sums, at.shares.add(place(step + index)));
                        }
                        step += ROWS;
                    }
                    if step < steps {
                        let x = x.add(step * layer.features);
                        let [sums] = sums::<1, G>(weights, half, pairs, x, layer.features);
                        share::<G>(constants, half, &sums, at.shares.add(place(step)));
                    }
                }
            }
        }
    }
}

/// Rescales sums to the recurrent scale, bounds them, and adds the half of the shift that follows.
///
/// # Safety
/// As [`Instructions`]; `G` vectors at `to`.
#[target_feature(enable = "avx2")]
unsafe fn share<const G: usize>(constants: &Constants, half: usize, sums: &[__m256i; G], to: *mut Words) {
    let (most, least) = (_mm256_set1_epi32(STATE_BOUND), _mm256_set1_epi32(-STATE_BOUND));
    for (gate, &sum) in sums.iter().enumerate() {
        // SAFETY: constants have four vectors each; `to` has `G`.
        unsafe {
            let sum = _mm256_add_epi32(sum, load(&raw const constants.bias[gate], half));
            let scaled = _mm256_srav_epi32(sum, load(&raw const constants.input_shift[gate], half));
            let bounded = _mm256_max_epi32(_mm256_min_epi32(scaled, most), least);
            let share = _mm256_add_epi32(bounded, load(&raw const constants.half[gate], half));
            _mm256_store_si256(to.add(gate).cast::<__m256i>().add(half), share);
        }
    }
}

/// Takes one group of all rows through a step.
///
/// # Safety
/// As [`Instructions`]; `before` and `after` hold the hidden states of all rows.
#[target_feature(enable = "avx2")]
unsafe fn advance<const G: usize>(
    layer: &PackedRecurrent,
    at: &Block<'_>,
    group: usize,
    step: usize,
    before: *mut i16,
    after: *mut i16,
) {
    let (groups, pairs) = (layer.groups(), layer.hidden.div_ceil(2));
    let stride = groups * UNITS;
    let constants = &layer.constants[group];
    let weights = layer.recurrent[group * pairs * G..][..pairs * G].as_ptr();
    // SAFETY: states, cells and shares are there for `rows` rows of whole groups.
    unsafe {
        let shares = at.shares.add((step * groups + group) * at.rows * G);
        for half in 0..2 {
            let finish = |row: usize, sums: &[__m256i; G]| {
                let cell = at.cells.add(row * groups + group).cast::<__m256i>().add(half);
                let before = _mm256_load_si256(cell);
                let (next, hidden) = unit::<G>(layer, constants, half, sums, shares.add(row * G), before);
                _mm256_store_si256(cell, next);
                let to = after.add(row * stride + group * UNITS + half * HALF);
                let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packs_epi32(hidden, hidden));
                _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
            };
            let mut row = 0;
            while row + ROWS <= at.rows {
                let sums = sums::<ROWS, G>(weights, half, pairs, before.add(row * stride), stride);
                for (index, sums) in sums.iter().enumerate() {
                    finish(row + index, sums);
                }
                row += ROWS;
            }
            if row < at.rows {
                let [sums] = sums::<1, G>(weights, half, pairs, before.add(row * stride), stride);
                finish(row, &sums);
            }
        }
    }
}

/// Sums of `R` rows without bias, for one half of a group. Partial sums may wrap; the whole sum is proven to fit, so it
/// is exact.
///
/// # Safety
/// AVX2; `G * pairs` vectors at `weights`; `2 * pairs` values at `x` and each of `R - 1` strides after.
#[target_feature(enable = "avx2")]
unsafe fn sums<const R: usize, const G: usize>(
    weights: *const Pairs,
    half: usize,
    pairs: usize,
    x: *const i16,
    stride: usize,
) -> [[__m256i; G]; R] {
    let mut sums = [[_mm256_setzero_si256(); G]; R];
    for pair in 0..pairs {
        // SAFETY: the caller has these values; unaligned reads are asked for.
        let x: [__m256i; R] = std::array::from_fn(|row| unsafe {
            _mm256_set1_epi32(x.add(row * stride + 2 * pair).cast::<i32>().read_unaligned())
        });
        for gate in 0..G {
            // SAFETY: the caller has these vectors, of two halves each.
            let weight =
                unsafe { _mm256_load_si256(weights.add(pair * G + gate).cast::<__m256i>().add(half)) };
            for (sums, &x) in sums.iter_mut().zip(&x) {
                sums[gate] = _mm256_add_epi32(sums[gate], _mm256_madd_epi16(x, weight));
            }
        }
    }
    sums
}

/// From the sums and shares of eight units to their next states.
///
/// # Safety
/// As [`Instructions`]; `G` vectors at `shares`.
#[target_feature(enable = "avx2")]
unsafe fn unit<const G: usize>(
    layer: &PackedRecurrent,
    constants: &Constants,
    half: usize,
    sums: &[__m256i; G],
    shares: *const Words,
    cell: __m256i,
) -> (__m256i, __m256i) {
    // SAFETY: `G` shares are there, and constants for as many.
    let argument = |gate: usize| unsafe {
        let total = _mm256_add_epi32(sums[gate], load(shares.add(gate), half));
        saturate(_mm256_srav_epi32(total, load(&raw const constants.shift[gate], half)))
    };
    let rounded = |value: __m256i, shift: i32| {
        let value = _mm256_add_epi32(value, _mm256_set1_epi32(1 << (shift - 1)));
        _mm256_sra_epi32(value, _mm_cvtsi32_si128(shift))
    };
    let states = layer.states;
    if G == 4 {
        let [input, output, forget] = [0, 1, 2].map(|gate| sigmoid(half_tanh(argument(gate))));
        let candidate = half_tanh(argument(3));
        let cell = update(states.cell, forget, cell, input, candidate);
        let value = half_tanh(saturate(rounded(cell, states.cell - 12)));
        (cell, rounded(_mm256_mullo_epi32(output, value), 30 - states.hidden))
    } else {
        let [keep, reset] = [0, 1].map(|gate| sigmoid(half_tanh(argument(gate))));
        // SAFETY: as above.
        let (state, input, shift) = unsafe {
            (
                _mm256_add_epi32(sums[2], load(&raw const constants.recurrent_bias, half)),
                load(shares.add(2), half),
                load(&raw const constants.shift[2], half),
            )
        };
        let candidate = half_tanh(saturate(after_reset(reset, input, state, shift)));
        let write = _mm256_sub_epi32(_mm256_set1_epi32(1 << 15), keep);
        let cell = update(states.cell, keep, cell, write, candidate);
        let one = one(states.hidden) as i32;
        let hidden = rounded(cell, states.cell - states.hidden);
        let hidden =
            _mm256_max_epi32(_mm256_min_epi32(hidden, _mm256_set1_epi32(one)), _mm256_set1_epi32(-one));
        (cell, hidden)
    }
}

/// To the range of 16 bits.
#[target_feature(enable = "avx2")]
fn saturate(value: __m256i) -> __m256i {
    let (most, least) = (_mm256_set1_epi32(i16::MAX.into()), _mm256_set1_epi32(i16::MIN.into()));
    _mm256_max_epi32(_mm256_min_epi32(value, most), least)
}

/// `input * 2^15 + reset * state`, rounded and shifted right by 17 to 32: the result fits 32 bits.
#[target_feature(enable = "avx2")]
fn after_reset(reset: __m256i, input: __m256i, state: __m256i, shift: __m256i) -> __m256i {
    let scale = _mm256_set1_epi64x(1 << 15);
    let odd = |value: __m256i| _mm256_srli_epi64::<32>(value);
    let evaluate = |reset: __m256i, input: __m256i, state: __m256i, shift: __m256i| {
        let half = _mm256_srli_epi64::<1>(_mm256_sllv_epi64(_mm256_set1_epi64x(1), shift));
        let sum = _mm256_add_epi64(_mm256_mul_epi32(input, scale), _mm256_mul_epi32(reset, state));
        // The low 32 bits are wanted, which a logical shift by at most 32 has too.
        _mm256_srlv_epi64(_mm256_add_epi64(sum, half), shift)
    };
    let low = _mm256_set1_epi64x(0xffff_ffff);
    let even_lanes = evaluate(reset, input, state, _mm256_and_si256(shift, low));
    let odd_lanes = evaluate(odd(reset), odd(input), odd(state), odd(shift));
    _mm256_blend_epi32::<0xaa>(even_lanes, _mm256_slli_epi64::<32>(odd_lanes))
}

/// `(keep * cell + write * value * 2^(exponent - 15) + 2^14) >> 15`, bounded. `keep` and `write` have 15 bits.
#[target_feature(enable = "avx2")]
fn update(exponent: i32, keep: __m256i, cell: __m256i, write: __m256i, value: __m256i) -> __m256i {
    let written = _mm256_mullo_epi32(write, value);
    let scale = _mm256_set1_epi64x(1 << (exponent - 15));
    let half = _mm256_set1_epi64x(1 << 14);
    let odd = |value: __m256i| _mm256_srli_epi64::<32>(value);
    let evaluate = |keep: __m256i, cell: __m256i, written: __m256i| {
        let sum = _mm256_add_epi64(_mm256_mul_epi32(keep, cell), _mm256_mul_epi32(written, scale));
        _mm256_add_epi64(sum, half)
    };
    // The result fits 32 bits: those from bit 15 on.
    let even_lanes = _mm256_srli_epi64::<15>(evaluate(keep, cell, written));
    let odd_lanes = _mm256_slli_epi64::<17>(evaluate(odd(keep), odd(cell), odd(written)));
    let next = _mm256_blend_epi32::<0xaa>(even_lanes, odd_lanes);
    let (most, least) = (_mm256_set1_epi32(STATE_BOUND), _mm256_set1_epi32(-STATE_BOUND));
    _mm256_max_epi32(_mm256_min_epi32(next, most), least)
}

/// `spec::gate`'s function of eight arguments in the range of 16 bits.
#[target_feature(enable = "avx2")]
fn half_tanh(x: __m256i) -> __m256i {
    let magnitude = _mm256_min_epi32(_mm256_abs_epi32(x), _mm256_set1_epi32(i16::MAX.into()));
    let segment = _mm256_srli_epi32::<9>(magnitude);
    let local = _mm256_and_si256(magnitude, _mm256_set1_epi32(511));
    // SAFETY: a magnitude has 15 bits, so the segment is below 64 and the gathers stay in the tables.
    let (value, others) = unsafe {
        (
            _mm256_i32gather_epi32::<4>(GATE_WORDS.0[0].as_ptr(), segment),
            _mm256_i32gather_epi32::<4>(GATE_WORDS.0[1].as_ptr(), segment),
        )
    };
    let linear = _mm256_srai_epi32::<16>(others);
    let square = _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(others));
    let high_product = |a: __m256i, b: __m256i| {
        _mm256_srai_epi32::<15>(_mm256_add_epi32(_mm256_mullo_epi32(a, b), _mm256_set1_epi32(1 << 14)))
    };
    let slope = _mm256_add_epi32(linear, high_product(square, _mm256_slli_epi32::<6>(local)));
    let sum = _mm256_add_epi32(value, high_product(slope, _mm256_slli_epi32::<4>(local)));
    _mm256_sign_epi32(_mm256_min_epi32(sum, _mm256_set1_epi32(i16::MAX.into())), x)
}

/// From `half_tanh` to sigmoid.
#[target_feature(enable = "avx2")]
fn sigmoid(value: __m256i) -> __m256i {
    let average = _mm256_srai_epi32::<1>(_mm256_add_epi32(value, _mm256_set1_epi32((1 << 15) + 1)));
    _mm256_min_epi32(average, _mm256_set1_epi32(i16::MAX.into()))
}

/// # Safety
/// AVX2; a vector at `words`.
#[target_feature(enable = "avx2")]
unsafe fn load(words: *const Words, half: usize) -> __m256i {
    // SAFETY: `Words` is two aligned halves.
    unsafe { _mm256_load_si256(words.cast::<__m256i>().add(half)) }
}
