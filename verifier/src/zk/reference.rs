//! Constraint systems as other implementations of Groth16 read them, and one to compare them by.

use bellman::{Circuit, LinearCombination, SynthesisError};
use blstrs::Scalar;
use ff::Field;

use super::r1cs::{Combination, ConstraintSystem, Variable, Writer};

/// Terms of the three sides of a constraint, each a variable's number and its coefficient.
pub type Sides = [Vec<(usize, Scalar)>; 3];

/// The constraints of a system, without those that bind the public inputs: other implementations add their own.
pub fn constraints(system: &ConstraintSystem) -> impl Iterator<Item = Sides> {
    let row = |matrix: &super::r1cs::Matrix, row| {
        matrix.row(row).map(|(variable, coefficient)| (variable, *coefficient)).collect()
    };
    (0..system.constraints() - system.public())
        .map(move |index| [&system.a, &system.b, &system.c].map(|matrix| row(matrix, index)))
}

/// A system with an assignment of all its variables, as bellman takes one.
#[derive(Debug, Clone, Copy)]
pub struct Assigned<'a> {
    /// The system.
    pub system: &'a ConstraintSystem,
    /// The constant one, the public inputs, the private variables.
    pub assignment: &'a [Scalar],
}

impl Circuit<Scalar> for Assigned<'_> {
    fn synthesize<CS: bellman::ConstraintSystem<Scalar>>(self, cs: &mut CS) -> Result<(), SynthesisError> {
        let Assigned { system, assignment } = self;
        let mut variables = vec![CS::one()];
        for (index, &value) in assignment.iter().enumerate().skip(1) {
            variables.push(if index < system.public() {
                cs.alloc_input(|| "", || Ok(value))?
            } else {
                cs.alloc(|| "", || Ok(value))?
            });
        }
        for sides in constraints(system) {
            let [a, b, c] = sides.map(|side| {
                let terms =
                    side.into_iter().map(|(variable, coefficient)| (coefficient, variables[variable]));
                terms.fold(LinearCombination::zero(), |sum, term| sum + term)
            });
            cs.enforce(|| "", |_| a, |_| b, |_| c);
        }
        Ok(())
    }
}

/// The system `x[i+2] = x[i] · (x[i+1] + 1)` of so many links, whose last `public` values are public inputs, with an
/// assignment. Its values fill the field, so that nothing is saved by being small.
///
/// # Panics
/// If there are more public values than links.
pub fn chain(links: usize, public: usize, seed: u64) -> (ConstraintSystem, Vec<Scalar>) {
    assert!(public <= links, "as many public values as links at most");
    let mut values = vec![Scalar::from(seed), Scalar::from(seed + 1)];
    let private = links + 2 - public;
    let variable = |index: usize| {
        if index < private {
            Variable::Private(index as u32)
        } else {
            Variable::Public((index - private + 1) as u32)
        }
    };
    let mut writer = Writer::default();
    for link in 0..links {
        values.push(values[link] * (values[link + 1] + Scalar::ONE));
        let mut right = Combination::of(variable(link + 1));
        right.add_scaled(&Combination::constant(Scalar::ONE), Scalar::ONE);
        writer.push([&Combination::of(variable(link)), &right, &Combination::of(variable(link + 2))]);
    }
    let system = writer.finish(1 + public, private);
    let (hidden, shown) = values.split_at(private);
    (system, [&[Scalar::ONE], shown, hidden].concat())
}
