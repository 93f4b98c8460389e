//! The one way gadgets make variables and constraints, and the numbers they pass on.
//!
//! A gadget runs twice in its life: once to write the constraints, when values are of no account, and then for every
//! proof to compute the values, when linear combinations are not kept. It is the same code, so the two cannot differ.

use blstrs::Scalar;
use ff::Field;

use super::{MAX_CONSTRAINTS, MAX_TERMS};
use crate::zk::r1cs::{Combination, ConstraintSystem, Variable, Writer};

/// Bound of every number's magnitude. Sums and products of numbers within it are compared with the bound in 128 bits
/// and are far from the field's order: no gadget ever wraps.
const BOUND: i128 = 1 << 120;

/// Terms that a variable of its own must save to be worth its constraint: between what one takes of memory, some fifty
/// terms, and of a proof's time, some thousand.
const WORTH: usize = 256;

/// A linear combination with its value and the interval that the constraints so far prove it to lie in.
#[derive(Debug, Clone)]
pub(super) struct Number {
    pub(super) combination: Combination,
    /// Terms of the combination before it is merged, also where it is not kept.
    pub(super) terms: usize,
    pub(super) value: i128,
    pub(super) low: i128,
    pub(super) high: i128,
}

impl Number {
    fn new(combination: Combination, terms: usize, value: i128, (low, high): (i128, i128)) -> Number {
        assert!(-BOUND < low && low <= high && high < BOUND, "{low}..={high} is beyond what a circuit holds");
        Number { combination, terms, value, low, high }
    }

    pub(super) fn constant(value: i128) -> Number {
        let combination =
            if value == 0 { Combination::default() } else { Combination::constant(scalar(value)) };
        Number::new(combination, usize::from(value != 0), value, (value, value))
    }

    pub(super) fn is_constant(&self) -> bool {
        self.low == self.high
    }

    /// Whether it can be nothing but zero.
    pub(super) fn is_zero(&self) -> bool {
        self.low == 0 && self.high == 0
    }

    pub(super) fn times(&self, factor: i128) -> Number {
        if factor == 0 {
            return Number::constant(0);
        }
        let mut combination = Combination::default();
        if !self.combination.0.is_empty() {
            combination.add_scaled(&self.combination, scalar(factor));
        }
        let ends = [self.low, self.high].map(|end| checked(end.checked_mul(factor)));
        Number::new(
            combination,
            self.terms,
            self.value.wrapping_mul(factor),
            (ends[0].min(ends[1]), ends[0].max(ends[1])),
        )
    }

    pub(super) fn plus(&self, other: &Number) -> Number {
        let mut sum = self.clone();
        sum.add(other, 1);
        sum
    }

    pub(super) fn minus(&self, other: &Number) -> Number {
        let mut sum = self.clone();
        sum.add(other, -1);
        sum
    }

    pub(super) fn plus_constant(&self, value: i128) -> Number {
        self.plus(&Number::constant(value))
    }

    /// Adds `factor · other`.
    pub(super) fn add(&mut self, other: &Number, factor: i128) {
        if factor == 0 {
            return;
        }
        // Where only values are wanted, there are none but of constants.
        if !other.combination.0.is_empty() {
            self.combination.add_scaled(&other.combination, scalar(factor));
        }
        let ends = [other.low, other.high].map(|end| checked(end.checked_mul(factor)));
        let (low, high) = (self.low + ends[0].min(ends[1]), self.high + ends[0].max(ends[1]));
        assert!(-BOUND < low && high < BOUND, "{low}..={high} is beyond what a circuit holds");
        (self.low, self.high) = (low, high);
        self.terms += other.terms;
        self.value = self.value.wrapping_add(other.value.wrapping_mul(factor));
    }

    /// The same number in a narrower interval, which the caller knows the constraints to prove.
    pub(super) fn within(mut self, low: i128, high: i128) -> Number {
        (self.low, self.high) = (self.low.max(low), self.high.min(high));
        assert!(self.low <= self.high, "no number is in the interval");
        self
    }
}

fn checked(value: Option<i128>) -> i128 {
    value
        .filter(|value| value.unsigned_abs() < BOUND.unsigned_abs())
        .expect("products of bounded numbers are bounded")
}

/// The integer as an element of the field.
pub(super) fn scalar(value: i128) -> Scalar {
    let magnitude = value.unsigned_abs();
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&magnitude.to_le_bytes());
    let scalar = Scalar::from_bytes_le(&bytes).into_option().expect("128 bits are below the group's order");
    if value < 0 { -scalar } else { scalar }
}

