//! Ranges: bits of a number, comparisons, saturation and the one rounding rule (`SPEC.md`, section 2).
//!
//! Soundness of all of them rests on one fact: a number of at most 120 bits that equals `Σ 2^i b_i` with each `b_i` zero
//! or one has only these bits, because neither side reaches the field's order.

use blstrs::Scalar;
use ff::Field;

use super::builder::{Builder, Number};
use haca_kernels::view::Requantize;

/// A number's sign and magnitude after a rounding shift.
pub(super) struct SignMagnitude {
    /// One if the number is not negative. Either where it is zero.
    pub(super) sign: Number,
    /// Bits of the magnitude, lowest first.
    pub(super) magnitude: Vec<Number>,
}

/// Bits that hold every integer from 0 to `high`.
pub(super) fn width(high: i128) -> usize {
    (i128::BITS - high.leading_zeros()) as usize
}

/// `Σ 2^i bits[i]`.
pub(super) fn sum(bits: &[Number]) -> Number {
    let mut sum = Number::constant(0);
    bits.iter().enumerate().for_each(|(index, bit)| sum.add(bit, 1 << index));
    sum
}

impl Builder {
    /// A variable that is zero or one. One constraint.
    pub(super) fn bit(&mut self, value: bool) -> Number {
        self.bit_of(value.into())
    }

    /// The lowest bit of what is left of a number.
    fn bit_of(&mut self, left: i128) -> Number {
        let bit = self.lowest(left);
        self.enforce_bit(&bit);
        bit
    }

    pub(super) fn enforce_bit(&mut self, bit: &Number) {
        let opposite = Number::constant(1).minus(bit);
        self.enforce(&bit.combination, &opposite.combination, &Default::default());
    }

    /// The bits of `number - base`, which proves it to be in `0..2^width`. `width` constraints: the top bit is no
    /// variable of its own, but what the others leave.
    pub(super) fn bits(&mut self, number: &Number, base: i128, width: usize) -> Vec<Number> {
        if width == 0 {
            assert!(number.low == base && number.high == base, "no bits prove nothing");
            return Vec::new();
        }
        assert!(width < 120, "{width} bits are more than a circuit holds");
        // The top bit is in both sides of its constraint, and in what is made of the bits.
        let shifted = self.shared(number, 2).plus_constant(-base);
        let (mut rest, mut left) = (shifted.combination.clone(), shifted.value);
        let mut bits = Vec::with_capacity(width);
        for index in 0..width - 1 {
            let bit = self.bit_of(left);
            rest.add_scaled(&bit.combination, -super::builder::scalar(1 << index));
            left = left.wrapping_sub(bit.value) >> 1;
            bits.push(bit);
        }
        let top = Number {
            combination: self.divided(rest, width - 1),
            terms: shifted.terms + width - 1,
            value: left,
            low: 0,
            high: 1,
        };
        self.enforce_bit(&top);
        bits.push(top);
        bits
    }

    /// One if `number >= bound`, else zero, of a number that is proven to be within its bounds. As many constraints as the
    /// distance has bits, with its sign; none if the number is one of two.
    pub(super) fn at_least(&mut self, number: &Number, bound: i128) -> Number {
        if number.low >= bound || number.high < bound {
            return Number::constant((number.low >= bound).into());
        }
        if number.high - number.low == 1 {
            // One of two integers, as constraints before this prove.
            return number.plus_constant(-number.low);
        }
        let (below, above) = (bound - number.low, number.high - bound);
        let width = width((below - 1).max(above));
        self.bits(&number.plus_constant(-bound), -(1 << width), width + 1).pop().expect("a sign")
    }

