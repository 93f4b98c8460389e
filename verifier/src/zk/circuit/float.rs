//! Float32 numbers by their bits, and what section 3 of `SPEC.md` makes of them: integers and keys.
//!
//! A float of sign `σ`, exponent `E` and fraction `f` is `(-1)^σ · m · 2^(E - 150)` with `m = 2^23 + f`, if `E` is neither 0 nor
//! 255. Times `2^e` it is at least a half and below `2^k` for `k + 1` exponents, from `126 - e` on; below them it rounds to zero,
//! above them it saturates. `126 - e` is at least 30 and `126 - e + k` at most 254, so neither zero, subnormals nor infinities
//! are among them.

use blstrs::Scalar;
use ff::Field;
use haca_kernels::spec::rounding::EXPONENTS;

use super::builder::{Builder, Number, scalar};
use super::range::{sum, width};

/// Bits of the fraction.
const FRACTION: usize = 23;
/// The exponent of infinities, and of what is no number.
const SPECIAL: i128 = 255;
/// Bits of an exponent, with the sign of a distance between two.
const DISTANCE: usize = 9;

/// A float32 that is a number or infinite.
pub(super) struct Float {
    /// One if the sign bit is set.
    negative: Number,
    exponent: Number,
    fraction: Number,
}

impl Builder {
    /// The float with the bits of a word of 32 bits, which is refused if it is no number: 33 constraints. The fraction is a
    /// multiple of what the exponent is short of 255, so it is zero if that is.
    pub(super) fn float(&mut self, word: &Number) -> Float {
        let mut bits = self.bits(word, 0, 32);
        let negative = bits.pop().expect("32 bits");
        let (fraction, exponent) = bits.split_at(FRACTION);
        let (fraction, exponent) = (sum(fraction), sum(exponent));
        let short = exponent.times(-1).plus_constant(SPECIAL);
        let inverse = scalar(short.value).invert().unwrap_or(Scalar::ZERO);
        let multiple = self.field_variable(scalar(fraction.value) * inverse);
        self.note_free(short.value == 0);
        self.enforce(&short.combination, &multiple, &fraction.combination);
        Float { negative, exponent, fraction }
    }

    /// The float's key (`SPEC.md`, section 4): one constraint.
    pub(super) fn key(&mut self, float: &Float) -> Number {
        let magnitude = float.exponent.times(1 << FRACTION).plus(&float.fraction);
        self.with_sign(float, &magnitude)
    }

    /// The magnitude with the float's sign, as a variable of its own: the layers take it as they take an open input.
    fn with_sign(&mut self, float: &Float, magnitude: &Number) -> Number {
        let factor = float.negative.times(-2).plus_constant(1);
        self.product(&factor, magnitude)
    }

    /// `clamp(rne(x · 2^exponent), low, high)`.
    pub(super) fn quantized(&mut self, float: &Float, exponent: i32, low: i128, high: i128) -> Number {
        assert!(EXPONENTS.contains(&exponent), "the loader refuses other exponents");
        if low == high {
            return Number::constant(low);
        }
        // From 2^reach on nothing is within the bounds.
        let limit = low.abs().max(high.abs());
        let reach = width(limit - 1).max(1);
        // Which of the exponents it is, from 0; of more bits or negative if it is none.
        let first = 126 - i128::from(exponent);
        let place = float.exponent.plus_constant(-first);
        let mut place = self.bits(&place, -(1 << (DISTANCE - 1)), DISTANCE);
        let counts = place.pop().expect("a sign");
        let above = place.split_off(width(reach as i128));
        let is_above = self.any(&above);

        // |x · 2^e| · 2^24, and its bits: those below the half, the half, the whole.
        let mut power = Number::constant(1);
        for (index, bit) in place.iter().enumerate() {
            power = self.product(&power, &bit.times((1 << (1 << index)) - 1).plus_constant(1));
        }
        let scaled = self.product(&power, &float.fraction.plus_constant(1 << FRACTION));
        let bits = self.bits(&scaled, 0, width(scaled.high));
        let (rest, half, whole) = (&bits[..FRACTION], &bits[FRACTION], &bits[FRACTION + 1..]);
        // A half goes up to the next even number.
        let goes_up = self.is_not_zero(&sum(rest).plus(&whole[0].times(1 << FRACTION)));
        let up = self.product(half, &goes_up);
        let rounded = sum(whole).plus(&up);

        let most = Number::constant(limit);
        let saturated = if rounded.high > limit {
            let fits = self.at_most(&rounded, limit);
            let fits = self.product(&fits, &Number::constant(1).minus(&is_above));
            self.select(&fits, &rounded.within(0, limit), &most)
        } else {
            self.select(&is_above, &most, &rounded)
        };
        let magnitude = self.product(&counts, &saturated);
        let signed = self.with_sign(float, &magnitude);
        let clamped = self.clamp(&signed, low, high);
        // The layers are to share what they share of an open input.
        self.shared(&clamped, usize::MAX)
    }

    /// One if `number <= bound`, else zero; two constraints if the number is at most one above.
    fn at_most(&mut self, number: &Number, bound: i128) -> Number {
        let distance = number.times(-1).plus_constant(bound + 1);
        if distance.low == 0 { self.is_not_zero(&distance) } else { self.at_least(&distance, 1) }
    }
}
