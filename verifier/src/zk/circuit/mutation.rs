//! Mutation testing of gadgets: without any one constraint, some forged assignment must give another result.
//!
//! Each gadget is a small system whose arguments are fixed and whose results are public. A forger lies about a variable
//! of the dropped constraint, about any variable, or about one of each, and computes all that follows from the lies as an
//! honest prover would; or changes or solves for a variable, be it by a fraction, and computes in the field what rows
//! define. If the mutated system accepts another result, the constraint was needed. If no argument lets the forger
//! succeed, the constraint is reported; the tests list those expected. That the whole system rejects every forgery is
//! checked too, for all variables.

mod bits;
mod floats;
mod gadgets;
mod recurrent;
mod repair;
mod trees;

use ff::Field;
use rayon::prelude::*;

use self::repair::{Definition, repair};
use super::builder::{Builder, Lie, Number};
use super::*;
use crate::zk::reference::{Sides, constraints};

/// Results of arguments.
type Gadget<'a> = &'a (dyn Fn(&mut Builder, &[Number]) -> Vec<Number> + Sync);

/// A gadget on fixed arguments. Variables are the constant one, the results, the arguments, the others.
struct Fixed<'a> {
    gadget: Gadget<'a>,
    arguments: &'a [i128],
    bounds: &'a [(i128, i128)],
    rows: Vec<Sides>,
    honest: Vec<Scalar>,
    results: usize,
    bits: Vec<usize>,
    decisions: Vec<usize>,
    gates: Vec<std::ops::Range<usize>>,
    remainders: Vec<repair::Remainder>,
    /// Of each row.
    definitions: Vec<Definition>,
}

fn evaluate(side: &[(usize, Scalar)], values: &[Scalar]) -> Scalar {
    side.iter().map(|(variable, coefficient)| values[*variable] * coefficient).sum()
}

pub(super) fn holds([a, b, c]: &Sides, values: &[Scalar]) -> bool {
    evaluate(a, values) * evaluate(b, values) == evaluate(c, values)
}

