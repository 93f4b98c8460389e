//! Recurrent layers in 512-bit vectors, with the multiply-adds of VNNI.
//!
//! Every function needs AVX-512 F, BW and VNNI. All pointers stay inside slices whose lengths are asserted when
//! a block is made.

use core::arch::x86_64::*;

use super::super::avx512::multiply_add;
use super::super::scratch::Block;
use super::steps::Instructions;
use super::{Constants, GATE_TABLE, PackedRecurrent, Pairs, UNITS};
use crate::spec::activation::one;
use crate::spec::recurrence::STATE_BOUND;

/// Rows or steps of one product: with four gates sixteen accumulators, half of the registers.
const ROWS: usize = 4;

/// See the module's text.
pub(in super::super) struct Avx512Vnni;

impl Instructions for Avx512Vnni {
    unsafe fn project<const G: usize>(layer: &PackedRecurrent, at: &Block<'_>, first: usize, steps: usize) {
        // SAFETY: the caller keeps the trait's contract.
        unsafe {
            match layer.splits.input {
                0 => project::<G>(layer, at, first, steps),
                _ => project_split::<G>(layer, at, first, steps),
            }
        }
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
        unsafe {
            match layer.splits.state {
                0 => advance::<G>(layer, at, group, step, before, after),
                _ => advance_split::<G>(layer, at, group, step, before, after),
            }
        }
    }
}

/// The inputs' shares of the gates' arguments for `steps` steps from step `first`, `[step][group][row][gate]`.
///
/// # Safety
/// As [`Instructions`]; there are so many steps, and shares for them.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn project<const G: usize>(layer: &PackedRecurrent, at: &Block<'_>, first: usize, steps: usize) {
    let (groups, pairs) = (layer.groups(), layer.features.div_ceil(2));
    for group in 0..groups {
        let constants = &layer.constants[group];
        let weights = layer.input[group * pairs * G..][..pairs * G].as_ptr();
        for row in 0..at.rows {
            let place = |step: usize| (step * groups + group) * at.rows * G + row * G;
            let mut step = 0;
            // SAFETY: a row has `features` values for each step, and the pair beyond an odd last one lies in the row's
            // padding; shares are there for every step, group, row and gate.
            unsafe {
                let x = at.x.add(row * at.x_stride + first * layer.features);
                while step + ROWS <= steps {
                    let x = x.add(step * layer.features);
                    let sums = sums::<ROWS, G>(weights, pairs, x, layer.features);
                    for (index, sums) in sums.iter().enumerate() {
                        share::<G>(constants, sums, at.shares.add(place(step + index)).cast());
                    }
                    step += ROWS;
                }
                while step < steps {
                    let x = x.add(step * layer.features);
                    let sums = sum::<G>(weights, pairs, x);
                    share::<G>(constants, &sums, at.shares.add(place(step)).cast());
                    step += 1;
                }
            }
        }
    }
}

/// As [`project`], of split sums.
///
/// # Safety
/// As [`project`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn project_split<const G: usize>(layer: &PackedRecurrent, at: &Block<'_>, first: usize, steps: usize) {
    let (groups, pairs) = (layer.groups(), layer.features.div_ceil(2));
    for group in 0..groups {
        let constants = &layer.constants[group];
        let weights = layer.input[group * pairs * G..][..pairs * G].as_ptr();
        for row in 0..at.rows {
            for step in 0..steps {
                // SAFETY: as in `project`.
                unsafe {
                    let x = at.x.add(row * at.x_stride + (first + step) * layer.features);
                    let to = at.shares.add((step * groups + group) * at.rows * G + row * G);
                    let sums = split_sums::<G>(weights, pairs, x, layer.splits.input);
                    share_split::<G>(constants, &sums, to.cast());
                }
            }
        }
    }
}

/// Rescales sums to the recurrent scale, bounds them, and adds the half of the shift that follows.
///
/// # Safety
/// As [`Instructions`]; `G` vectors at `to`.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn share<const G: usize>(constants: &Constants, sums: &[__m512i; G], to: *mut __m512i) {
    for (gate, &sum) in sums.iter().enumerate() {
        // SAFETY: constants have four vectors each, aligned as vectors are; `to` has `G`.
        unsafe {
            let sum = _mm512_add_epi32(sum, load(&constants.bias[gate]));
            let scaled = _mm512_srav_epi32(sum, load(&constants.input_shift[gate]));
            store_share(constants, gate, scaled, to);
        }
    }
}

