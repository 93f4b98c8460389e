//! Sigmoid and tanh (`SPEC.md`, section 6): the segment is selected by its bits, the polynomial takes two products, its
//! rounding one range check.

use haca_kernels::spec::activation::{NARROW_SEGMENTS, Segments, WIDE_OUTPUT_EXPONENT, WIDE_SEGMENTS, one};
use haca_kernels::view::{Activation, Requantize};

use super::builder::{Builder, Number};
use super::curve::Gelu;
use super::range::{SignMagnitude, sum};

impl Builder {
    /// `act(requantize(number, …))`.
    pub(super) fn activate(&mut self, number: &Number, rule: Requantize, function: Activation) -> Number {
        match function {
            Activation::None => self.requantize(number, rule),
            Activation::Leaky(slope) => {
                let x = self.requantize(number, rule);
                let positive = self.at_least(&x, 0);
                let scaled = self.shift_right(&x.times(slope.into()).plus_constant(1 << 14), 15);
                self.select(&positive, &x, &scaled)
            }
            // The argument is cut off at 16 bits, and its magnitude at the table's end, which is the same.
            Activation::Sigmoid(exponent) => {
                let half = 1i128 << (exponent - 1);
                let h = self.half_tanh(number, rule.shift, &NARROW_SEGMENTS, exponent - 1);
                let sum = h.plus_constant(half);
                self.clamp(&sum, 0, one(exponent).into())
            }
            Activation::Tanh(exponent) => {
                let bound = i128::from(one(exponent));
                let h = self.half_tanh(number, rule.shift, &NARROW_SEGMENTS, exponent);
                self.clamp(&h, -bound, bound)
            }
            Activation::Gelu(exponent) => self.gelu(number, rule, Gelu::exact(exponent)),
            Activation::GeluTanh(exponent) => self.gelu(number, rule, Gelu::by_tanh(exponent)),
        }
    }

    /// `wide_sigmoid` of a number shifted right by `shift` bits.
    pub(super) fn wide_sigmoid(&mut self, number: &Number, shift: i32) -> Number {
        let h = self.half_tanh(number, shift, &WIDE_SEGMENTS, WIDE_OUTPUT_EXPONENT - 1);
        h.plus_constant(1 << (WIDE_OUTPUT_EXPONENT - 1))
    }

    /// `H(requantize(number, shift), exponent)`.
    fn half_tanh(&mut self, number: &Number, shift: i32, segments: &Segments, exponent: i32) -> Number {
        assert_eq!(segments.evaluate(0, exponent), 0, "the sign of zero is free");
        let (number, shift) =
            if shift < 0 { (number.times(1 << -shift), 0) } else { (number.clone(), shift as u32) };
        let SignMagnitude { sign, mut magnitude } = self.sign_magnitude(&number, shift);
        let arguments = super::range::width(segments.maximum().into());
        let high = magnitude.split_off(arguments.min(magnitude.len()));
        magnitude.resize(arguments, Number::constant(0));
        let beyond = self.any(&high);
        let within = self.segment(&magnitude, segments, exponent);
        let last = Number::constant(segments.evaluate(segments.maximum(), exponent).into());
        let value = self.select(&beyond, &last, &within);
        self.signed(&sign, &value)
    }

    /// `H` of an argument that is not negative and within the table.
    pub(super) fn segment(&mut self, argument: &[Number], segments: &Segments, exponent: i32) -> Number {
        let (local, index) = argument.split_at(segments.local_bits as usize);
        let local = sum(local);
        let columns = [0, 1, 2].map(|power| -> Vec<i128> {
            segments.coefficients.iter().map(|coefficients| coefficients[power].into()).collect()
        });
        let [c0, c1, c2] = self.look_up(index, columns);
        let slope = self.product(&c2, &local).plus(&c1);
        let curve = self.product(&slope, &local).plus(&c0);
        let (low, high) = extremes(segments);
        let shift = (segments.sum_exponent - exponent) as u32;
        let rounded = curve.within(low, high).plus_constant(1 << (shift - 1));
        self.shift_right(&rounded, shift)
    }

    /// Entries of tables at the index with these bits. Tables are as long as there are indices.
    pub(super) fn look_up<const N: usize>(
        &mut self,
        index: &[Number],
        tables: [Vec<i128>; N],
    ) -> [Number; N] {
        let (low, high) = index.split_at(columns_of(index.len(), N));
        let (columns, rows) = (self.one_hot(low), self.one_hot(high));
        tables.map(|table| {
            assert_eq!(table.len(), 1 << index.len(), "an entry for each index");
            let bounds = (*table.iter().min().expect("entries"), *table.iter().max().expect("entries"));
            let row = |row: usize| {
                let mut entry = Number::constant(0);
                for (column, &value) in columns.iter().zip(&table[row * columns.len()..]) {
                    entry.add(column, value);
                }
                entry.within(bounds.0, bounds.1)
            };
            // One of the rows is chosen; the first is what remains if none of the others is.
            let first = row(0);
            let mut chosen = first.clone();
            let entries = |row: usize| &table[row * columns.len()..][..columns.len()];
            for (index, flag) in rows.iter().enumerate().skip(1) {
                if entries(index) == entries(0) {
                    continue;
                }
                let difference = self.product(flag, &row(index).minus(&first));
                chosen.add(&difference, 1);
            }
            chosen.within(bounds.0, bounds.1)
        })
    }

    /// For each number that the bits may be, one if they are it, else zero. Exactly one is one.
    fn one_hot(&mut self, bits: &[Number]) -> Vec<Number> {
        let mut flags = vec![Number::constant(1)];
        for bit in bits {
            let mut with = Vec::with_capacity(flags.len());
            let mut rest = bit.clone();
            for flag in &flags[1..] {
                let both = self.product(flag, bit);
                rest.add(&both, -1);
                with.push(both);
            }
            with.insert(0, rest.within(0, 1));
            let without: Vec<Number> =
                flags.iter().zip(&with).map(|(flag, both)| flag.minus(both).within(0, 1)).collect();
            flags = [without, with].concat();
        }
        flags
    }
}

/// How many of an index's bits choose the column: `2^c - c - 1` constraints for the flags of `c` bits, and one in each table
/// for each row but the first.
fn columns_of(bits: usize, tables: usize) -> usize {
    let flags = |bits: usize| (1 << bits) - bits - 1;
    let cost = |columns: usize| {
        let rows = bits - columns;
        flags(columns) + flags(rows) + tables * ((1 << rows) - 1)
    };
    (0..=bits).min_by_key(|&columns| cost(columns)).unwrap_or(bits)
}

/// Bounds of the polynomials over the whole table: at the ends of segments, and where a parabola turns.
fn extremes(segments: &Segments) -> (i128, i128) {
    let last = (1i128 << segments.local_bits) - 1;
    let values = segments.coefficients.iter().flat_map(|&[c0, c1, c2]| {
        let [c0, c1, c2] = [c0, c1, c2].map(i128::from);
        let turn = if c2 == 0 { 0 } else { (-c1 / (2 * c2)).clamp(0, last) };
        [0, (turn - 1).max(0), turn, (turn + 1).min(last), last].map(|t| c0 + (c1 + c2 * t) * t)
    });
    values.fold((i128::MAX, i128::MIN), |(low, high), value| (low.min(value), high.max(value)))
}
