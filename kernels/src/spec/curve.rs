//! `exp2` and GELU as piecewise quadratic polynomials in 32-bit arithmetic (SPEC.md, section 6.2).
//!
//! A segment is chosen by the argument's high bits, and every product fits 32 bits, so that eight arguments are worked
//! on in one 256-bit vector.

use super::activation::OUTPUT_EXPONENTS;
use super::curve_coefficients as table;

/// Exponent of the argument of [`exp2`].
pub const EXP2_INPUT_EXPONENT: i32 = 16;
/// Largest argument of [`exp2`]: `2^-16` and less is as good as zero.
pub const EXP2_MAXIMUM: i32 = (1 << 20) - 1;
/// Exponent of the result of [`exp2`].
pub const EXP2_OUTPUT_EXPONENT: i32 = 15;
/// Exponent at which GELU's argument chooses its segment: 64 of them cover magnitudes below 8.
pub const GELU_INPUT_EXPONENT: i32 = 15;
/// Largest magnitude that is told from others.
pub const GELU_MAXIMUM: i32 = (1 << 18) - 1;
/// Scale of a polynomial's value.
pub const SUM_EXPONENT: i32 = 30;

/// A function on `0..segments * 2^local_bits`.
#[derive(Debug, Clone, Copy)]
pub struct Curve {
    /// The value at a segment's start at scale `2^-30`, its slope, and half its curvature.
    pub coefficients: &'static [[i32; 3]],
    /// Low bits of the argument that give the place within the segment; the bits above select it.
    pub local_bits: u32,
    /// Scale of the curvature's share of the slope.
    pub inner_shift: u32,
    /// Scale of the slope's share of the value.
    pub outer_shift: u32,
}

/// `2^-x` for `x` from 0 to 1, at exponent 16.
pub const EXP2: Curve = Curve { coefficients: &table::EXP2, local_bits: 13, inner_shift: 13, outer_shift: 4 };
/// `gelu(z) - z` for `z` from 0 to 8, at exponent 15.
pub const GELU: Curve = Curve { coefficients: &table::GELU, local_bits: 12, inner_shift: 15, outer_shift: 1 };
/// The same for GELU's approximation by tanh.
pub const GELU_TANH: Curve =
    Curve { coefficients: &table::GELU_TANH, local_bits: 12, inner_shift: 15, outer_shift: 1 };

impl Curve {
    fn at(&self, argument: i32) -> i32 {
        let [value, slope, curvature] = self.coefficients[(argument >> self.local_bits) as usize];
        let local = argument & ((1 << self.local_bits) - 1);
        let slope = slope + ((curvature * local) >> self.inner_shift);
        value + ((slope * local) >> self.outer_shift)
    }
}

/// `2^-x` of `x * 2^-16` at exponent 15, for `x` from 0 to [`EXP2_MAXIMUM`]. Error below 2.1e-5.
pub fn exp2(x: i32) -> i32 {
    let whole = x >> EXP2_INPUT_EXPONENT;
    let value = EXP2.at(x & ((1 << EXP2_INPUT_EXPONENT) - 1));
    let shift = SUM_EXPONENT - EXP2_OUTPUT_EXPONENT + whole;
    (value + (1 << (shift - 1))) >> shift
}

/// GELU of `x * 2^-exponent`, at the same exponent, which is one of [`OUTPUT_EXPONENTS`]. Error below 1.6e-5 and the
/// output's step.
pub fn gelu(x: i16, exponent: i32) -> i16 {
    bent(&GELU, x, exponent)
}

/// GELU's approximation by tanh, likewise.
pub fn gelu_tanh(x: i16, exponent: i32) -> i16 {
    bent(&GELU_TANH, x, exponent)
}

/// A bound below all results of both functions at an exponent: -0.171, rounded down.
pub const fn gelu_least(exponent: i32) -> i64 {
    -((171 * (1 << exponent) + 999) / 1000)
}