/// Collects constraints, or values.
#[derive(Debug)]
pub(super) struct Builder {
    /// `None` where only values are wanted.
    constraints: Option<Writer>,
    public: Vec<Scalar>,
    private: Vec<Scalar>,
    count: usize,
    /// Private variables whose value does not matter in this assignment: the inverse of zero, the sign of zero.
    #[cfg(test)]
    pub(super) free: Vec<usize>,
    /// Constraints of gates of recurrent layers, which have tests of their own.
    #[cfg(test)]
    pub(super) gates: Vec<std::ops::Range<usize>>,
    /// Bits that a rounding shifts away and that are not all bits of their number.
    #[cfg(test)]
    pub(super) remainders: Vec<Remainder>,
    /// What is said of private variables instead of what is true. All that follows from them is computed from the lies.
    #[cfg(test)]
    pub(super) lies: Vec<(usize, Lie)>,
}

/// The lowest bits of a number, as private variables, and the first of the constraints that make them bits.
#[cfg(test)]
#[derive(Debug, Clone)]
pub(super) struct Remainder {
    pub(super) number: Combination,
    pub(super) bits: std::ops::Range<usize>,
    pub(super) first_row: usize,
}

/// What a dishonest prover says of a variable.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(super) enum Lie {
    /// This.
    Value(i128),
    /// What is true, and this.
    More(i128),
    /// Of a bit: all that is left of the number, but this.
    AllBut(i128),
}

#[cfg(test)]
impl Lie {
    fn instead_of(self, honest: i128, left: i128) -> i128 {
        match self {
            Lie::Value(value) => value,
            Lie::More(value) => honest.wrapping_add(value),
            Lie::AllBut(value) => left.wrapping_sub(value),
        }
    }
}

impl Builder {
    /// Writes constraints.
    pub(super) fn constraints() -> Builder {
        Builder { constraints: Some(Writer::default()), ..Builder::values() }
    }

    /// Computes values.
    pub(super) fn values() -> Builder {
        Builder {
            constraints: None,
            public: vec![Scalar::ONE],
            private: Vec::new(),
            count: 0,
            #[cfg(test)]
            free: Vec::new(),
            #[cfg(test)]
            gates: Vec::new(),
            #[cfg(test)]
            remainders: Vec::new(),
            #[cfg(test)]
            lies: Vec::new(),
        }
    }

    /// Constraints so far.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Whether more constraints or terms were written than a system may have. The last were not kept.
    pub(super) fn is_too_large(&self) -> bool {
        self.count > MAX_CONSTRAINTS
            || self.constraints.as_ref().is_some_and(|constraints| constraints.terms() > MAX_TERMS)
    }

    fn combination(&self, variable: Variable) -> Combination {
        if self.constraints.is_some() { Combination::of(variable) } else { Combination::default() }
    }

    /// A private variable in an interval that the caller's constraints prove.
    pub(super) fn variable(&mut self, value: i128, low: i128, high: i128) -> Number {
        let value = self.said(value, value);
        Number::new(self.field_variable(scalar(value)), 1, value, (low, high))
    }

    /// The lowest bit of what is left of a number, as a variable that the caller constrains.
    pub(super) fn lowest(&mut self, left: i128) -> Number {
        let value = self.said(left & 1, left);
        Number::new(self.field_variable(scalar(value)), 1, value, (0, 1))
    }

    /// What the prover says of the next variable.
    fn said(&self, honest: i128, left: i128) -> i128 {
        #[cfg(test)]
        if let Some((_, lie)) = self.lies.iter().find(|(variable, _)| *variable == self.private.len()) {
            return lie.instead_of(honest, left);
        }
        let _ = left;
        honest
    }

    /// A private variable that may have any value of the field.
    pub(super) fn field_variable(&mut self, value: Scalar) -> Combination {
        #[cfg(test)]
        let value = match self.lies.iter().find(|(variable, _)| *variable == self.private.len()) {
            Some(&(_, Lie::Value(value))) => scalar(value),
            _ => value,
        };
        self.private.push(value);
        self.combination(Variable::Private(self.private.len() as u32 - 1))
    }

    /// A private variable that may have any value of the field, and its value, which may be a lie.
    pub(super) fn any_element(&mut self, value: Scalar) -> (Combination, Scalar) {
        let combination = self.field_variable(value);
        (combination, self.private.last().copied().unwrap_or(value))
    }

    /// Whether linear combinations are kept.
    pub(super) fn is_writing(&self) -> bool {
        self.constraints.is_some()
    }

    /// Notes that the variable made last is free if `free`.
    pub(super) fn note_free(&mut self, free: bool) {
        #[cfg(test)]
        if free {
            self.free.push(self.private.len() - 1);
        }
        #[cfg(not(test))]
        let _ = free;
    }

