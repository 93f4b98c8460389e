//! Softmax in integers (SPEC.md, section 7.14).

use super::curve::{EXP2_MAXIMUM, exp2};
use super::inverse::{RECIPROCAL_EXPONENT, reciprocal};

/// Most values of one softmax: their sum fits 32 bits.
pub const MAX_GROUP: usize = 1 << 12;
/// Exponents of the result: at the least of them the last shift fits 32 bits.
pub const OUTPUT_EXPONENTS: std::ops::RangeInclusive<i32> = 12..=15;

/// The scale of the argument: `x * multiplier * 2^-shift` is the logarithm to base 2, at exponent 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// From 1 to 2^30.
    pub multiplier: i32,
    /// From 0 to 62.
    pub shift: i32,
}

impl Scale {
    /// `exp(x - largest)` at exponent 15, for `below = largest - x`.
    pub fn exponential(self, below: i64) -> i32 {
        let argument = (below * i64::from(self.multiplier)) >> self.shift;
        exp2(argument.min(EXP2_MAXIMUM.into()) as i32)
    }
}

/// What brings an exponential to its share of their sum: a factor and a rounding shift.
pub fn share(sum: u64, exponent: i32) -> (i32, i32) {
    let (factor, octave) = reciprocal(sum);
    (factor, RECIPROCAL_EXPONENT + octave - exponent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::rounding::requantize;

    /// Softmax of one group, at `exponent`, each bounded by `one`.
    fn softmax(group: &mut [i64], scale: Scale, exponent: i32, one: i64) {
        let largest = group.iter().copied().max().unwrap_or(0);
        group.iter_mut().for_each(|x| *x = scale.exponential(largest - *x).into());
        let (factor, shift) = share(group.iter().sum::<i64>() as u64, exponent);
        group.iter_mut().for_each(|x| *x = requantize(*x * i64::from(factor), shift, 0, one));
    }

    #[test]
    fn shares_are_accurate_and_add_up_to_what_sums_of_products_are_proven_with() {
        // log2(e) at exponent 16 + 20, of values at exponent 10.
        let scale = Scale { multiplier: (std::f64::consts::LOG2_E * 67_108_864.0) as i32, shift: 20 };
        for (length, spread) in [(1, 1000), (7, 40), (32, 3000), (33, 9000), (4096, 20_000)] {
            for seed in 0..20i64 {
                let at = |i: i64| ((i * 7919 + seed * 104_729) % 65_537) * spread / 32_768 - spread;
                let values: Vec<i64> = (0..length).map(at).collect();
                let largest = *values.iter().max().unwrap();
                let exact: Vec<f64> = values.iter().map(|&x| ((x - largest) as f64 / 1024.0).exp()).collect();
                let total: f64 = exact.iter().sum();
                let mut shares = values.clone();
                softmax(&mut shares, scale, 15, 32767);
                for (share, exact) in shares.iter().zip(&exact) {
                    assert!((*share as f64 / 32768.0 - exact / total).abs() < 1e-4);
                }
                // See `validate::matmul`.
                assert!(shares.iter().sum::<i64>() <= (1 << 15) + 8 + length);
            }
        }
    }
}
