//! Sigmoid and tanh as piecewise quadratic polynomials with integer coefficients (SPEC.md, section 6).
//!
//! Both come from one odd function, `h(z) = tanh(z / 2)`: `sigmoid(z) = 1/2 + h(z)/2` and `tanh(z) = h(2z)`. So one
//! table serves both, the reflection for negative arguments is exact, and only half the domain is tabulated.
//! On each of `2^k` uniform segments the sum `c0 + c1 t + c2 t^2` is exact; it is rounded once.

use super::coefficients::{NARROW, WIDE};

/// Exponent of the `i16` argument of [`sigmoid`]: it covers -16 to 16.
pub const SIGMOID_INPUT_EXPONENT: i32 = 11;
/// Exponent of the `i16` argument of [`tanh`]: it covers -8 to 8.
pub const TANH_INPUT_EXPONENT: i32 = 12;
/// Exponents that the `i16` results of [`sigmoid`] and [`tanh`] may have: fewer bits leave more to the weights of the
/// layer after.
pub const OUTPUT_EXPONENTS: std::ops::RangeInclusive<i32> = 8..=15;
/// Exponent of the argument of [`wide_sigmoid`].
pub const WIDE_INPUT_EXPONENT: i32 = 20;
/// Exponent of the result of [`wide_sigmoid`].
pub const WIDE_OUTPUT_EXPONENT: i32 = 30;

/// A table of segments for `h` on the arguments `0..=maximum`.
#[derive(Debug, Clone, Copy)]
pub struct Segments {
    /// `c0`, `c1`, `c2` of each segment, at scale `2^-sum_exponent`.
    pub coefficients: &'static [[i64; 3]],
    /// Low bits of the argument that give the place within the segment; the bits above select it.
    pub local_bits: u32,
    /// Scale of the polynomial's value.
    pub sum_exponent: i32,
}

/// 64 segments of width 1/4 for `i16` arguments at exponent 11.
pub const NARROW_SEGMENTS: Segments = Segments { coefficients: &NARROW, local_bits: 9, sum_exponent: 40 };

/// 256 segments of width 1/16 for arguments at exponent 20.
pub const WIDE_SEGMENTS: Segments = Segments { coefficients: &WIDE, local_bits: 16, sum_exponent: 56 };

impl Segments {
    /// The greatest magnitude that is told apart.
    pub const fn maximum(&self) -> i64 {
        ((self.coefficients.len() as i64) << self.local_bits) - 1
    }

    /// `h` of the argument's magnitude (saturated to the table), rounded to `2^-exponent`, with the argument's sign.
    pub fn evaluate(&self, argument: i64, exponent: i32) -> i64 {
        let magnitude = argument.unsigned_abs().min(self.maximum() as u64) as i64;
        let [c0, c1, c2] = self.coefficients[(magnitude >> self.local_bits) as usize];
        let t = magnitude & ((1 << self.local_bits) - 1);
        let sum = c0 + (c1 + c2 * t) * t;
        let shift = self.sum_exponent - exponent;
        let rounded = (sum + (1 << (shift - 1))) >> shift;
        if argument < 0 { -rounded } else { rounded }
    }
}

/// One, or the most that an `i16` holds below it, at an exponent of [`OUTPUT_EXPONENTS`].
pub const fn one(exponent: i32) -> i64 {
    let one = 1 << exponent;
    if one > i16::MAX as i64 { i16::MAX as i64 } else { one }
}

/// Sigmoid of `x * 2^-11`, as an integer at `exponent`. At 15 the error is below 5e-5, most of it the output's own step.
pub fn sigmoid(x: i16, exponent: i32) -> i16 {
    let half = 1 << (exponent - 1);
    (half + NARROW_SEGMENTS.evaluate(x.into(), exponent - 1)).min(one(exponent)) as i16
}

/// Hyperbolic tangent of `x * 2^-12`, as an integer at `exponent`. At 15 the error is below 8e-5.
pub fn tanh(x: i16, exponent: i32) -> i16 {
    NARROW_SEGMENTS.evaluate(x.into(), exponent).clamp(-one(exponent), one(exponent)) as i16
}

/// Sigmoid of `x * 2^-20`, as an integer at exponent 30, for the scores of tree ensembles. Error below 5e-7.
pub fn wide_sigmoid(x: i64) -> i64 {
    (1 << (WIDE_OUTPUT_EXPONENT - 1)) + WIDE_SEGMENTS.evaluate(x, WIDE_OUTPUT_EXPONENT - 1)
}

/// Exponent of a leaky activation's slope.
pub const SLOPE_EXPONENT: i32 = 15;

