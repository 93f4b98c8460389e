//! Recurrent layers in 256-bit vectors: the products of a group run in two halves of eight units, its gates in 16-bit
//! values, sixteen units at a time.
//!
//! Every function needs AVX2. All pointers stay inside slices whose lengths are asserted when a block is made.
//!
//! Packing two halves to 16-bit values leaves units in the order 0-3, 8-11, 4-7, 12-15; unpacking with zeros restores the
//! halves, and what lies between does not care.

use core::arch::x86_64::*;

use super::super::scratch::Block;
use super::steps::Instructions;
use super::{Constants, GATE_TABLE, PackedRecurrent, Pairs, UNITS, Words};
use crate::spec::activation::one;
use crate::spec::recurrence::STATE_BOUND;

/// Rows or steps of one product: with four gates eight accumulators, half of the registers.
const ROWS: usize = 2;
/// Pairs of inputs in one turn of the innermost loop, whose own instructions would be four of 26 in each pair's turn.
const TURN: usize = 2;

/// See the module's text.
pub(in super::super) struct Avx2;

impl Instructions for Avx2 {
    unsafe fn project<const G: usize>(layer: &PackedRecurrent, at: &Block<'_>, first: usize, steps: usize) {
        // SAFETY: the caller keeps the trait's contract.
        unsafe {
            match (layer.splits.input, layer.is_halved) {
                (0, true) => project::<G, 1>(layer, at, first, steps),
                (0, false) => project::<G, 2>(layer, at, first, steps),
                (_, true) => project_split::<G, 1>(layer, at, first, steps),
                (_, false) => project_split::<G, 2>(layer, at, first, steps),
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
            match (layer.splits.state, layer.is_halved) {
                (0, true) => advance::<G, 1>(layer, at, group, step, before, after),
                (0, false) => advance::<G, 2>(layer, at, group, step, before, after),
                (_, true) => advance_split::<G, 1>(layer, at, group, step, before, after),
                (_, false) => advance_split::<G, 2>(layer, at, group, step, before, after),
            }
        }
    }
}

/// The two halves of a group's 32-bit values.
type Halves = [__m256i; 2];

/// Where the vectors of each half of a group's weights begin. `S` is 1 where the halves lie apart, 2 where their vectors take
/// turns.
fn halves<const S: usize>(weights: &[Pairs]) -> [*const __m256i; 2] {
    let vectors = weights.as_ptr().cast::<__m256i>();
    // There are twice as many vectors as pairs: the second half begins at the middle or at the second of them.
    [vectors, vectors.wrapping_add(if S == 1 { weights.len() } else { 1 })]
}

/// The inputs' shares of the gates' arguments for `steps` steps from step `first`, `[step][group][row][gate]`.
///
/// # Safety
/// As [`Instructions`]; there are so many steps, and shares for them.
#[target_feature(enable = "avx2")]
unsafe fn project<const G: usize, const S: usize>(
    layer: &PackedRecurrent,
    at: &Block<'_>,
    first: usize,
    steps: usize,
) {
    let (groups, pairs) = (layer.groups(), layer.features.div_ceil(2));
    for group in 0..groups {
        let constants = &layer.constants[group];
        let weights = halves::<S>(&layer.input[group * pairs * G..][..pairs * G]);
        for row in 0..at.rows {
            let place = |step: usize| (step * groups + group) * at.rows * G + row * G;
            // SAFETY: a row has `features` values for each step, and the pair beyond an odd last one lies in the row's
            // padding; shares are there for every step, group, row and gate.
            unsafe {
                let x = at.x.add(row * at.x_stride + first * layer.features);
                for half in 0..layer.halves(group) {
                    let weights = [weights[half]];
                    let bias = |_: usize, _: usize, gate: usize| load(&raw const constants.bias[gate], half);
                    let mut step = 0;
                    while step + ROWS <= steps {
                        let sums = sums::<ROWS, 1, G, S>(
                            weights,
                            pairs,
                            x.add(step * layer.features),
                            layer.features,
                            bias,
                        );
                        for (index, [sums]) in sums.iter().enumerate() {
                            share::<G>(constants, half, sums, at.shares.add(place(step + index)));
                        }
                        step += ROWS;
                    }
                    if step < steps {
                        let x = x.add(step * layer.features);
                        let [[sums]] = sums::<1, 1, G, S>(weights, pairs, x, 0, bias);
                        share::<G>(constants, half, &sums, at.shares.add(place(step)));
                    }
                }
            }
        }
    }
}

/// As [`project`], of split sums.
///
/// # Safety
/// As [`project`].
#[target_feature(enable = "avx2")]
unsafe fn project_split<const G: usize, const S: usize>(
    layer: &PackedRecurrent,
    at: &Block<'_>,
    first: usize,
    steps: usize,
) {
    let (groups, pairs) = (layer.groups(), layer.features.div_ceil(2));
    let split = layer.splits.input;
    for group in 0..groups {
        let constants = &layer.constants[group];
        let weights = halves::<S>(&layer.input[group * pairs * G..][..pairs * G]);
        for row in 0..at.rows {
            for (half, &weights) in weights.iter().enumerate().take(layer.halves(group)) {
                for step in 0..steps {
                    // SAFETY: as in `project`.
                    unsafe {
                        let x = at.x.add(row * at.x_stride + (first + step) * layer.features);
                        let to = at.shares.add((step * groups + group) * at.rows * G + row * G);
                        let sums = split_sums::<G, S>(weights, pairs, x, split);
                        share_split::<G>(constants, half, &sums, to);
                    }
                }
            }
        }
    }
}

/// Rescales sums with their bias to the recurrent scale, bounds them, and adds the half of the shift that follows.
///
/// # Safety
/// As [`Instructions`]; `G` vectors at `to`.
#[target_feature(enable = "avx2")]
unsafe fn share<const G: usize>(constants: &Constants, half: usize, sums: &[__m256i; G], to: *mut Words) {
    for (gate, &sum) in sums.iter().enumerate() {
        // SAFETY: constants have four vectors each; `to` has `G`.
        unsafe {
            let scaled = _mm256_srav_epi32(sum, load(&raw const constants.input_shift[gate], half));
            store_share(constants, half, gate, scaled, to);
        }
    }
}

/// As [`share`], of the sums' high and low parts.
///
/// # Safety
/// As [`share`].
#[target_feature(enable = "avx2")]
unsafe fn share_split<const G: usize>(
    constants: &Constants,
    half: usize,
    sums: &[[__m256i; 2]; G],
    to: *mut Words,
) {
    for (gate, &[high, low]) in sums.iter().enumerate() {
        // SAFETY: as in `share`.
        unsafe {
            let of = |words: &[Words; 4]| load(&raw const words[gate], half);
            let low = _mm256_srav_epi32(_mm256_add_epi32(low, of(&constants.bias)), of(&constants.input_low));
            let limit = of(&constants.input_limit);
            let high = bounded(_mm256_add_epi32(high, of(&constants.bias_high)), limit);
            let met = _mm256_add_epi32(_mm256_sllv_epi32(high, of(&constants.input_left)), low);
            store_share(constants, half, gate, _mm256_srav_epi32(met, of(&constants.input_shift)), to);
        }
    }
}

/// Bounds a share, adds the half of the shift that follows, and stores it.
///
/// # Safety
/// As [`share`].
#[target_feature(enable = "avx2")]
unsafe fn store_share(constants: &Constants, half: usize, gate: usize, share: __m256i, to: *mut Words) {
    let share = bounded(share, _mm256_set1_epi32(STATE_BOUND));
    // SAFETY: as in `share`.
    unsafe {
        let share = _mm256_add_epi32(share, load(&raw const constants.half[gate], half));
        _mm256_store_si256(to.add(gate).cast::<__m256i>().add(half), share);
    }
}

/// Takes one group of all rows through a step.
///
/// # Safety
/// As [`Instructions`]; `before` and `after` hold the hidden states of all rows.
#[target_feature(enable = "avx2")]
unsafe fn advance<const G: usize, const S: usize>(
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
    let weights = halves::<S>(&layer.recurrent[group * pairs * G..][..pairs * G]);
    // SAFETY: states, cells and shares are there for `rows` rows of whole groups.
    unsafe {
        let place =
            Place { at, layer, group, shares: at.shares.add((step * groups + group) * at.rows * G), after };
        let finish = |row: usize, sums: &[[__m256i; G]; 2]| {
            let shares = place.shares.add(row * G);
            let mut arguments = [[_mm256_setzero_si256(); 2]; G];
            for (gate, arguments) in arguments.iter_mut().enumerate() {
                for (half, argument) in arguments.iter_mut().enumerate() {
                    let shift = load(&raw const constants.shift[gate], half);
                    *argument = _mm256_srav_epi32(sums[half][gate], shift);
                }
            }
            let after_reset = |reset: Halves| {
                let mut arguments = reset;
                for (half, argument) in arguments.iter_mut().enumerate() {
                    let sum = multiply_wide(*argument, sums[half][2]);
                    let shift = load(&raw const constants.shift[2], half);
                    *argument = after_reset(sum, load(shares.add(2), half), shift);
                }
                arguments
            };
            finish::<G>(&place, row, &arguments, after_reset);
        };
        // A GRU's hidden gate meets its share after the reset gate only.
        let start = |row: usize, half: usize, gate: usize| match (G, gate) {
            (3, 2) => load(&raw const constants.recurrent_bias, half),
            _ => load(place.shares.add(row * G + gate), half),
        };
        let whole = layer.halves(group) == 2;
        let none = [_mm256_setzero_si256(); G];
        let mut row = 0;
        while row + ROWS <= at.rows {
            let x = before.add(row * stride);
            let half = |half: usize| {
                let start = |index: usize, _: usize, gate: usize| start(row + index, half, gate);
                sums_of_half::<G, S>(weights[half], pairs, x, stride, start)
            };
            let (first, second) = (half(0), if whole { half(1) } else { [[none]; ROWS] });
            for (index, ([first], [second])) in first.iter().zip(&second).enumerate() {
                finish(row + index, &[*first, *second]);
            }
            row += ROWS;
        }
        if row < at.rows {
            let x = before.add(row * stride);
            let start = |_: usize, half: usize, gate: usize| start(row, half, gate);
            let sums = match whole {
                true => sums::<1, 2, G, S>(weights, pairs, x, stride, start)[0],
                false => [sums::<1, 1, G, S>([weights[0]], pairs, x, stride, start)[0][0], none],
            };
            finish(row, &sums);
        }
    }
}

/// As [`advance`], of split sums.
///
/// # Safety
/// As [`advance`].
#[target_feature(enable = "avx2")]
unsafe fn advance_split<const G: usize, const S: usize>(
    layer: &PackedRecurrent,
    at: &Block<'_>,
    group: usize,
    step: usize,
    before: *mut i16,
    after: *mut i16,
) {
    let (groups, pairs) = (layer.groups(), layer.hidden.div_ceil(2));
    let constants = &layer.constants[group];
    let weights = halves::<S>(&layer.recurrent[group * pairs * G..][..pairs * G]);
    let split = layer.splits.state;
    // SAFETY: states, cells and shares are there for `rows` rows of whole groups.
    unsafe {
        let place =
            Place { at, layer, group, shares: at.shares.add((step * groups + group) * at.rows * G), after };
        for row in 0..at.rows {
            let x = before.add(row * groups * UNITS);
            let sums = [0, 1].map(|half| split_sums::<G, S>(weights[half], pairs, x, split));
            let count = _mm_cvtsi32_si128(split as i32);
            let shares = place.shares.add(row * G);
            let mut arguments = [[_mm256_setzero_si256(); 2]; G];
            for (gate, arguments) in arguments.iter_mut().enumerate() {
                for (half, argument) in arguments.iter_mut().enumerate() {
                    let [high, low] = sums[half][gate];
                    let low = _mm256_add_epi32(low, load(shares.add(gate), half));
                    let met = _mm256_add_epi32(high, _mm256_sra_epi32(low, count));
                    *argument = _mm256_srav_epi32(met, load(&raw const constants.shift[gate], half));
                }
            }
            let after_reset = |reset: Halves| {
                let mut arguments = reset;
                for (half, argument) in arguments.iter_mut().enumerate() {
                    let [high, low] = sums[half][2];
                    let high = _mm256_add_epi32(high, load(&raw const constants.recurrent_high, half));
                    let low = _mm256_add_epi32(low, load(&raw const constants.recurrent_bias, half));
                    let (high, low) = (multiply_wide(*argument, high), multiply_wide(*argument, low));
                    let sum = [
                        _mm256_add_epi64(_mm256_sll_epi64(high[0], count), low[0]),
                        _mm256_add_epi64(_mm256_sll_epi64(high[1], count), low[1]),
                    ];
                    let shift = load(&raw const constants.shift[2], half);
                    *argument = after_reset(sum, load(shares.add(2), half), shift);
                }
                arguments
            };
            finish::<G>(&place, row, &arguments, after_reset);
        }
    }
}

/// Sums of `R` rows, for `V` halves of a group, from what `start` says for row, half and gate. Partial sums may wrap; the
/// whole sum is proven to fit, so it is exact.
///
/// # Safety
/// AVX2; at `weights`, for each half, `G * pairs` vectors, one in every `S`; `2 * pairs` values at `x` and each of `R - 1`
/// strides after.
#[target_feature(enable = "avx2")]
unsafe fn sums<const R: usize, const V: usize, const G: usize, const S: usize>(
    weights: [*const __m256i; V],
    pairs: usize,
    x: *const i16,
    stride: usize,
    start: impl Fn(usize, usize, usize) -> __m256i,
) -> [[[__m256i; G]; V]; R] {
    let mut sums = [[[_mm256_setzero_si256(); G]; V]; R];
    for (row, sums) in sums.iter_mut().enumerate() {
        for (half, sums) in sums.iter_mut().enumerate() {
            for (gate, sum) in sums.iter_mut().enumerate() {
                *sum = start(row, half, gate);
            }
        }
    }
    let mut one = |pair: usize| {
        // SAFETY: the caller has these values; unaligned reads are asked for.
        let x: [__m256i; R] = std::array::from_fn(|row| unsafe {
            _mm256_set1_epi32(x.add(row * stride + 2 * pair).cast::<i32>().read_unaligned())
        });
        for gate in 0..G {
            for half in 0..V {
                // SAFETY: the caller has these vectors, and `Pairs` is aligned as they are.
                let weight = unsafe { _mm256_load_si256(weights[half].add((pair * G + gate) * S)) };
                for (sums, &x) in sums.iter_mut().zip(&x) {
                    sums[half][gate] = _mm256_add_epi32(sums[half][gate], _mm256_madd_epi16(x, weight));
                }
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
    sums
}

/// As [`sums`], of one half for [`ROWS`] rows. A call of its own: inlined, the sums of the other half, which wait in registers
/// for these, push some of these out of them at each pair.
///
/// # Safety
/// As [`sums`].
#[inline(never)]
#[target_feature(enable = "avx2")]
unsafe fn sums_of_half<const G: usize, const S: usize>(
    weights: *const __m256i,
    pairs: usize,
    x: *const i16,
    stride: usize,
    start: impl Fn(usize, usize, usize) -> __m256i,
) -> [[[__m256i; G]; 1]; ROWS] {
    // SAFETY: the caller's condition.
    unsafe { sums::<ROWS, 1, G, S>([weights], pairs, x, stride, start) }
}

/// The high and low parts of one row's sums without bias, for one half of a group.
///
/// # Safety
/// As [`sums`].
#[target_feature(enable = "avx2")]
unsafe fn split_sums<const G: usize, const S: usize>(
    weights: *const __m256i,
    pairs: usize,
    x: *const i16,
    split: u32,
) -> [[__m256i; 2]; G] {
    let count = _mm_cvtsi32_si128(split as i32);
    let mut high = [_mm256_setzero_si256(); G];
    let mut whole = [_mm256_setzero_si256(); G];
    for pair in 0..pairs {
        // SAFETY: as in `sums`.
        let x = unsafe { _mm256_set1_epi32(x.add(2 * pair).cast::<i32>().read_unaligned()) };
        for gate in 0..G {
            // SAFETY: as in `sums`.
            let weight = unsafe { _mm256_load_si256(weights.add((pair * G + gate) * S)) };
            whole[gate] = _mm256_add_epi32(whole[gate], _mm256_madd_epi16(x, weight));
            let weight = _mm256_sra_epi16(weight, count);
            high[gate] = _mm256_add_epi32(high[gate], _mm256_madd_epi16(x, weight));
        }
    }
    // What wrapped around has gone from the low part.
    std::array::from_fn(|gate| {
        [high[gate], _mm256_sub_epi32(whole[gate], _mm256_sll_epi32(high[gate], count))]
    })
}

/// What the units of a group are finished with.
struct Place<'a, 'b> {
    at: &'a Block<'b>,
    layer: &'a PackedRecurrent,
    group: usize,
    shares: *mut Words,
    after: *mut i16,
}

/// From the arguments of a row's gates, not yet saturated, to the next states of 16 units. `after_reset` makes the
/// argument of a GRU's last gate.
///
/// # Safety
/// As [`Instructions`].
#[target_feature(enable = "avx2")]
unsafe fn finish<const G: usize>(
    place: &Place<'_, '_>,
    row: usize,
    arguments: &[Halves; G],
    after_reset: impl Fn(Halves) -> Halves,
) {
    let (layer, groups) = (place.layer, place.layer.groups());
    let states = layer.states;
    let packed = |gate: usize| _mm256_packs_epi32(arguments[gate][0], arguments[gate][1]);
    let rounded = |value: __m256i, shift: i32| {
        let value = _mm256_add_epi32(value, _mm256_set1_epi32(1 << (shift - 1)));
        _mm256_sra_epi32(value, _mm_cvtsi32_si128(shift))
    };
    // SAFETY: cells and states are there for all rows and groups.
    unsafe {
        let cells = place.at.cells.add(row * groups + place.group).cast::<__m256i>();
        let before = [0, 1].map(|half| _mm256_load_si256(cells.add(half)));
        let (next, hidden) = if G == 4 {
            let [input, output] = half_tanh([packed(0), packed(1)]).map(|value| sigmoid(value));
            let [forget, candidate] = half_tanh([packed(2), packed(3)]);
            let [forget, input] = [sigmoid(forget), input].map(|value| unpack(value));
            let candidate = unpack(candidate);
            let written = [0, 1].map(|half| _mm256_madd_epi16(input[half], candidate[half]));
            let next = [0, 1].map(|half| update(states.cell, forget[half], before[half], written[half]));
            let [low, high] = next.map(|cell| rounded(cell, states.cell - 12));
            let [value] = half_tanh([_mm256_packs_epi32(low, high)]);
            let (output, value) = (unpack(output), unpack(value));
            let hidden =
                [0, 1].map(|half| rounded(_mm256_madd_epi16(output[half], value[half]), 30 - states.hidden));
            (next, hidden)
        } else {
            let [keep, reset] = half_tanh([packed(0), packed(1)]).map(|value| unpack(sigmoid(value)));
            let [low, high] = after_reset(reset);
            let [candidate] = half_tanh([_mm256_packs_epi32(low, high)]);
            let candidate = unpack(candidate);
            let next = [0, 1].map(|half| {
                // A sigmoid is never 0, so this has 15 bits too.
                let write = _mm256_sub_epi32(_mm256_set1_epi32(1 << 15), keep[half]);
                update(states.cell, keep[half], before[half], _mm256_madd_epi16(write, candidate[half]))
            });
            let one = _mm256_set1_epi32(one(states.hidden) as i32);
            (next, next.map(|cell| bounded(rounded(cell, states.cell - states.hidden), one)))
        };
        let to = place.after.add((row * groups + place.group) * UNITS);
        let natural = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(hidden[0], hidden[1]));
        _mm256_storeu_si256(to.cast(), natural);
        for (half, next) in next.into_iter().enumerate() {
            _mm256_store_si256(cells.add(half), next);
        }
    }
}

/// To the range from `-bound` to `bound`.
#[target_feature(enable = "avx2")]
fn bounded(value: __m256i, bound: __m256i) -> __m256i {
    let least = _mm256_sub_epi32(_mm256_setzero_si256(), bound);
    _mm256_max_epi32(_mm256_min_epi32(value, bound), least)
}

/// The halves of 16 values, each with zeros above.
#[target_feature(enable = "avx2")]
fn unpack(value: __m256i) -> Halves {
    let zero = _mm256_setzero_si256();
    [_mm256_unpacklo_epi16(value, zero), _mm256_unpackhi_epi16(value, zero)]
}

/// The 64-bit products of eight pairs, those of even lanes and those of odd ones.
#[target_feature(enable = "avx2")]
fn multiply_wide(a: __m256i, b: __m256i) -> [__m256i; 2] {
    let odd = |value: __m256i| _mm256_srli_epi64::<32>(value);
    [_mm256_mul_epi32(a, b), _mm256_mul_epi32(odd(a), odd(b))]
}

/// `input * 2^15 + sum`, rounded and shifted right by 17 to 32: the result fits 32 bits.
#[target_feature(enable = "avx2")]
fn after_reset(sum: [__m256i; 2], input: __m256i, shift: __m256i) -> __m256i {
    let inputs = multiply_wide(input, _mm256_set1_epi32(1 << 15));
    let low = _mm256_set1_epi64x(0xffff_ffff);
    let shifts = [_mm256_and_si256(shift, low), _mm256_srli_epi64::<32>(shift)];
    let [even, odd] = [0, 1].map(|odd| {
        let half = _mm256_srli_epi64::<1>(_mm256_sllv_epi64(_mm256_set1_epi64x(1), shifts[odd]));
        let sum = _mm256_add_epi64(_mm256_add_epi64(sum[odd], inputs[odd]), half);
        // The low 32 bits are wanted, which a logical shift by at most 32 has too.
        _mm256_srlv_epi64(sum, shifts[odd])
    });
    _mm256_blend_epi32::<0xaa>(even, _mm256_slli_epi64::<32>(odd))
}

/// `(keep * cell + written * 2^(exponent - 15) + 2^14) >> 15`, bounded. `keep` has 15 bits, with zeros above.
///
/// In 32 bits, with `cell = high * 2^16 + low` and a low half with sign: `keep * low` has 30 bits, `keep * high` 29 and is
/// a multiple of the divisor. So are the high bits of what is written; the low 15 go with `keep * low`.
#[target_feature(enable = "avx2")]
fn update(exponent: i32, keep: __m256i, cell: __m256i, written: __m256i) -> __m256i {
    let high = _mm256_srai_epi32::<16>(_mm256_add_epi32(cell, _mm256_set1_epi32(1 << 15)));
    // The upper halves meet zeros: a multiply-add of halves is the product of the lower ones.
    let (high, low) = (_mm256_madd_epi16(keep, high), _mm256_madd_epi16(keep, cell));
    let (left, right) = (_mm_cvtsi32_si128(exponent - 15), _mm_cvtsi32_si128(30 - exponent));
    let written_low = _mm256_and_si256(_mm256_sll_epi32(written, left), _mm256_set1_epi32(0x7fff));
    let low = _mm256_add_epi32(_mm256_add_epi32(low, written_low), _mm256_set1_epi32(1 << 14));
    let high = _mm256_add_epi32(_mm256_slli_epi32::<1>(high), _mm256_sra_epi32(written, right));
    bounded(_mm256_add_epi32(high, _mm256_srai_epi32::<15>(low)), _mm256_set1_epi32(STATE_BOUND))
}

/// `spec::gate`'s function of 16 arguments in each of `N` vectors.
#[target_feature(enable = "avx2")]
fn half_tanh<const N: usize>(x: [__m256i; N]) -> [__m256i; N] {
    let mut bytes = [_mm256_setzero_si256(); N];
    let mut magnitudes = bytes;
    let mut all = _mm256_setzero_si256();
    let (low, high) = (0x0707_0505_0303_0101, 0x0f0f_0d0d_0b0b_0909);
    let high_bytes = _mm256_setr_epi64x(low, high, low, high);
    for at in 0..N {
        magnitudes[at] = _mm256_min_epu16(_mm256_abs_epi16(x[at]), _mm256_set1_epi16(i16::MAX));
        // Twice the segment in the low byte, and one more in the high byte. The high byte has the segment already.
        let segment = _mm256_shuffle_epi8(magnitudes[at], high_bytes);
        let twice = _mm256_and_si256(segment, _mm256_set1_epi8(!1));
        bytes[at] = _mm256_or_si256(twice, _mm256_set1_epi16(0x0100));
        all = _mm256_or_si256(all, bytes[at]);
    }
    // Large arguments are rare: most calls need the first tables only.
    let coefficients = if _mm256_testz_si256(all, _mm256_set1_epi8(0x60)) == 1 {
        coefficients::<N, 2>(&bytes)
    } else if _mm256_testz_si256(all, _mm256_set1_epi8(0x40)) == 1 {
        coefficients::<N, 4>(&bytes)
    } else {
        coefficients::<N, 8>(&bytes)
    };
    let mut results = x;
    for (at, result) in results.iter_mut().enumerate() {
        let local = _mm256_and_si256(magnitudes[at], _mm256_set1_epi16(511));
        let [value, linear, square] = coefficients[at];
        let square = _mm256_mulhrs_epi16(square, _mm256_slli_epi16::<6>(local));
        let slope = _mm256_add_epi16(linear, square);
        let rise = _mm256_mulhrs_epi16(slope, _mm256_slli_epi16::<4>(local));
        *result = _mm256_sign_epi16(_mm256_adds_epi16(value, rise), *result);
    }
    results
}

/// The coefficients of segments, from the first `TABLES` of the eight tables of eight segments into which a shuffle can
/// look.
///
/// A byte's index within its own table selects there; in another table's turn it has its highest bit set, for which a
/// shuffle gives zero. Gathers take longer.
#[target_feature(enable = "avx2")]
fn coefficients<const N: usize, const TABLES: usize>(bytes: &[__m256i; N]) -> [[__m256i; 3]; N] {
    let mut coefficients = [[_mm256_setzero_si256(); 3]; N];
    for table in 0..TABLES {
        let place = _mm256_set1_epi8(16 * table as i8);
        // SAFETY: a coefficient's table is eight aligned vectors of 128 bits.
        let tables = GATE_TABLE.0.each_ref().map(|values| unsafe {
            _mm256_broadcastsi128_si256(_mm_load_si128(values.as_ptr().cast::<__m128i>().add(table)))
        });
        for (coefficients, &bytes) in coefficients.iter_mut().zip(bytes) {
            let index = match (TABLES, table) {
                // Of two tables, what is beyond the first has its highest bit set then, and what is below the second.
                (2, 0) => _mm256_add_epi8(bytes, _mm256_set1_epi8(0x70)),
                (2, _) => _mm256_sub_epi8(bytes, place),
                _ => _mm256_add_epi8(_mm256_xor_si256(bytes, place), _mm256_set1_epi8(0x70)),
            };
            for (coefficient, table) in coefficients.iter_mut().zip(tables) {
                *coefficient = _mm256_or_si256(*coefficient, _mm256_shuffle_epi8(table, index));
            }
        }
    }
    coefficients
}

/// From `half_tanh` to sigmoid: `(value + 2^15 + 1) >> 1`, which is an average without sign.
#[target_feature(enable = "avx2")]
fn sigmoid(value: __m256i) -> __m256i {
    let shifted = _mm256_xor_si256(value, _mm256_set1_epi16(i16::MIN));
    let average = _mm256_avg_epu16(shifted, _mm256_setzero_si256());
    _mm256_min_epu16(average, _mm256_set1_epi16(i16::MAX))
}

/// # Safety
/// AVX2; a vector at `words`.
#[target_feature(enable = "avx2")]
unsafe fn load(words: *const Words, half: usize) -> __m256i {
    // SAFETY: `Words` is two aligned halves.
    unsafe { _mm256_load_si256(words.cast::<__m256i>().add(half)) }
}