/// As [`share`], of the sums' high and low parts.
///
/// # Safety
/// As [`share`].
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn share_split<const G: usize>(constants: &Constants, sums: &[[__m512i; 2]; G], to: *mut __m512i) {
    for (gate, &[high, low]) in sums.iter().enumerate() {
        // SAFETY: as in `share`.
        unsafe {
            let low = _mm512_add_epi32(low, load(&constants.bias[gate]));
            let low = _mm512_srav_epi32(low, load(&constants.input_low[gate]));
            let high = _mm512_add_epi32(high, load(&constants.bias_high[gate]));
            let high = bounded(high, load(&constants.input_limit[gate]));
            let met = _mm512_add_epi32(_mm512_sllv_epi32(high, load(&constants.input_left[gate])), low);
            store_share(constants, gate, _mm512_srav_epi32(met, load(&constants.input_shift[gate])), to);
        }
    }
}

/// Bounds a share, adds the half of the shift that follows, and stores it.
///
/// # Safety
/// As [`share`].
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn store_share(constants: &Constants, gate: usize, share: __m512i, to: *mut __m512i) {
    let share = bounded(share, _mm512_set1_epi32(STATE_BOUND));
    // SAFETY: as in `share`.
    unsafe { _mm512_store_si512(to.add(gate), _mm512_add_epi32(share, load(&constants.half[gate]))) }
}

/// To the range from `-bound` to `bound`.
#[target_feature(enable = "avx512f")]
fn bounded(value: __m512i, bound: __m512i) -> __m512i {
    let least = _mm512_sub_epi32(_mm512_setzero_si512(), bound);
    _mm512_max_epi32(_mm512_min_epi32(value, bound), least)
}

/// Takes one group of all rows through a step.
///
/// # Safety
/// As [`Instructions`]; `before` and `after` hold the hidden states of all rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
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
    let mut row = 0;
    // SAFETY: states, cells and shares are there for `rows` rows of whole groups.
    unsafe {
        let shares = at.shares.add((step * groups + group) * at.rows * G).cast::<__m512i>();
        let place = Place { at, layer, group, after };
        let share = |row: usize, gate: usize| _mm512_load_si512(shares.add(row * G + gate));
        let finish = |row: usize, sums: &[__m512i; G]| {
            let argument = |gate: usize| {
                let total = _mm512_add_epi32(sums[gate], share(row, gate));
                _mm512_srav_epi32(total, load(&constants.shift[gate]))
            };
            let reset = |reset: __m512i| {
                let state = _mm512_add_epi32(sums[2], load(&constants.recurrent_bias));
                after_reset(multiply_wide(reset, state), share(row, 2), load(&constants.shift[2]))
            };
            finish::<G>(&place, row, argument, reset);
        };
        while row + ROWS <= at.rows {
            let sums = sums::<ROWS, G>(weights, pairs, before.add(row * stride), stride);
            for (index, sums) in sums.iter().enumerate() {
                finish(row + index, sums);
            }
            row += ROWS;
        }
        while row < at.rows {
            finish(row, &sum::<G>(weights, pairs, before.add(row * stride)));
            row += 1;
        }
    }
}

/// As [`advance`], of split sums.
///
/// # Safety
/// As [`advance`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn advance_split<const G: usize>(
    layer: &PackedRecurrent,
    at: &Block<'_>,
    group: usize,
    step: usize,
    before: *mut i16,
    after: *mut i16,
) {
    let (groups, pairs) = (layer.groups(), layer.hidden.div_ceil(2));
    let constants = &layer.constants[group];
    let weights = layer.recurrent[group * pairs * G..][..pairs * G].as_ptr();
    let count = _mm_cvtsi32_si128(layer.splits.state as i32);
    // SAFETY: states, cells and shares are there for `rows` rows of whole groups.
    unsafe {
        let shares = at.shares.add((step * groups + group) * at.rows * G).cast::<__m512i>();
        let place = Place { at, layer, group, after };
        for row in 0..at.rows {
            let sums = split_sums::<G>(weights, pairs, before.add(row * groups * UNITS), layer.splits.state);
            let share = |gate: usize| _mm512_load_si512(shares.add(row * G + gate));
            let argument = |gate: usize| {
                let [high, low] = sums[gate];
                let low = _mm512_sra_epi32(_mm512_add_epi32(low, share(gate)), count);
                _mm512_srav_epi32(_mm512_add_epi32(high, low), load(&constants.shift[gate]))
            };
            let reset = |reset: __m512i| {
                let [high, low] = sums[2];
                let high = _mm512_add_epi32(high, load(&constants.recurrent_high));
                let low = _mm512_add_epi32(low, load(&constants.recurrent_bias));
                let (high, low) = (multiply_wide(reset, high), multiply_wide(reset, low));
                let sum = [0, 1].map(|odd| _mm512_add_epi64(_mm512_sll_epi64(high[odd], count), low[odd]));
                after_reset(sum, share(2), load(&constants.shift[2]))
            };
            finish::<G>(&place, row, argument, reset);
        }
    }
}

