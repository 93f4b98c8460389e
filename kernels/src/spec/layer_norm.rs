//! Layer normalisation in integers (SPEC.md, section 7.15).

use super::inverse::{INVERSE_ROOT_EXPONENT, inverse_root};

/// Most values of one group: their sums fit 64 bits.
pub const MAX_GROUP: usize = 1 << 12;
/// Exponent of a normalised value, before scale and bias; its magnitude is below 2^27.
pub const NORMALIZED_EXPONENT: i32 = 20;
/// Bound of a normalised value: the root of the largest group, and more than any rounding.
pub const NORMALIZED_BOUND: i64 = 1 << 27;

/// What a group's values are normalised by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moments {
    /// Sum of the values.
    pub sum: i64,
    /// Inverse of their deviation: a factor of 30 bits.
    pub factor: i32,
    /// The rounding shift after it.
    pub shift: i32,
}

impl Moments {
    /// From the sum and the sum of squares of `length` values; `epsilon` is at the scale of `length^2` variances.
    pub fn new(length: i64, sum: i64, squares: i64, epsilon: i64) -> Moments {
        let deviation = length * squares - sum * sum + epsilon;
        let (factor, half) = inverse_root(deviation as u64);
        Moments { sum, factor, shift: INVERSE_ROOT_EXPONENT + half - NORMALIZED_EXPONENT }
    }

    /// A value of the group, less the mean, over the deviation, at exponent 20.
    pub fn normalized(self, length: i64, x: i64) -> i64 {
        let product = (length * x - self.sum) * i64::from(self.factor);
        (product + (1 << (self.shift - 1))) >> self.shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised_values_are_accurate_and_bounded() {
        for (length, spread) in [(1, 5), (2, 1), (32, 3), (32, 3000), (33, 32_767), (4096, 32_767)] {
            for seed in 0..50i64 {
                let at = |i: i64| (i * 7919 + seed * 104_729) % (2 * spread + 1) - spread;
                let values: Vec<i64> = (0..length).map(at).collect();
                let (sum, squares) = (values.iter().sum::<i64>(), values.iter().map(|x| x * x).sum::<i64>());
                let moments = Moments::new(length, sum, squares, 1);
                let mean = sum as f64 / length as f64;
                let deviation = (length * squares - sum * sum + 1) as f64 / (length * length) as f64;
                for &x in &values {
                    let exact = (x as f64 - mean) / deviation.sqrt();
                    let normalized = moments.normalized(length, x);
                    assert!(normalized.abs() < NORMALIZED_BOUND);
                    let error = normalized as f64 / 1_048_576.0 - exact;
                    assert!(error.abs() < 1e-6 * (1.0 + exact.abs()), "{length} {spread} {x}: {error:e}");
                }
            }
        }
        // One far from all others is as far as it can be.
        let moments = Moments::new(4096, 32_767, 32_767 * 32_767, 1);
        assert!(moments.normalized(4096, 32_767) < NORMALIZED_BOUND / 2 + 100);
    }
}
