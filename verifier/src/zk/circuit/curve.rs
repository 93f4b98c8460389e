//! `exp2` and GELU (`SPEC.md`, section 6.2): the segment is selected by its bits, and the second rounding of the
//! polynomial is one with the rounding of the result, because `⌊(⌊u / a⌋ + n) / b⌋ = ⌊(u + a·n) / (a·b)⌋`.

use haca_kernels::spec::curve::{
    self, Curve, EXP2, EXP2_INPUT_EXPONENT, EXP2_MAXIMUM, EXP2_OUTPUT_EXPONENT, GELU, GELU_INPUT_EXPONENT,
    GELU_MAXIMUM, GELU_TANH, SUM_EXPONENT,
};
use haca_kernels::view::Requantize;

use super::builder::{Builder, Number};
use super::range::{SignMagnitude, sum, width};

/// Bounds of `V` over all arguments: tests compute them.
const EXP2_BOUNDS: (i128, i128) = (1 << 29, 1 << 30);
const GELU_BOUNDS: (i128, i128) = (-(171 << 30) / 1000, 0);

/// One of the two forms of GELU at an exponent.
#[derive(Clone, Copy)]
pub(super) struct Gelu {
    curve: &'static Curve,
    exponent: i32,
    /// What lies below `max(x, 0)` at the least and the greatest argument.
    ends: [i128; 2],
}

impl Gelu {
    pub(super) fn exact(exponent: i32) -> Gelu {
        Gelu::new(&GELU, exponent, curve::gelu)
    }

    pub(super) fn by_tanh(exponent: i32) -> Gelu {
        Gelu::new(&GELU_TANH, exponent, curve::gelu_tanh)
    }

    fn new(curve: &'static Curve, exponent: i32, function: fn(i16, i32) -> i16) -> Gelu {
        let below = |x: i16| i128::from(function(x, exponent)) - i128::from(x.max(0));
        Gelu { curve, exponent, ends: [below(i16::MIN), below(i16::MAX)] }
    }
}

impl Builder {
    /// `exp2(min(⌊number / 2^shift⌋, 2^20 - 1))`, for a number whose bits prove that it is not negative.
    pub(super) fn exponential(&mut self, number: &Number, shift: u32) -> Number {
        if number.is_constant() {
            let argument = (number.low >> shift).min(EXP2_MAXIMUM.into());
            return Number::constant(curve::exp2(argument as i32).into());
        }
        let bits = self.bits(number, 0, width(number.high).max(1));
        let mut argument = bits.get(shift as usize..).unwrap_or_default().to_vec();
        let arguments = width(EXP2_MAXIMUM.into());
        let high = argument.split_off(arguments.min(argument.len()));
        argument.resize(arguments, Number::constant(0));
        let (fraction, whole) = argument.split_at(EXP2_INPUT_EXPONENT as usize);

        // 2^-whole, as an integer.
        let mut power = Number::constant(1);
        for (index, bit) in whole.iter().enumerate() {
            let halves = 1i128 << (1 << index);
            power = self.product(&power, &bit.times(1 - halves).plus_constant(halves));
        }
        let most = (1 << whole.len()) - 1;
        let value = self.curve(fraction, &EXP2, EXP2_BOUNDS);
        let scaled = self.product(&value, &power);
        let shift = EXP2.outer_shift + (SUM_EXPONENT - EXP2_OUTPUT_EXPONENT) as u32 + most;
        let within = self.shift_right(&scaled.plus_constant(1 << (shift - 1)), shift);
        let beyond = self.any(&high);
        self.select(&beyond, &Number::constant(curve::exp2(EXP2_MAXIMUM).into()), &within)
    }

    /// GELU of `requantize(number, rule)`.
    pub(super) fn gelu(&mut self, number: &Number, rule: Requantize, gelu: Gelu) -> Number {
        let magnitudes = width(i16::MAX.into());
        // If nothing but 16 bits cuts the argument off, its sign and magnitude do it.
        let (number, shift) = if rule.maximum == i64::from(i16::MAX) {
            let left = (-rule.shift).max(0);
            (number.times(1 << left), rule.shift.max(0) as u32)
        } else {
            (self.requantize(number, rule), 0)
        };
        let SignMagnitude { sign, magnitude } = self.sign_magnitude(&number, shift);
        let (kept, cut_off) = self.saturate(&magnitude, magnitudes);
        let positive = self.product(&sign, &kept);

        // A magnitude beyond 16 bits is that of the least or the greatest argument; one beyond the table that of its end.
        let by = (GELU_INPUT_EXPONENT - gelu.exponent) as usize;
        let tabulated = width(GELU_MAXIMUM.into()) - by;
        let beyond = if tabulated < magnitudes {
            assert_eq!(gelu.ends[0], gelu.ends[1], "both are at the table's end");
            self.any(magnitude.get(tabulated..).unwrap_or_default())
        } else {
            cut_off
        };
        let mut argument = vec![Number::constant(0); by];
        argument.extend(magnitude.into_iter().take(tabulated.min(magnitudes)));
        argument.resize(width(GELU_MAXIMUM.into()), Number::constant(0));
        let curve = self.curve(&argument, gelu.curve, GELU_BOUNDS);
        let shift = gelu.curve.outer_shift + (SUM_EXPONENT - gelu.exponent) as u32;
        let within = self.shift_right(&curve.plus_constant(1 << (shift - 1)), shift);
        let [least, greatest] = gelu.ends;
        let end = sign.times(greatest - least).plus_constant(least);
        let below = self.select(&beyond, &end, &within);
        positive.plus(&below).within(curve::gelu_least(gelu.exponent).into(), rule.maximum.max(0).into())
    }

    /// `V · 2^outer_shift` before its second rounding, at an argument with these bits. `bounds` are those of `V`.
    fn curve(&mut self, argument: &[Number], curve: &Curve, bounds: (i128, i128)) -> Number {
        let (local, index) = argument.split_at(curve.local_bits as usize);
        let local = sum(local);
        let columns = [0, 1, 2].map(|power| -> Vec<i128> {
            curve.coefficients.iter().map(|coefficients| coefficients[power].into()).collect()
        });
        let [c0, c1, c2] = self.look_up(index, columns);
        let bend = self.product(&c2, &local);
        let slope = self.shift_right(&bend, curve.inner_shift).plus(&c1);
        let rise = self.product(&slope, &local);
        let whole = 1 << curve.outer_shift;
        rise.plus(&c0.times(whole)).within(bounds.0 * whole, bounds.1 * whole + whole - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_the_curves_are_those_over_all_arguments() {
        let bounds = |curve: &Curve| {
            let values = curve.coefficients.iter().flat_map(|&[c0, c1, c2]| {
                (0..1 << curve.local_bits).map(move |t| {
                    let slope = c1 + ((c2 * t) >> curve.inner_shift);
                    i128::from(c0 + ((slope * t) >> curve.outer_shift))
                })
            });
            values.fold((i128::MAX, i128::MIN), |(low, high), value| (low.min(value), high.max(value)))
        };
        for (curve, (low, high)) in [(EXP2, EXP2_BOUNDS), (GELU, GELU_BOUNDS), (GELU_TANH, GELU_BOUNDS)] {
            let (least, greatest) = bounds(&curve);
            assert!(low <= least && greatest <= high, "{least}..={greatest}");
        }
    }

    #[test]
    fn gelu_ends_alike_where_its_table_ends_before_sixteen_bits() {
        for exponent in 8..12 {
            for gelu in [Gelu::exact(exponent), Gelu::by_tanh(exponent)] {
                assert_eq!(gelu.ends[0], gelu.ends[1]);
            }
        }
    }
}