/// Sums of `R` rows without bias. Partial sums may wrap; the whole sum is proven to fit, so it is exact.
///
/// # Safety
/// AVX-512 and VNNI; `G * pairs` vectors at `weights`; `2 * pairs` values at `x` and each of `R - 1` strides after.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn sums<const R: usize, const G: usize>(
    weights: *const Pairs,
    pairs: usize,
    x: *const i16,
    stride: usize,
) -> [[__m512i; G]; R] {
    let mut sums = [[_mm512_setzero_si512(); G]; R];
    for pair in 0..pairs {
        // SAFETY: the caller has these values; unaligned reads are asked for.
        let x: [__m512i; R] = std::array::from_fn(|row| unsafe {
            _mm512_set1_epi32(x.add(row * stride + 2 * pair).cast::<i32>().read_unaligned())
        });
        for gate in 0..G {
            // SAFETY: the caller has these vectors, and `Pairs` is aligned as a vector is.
            let weight = unsafe { _mm512_load_si512(weights.add(pair * G + gate).cast()) };
            for (sums, &x) in sums.iter_mut().zip(&x) {
                sums[gate] = multiply_add(sums[gate], x, weight);
            }
        }
    }
    sums
}

/// As [`sums`], of one row: even and odd pairs have sums of their own, because a multiply-add waits for the one before.
///
/// # Safety
/// As [`sums`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn sum<const G: usize>(weights: *const Pairs, pairs: usize, x: *const i16) -> [__m512i; G] {
    let mut sums = [[_mm512_setzero_si512(); G]; 2];
    let mut one = |pair: usize, half: usize| {
        // SAFETY: as in `sums`.
        let x = unsafe { _mm512_set1_epi32(x.add(2 * pair).cast::<i32>().read_unaligned()) };
        for (gate, sum) in sums[half].iter_mut().enumerate() {
            // SAFETY: as in `sums`.
            let weight = unsafe { _mm512_load_si512(weights.add(pair * G + gate).cast()) };
            *sum = multiply_add(*sum, x, weight);
        }
    };
    let mut pair = 0;
    while pair + 2 <= pairs {
        one(pair, 0);
        one(pair + 1, 1);
        pair += 2;
    }
    if pair < pairs {
        one(pair, 0);
    }
    std::array::from_fn(|gate| _mm512_add_epi32(sums[0][gate], sums[1][gate]))
}

/// The high and low parts of one row's sums without bias.
///
/// # Safety
/// As [`sums`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn split_sums<const G: usize>(
    weights: *const Pairs,
    pairs: usize,
    x: *const i16,
    split: u32,
) -> [[__m512i; 2]; G] {
    let count = _mm_cvtsi32_si128(split as i32);
    let mut high = [_mm512_setzero_si512(); G];
    let mut whole = [_mm512_setzero_si512(); G];
    for pair in 0..pairs {
        // SAFETY: as in `sums`.
        let x = unsafe { _mm512_set1_epi32(x.add(2 * pair).cast::<i32>().read_unaligned()) };
        for gate in 0..G {
            // SAFETY: as in `sums`.
            let weight = unsafe { _mm512_load_si512(weights.add(pair * G + gate).cast()) };
            whole[gate] = multiply_add(whole[gate], x, weight);
            high[gate] = multiply_add(high[gate], x, _mm512_sra_epi16(weight, count));
        }
    }
    // What wrapped around has gone from the low part.
    std::array::from_fn(|gate| {
        [high[gate], _mm512_sub_epi32(whole[gate], _mm512_sll_epi32(high[gate], count))]
    })
}

