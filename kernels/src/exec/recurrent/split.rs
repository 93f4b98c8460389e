//! Sums that need more than 32 bits, in two sums of 32: the high bits of the weights and, from what wraps, the rest.
//!
//! With `w = 2^s·h + l`, `0 <= l < 2^s`, a sum `S = Σ w·x` is `2^s·H + L` of `H = Σ h·x` and `L = Σ l·x`. A kernel adds up
//! `H` and `S` modulo 2^32, and finds `L = S - 2^s·H` modulo 2^32: one shift and one multiply-add more for each
//! multiply-add, and no byte more to read. A layer is split at the first `s` at which all that follows fits 32 bits, for
//! every row; one that has none is left to the reference.

use super::half;
use crate::model::graph::{Cell, Recurrent, Tensor};
use crate::spec::recurrence::STATE_BOUND;

/// Beyond this the low parts of more than 16 products may not fit.
const MOST: u32 = 12;
/// Bound of the low part where the high part is shifted to the left to meet it.
const LOW_BOUND: i64 = 1 << 29;

/// Where the sums of a layer are split; 0 is not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::exec) struct Splits {
    pub(in crate::exec) input: u32,
    pub(in crate::exec) state: u32,
}

impl Splits {
    pub(super) fn new(layer: &Recurrent, input: &Tensor, output: &Tensor) -> Option<Splits> {
        let rows = layer.bias.len();
        let fits =
            |fits: &dyn Fn(usize, u32) -> bool| (0..=MOST).find(|&s| (0..rows).all(|row| fits(row, s)));
        Some(Splits {
            input: fits(&|row, s| input_fits(layer, input, output, row, s))?,
            state: fits(&|row, s| state_fits(layer, output, row, s))?,
        })
    }
}

/// Bounds of both parts of a sum, with those of the constant that it starts from.
fn bounds(weights: &[i16], bound: u64, constant: i64, split: u32) -> (i64, i64) {
    let (constant_high, constant_low) = parts(constant, split);
    let sum = |part: &dyn Fn(i64) -> i64| {
        weights.iter().map(|&weight| part(weight.into()).abs()).sum::<i64>() * bound as i64
    };
    let high = sum(&|weight| parts(weight, split).0) + constant_high.abs();
    (high, sum(&|weight| parts(weight, split).1) + constant_low)
}

/// `value = high · 2^split + low`.
pub(super) fn parts(value: i64, split: u32) -> (i64, i64) {
    if split == 0 { (0, value) } else { (value >> split, value & ((1 << split) - 1)) }
}

/// How the parts of an input's sum become its share: the high part is bounded by `limit`, shifted to the left, met by the
/// low part, which is shifted to the right before, and shifted to the right with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meeting {
    pub(super) limit: i32,
    pub(super) left: i32,
    pub(super) low: i32,
    pub(super) right: i32,
}

impl Meeting {
    /// For a shift by `shift` to the right of the whole sum. Beyond the limit a share is saturated, whatever the low part.
    pub(super) fn new(shift: i32, split: u32) -> Meeting {
        let split = split as i32;
        if shift >= split {
            return Meeting { limit: i32::MAX, left: 0, low: split, right: shift - split };
        }
        let left = split - shift;
        Meeting { limit: 3 << (29 - left), left, low: shift, right: 0 }
    }
}

fn input_fits(layer: &Recurrent, input: &Tensor, output: &Tensor, row: usize, split: u32) -> bool {
    let features = layer.features();
    let shift = input.exponent + layer.input_exponents[row] - layer.sum_exponent(row, output);
    if !(0..=30).contains(&shift) {
        return false;
    }
    let constant = layer.bias[row] + half(shift);
    let weights = &layer.input_weights[row * features..][..features];
    let (high, low) = bounds(weights, input.bound(), constant, split);
    if split == 0 {
        // The bias by its magnitude, as the proof has it.
        return low - constant + layer.bias[row].abs() + half(shift) <= i32::MAX.into();
    }
    let meeting = Meeting::new(shift, split);
    let together = if meeting.left == 0 {
        high + (low >> split) < i32::MAX.into()
    } else {
        low >> meeting.low < LOW_BOUND
    };
    together && high <= i32::MAX.into() && low <= i32::MAX.into()
}

fn state_fits(layer: &Recurrent, output: &Tensor, row: usize, split: u32) -> bool {
    let hidden = layer.hidden();
    let (gate, unit) = (row / hidden, row % hidden);
    let weights = &layer.recurrent_weights[row * hidden..][..hidden];
    let exponent = layer.sum_exponent(row, output);
    let limit = i64::from(i32::MAX);
    if layer.cell == Cell::Gru && gate == 2 {
        // The shift after the reset gate is by 17 to 32, and what it leaves fits 32 bits before it saturates.
        let bias = layer.recurrent_bias[unit];
        let (high, low) = bounds(weights, output.bound(), bias, split);
        let whole = if split == 0 { low - bias + bias.abs() } else { (high << split) + low };
        let after = (1i128 << 45) + (i128::from(whole) << 15) + (1i128 << 31);
        return (14..=29).contains(&exponent)
            && after < 1 << (exponent + 34)
            && high <= limit
            && if split == 0 { whole <= limit } else { low <= limit };
    }
    let shift = exponent - layer.cell.argument_exponent(gate);
    let (high, low) = bounds(weights, output.bound(), 0, split);
    let low = low + i64::from(STATE_BOUND) + half(shift);
    let within = low <= limit && high + (low >> split) < limit;
    within && (split as i32..=30).contains(&shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::rounding::requantize;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_meet_in_the_share_that_the_whole_sum_has(
            high in -(1i64 << 31) + 1..1i64 << 31,
            low in -(1i64 << 29)..1i64 << 29,
            shift in 0i32..=30,
            split in 1u32..=MOST,
        ) {
            let meeting = Meeting::new(shift, split);
            let (limit, bound) = (i64::from(meeting.limit), i64::from(STATE_BOUND));
            // What the proof asks for.
            prop_assume!(meeting.left > 0 || high.abs() + (low.abs() >> split) < (1 << 31) - 1);
            let met = (high.clamp(-limit, limit) << meeting.left) + (low >> meeting.low);
            prop_assert!(i32::try_from(met).is_ok());
            let whole = (high << split) + low;
            // The half is part of the low part already.
            let expected = requantize(whole - half(shift), shift, -bound, bound);
            prop_assert_eq!((met >> meeting.right).clamp(-bound, bound), expected);
        }
    }
}