impl<'a> Fixed<'a> {
    fn new(gadget: Gadget<'a>, arguments: &'a [i128], bounds: &'a [(i128, i128)]) -> Fixed<'a> {
        let mut fixed = Fixed {
            gadget,
            arguments,
            bounds,
            rows: Vec::new(),
            honest: Vec::new(),
            results: 0,
            bits: Vec::new(),
            decisions: Vec::new(),
            gates: Vec::new(),
            remainders: Vec::new(),
            definitions: Vec::new(),
        };
        let (written, results) = fixed.build(Builder::constraints());
        fixed.gates = written.gates.clone();
        fixed.remainders =
            written.remainders.iter().map(|remainder| repair::Remainder::new(remainder, results)).collect();
        fixed.rows = constraints(&written.system()).collect();
        fixed.honest = fixed.build(Builder::values()).0.assignment();
        fixed.results = results;
        fixed.sort();
        assert!(fixed.rows.iter().all(|row| holds(row, &fixed.honest)), "the honest assignment is accepted");
        fixed
    }

    fn build(&self, mut builder: Builder) -> (Builder, usize) {
        let arguments = self.arguments.iter().zip(self.bounds);
        let arguments: Vec<Number> =
            arguments.map(|(&value, &(low, high))| builder.variable(value, low, high)).collect();
        let results = (self.gadget)(&mut builder, &arguments);
        for result in &results {
            let public = builder.public(builder::scalar(result.value));
            builder.enforce(&result.combination, &Number::constant(1).combination, &public);
        }
        (builder, results.len())
    }

    /// The first variable that is neither a result nor an argument.
    fn first(&self) -> usize {
        1 + self.results + self.arguments.len()
    }

    /// Whether a system without a constraint accepts these values with another result. The whole one never does.
    fn accepts(&self, values: &[Scalar], dropped: usize) -> bool {
        if values[1..=self.results] == self.honest[1..=self.results] {
            return false;
        }
        let accepted = (0..self.rows.len()).all(|row| row == dropped || holds(&self.rows[row], values));
        assert!(
            !accepted || dropped < self.rows.len() && !holds(&self.rows[dropped], values),
            "the whole system accepts a forgery"
        );
        accepted
    }

    /// Whether lies get another result accepted.
    fn believes(&self, lies: &[(usize, Lie)], dropped: usize) -> bool {
        let mut builder = Builder::values();
        builder.lies = lies.iter().map(|&(variable, lie)| (variable - 1 - self.results, lie)).collect();
        self.accepts(&self.build(builder).0.assignment(), dropped)
    }

    /// The variables of a constraint that are neither results nor arguments.
    fn of(&self, row: usize) -> Vec<usize> {
        let sides = self.rows[row].iter().flatten();
        let mut variables: Vec<usize> =
            sides.map(|(variable, _)| *variable).filter(|variable| *variable >= self.first()).collect();
        variables.sort_unstable();
        variables.dedup();
        variables
    }

    fn forges(&self, dropped: usize) -> bool {
        let near = self.of(dropped);
        self.lies_about(&near, dropped)
            || near.iter().any(|&variable| self.changes(variable, dropped) || self.solves(variable, dropped))
            || self.changes_of_results(dropped)
            || self.decisions.iter().any(|&variable| self.changes(variable, dropped))
            || self.lies_far_from(&near, &self.decisions, dropped)
            || !self.is_of_a_bit(dropped) && self.lies_far_from(&[], &self.bits, dropped)
    }

    /// One lie, about a variable of the constraint.
    fn lies_about(&self, near: &[usize], dropped: usize) -> bool {
        let powers = |step: usize| (0..64).step_by(step).map(|bit| 1i128 << bit);
        let mut lies: Vec<Lie> = [0, 1, -1, 2].map(Lie::Value).to_vec();
        lies.extend(powers(4).flat_map(|power| [power, -power].map(Lie::More)));
        if self.is_of_a_bit(dropped) {
            lies.extend(powers(1).map(Lie::AllBut).chain([Lie::AllBut(0)]));
        }
        near.iter().any(|&variable| lies.iter().any(|&lie| self.believes(&[(variable, lie)], dropped)))
    }

    /// A variable changed, be it by a fraction, and all that rows define recomputed.
    fn changes(&self, variable: usize, dropped: usize) -> bool {
        let (one, honest) = (Scalar::ONE, self.honest[variable]);
        let values = [Scalar::ZERO, one, one.double(), -one].into_iter();
        let mut changes = values.chain(repair::changes().into_iter().map(|change| honest + change));
        changes.any(|value| {
            let mut values = self.honest.clone();
            values[variable] = value;
            repair(self, &mut values, variable, dropped, None);
            self.accepts(&values, dropped)
        })
    }

    /// A result that its constraint alone defines.
    fn changes_of_results(&self, dropped: usize) -> bool {
        (1..=self.results).any(|result| {
            let mut values = self.honest.clone();
            values[result] += Scalar::ONE;
            self.accepts(&values, dropped)
        })
    }

    /// A lie about any of some variables, alone or with one about a variable of the constraint.
    fn lies_far_from(&self, near: &[usize], far: &[usize], dropped: usize) -> bool {
        let lies = [Lie::Value(0), Lie::Value(1), Lie::More(1), Lie::More(-1)];
        let close = [Lie::AllBut(0), Lie::Value(0), Lie::Value(1), Lie::Value(-1), Lie::More(1)];
        // The top bit is what all others leave: lies about them are no lies about it. Of a sum of products, the last made is
        // what the row says.
        let near = if near.len() > 3 { &near[near.len() - 1..] } else { near };
        far.iter().any(|&variable| {
            lies.iter().any(|&lie| {
                self.believes(&[(variable, lie)], dropped)
                    || near.iter().filter(|other| **other != variable).any(|&other| {
                        close.iter().any(|&about| self.believes(&[(variable, lie), (other, about)], dropped))
                    })
            })
        })
    }

    /// One of the lowest bits of a number flipped, and a variable of the constraint made what the number then needs, be it
    /// a fraction; all products recomputed.
    fn solves(&self, variable: usize, dropped: usize) -> bool {
        let occurs = |side: &[(usize, Scalar)]| side.iter().any(|(other, _)| *other == variable);
        let after =
            (dropped + 1..self.rows.len()).filter(|row| self.rows[*row].iter().any(|side| occurs(side)));
        after.take(2).any(|row| {
            let is_bit = |other: &usize| *other != variable && self.bits.contains(other);
            self.of(row).into_iter().filter(is_bit).take(4).any(|flipped| {
                [false, true].into_iter().any(|opposite| {
                    let mut values = self.honest.clone();
                    values[flipped] = Scalar::ONE - values[flipped];
                    self.solve(row, variable, opposite, &mut values) && {
                        repair(self, &mut values, variable, dropped, None);
                        self.accepts(&values, dropped)
                    }
                })
            })
        })
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
            (evaluate(&sides[usize::from(opposite)], &self.honest) - a, alpha)
        };
        let Some(inverse) = slope.invert().into_option() else { return false };
        values[variable] = distance * inverse;
        true
    }