    /// One if the number is not zero. Two constraints.
    pub(super) fn is_not_zero(&mut self, number: &Number) -> Number {
        if number.low > 0 || number.high < 0 || number.is_constant() {
            return Number::constant((number.low > 0 || number.high < 0).into());
        }
        let flag = self.variable((number.value != 0).into(), 0, 1);
        let inverse = super::builder::scalar(number.value).invert().unwrap_or(Scalar::ZERO);
        let inverse = self.field_variable(inverse * super::builder::scalar(flag.value));
        self.note_free(number.value == 0);
        self.enforce(&number.combination, &inverse, &flag.combination);
        let opposite = Number::constant(1).minus(&flag);
        self.enforce(&number.combination, &opposite.combination, &Default::default());
        flag
    }

    /// One if one of the bits is. Two constraints, or none for one bit.
    pub(super) fn any(&mut self, bits: &[Number]) -> Number {
        match bits {
            [bit] => bit.clone(),
            _ => self.is_not_zero(&sum(bits)),
        }
    }

    /// `clamp(number, minimum, maximum)`.
    pub(super) fn clamp(&mut self, number: &Number, minimum: i128, maximum: i128) -> Number {
        let mut clamped = number.clone();
        if clamped.high > maximum {
            let above = self.at_least(&clamped, maximum);
            clamped = self.select(&above, &Number::constant(maximum), &clamped).within(i128::MIN, maximum);
        }
        if clamped.low < minimum {
            let inside = self.at_least(&clamped, minimum);
            clamped = self.select(&inside, &clamped, &Number::constant(minimum)).within(minimum, i128::MAX);
        }
        clamped
    }

    /// `⌊number / 2^shift⌋`. As many constraints as the number has bits.
    pub(super) fn shift_right(&mut self, number: &Number, shift: u32) -> Number {
        let base = number.low >> shift << shift;
        let bits = self.bits(number, base, width(number.high - base));
        let (low, high) = (number.low >> shift, number.high >> shift);
        let whole = bits.get(shift as usize..).unwrap_or_default();
        sum(whole).plus_constant(base >> shift).within(low, high)
    }

    /// The same for a result that goes, with nothing but integers beside it, into a sum of which the caller takes the bits,
    /// or the bits of what a shift to the right leaves of it: one constraint for each bit that is shifted away.
    ///
    /// By itself it proves nothing: with a wrong remainder `r` the result is the fraction `(number - r) / 2^shift` of the
    /// field. Once the bits after it have shown that it is an integer `q` within bounds, `number = 2^shift·q + r` holds
    /// among integers, and `0 <= r < 2^shift` leaves one `q`.
    pub(super) fn shift_right_unproven(&mut self, number: &Number, shift: u32) -> Number {
        let base = number.low >> shift << shift;
        let mut left = number.value.wrapping_sub(base);
        let mut quotient = number.plus_constant(-base);
        for index in 0..shift {
            let bit = self.bit_of(left);
            left = left.wrapping_sub(bit.value) >> 1;
            quotient.add(&bit, -(1 << index));
        }
        self.note_remainder(number, base, shift);
        let (terms, base) = (quotient.terms, base >> shift);
        let combination = self.divided(quotient.combination, shift as usize);
        let (low, high) = ((number.low >> shift) - base, (number.high >> shift) - base);
        Number { combination, terms, value: left, low, high }.plus_constant(base)
    }

    /// Sign and magnitude of `⌊(number + half) / 2^shift⌋`, for a shift to the right by at least 0: one constraint for each
    /// bit, and one.
    ///
    /// With the remainder's bits enforced, the rounded number `q` is fixed; `q = (2·sign - 1) · magnitude` then has one
    /// solution, or two where it is zero.
    pub(super) fn sign_magnitude(&mut self, number: &Number, shift: u32) -> SignMagnitude {
        let half = if shift == 0 { 0 } else { 1 << (shift - 1) };
        let rounded = number.plus_constant(half);
        let bound = (rounded.low >> shift).abs().max((rounded.high >> shift).abs());
        let mut quotient = rounded.clone();
        let mut left = rounded.value;
        for index in 0..shift {
            let bit = self.bit_of(left);
            left = left.wrapping_sub(bit.value) >> 1;
            quotient.add(&bit, -(1 << index));
        }
        let sign = self.bit(left >= 0);
        self.note_free(left == 0);
        let factor = sign.times(2).plus_constant(-1);
        let mut left = left.wrapping_div(factor.value);
        let magnitude: Vec<Number> = (0..width(bound))
            .map(|_| {
                let bit = self.bit_of(left);
                left = left.wrapping_sub(bit.value) >> 1;
                bit
            })
            .collect();
        let scaled = sum(&magnitude).times(1 << shift);
        self.enforce(&factor.combination, &scaled.combination, &quotient.combination);
        SignMagnitude { sign, magnitude }
    }

