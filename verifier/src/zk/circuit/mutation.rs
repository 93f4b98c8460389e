//! Mutation testing of gadgets: without any one constraint, some forged assignment must give another result.
//!
//! Each gadget is a small system whose argument is fixed and whose result is public. A forger changes one variable to a
//! few values, or flips one bit and solves a row for a variable of the dropped constraint; then recomputes all products.
//! If the mutated system accepts another result, the constraint was needed. If no argument lets the forger succeed, the
//! constraint is reported; the test lists those expected. That the whole system rejects every forgery is checked too.

use ff::Field;
use haca_kernels::view::Requantize;

use super::builder::{Builder, Number};
use super::*;
use crate::zk::reference::{Sides, constraints};

/// The system of a gadget on one argument, and the honest assignment. The result is variable 1, the argument 2.
fn system(
    gadget: &impl Fn(&mut Builder, &Number) -> Number,
    value: i128,
    (low, high): (i128, i128),
) -> (Vec<Sides>, Vec<Scalar>) {
    let build = |mut builder: Builder| {
        let x = builder.variable(value, low, high);
        let y = gadget(&mut builder, &x);
        let public = builder.public(builder::scalar(y.value));
        builder.enforce(&y.combination, &Number::constant(1).combination, &public);
        builder
    };
    let written = build(Builder::constraints()).system();
    (constraints(&written).collect(), build(Builder::values()).assignment())
}

fn evaluate(side: &[(usize, Scalar)], values: &[Scalar]) -> Scalar {
    side.iter().map(|(variable, coefficient)| values[*variable] * coefficient).sum()
}

fn holds([a, b, c]: &Sides, values: &[Scalar]) -> bool {
    evaluate(a, values) * evaluate(b, values) == evaluate(c, values)
}

const RESULT: usize = 1;
const ARGUMENT: usize = 2;

struct Forger<'a> {
    rows: &'a [Sides],
    honest: &'a [Scalar],
    dropped: usize,
}

impl Forger<'_> {
    /// Recomputes inverses, and what rows define as a product; not the variables that were changed.
    fn repair(&self, values: &mut [Scalar], kept: &[usize]) {
        for (index, [a, b, c]) in self.rows.iter().enumerate() {
            if index == self.dropped {
                continue;
            }
            if let &[(inverse, _)] = &b[..]
                && inverse > ARGUMENT
                && !kept.contains(&inverse)
                && self.occurrences(inverse) == 1
            {
                values[inverse] = evaluate(a, values).invert().unwrap_or(Scalar::ZERO);
            }
            if let &[(variable, coefficient)] = &c[..]
                && variable != 0
                && variable != ARGUMENT
                && !kept.contains(&variable)
                && !a.iter().chain(b).any(|(other, _)| *other == variable)
            {
                values[variable] = evaluate(a, values) * evaluate(b, values) * coefficient.invert().unwrap();
            }
        }
    }

    fn occurrences(&self, variable: usize) -> usize {
        let sides = self.rows.iter().flatten();
        sides.filter(|side| side.iter().any(|(other, _)| *other == variable)).count()
    }

    fn succeeds(&self, mut values: Vec<Scalar>, kept: &[usize]) -> bool {
        self.repair(&mut values, kept);
        if values[RESULT] == self.honest[RESULT] {
            return false;
        }
        let accepted = (0..self.rows.len()).all(|row| row == self.dropped || holds(&self.rows[row], &values));
        assert!(!accepted || !holds(&self.rows[self.dropped], &values), "the whole system accepts a forgery");
        accepted
    }

    fn forges(&self) -> bool {
        let one = Scalar::ONE;
        let candidates = |variable: &usize| *variable == RESULT || *variable > ARGUMENT;
        for variable in (0..self.honest.len()).filter(candidates) {
            for value in [Scalar::ZERO, one, one.double(), -one, self.honest[variable] + one] {
                let mut values = self.honest.to_vec();
                values[variable] = value;
                if self.succeeds(values, &[variable]) {
                    return true;
                }
            }
        }
        let mut loose: Vec<usize> = self.rows[self.dropped]
            .iter()
            .flatten()
            .map(|(variable, _)| *variable)
            .filter(candidates)
            .collect();
        loose.sort_unstable();
        loose.dedup();
        for &solved in &loose {
            let bits = (ARGUMENT + 1..self.honest.len())
                .filter(|flipped| *flipped != solved)
                .filter(|flipped| [Scalar::ZERO, one].contains(&self.honest[*flipped]));
            for flipped in bits.map(Some).chain([None]) {
                for row in (0..self.rows.len()).filter(|row| *row != self.dropped) {
                    for opposite in [false, true] {
                        let mut values = self.honest.to_vec();
                        if let Some(flipped) = flipped {
                            values[flipped] = one - values[flipped];
                        }
                        let kept = [solved, flipped.unwrap_or(solved)];
                        if self.solve(row, solved, opposite, &mut values) && self.succeeds(values, &kept) {
                            return true;
                        }
                    }
                }
            }
        }
        false
    }

    /// Gives `variable` the value with which a row holds: that of an equation in which it occurs on one side; or, where
    /// a number and its opposite are multiplied, the one that leaves the number as it was, or makes it the opposite.
    fn solve(&self, row: usize, variable: usize, opposite: bool, values: &mut [Scalar]) -> bool {
        let sides = &self.rows[row];
        let coefficient = |side: usize| {
            sides[side].iter().find(|(other, _)| *other == variable).map_or(Scalar::ZERO, |(_, value)| *value)
        };
        values[variable] = Scalar::ZERO;
        let [a, b, c] = [0, 1, 2].map(|side| evaluate(&sides[side], values));
        // (a + αx)(b + βx) = c + γx
        let [alpha, beta, gamma] = [0, 1, 2].map(coefficient);
        let (distance, slope) = if alpha * beta == Scalar::ZERO {
            (c - a * b, alpha * b + beta * a - gamma)
        } else {
            (evaluate(&sides[usize::from(opposite)], self.honest) - a, alpha)
        };
        let Some(inverse) = slope.invert().into_option() else { return false };
        values[variable] = distance * inverse;
        true
    }
}