/// What the units of a group are finished with.
struct Place<'a, 'b> {
    at: &'a Block<'b>,
    layer: &'a PackedRecurrent,
    group: usize,
    after: *mut i16,
}

/// From the arguments of a row's gates, not yet saturated, to the next states of 16 units. `after_reset` makes the
/// argument of a GRU's last gate.
///
/// # Safety
/// As [`Instructions`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn finish<const G: usize>(
    place: &Place<'_, '_>,
    row: usize,
    argument: impl Fn(usize) -> __m512i,
    after_reset: impl Fn(__m512i) -> __m512i,
) {
    let zero = _mm512_setzero_si512();
    let (states, groups) = (place.layer.states, place.layer.groups());
    // SAFETY: cells and states are there for all rows and groups.
    unsafe {
        let cells = place.at.cells.add(row * groups + place.group).cast::<__m512i>();
        let cell = _mm512_load_si512(cells);
        let (next, hidden) = if G == 4 {
            // Packing saturates to 16 bits, and works within quarters: unpacking restores the order.
            let input_output = sigmoid(half_tanh(_mm512_packs_epi32(argument(0), argument(1))));
            let forget_candidate = half_tanh(_mm512_packs_epi32(argument(2), argument(3)));
            let input = _mm512_unpacklo_epi16(input_output, zero);
            let output = _mm512_unpackhi_epi16(input_output, zero);
            let forget = _mm512_unpacklo_epi16(sigmoid(forget_candidate), zero);
            let candidate = _mm512_unpackhi_epi16(forget_candidate, zero);
            let cell = update(states.cell, forget, cell, input, candidate);
            let shift = states.cell - 12;
            let rounded = _mm512_add_epi32(cell, _mm512_set1_epi32(1 << (shift - 1)));
            let scaled = _mm512_sra_epi32(rounded, _mm_cvtsi32_si128(shift));
            let value = _mm512_unpacklo_epi16(half_tanh(_mm512_packs_epi32(scaled, scaled)), zero);
            let shift = 30 - states.hidden;
            let product = _mm512_madd_epi16(output, value);
            let rounded = _mm512_add_epi32(product, _mm512_set1_epi32(1 << (shift - 1)));
            (cell, _mm512_cvtepi32_epi16(_mm512_sra_epi32(rounded, _mm_cvtsi32_si128(shift))))
        } else {
            let gates = sigmoid(half_tanh(_mm512_packs_epi32(argument(0), argument(1))));
            let keep = _mm512_unpacklo_epi16(gates, zero);
            let argument = after_reset(_mm512_unpackhi_epi16(gates, zero));
            let candidate = half_tanh(_mm512_packs_epi32(argument, argument));
            let candidate = _mm512_unpacklo_epi16(candidate, zero);
            let write = _mm512_sub_epi32(_mm512_set1_epi32(1 << 15), keep);
            let cell = update(states.cell, keep, cell, write, candidate);
            let shift = states.cell - states.hidden;
            let rounded = _mm512_add_epi32(cell, _mm512_set1_epi32(1 << (shift - 1)));
            let hidden = _mm512_sra_epi32(rounded, _mm_cvtsi32_si128(shift));
            let one = _mm512_set1_epi32(one(states.hidden) as i32);
            (cell, _mm512_cvtepi32_epi16(bounded(hidden, one)))
        };
        _mm512_store_si512(cells, next);
        _mm256_storeu_si256(place.after.add((row * groups + place.group) * UNITS).cast(), hidden);
    }
}

/// The 64-bit products of sixteen pairs, those of even lanes and those of odd ones.
#[target_feature(enable = "avx512f")]
fn multiply_wide(a: __m512i, b: __m512i) -> [__m512i; 2] {
    let odd = |value: __m512i| _mm512_srli_epi64::<32>(value);
    [_mm512_mul_epi32(a, b), _mm512_mul_epi32(odd(a), odd(b))]
}