/// `max(x, 0)`, and what the function lies below it.
fn bent(curve: &Curve, x: i16, exponent: i32) -> i16 {
    debug_assert!(OUTPUT_EXPONENTS.contains(&exponent));
    let magnitude = i32::from(x.unsigned_abs()) << (GELU_INPUT_EXPONENT - exponent);
    let shift = SUM_EXPONENT - exponent;
    let below = (curve.at(magnitude.min(GELU_MAXIMUM)) + (1 << (shift - 1))) >> shift;
    (i32::from(x.max(0)) + below) as i16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::inverse;

    /// The complementary error function, by its series near zero and its continued fraction elsewhere.
    fn erfc(x: f64) -> f64 {
        if x < 2.5 {
            let (mut term, mut sum) = (x, x);
            for n in 1..80 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
        }
        let fraction = (1..120).rev().fold(x, |below, n| x + f64::from(n) / 2.0 / below);
        (-x * x).exp() / (fraction * std::f64::consts::PI.sqrt())
    }

    fn below_erf(z: f64) -> f64 {
        -z * 0.5 * erfc(z / std::f64::consts::SQRT_2)
    }

    fn below_tanh(z: f64) -> f64 {
        let argument = (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044715 * z * z * z);
        -z * 0.5 * (1.0 - argument.tanh())
    }

    /// The quadratic through `f` at the ends and the middle of each segment, so that neighbours meet.
    pub(super) fn fit(curve: &Curve, exponent: i32, f: impl Fn(f64) -> f64) -> Vec<[i32; 3]> {
        let width = f64::from(1u32 << curve.local_bits);
        let scale = |power: i32| 2f64.powi(power);
        let at = |argument: f64| f(argument * scale(-exponent)) * scale(SUM_EXPONENT);
        (0..curve.coefficients.len())
            .map(|segment| {
                let start = segment as f64 * width;
                let (a, b, c) = (at(start), at(start + width / 2.0), at(start + width));
                let linear = (-3.0 * a + 4.0 * b - c) / width * scale(curve.outer_shift as i32);
                let square = 2.0 * (a - 2.0 * b + c) / (width * width);
                let square = square * scale((curve.outer_shift + curve.inner_shift) as i32);
                [a, linear, square].map(|coefficient| coefficient.round() as i32)
            })
            .collect()
    }

    fn source(curves: &[(&str, &str, Vec<[i32; 3]>)], segments: &[(&str, &str, Vec<[i64; 3]>)]) -> String {
        let mut text = String::from(
            "//! Coefficients of `curve` and `inverse`, made by `HACA_REGENERATE=1 cargo test -p haca-kernels curve`.\n",
        );
        let mut table = |name: &str, what: &str, kind: &str, rows: Vec<String>| {
            text += &format!("\n/// {what}\npub(crate) const {name}: [[{kind}; 3]; {}] = [\n", rows.len());
            rows.iter().for_each(|row| text += &format!("    {row},\n"));
            text += "];\n";
        };
        for (name, what, rows) in curves {
            table(name, what, "i32", rows.iter().map(|row| format!("{row:?}")).collect());
        }
        for (name, what, rows) in segments {
            table(name, what, "i64", rows.iter().map(|row| format!("{row:?}")).collect());
        }
        text
    }

    #[test]
    fn committed_curve_coefficients_are_those_of_the_definition() {
        let curves = [
            ("EXP2", "8 segments of 8,192.", fit(&EXP2, EXP2_INPUT_EXPONENT, |x| (-x).exp2())),
            ("GELU", "64 segments of 4,096.", fit(&GELU, GELU_INPUT_EXPONENT, below_erf)),
            ("GELU_TANH", "64 segments of 4,096.", fit(&GELU_TANH, GELU_INPUT_EXPONENT, below_tanh)),
        ];
        let segments = inverse::tests::fitted();
        if std::env::var_os("HACA_REGENERATE").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/spec/curve_coefficients.rs");
            std::fs::write(path, source(&curves, &segments)).unwrap();
        }
        // libm may differ in the last place of a double, which is far below one unit here.
        for ((_, _, fitted), committed) in
            curves.iter().zip([&table::EXP2[..], &table::GELU[..], &table::GELU_TANH[..]])
        {
            assert_eq!(committed.len(), fitted.len());
            for (a, b) in committed.iter().flatten().zip(fitted.iter().flatten()) {
                assert!((a - b).abs() <= 1, "{a} against {b}");
            }
        }
        for ((_, _, fitted), committed) in
            segments.iter().zip([&table::RECIPROCAL[..], &table::INVERSE_ROOT[..]])
        {
            assert_eq!(committed.len(), fitted.len());
            for (a, b) in committed.iter().flatten().zip(fitted.iter().flatten()) {
                assert!((a - b).abs() <= 64, "{a} against {b}");
            }
        }
    }

    #[test]
    fn exp2_is_accurate_and_never_rises() {
        let mut before = i32::MAX;
        for x in 0..=EXP2_MAXIMUM {
            let value = exp2(x);
            let exact = (-f64::from(x) / 65536.0).exp2();
            assert!((f64::from(value) / 32768.0 - exact).abs() < 2.1e-5, "{x}");
            assert!(value <= before, "rises at {x}");
            before = value;
        }
        assert_eq!((exp2(0), exp2(1 << 16)), (1 << 15, 1 << 14));
    }

    #[test]
    fn gelu_is_accurate_over_every_argument_and_its_least_value_is_known() {
        type Below = fn(f64) -> f64;
        for exponent in OUTPUT_EXPONENTS {
            let unit = 2f64.powi(-exponent);
            let functions = [(gelu as fn(i16, i32) -> i16, below_erf as Below), (gelu_tanh, below_tanh)];
            for (function, below) in functions {
                for x in i16::MIN..=i16::MAX {
                    let z = f64::from(x) * unit;
                    let exact = z.max(0.0) + below(z.abs());
                    let value = function(x, exponent);
                    let error = (f64::from(value) * unit - exact).abs();
                    assert!(error < 1.6e-5 + 0.51 * unit, "{x} at {exponent}: {error:e}");
                    assert!(i64::from(value) >= gelu_least(exponent), "{x} at {exponent}");
                }
            }
        }
    }
}