    /// The number of a sign and a magnitude: one constraint.
    pub(super) fn signed(&mut self, sign: &Number, magnitude: &Number) -> Number {
        let bound = magnitude.high;
        let positive = self.product(sign, magnitude);
        positive.times(2).minus(magnitude).within(-bound, bound)
    }

    /// The magnitude of `bits`, at most `2^kept - 1`; and one if that cut something off.
    pub(super) fn saturate(&mut self, bits: &[Number], kept: usize) -> (Number, Number) {
        let (low, high) = bits.split_at(kept.min(bits.len()));
        let beyond = self.any(high);
        let most = Number::constant((1 << kept) - 1);
        (self.select(&beyond, &most, &sum(low)), beyond)
    }

    /// `requantize(number, …)` of `SPEC.md`, section 2.
    pub(super) fn requantize(&mut self, number: &Number, rule: Requantize) -> Number {
        let (minimum, maximum) = (i128::from(rule.minimum), i128::from(rule.maximum));
        let Ok(shift) = u32::try_from(rule.shift) else {
            return self.clamp(&number.times(1 << -rule.shift), minimum, maximum);
        };
        if shift == 0 && number.low >= minimum && number.high <= maximum {
            return number.clone();
        }
        let symmetric = minimum == -maximum;
        let half = if shift == 0 { 0 } else { 1 << (shift - 1) };
        let rounded = number.plus_constant(half);
        let (low, high) = (rounded.low >> shift, rounded.high >> shift);
        let power = (maximum >= 0 && (maximum + 1).count_ones() == 1).then(|| width(maximum));
        match power {
            Some(kept) if minimum <= 0 && low >= 0 && high > maximum => {
                let bits = self.bits(&rounded, 0, width(rounded.high));
                self.saturate(&bits[shift as usize..], kept).0
            }
            Some(kept) if minimum == 0 && low < 0 && high > 0 => {
                let width = width(rounded.high.max(-rounded.low - 1));
                let mut bits = self.bits(&rounded, -(1 << width), width + 1);
                let positive = bits.pop().expect("a sign");
                let (magnitude, _) = self.saturate(&bits[(shift as usize).min(width)..], kept);
                self.product(&positive, &magnitude)
            }
            Some(kept) if symmetric && low < minimum && high > maximum => {
                let SignMagnitude { sign, magnitude } = self.sign_magnitude(number, shift);
                let (magnitude, _) = self.saturate(&magnitude, kept);
                self.signed(&sign, &magnitude)
            }
            // Cut off at a power of two itself, as states are.
            None if symmetric && maximum.count_ones() == 1 && (low < minimum || high > maximum) => {
                let SignMagnitude { sign, mut magnitude } = self.sign_magnitude(number, shift);
                let high = magnitude.split_off(width(maximum - 1).min(magnitude.len()));
                let beyond = self.any(&high);
                let value = self.select(&beyond, &Number::constant(maximum), &sum(&magnitude));
                self.signed(&sign, &value)
            }
            _ if shift == 0 => self.clamp(number, minimum, maximum),
            _ => {
                let quotient = self.shift_right(&rounded, shift);
                self.clamp(&quotient, minimum, maximum)
            }
        }
    }
}