/// `input * 2^15 + sum`, rounded and shifted right by 17 to 32: the result fits 32 bits.
#[target_feature(enable = "avx512f")]
fn after_reset(sum: [__m512i; 2], input: __m512i, shift: __m512i) -> __m512i {
    let inputs = multiply_wide(input, _mm512_set1_epi32(1 << 15));
    let low = _mm512_set1_epi64(0xffff_ffff);
    let shifts = [_mm512_and_si512(shift, low), _mm512_srli_epi64::<32>(shift)];
    let [even, odd] = [0, 1].map(|odd| {
        let half = _mm512_srli_epi64::<1>(_mm512_sllv_epi64(_mm512_set1_epi64(1), shifts[odd]));
        let sum = _mm512_add_epi64(_mm512_add_epi64(sum[odd], inputs[odd]), half);
        // The low 32 bits are wanted, which a logical shift by at most 32 has too.
        _mm512_srlv_epi64(sum, shifts[odd])
    });
    _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64::<32>(odd))
}

/// `(keep * cell + write * value * 2^(exponent - 15) + 2^14) >> 15`, bounded. `keep` and `write` have 15 bits, `value`
/// 16 with zeros above.
#[target_feature(enable = "avx512f,avx512bw")]
fn update(exponent: i32, keep: __m512i, cell: __m512i, write: __m512i, value: __m512i) -> __m512i {
    let written = _mm512_madd_epi16(write, value);
    let scale = _mm512_set1_epi64(1 << (exponent - 15));
    let half = _mm512_set1_epi64(1 << 14);
    let odd = |value: __m512i| _mm512_srli_epi64::<32>(value);
    let evaluate = |keep: __m512i, cell: __m512i, written: __m512i| {
        let sum = _mm512_add_epi64(_mm512_mul_epi32(keep, cell), _mm512_mul_epi32(written, scale));
        _mm512_add_epi64(sum, half)
    };
    // The result fits 32 bits: those from bit 15 on.
    let even_lanes = _mm512_srli_epi64::<15>(evaluate(keep, cell, written));
    let odd_lanes = _mm512_slli_epi64::<17>(evaluate(odd(keep), odd(cell), odd(written)));
    let next = _mm512_mask_blend_epi32(0xaaaa, even_lanes, odd_lanes);
    let bound = _mm512_set1_epi32(STATE_BOUND);
    _mm512_max_epi32(_mm512_min_epi32(next, bound), _mm512_set1_epi32(-STATE_BOUND))
}

/// `spec::gate`'s function of 32 arguments.
#[target_feature(enable = "avx512f,avx512bw")]
fn half_tanh(x: __m512i) -> __m512i {
    let magnitude = _mm512_min_epu16(_mm512_abs_epi16(x), _mm512_set1_epi16(i16::MAX));
    let segment = _mm512_srli_epi16::<9>(magnitude);
    let local = _mm512_and_si512(magnitude, _mm512_set1_epi16(511));
    let coefficient = |which: usize| {
        let table = GATE_TABLE.0[which].as_ptr().cast::<__m512i>();
        // SAFETY: a coefficient's table is two aligned vectors.
        let (low, high) = unsafe { (_mm512_load_si512(table), _mm512_load_si512(table.add(1))) };
        _mm512_permutex2var_epi16(low, segment, high)
    };
    let square = _mm512_mulhrs_epi16(coefficient(2), _mm512_slli_epi16::<6>(local));
    let slope = _mm512_add_epi16(coefficient(1), square);
    let rise = _mm512_mulhrs_epi16(slope, _mm512_slli_epi16::<4>(local));
    let value = _mm512_adds_epi16(coefficient(0), rise);
    _mm512_mask_sub_epi16(value, _mm512_movepi16_mask(x), _mm512_setzero_si512(), value)
}

/// From `half_tanh` to sigmoid: `(value + 2^15 + 1) >> 1`, which is an average without sign.
#[target_feature(enable = "avx512f,avx512bw")]
fn sigmoid(value: __m512i) -> __m512i {
    let shifted = _mm512_xor_si512(value, _mm512_set1_epi16(i16::MIN));
    let average = _mm512_avg_epu16(shifted, _mm512_setzero_si512());
    _mm512_min_epu16(average, _mm512_set1_epi16(i16::MAX))
}

/// # Safety
/// AVX-512.
#[target_feature(enable = "avx512f")]
unsafe fn load(words: &super::Words) -> __m512i {
    // SAFETY: `Words` is one vector, aligned as one.
    unsafe { _mm512_load_si512((&raw const *words).cast()) }
}
