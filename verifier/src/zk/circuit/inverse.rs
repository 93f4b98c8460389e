//! Reciprocals and inverse square roots (`SPEC.md`, section 6.3).
//!
//! A number is first brought to the octave of the largest that it may be. The prover says which power of two does that,
//! and the bits of the product prove it: no other power brings the number there.

use std::sync::LazyLock;

use haca_kernels::spec::activation::Segments;
use haca_kernels::spec::inverse::{
    FRACTION_BITS, INVERSE_ROOT, INVERSE_ROOT_EXPONENT, RECIPROCAL, RECIPROCAL_EXPONENT,
};

use super::builder::{Builder, Number};

/// `1 / x` as `factor · 2^-(exponent + most)`, or `1 / sqrt(x)` likewise.
pub(super) struct Inverse {
    /// `r` of section 6.3 times `2^(most - octave)`.
    pub(super) factor: Number,
    /// The greatest `g`, or `h`.
    pub(super) most: u32,
}

/// The segments of the inverse root's two octaves, found by all bits of the argument, of which the first two are not both
/// zero: the entries at which they are repeat the first.
static INVERSE_ROOTS: LazyLock<Vec<[i64; 3]>> = LazyLock::new(|| {
    let unreached = INVERSE_ROOT.coefficients.len() / 3;
    let padding = INVERSE_ROOT.coefficients.iter().take(1).cycle().take(unreached);
    padding.chain(INVERSE_ROOT.coefficients).copied().collect()
});

impl Builder {
    /// `reciprocal` of a number that is at least one.
    pub(super) fn reciprocal(&mut self, number: &Number) -> Inverse {
        let Normalized { octaves, most, bits } = self.normalize(number, 1);
        let fraction = leading(&bits[..most as usize], FRACTION_BITS);
        let factor = self.segment(&fraction, &RECIPROCAL, RECIPROCAL_EXPONENT);
        let factor = factor.within(1 << (RECIPROCAL_EXPONENT - 1), 1 << RECIPROCAL_EXPONENT);
        Inverse { factor: self.scale(&factor, &octaves), most }
    }

    /// `inverse_root` of a number that is at least one.
    pub(super) fn inverse_root(&mut self, number: &Number) -> Inverse {
        let Normalized { octaves, most, bits } = self.normalize(number, 2);
        let fraction = leading(&bits, FRACTION_BITS + 2);
        let segments = Segments { coefficients: &INVERSE_ROOTS, ..INVERSE_ROOT };
        let factor = self.segment(&fraction, &segments, INVERSE_ROOT_EXPONENT);
        let factor = factor.within(1 << (INVERSE_ROOT_EXPONENT - 1), 1 << INVERSE_ROOT_EXPONENT);
        Inverse { factor: self.scale(&factor, &octaves), most }
    }

    /// `factor · 2^(most - octave)`.
    fn scale(&mut self, factor: &Number, octaves: &[Number]) -> Number {
        let power = power(octaves, 1);
        self.product(factor, &power)
    }

    /// Brings a number that is at least one to the octave of the greatest that it may be, or with a step of two, to its
    /// two octaves.
    fn normalize(&mut self, number: &Number, step: u32) -> Normalized {
        assert!(number.low >= 1, "{} has no inverse", number.low);
        let octave = |value: i128| value.ilog2() / step;
        let (least, most) = (octave(number.low), octave(number.high));
        let of_value = octave(number.value.clamp(number.low, number.high)) - least;
        let octaves = self.one_of((most - least + 1) as usize, of_value as usize);
        let scaled = self.product(number, &power(&octaves, step));
        let width = step * (most + 1);
        let bits = match step {
            // The first bit of an octave is one.
            1 => {
                let mut bits = self.bits(&scaled, 1 << most, most as usize);
                bits.push(Number::constant(1));
                bits
            }
            _ => {
                let bits = self.bits(&scaled, 0, width as usize);
                // Neither of the first two is set below the two octaves.
                let [.., second, first] = &bits[..] else {
                    unreachable!("two octaves have two bits at least")
                };
                let [second, first] = [second, first].map(|bit| Number::constant(1).minus(bit));
                self.enforce(&second.combination, &first.combination, &Default::default());
                bits
            }
        };
        Normalized { octaves, most, bits }
    }

    /// Numbers of which the one at `chosen` is one and all others zero: as many constraints.
    fn one_of(&mut self, count: usize, chosen: usize) -> Vec<Number> {
        let mut first = Number::constant(1);
        let mut flags = Vec::with_capacity(count);
        for index in 1..count {
            let flag = self.bit(index == chosen);
            first.add(&flag, -1);
            flags.push(flag);
        }
        if count > 1 {
            self.enforce_bit(&first);
        }
        flags.insert(0, first.within(0, 1));
        flags
    }
}

struct Normalized {
    /// For each octave that the number may lie in, from the least to `most`, whether it does.
    octaves: Vec<Number>,
    most: u32,
    /// Bits of the number times `2^(step·(most - octave))`, lowest first.
    bits: Vec<Number>,
}

/// `2^(step·(most - octave))`.
fn power(octaves: &[Number], step: u32) -> Number {
    let mut power = Number::constant(0);
    for (octave, flag) in octaves.iter().rev().enumerate() {
        power.add(flag, 1 << (step * octave as u32));
    }
    // One of the flags is one.
    power.within(1, 1 << (step * (octaves.len() as u32 - 1)))
}

/// The highest `count` bits, as a number would have them after a binary point.
fn leading(bits: &[Number], count: u32) -> Vec<Number> {
    let (len, count) = (bits.len(), count as usize);
    let mut leading = vec![Number::constant(0); count.saturating_sub(len)];
    leading.extend_from_slice(&bits[len.saturating_sub(count)..]);
    leading
}
