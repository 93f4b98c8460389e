//! What follows from a changed variable, in the field: products, inverses, and the bits of ranges.
//!
//! Lies are integers, and an honest prover computes what follows from them. A bit that is not constrained may be a
//! fraction, and so may all that is made of it; rows that take the bits of such a number hold if it is an integer again.

use ff::Field;

use super::{Fixed, Scalar, builder, evaluate};
use crate::zk::r1cs::Variable;

/// What a row defines: one variable that inverts its left side, one that is its product, or the bits of a number.
pub(super) struct Definition {
    /// A variable with the inverse of its coefficient.
    inverse: Option<(usize, Scalar)>,
    /// Likewise.
    product: Option<(usize, Scalar)>,
    /// Of the row of a top bit that is what the others leave: these, highest first.
    bits: Vec<usize>,
}

impl Definition {
    pub(super) fn of(system: &Fixed<'_>, row: usize) -> Definition {
        let [a, b, c] = &system.rows[row];
        let alone = |side: &[(usize, Scalar)]| match side {
            &[(variable, coefficient)] => {
                Some((variable, coefficient.invert().expect("no coefficient is zero")))
            }
            _ => None,
        };
        let is_product = |variable: usize| {
            variable >= system.first() && !a.iter().chain(b).any(|(other, _)| *other == variable)
        };
        let is_result = |variable: usize| (1..=system.results).contains(&variable);
        Definition {
            inverse: alone(b).filter(|(variable, _)| system.decisions.contains(variable)),
            product: alone(c).filter(|(variable, _)| is_result(*variable) || is_product(*variable)),
            bits: if system.is_of_a_bit(row) { bits_before(system, row) } else { Vec::new() },
        }
    }
}

/// The lowest bits of a number of which a rounding leaves the others.
pub(super) struct Remainder {
    number: Vec<(usize, Scalar)>,
    bits: std::ops::Range<usize>,
    first_row: usize,
}

impl Remainder {
    /// Of a system with so many results, which come before all private variables.
    pub(super) fn new(noted: &builder::Remainder, results: usize) -> Remainder {
        let place = |variable| match variable {
            Variable::Public(index) => index as usize,
            Variable::Private(index) => 1 + results + index as usize,
        };
        Remainder {
            number: noted.number.0.iter().map(|&(variable, value)| (place(variable), value)).collect(),
            bits: 1 + results + noted.bits.start..1 + results + noted.bits.end,
            first_row: noted.first_row,
        }
    }

    /// Gives the bits of an integer.
    fn take(&self, values: &mut [Scalar]) {
        if let Some(number) = integer(evaluate(&self.number, values)) {
            for (place, bit) in self.bits.clone().enumerate() {
                values[bit] = Scalar::from((number >> place & 1) as u64);
            }
        }
    }
}

/// The bits that have rows of their own right before that of the top bit, in which they have `-1/2`, `-1/4`, …
fn bits_before(system: &Fixed<'_>, top: usize) -> Vec<usize> {
    let half = Scalar::from(2).invert().expect("two is not zero");
    let (mut bits, mut coefficient) = (Vec::new(), -half);
    for row in (0..top).rev() {
        let &[(variable, _)] = &system.rows[row][0][..] else { break };
        let occurs = system.rows[top][0].contains(&(variable, coefficient));
        if !system.is_of_a_bit(row) || !occurs {
            break;
        }
        bits.push(variable);
        coefficient *= half;
    }
    bits
}

/// Recomputes what rows define, but not the changed variable, nor the bits of the number of a row that was solved. A bit
/// whose row is dropped takes what the others of its number cannot.
pub(super) fn repair(
    system: &Fixed<'_>,
    values: &mut [Scalar],
    changed: usize,
    dropped: usize,
    solved: Option<usize>,
) {
    for (row, definition) in system.definitions.iter().enumerate() {
        if let Some(remainder) = system.remainders.iter().find(|remainder| remainder.first_row == row)
            && !remainder.bits.contains(&changed)
        {
            remainder.take(values);
        }
        let [a, b, c] = &system.rows[row];
        if row != dropped
            && let Some((variable, inverse)) = definition.inverse.filter(|(variable, _)| *variable != changed)
        {
            // What is no flag or product is what the other side must come to.
            let wanted = if c.len() > 1 { evaluate(c, values) } else { Scalar::ONE };
            values[variable] = evaluate(a, values).invert().unwrap_or(Scalar::ZERO) * inverse * wanted;
        }
        if row != dropped
            && let Some((variable, inverse)) = definition.product.filter(|(variable, _)| *variable != changed)
        {
            values[variable] = evaluate(a, values) * evaluate(b, values) * inverse;
        }
        if !definition.bits.is_empty() && solved != Some(row) {
            decompose(a, &definition.bits, values, changed, loose(system, &definition.bits, row, dropped));
        }
    }
}

/// The bit whose row is dropped.
fn loose(system: &Fixed<'_>, bits: &[usize], top: usize, dropped: usize) -> Option<usize> {
    // Rows of lower bits come before.
    let distance = top.checked_sub(dropped)?.checked_sub(1)?;
    let bit = *bits.get(distance)?;
    debug_assert_eq!(system.rows[dropped][0][0].0, bit);
    Some(bit)
}

/// Gives the bits of what the top's row takes them from.
fn decompose(
    top: &[(usize, Scalar)],
    bits: &[usize],
    values: &mut [Scalar],
    changed: usize,
    loose: Option<usize>,
) {
    for bit in bits.iter().filter(|bit| **bit != changed) {
        values[*bit] = Scalar::ZERO;
    }
    let weight = Scalar::from(2).pow_vartime([bits.len() as u64]);
    let number = evaluate(top, values) * weight;
    match integer(number).filter(|number| *number >> bits.len() <= 1) {
        Some(number) => {
            for (place, bit) in bits.iter().rev().enumerate().filter(|(_, bit)| **bit != changed) {
                values[*bit] = Scalar::from((number >> place & 1) as u64);
            }
        }
        None => {
            if let Some((place, bit)) = bits.iter().rev().enumerate().find(|(_, bit)| Some(**bit) == loose)
                && *bit != changed
            {
                let weight = Scalar::from(2).pow_vartime([place as u64]);
                values[*bit] = number * weight.invert().expect("a power of two is not zero");
            }
        }
    }
}

fn integer(value: Scalar) -> Option<u128> {
    let bytes = value.to_bytes_le();
    let (low, high) = bytes.split_at(16);
    high.iter().all(|byte| *byte == 0).then(|| u128::from_le_bytes(low.try_into().expect("16 bytes")))
}

/// Changes of a variable: small integers and fractions.
pub(super) fn changes() -> Vec<Scalar> {
    let half = Scalar::from(2).invert().expect("two is not zero");
    let fractions: Vec<Scalar> =
        std::iter::successors(Some(half), |fraction| Some(*fraction * half)).take(6).collect();
    let mut changes = vec![Scalar::ONE, Scalar::from(2), Scalar::from(3)];
    changes.extend(fractions.iter().flat_map(|fraction| [*fraction, *fraction * Scalar::from(3)]));
    let opposite: Vec<Scalar> = changes.iter().map(|change| -change).collect();
    [changes, opposite].concat()
}

/// Changes of a bit by powers of two.
pub(super) fn powers() -> Vec<Scalar> {
    let powers = std::iter::successors(Some(Scalar::ONE), |power| Some(power.double()));
    powers.take(20).flat_map(|power| [power, -power]).collect()
}