    /// Whether a constraint says that a number is zero or one.
    fn is_of_a_bit(&self, row: usize) -> bool {
        let [a, b, c] = &self.rows[row];
        let without_one = |side: &[(usize, Scalar)], sign: Scalar| -> Vec<(usize, Scalar)> {
            let others = side.iter().filter(|(variable, _)| *variable != 0);
            others.map(|&(variable, value)| (variable, value * sign)).collect()
        };
        c.is_empty() && !a.is_empty() && without_one(a, Scalar::ONE) == without_one(b, -Scalar::ONE)
    }

    /// Finds the variables that constraints of their own make bits, and those that are neither bits nor products.
    fn sort(&mut self) {
        let alone = |side: &[(usize, Scalar)]| match side {
            &[(variable, _)] => Some(variable),
            _ => None,
        };
        let rows = (0..self.rows.len()).filter(|row| self.is_of_a_bit(*row));
        let alone_on_the_left = rows.filter_map(|row| alone(&self.rows[row][0]));
        self.bits = alone_on_the_left.filter(|bit| *bit >= self.first()).collect();
        let products: Vec<usize> = self.rows.iter().filter_map(|[_, _, c]| alone(c)).collect();
        let others = self.first()..self.honest.len();
        let is_decision = |other: &usize| !self.bits.contains(other) && !products.contains(other);
        self.decisions = others.filter(is_decision).collect();
        self.definitions = (0..self.rows.len()).map(|row| Definition::of(self, row)).collect();
    }
}

/// What dropping each constraint of a gadget showed.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    constraints: usize,
    /// Constraints that no forger profited from.
    redundant: Vec<usize>,
}

/// Drops each constraint in turn but those that are skipped, over these rows of arguments; those that no forger profits
/// from are listed.
fn mutate(
    gadget: Gadget<'_>,
    arguments: &[&[i128]],
    bounds: &[(i128, i128)],
    skipped: fn(&Fixed<'_>, usize) -> bool,
) -> Found {
    let systems: Vec<Fixed<'_>> =
        arguments.iter().map(|arguments| Fixed::new(gadget, arguments, bounds)).collect();
    let count = systems[0].rows.len();
    // No lie is believed by the whole system.
    let none = count;
    systems.par_iter().for_each(|system| {
        let all: Vec<usize> = (system.first()..system.honest.len()).collect();
        assert!(!system.lies_far_from(&[], &all, none));
    });
    let needed = |dropped: &usize| systems.iter().any(|system| system.forges(*dropped));
    let redundant = (0..count)
        .into_par_iter()
        .filter(|dropped| !skipped(&systems[0], *dropped) && !needed(dropped))
        .collect();
    Found { constraints: count, redundant }
}