/// Numbers of the constraints that no forger profits from, over these arguments.
fn redundant(
    gadget: impl Fn(&mut Builder, &Number) -> Number,
    arguments: &[i128],
    bounds: (i128, i128),
) -> (usize, Vec<usize>) {
    let systems: Vec<_> = arguments.iter().map(|&value| system(&gadget, value, bounds)).collect();
    let count = systems[0].0.len();
    let needed = |dropped: &usize| {
        systems.iter().any(|(rows, honest)| Forger { rows, honest, dropped: *dropped }.forges())
    };
    (count, (0..count).filter(|dropped| !needed(dropped)).collect())
}

fn rule(shift: i32, minimum: i64, maximum: i64) -> Requantize {
    Requantize { shift, minimum, maximum }
}

#[test]
fn every_constraint_of_a_rounding_shift_is_needed() {
    let gadget = |builder: &mut Builder, x: &Number| builder.requantize(x, rule(2, -100, 100));
    assert_eq!(redundant(gadget, &[-30, 5, 6, 17, 32], (-60, 60)), (8, vec![]));
}

#[test]
fn every_constraint_of_relu_with_saturation_is_needed() {
    let gadget = |builder: &mut Builder, x: &Number| builder.requantize(x, rule(2, 0, 7));
    let (count, redundant) = redundant(gadget, &[-30, -5, 6, 17, 24, 50, 61, 40], (-64, 63));
    assert_eq!((count, redundant), (13, vec![]));
}

#[test]
fn every_constraint_of_two_sided_saturation_is_needed() {
    let gadget = |builder: &mut Builder, x: &Number| builder.requantize(x, rule(2, -7, 7));
    let (count, redundant) = redundant(gadget, &[-50, -30, -5, 6, 9, 17, 24, 50, 61], (-64, 60));
    assert_eq!((count, redundant), (14, vec![]));
}

#[test]
fn every_constraint_of_a_clamp_is_needed() {
    let upper = |builder: &mut Builder, x: &Number| builder.clamp(x, -100, 9);
    assert_eq!(redundant(upper, &[-12, 0, 3, 9, 10, 15], (-16, 15)), (8, vec![]));
    let lower = |builder: &mut Builder, x: &Number| builder.clamp(x, -5, 100);
    assert_eq!(redundant(lower, &[-12, -6, -5, 0, 3, 15], (-16, 15)), (8, vec![]));
}

#[test]
fn every_constraint_of_a_look_up_is_needed() {
    let gadget = |builder: &mut Builder, x: &Number| {
        let bits = builder.bits(x, 0, 4);
        let [entry] = builder.look_up(&bits, [(0..16).map(|index| index * index % 11).collect()]);
        entry
    };
    assert_eq!(redundant(gadget, &[0, 3, 6, 9, 12, 15, 5, 10], (0, 15)), (10, vec![]));
}
