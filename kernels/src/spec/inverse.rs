//! Reciprocals and inverse square roots of exact sums, as piecewise quadratic polynomials (SPEC.md, section 6.3).
//!
//! The argument is brought to one or two octaves by a shift, and cut to 20 bits after the binary point.

use super::activation::Segments;
use super::curve_coefficients as table;

/// Exponent of the result of [`reciprocal`].
pub const RECIPROCAL_EXPONENT: i32 = 15;
/// Exponent of the result of [`inverse_root`].
pub const INVERSE_ROOT_EXPONENT: i32 = 30;

/// Bits after the binary point of an argument within its octaves.
pub const FRACTION_BITS: u32 = 20;
/// Of an octave, 64 segments.
const LOCAL_BITS: u32 = 14;

/// `1 / (1 + x)` for `x` from 0 to 1.
pub const RECIPROCAL: Segments =
    Segments { coefficients: &table::RECIPROCAL, local_bits: LOCAL_BITS, sum_exponent: 56 };
/// `1 / sqrt(1 + x)` for `x` from 0 to 3.
pub const INVERSE_ROOT: Segments =
    Segments { coefficients: &table::INVERSE_ROOT, local_bits: LOCAL_BITS, sum_exponent: 56 };

/// `x * 2^(20 - scale)`, cut.
fn fraction(x: u64, scale: u32) -> i64 {
    let cut = if scale > FRACTION_BITS { x >> (scale - FRACTION_BITS) } else { x << (FRACTION_BITS - scale) };
    cut as i64 - (1 << FRACTION_BITS)
}

/// Of `x` from 1 on: `r`, `g` with `1 / x` about `r * 2^(-15 - g)`; `r` lies in 2^14 … 2^15. Relative error below 3.4e-5.
pub fn reciprocal(x: u64) -> (i32, i32) {
    let octave = x.ilog2();
    (RECIPROCAL.evaluate(fraction(x, octave), RECIPROCAL_EXPONENT) as i32, octave as i32)
}

/// Of `x` from 1 on: `r`, `h` with `1 / sqrt(x)` about `r * 2^(-30 - h)`; `r` lies in 2^29 … 2^30. Relative error below
/// 6e-7.
pub fn inverse_root(x: u64) -> (i32, i32) {
    let half = x.ilog2() / 2;
    (INVERSE_ROOT.evaluate(fraction(x, 2 * half), INVERSE_ROOT_EXPONENT) as i32, half as i32)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The quadratic through `f(1 + x)` at the ends and the middle of each segment.
    fn fit(segments: usize, f: impl Fn(f64) -> f64) -> Vec<[i64; 3]> {
        let width = f64::from(1u32 << LOCAL_BITS);
        let at = |argument: f64| f(1.0 + argument / f64::from(1u32 << FRACTION_BITS)) * 2f64.powi(56);
        (0..segments)
            .map(|segment| {
                let start = segment as f64 * width;
                let (a, b, c) = (at(start), at(start + width / 2.0), at(start + width));
                let linear = (-3.0 * a + 4.0 * b - c) / width;
                let square = 2.0 * (a - 2.0 * b + c) / (width * width);
                [a, linear, square].map(|coefficient| coefficient.round() as i64)
            })
            .collect()
    }

    pub(in crate::spec) fn fitted() -> [(&'static str, &'static str, Vec<[i64; 3]>); 2] {
        [
            ("RECIPROCAL", "64 segments of 16,384, at scale 2^-56.", fit(64, |x| 1.0 / x)),
            ("INVERSE_ROOT", "192 segments of 16,384, at scale 2^-56.", fit(192, |x| 1.0 / x.sqrt())),
        ]
    }

    /// Edges of octaves, and numbers between.
    fn arguments() -> impl Iterator<Item = u64> {
        let spread = (0..200_000u64).map(|i| 1 + (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (i % 60 + 3)));
        (0..62).flat_map(|bit| [1 << bit, (1 << bit) + 1, (2 << bit) - 1]).chain(spread)
    }

    #[test]
    fn reciprocals_are_accurate() {
        for x in arguments() {
            let (r, g) = reciprocal(x);
            assert!((1 << 14..=1 << 15).contains(&r), "{x}");
            let error = f64::from(r) * 2f64.powi(-15 - g) * x as f64 - 1.0;
            assert!(error.abs() < 3.4e-5, "{x}: {error:e}");
        }
        assert_eq!(reciprocal(1 << 15), (1 << 15, 15));
    }

    #[test]
    fn inverse_roots_are_accurate() {
        for x in arguments() {
            let (r, h) = inverse_root(x);
            assert!((1 << 29..=1 << 30).contains(&r), "{x}: {r}");
            let error = f64::from(r) * 2f64.powi(-30 - h) * (x as f64).sqrt() - 1.0;
            assert!(error.abs() < 6e-7, "{x}: {error:e}");
        }
        assert_eq!(inverse_root(1 << 20), (1 << 30, 10));
    }
}