/// The value itself if it is not negative, else its product with `slope`, rounded, ties up. `slope` is not negative.
pub fn leaky(value: i16, slope: i16) -> i16 {
    if value >= 0 {
        return value;
    }
    ((i32::from(value) * i32::from(slope) + (1 << (SLOPE_EXPONENT - 1))) >> SLOPE_EXPONENT) as i16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::coefficients::GATE;

    /// The quadratic through `h` at the ends and the middle of each segment: neighbours meet, so the function has no
    /// steps, and it stays monotone.
    fn fit(segments: usize, local_bits: u32, argument_exponent: i32, sum_exponent: i32) -> Vec<[i64; 3]> {
        let h = |argument: f64| (argument * 2f64.powi(-argument_exponent) / 2.0).tanh();
        let width = f64::from(1u32 << local_bits);
        let scale = 2f64.powi(sum_exponent);
        (0..segments)
            .map(|segment| {
                let start = segment as f64 * width;
                let (a, b, c) = (h(start), h(start + width / 2.0), h(start + width));
                let linear = (-3.0 * a + 4.0 * b - c) / width;
                let square = 2.0 * (a - 2.0 * b + c) / (width * width);
                [a, linear, square].map(|coefficient| (coefficient * scale).round() as i64)
            })
            .collect()
    }

    /// The narrow table for places within a segment from 0 to 1: the value at scale 2^-15, the others at 2^-17.
    fn fit_gate() -> Vec<[i64; 3]> {
        let scaled = |coefficient: i64, power: i32| coefficient as f64 * 2f64.powi(power);
        fit(64, 9, 11, 60)
            .into_iter()
            .map(|[c0, c1, c2]| [scaled(c0, 15 - 60), scaled(c1, 9 + 17 - 60), scaled(c2, 18 + 17 - 60)])
            .map(|row| row.map(|coefficient| (coefficient.round() as i64).min(32767)))
            .collect()
    }

    fn source() -> String {
        let table = |name: &str, bits: &str, kind: &str, rows: &[[i64; 3]]| {
            let mut text =
                format!("\n/// {bits}\npub(crate) const {name}: [[{kind}; 3]; {}] = [\n", rows.len());
            for [a, b, c] in rows {
                text += &format!("    [{a}, {b}, {c}],\n");
            }
            text + "];\n"
        };
        String::from(
            "//! Coefficients of `activation`, made by `HACA_REGENERATE=1 cargo test -p haca-kernels coefficients`.\n",
        ) + &table("NARROW", "64 segments of 512, at scale 2^-40.", "i64", &fit(64, 9, 11, 40))
            + &table("WIDE", "256 segments of 65,536, at scale 2^-56.", "i64", &fit(256, 16, 20, 56))
            + &table("GATE", "64 segments of 512, at scales 2^-15, 2^-17, 2^-17.", "i16", &fit_gate())
    }

    #[test]
    fn committed_coefficients_are_those_of_the_definition() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/spec/coefficients.rs");
        if std::env::var_os("HACA_REGENERATE").is_some() {
            std::fs::write(path, source()).unwrap();
        }
        // Compared as numbers: libm may differ in the last place of a double, which is far below one unit here, save
        // for the wide table's constants, which use every bit of a double.
        for (committed, fitted) in [(&NARROW[..], fit(64, 9, 11, 40)), (&WIDE[..], fit(256, 16, 20, 56))] {
            assert_eq!(committed.len(), fitted.len());
            for (a, b) in committed.iter().flatten().zip(fitted.iter().flatten()) {
                assert!((a - b).abs() <= 64, "{a} against {b}");
            }
        }
        assert_eq!(GATE.map(|row| row.map(i64::from)).to_vec(), fit_gate());
    }

    #[test]
    fn activations_are_accurate_monotone_and_symmetric_over_every_argument() {
        for exponent in OUTPUT_EXPONENTS {
            let unit = 2f64.powi(-exponent);
            let (mut before_sigmoid, mut before_tanh) = (i16::MIN, i16::MIN);
            for x in i16::MIN..=i16::MAX {
                let z = f64::from(x);
                let (sigmoid, tanh) = (sigmoid(x, exponent), tanh(x, exponent));
                let exact = 1.0 / (1.0 + (-z / 2048.0).exp());
                assert!((f64::from(sigmoid) * unit - exact).abs() < 1.8e-5 + unit, "sigmoid {x}");
                assert!((f64::from(tanh) * unit - (z / 4096.0).tanh()).abs() < 4e-5 + unit, "tanh {x}");
                assert!(sigmoid >= before_sigmoid && tanh >= before_tanh, "not monotone at {x}");
                (before_sigmoid, before_tanh) = (sigmoid, tanh);
                assert_eq!(tanh, -super::tanh(x.saturating_neg(), exponent));
            }
        }
    }

    #[test]
    fn the_wide_sigmoid_is_accurate_and_reflects_exactly() {
        for x in (-(20i64 << 20)..(20 << 20)).step_by(997) {
            let exact = 1.0 / (1.0 + (-(x as f64) / 1048576.0).exp());
            assert!((wide_sigmoid(x) as f64 / 1073741824.0 - exact).abs() < 5e-7, "{x}");
            assert_eq!(wide_sigmoid(x) + wide_sigmoid(-x), 1 << 30);
        }
        assert_eq!(wide_sigmoid(i64::MIN), (1 << 30) - wide_sigmoid(i64::MAX));
    }
}