    /// Notes that the constraints from the `first` on are a gate's.
    pub(super) fn note_gate(&mut self, first: usize) {
        #[cfg(test)]
        self.gates.push(first..self.count);
        #[cfg(not(test))]
        let _ = first;
    }

    /// Notes that the variables made last, each with its constraint, are so many of the lowest bits of `number - base`.
    pub(super) fn note_remainder(&mut self, number: &Number, base: i128, bits: u32) {
        #[cfg(test)]
        {
            let (count, end) = (bits as usize, self.private.len());
            let (number, first_row) = (number.plus_constant(-base).combination, self.count - count);
            self.remainders.push(Remainder { number, bits: end - count..end, first_row });
        }
        #[cfg(not(test))]
        let _ = (number, base, bits);
    }

    /// A public input.
    pub(super) fn public(&mut self, value: Scalar) -> Combination {
        self.public.push(value);
        self.combination(Variable::Public(self.public.len() as u32 - 1))
    }

    /// `rest / 2^shift`: what the lower bits leave to those above.
    pub(super) fn divided(&self, rest: Combination, shift: usize) -> Combination {
        let mut top = Combination::default();
        if self.constraints.is_some() {
            let inverse = scalar(1 << shift).invert().into_option().expect("a power of two is not zero");
            top.add_scaled(&rest.canonical(), inverse);
        }
        top
    }

    /// The number, for a gadget that will use it in so many sums: a variable of its own if that saves more terms than its
    /// constraint is worth. Without this, combinations of combinations grow with every layer.
    pub(super) fn shared(&mut self, number: &Number, uses: usize) -> Number {
        if number.terms.saturating_sub(1).saturating_mul(uses) <= WORTH {
            return number.clone();
        }
        let variable = self.variable(number.value, number.low, number.high);
        self.enforce(&number.combination, &Combination::constant(Scalar::ONE), &variable.combination);
        variable
    }

    /// Constrains `a · b = c`.
    pub(super) fn enforce(&mut self, a: &Combination, b: &Combination, c: &Combination) {
        self.count += 1;
        if let Some(constraints) = &mut self.constraints
            && constraints.len() <= MAX_CONSTRAINTS
            && constraints.terms() <= MAX_TERMS
        {
            constraints.push([a, b, c]);
        }
    }

    /// The product of two numbers.
    pub(super) fn product(&mut self, a: &Number, b: &Number) -> Number {
        if a.is_constant() {
            return b.times(a.low);
        }
        if b.is_constant() {
            return a.times(b.low);
        }
        let ends = [(a.low, b.low), (a.low, b.high), (a.high, b.low), (a.high, b.high)]
            .map(|(a, b)| checked(a.checked_mul(b)));
        let (low, high) =
            ends.iter().fold((i128::MAX, i128::MIN), |(low, high), &end| (low.min(end), high.max(end)));
        let product = self.variable(a.value.wrapping_mul(b.value), low, high);
        self.enforce(&a.combination, &b.combination, &product.combination);
        product
    }

    /// Constrains one of at least two numbers to be zero: a product is zero in a field only if a factor is.
    pub(super) fn enforce_one_is_zero(&mut self, numbers: &[Number]) {
        let [first, middle @ .., last] = numbers else { unreachable!("at least two numbers") };
        let mut product = first.combination.clone();
        let mut value = scalar(first.value);
        for number in middle {
            let (next, said) = self.any_element(value * scalar(number.value));
            self.enforce(&product, &number.combination, &next);
            (product, value) = (next, said);
        }
        self.enforce(&product, &last.combination, &Combination::default());
    }

    /// `when_one` if `bit` is one, else `when_zero`.
    pub(super) fn select(&mut self, bit: &Number, when_one: &Number, when_zero: &Number) -> Number {
        let product = self.product(bit, &when_one.minus(when_zero));
        let (low, high) = (when_one.low.min(when_zero.low), when_one.high.max(when_zero.high));
        when_zero.plus(&product).within(low, high)
    }

    /// The finished system.
    ///
    /// # Panics
    /// If it is too large: constraints are missing of it.
    pub(super) fn system(self) -> ConstraintSystem {
        assert!(!self.is_too_large(), "a system that all constraints were written to");
        let constraints = self.constraints.expect("a builder of constraints");
        constraints.finish(self.public.len(), self.private.len())
    }

    /// The values of all variables.
    pub(super) fn assignment(self) -> Vec<Scalar> {
        [self.public, self.private].concat()
    }
}
