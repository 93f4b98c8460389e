//! Constraint systems: products of linear combinations of variables, as sparse matrices.
//!
//! A system is built once from a model, and then serves setup and every proof; only the assignment is made anew. Each
//! linear combination is kept canonical: sorted by variable, each once, none with a coefficient of zero. Setup and
//! prover both count variables by where they occur, and would disagree about one that cancels itself out.

use std::collections::HashMap;

use blst::blst_fr;
use blstrs::Scalar;
use ff::Field;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

/// A variable of a system under construction. Public inputs come first in the finished one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Variable {
    /// Index 0 is the constant one.
    Public(u32),
    Private(u32),
}

impl Variable {
    pub(crate) const ONE: Variable = Variable::Public(0);
}

/// A linear combination of variables, in any order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Combination(pub(crate) Vec<(Variable, Scalar)>);

impl Combination {
    pub(crate) fn of(variable: Variable) -> Combination {
        Combination(vec![(variable, Scalar::ONE)])
    }

    pub(crate) fn constant(value: Scalar) -> Combination {
        Combination(vec![(Variable::ONE, value)])
    }

    pub(crate) fn add_scaled(&mut self, other: &Combination, factor: Scalar) {
        self.0.extend(other.0.iter().map(|(variable, coefficient)| (*variable, *coefficient * factor)));
    }

    /// Sorts, merges and drops zeros.
    pub(crate) fn canonical(mut self) -> Combination {
        canonicalize(&mut self.0);
        self
    }
}

fn canonicalize(terms: &mut Vec<(Variable, Scalar)>) {
    terms.sort_unstable_by_key(|(variable, _)| *variable);
    terms.dedup_by(|(variable, coefficient), (kept, sum)| {
        let same = variable == kept;
        if same {
            *sum += *coefficient;
        }
        same
    });
    terms.retain(|(_, coefficient)| *coefficient != Scalar::ZERO);
}

/// One side of all constraints: a row for each, canonical.
///
/// Models have millions of terms and thousands of coefficients, so a term names its coefficient in a list: 8 bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Matrix {
    /// First entry of each row, then the number of entries.
    starts: Vec<u32>,
    columns: Vec<u32>,
    /// Of each entry, the place of its coefficient among the values.
    coefficients: Vec<u32>,
    /// Each once.
    values: Vec<Scalar>,
}

impl Matrix {
    fn rows(&self) -> usize {
        self.starts.len()
    }

    fn end(&self, row: usize) -> usize {
        self.starts.get(row + 1).map_or(self.columns.len(), |end| *end as usize)
    }

    /// Variables and coefficients of a row.
    pub(crate) fn row(&self, row: usize) -> impl Iterator<Item = (usize, &Scalar)> {
        let range = self.starts[row] as usize..self.end(row);
        let coefficients = self.coefficients[range.clone()].iter().map(|index| &self.values[*index as usize]);
        self.columns[range].iter().map(|column| *column as usize).zip(coefficients)
    }

    fn evaluate(&self, row: usize, assignment: &[Scalar]) -> Scalar {
        let one = Scalar::ONE;
        self.row(row).fold(Scalar::ZERO, |sum, (variable, coefficient)| {
            sum + if *coefficient == one { assignment[variable] } else { assignment[variable] * coefficient }
        })
    }

    /// The value of every row.
    fn values(&self, assignment: &[Scalar]) -> Vec<Scalar> {
        (0..self.rows()).into_par_iter().with_min_len(256).map(|row| self.evaluate(row, assignment)).collect()
    }

    /// For each variable the sum of its coefficients, each times its row's weight.
    pub(crate) fn columns_weighted(&self, weights: &[Scalar], variables: usize) -> Vec<Scalar> {
        let mut sums = vec![Scalar::ZERO; variables];
        for (row, weight) in weights.iter().enumerate().take(self.rows()) {
            for (variable, coefficient) in self.row(row) {
                sums[variable] += *coefficient * weight;
            }
        }
        sums
    }

    /// Of each variable, the rows it occurs in with its coefficients there.
    pub(crate) fn columns(&self, variables: usize) -> Vec<Vec<(u32, Scalar)>> {
        let mut columns = vec![Vec::new(); variables];
        for row in 0..self.rows() {
            for (variable, coefficient) in self.row(row) {
                columns[variable].push((row as u32, *coefficient));
            }
        }
        columns
    }

    /// The variables that occur, in order.
    pub(crate) fn variables(&self, count: usize) -> Vec<u32> {
        let mut occurs = vec![false; count];
        self.columns.iter().for_each(|column| occurs[*column as usize] = true);
        (0..count as u32).filter(|variable| occurs[*variable as usize]).collect()
    }
}

/// A system under construction, constraint by constraint.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    sides: [(Matrix, HashMap<[u64; 4], u32>); 3],
    scratch: Vec<(Variable, Scalar)>,
}

/// Marks a private variable until the number of public ones is known.
const PRIVATE: u32 = 1 << 31;

impl Writer {
    /// Adds the constraint `a · b = c`.
    pub(crate) fn push(&mut self, sides: [&Combination; 3]) {
        for ((matrix, places), side) in self.sides.iter_mut().zip(sides) {
            self.scratch.clear();
            self.scratch.extend_from_slice(&side.0);
            canonicalize(&mut self.scratch);
            matrix.starts.push(matrix.columns.len() as u32);
            for (variable, coefficient) in &self.scratch {
                matrix.columns.push(match *variable {
                    Variable::Public(index) => index,
                    Variable::Private(index) => PRIVATE | index,
                });
                let place = places.entry(blst_fr::from(*coefficient).l).or_insert_with(|| {
                    matrix.values.push(*coefficient);
                    matrix.values.len() as u32 - 1
                });
                matrix.coefficients.push(*place);
            }
        }
    }

    /// Constraints so far.
    pub(crate) fn len(&self) -> usize {
        self.sides[0].0.rows()
    }

    /// Terms of all constraints so far.
    pub(crate) fn terms(&self) -> usize {
        self.sides.iter().map(|(matrix, _)| matrix.columns.len()).sum()
    }

    /// The system over `public` public variables, the constant one among them, and `private` others. A constraint
    /// `x · 0 = 0` is added for each public variable, so that each is bound by every proof.
    pub(crate) fn finish(mut self, public: usize, private: usize) -> ConstraintSystem {
        for variable in 0..public as u32 {
            let side = Combination::of(Variable::Public(variable));
            self.push([&side, &Combination::default(), &Combination::default()]);
        }
        let [a, b, c] = self.sides.map(|(mut matrix, _)| {
            for column in &mut matrix.columns {
                if *column & PRIVATE != 0 {
                    *column = (*column ^ PRIVATE) + public as u32;
                }
            }
            matrix
        });
        ConstraintSystem { public, variables: public + private, a, b, c }
    }
}

/// A finished system. Variables are numbered: the constant one, the public inputs, then the private ones.
#[derive(Debug, Clone)]
pub struct ConstraintSystem {
    public: usize,
    variables: usize,
    pub(crate) a: Matrix,
    pub(crate) b: Matrix,
    pub(crate) c: Matrix,
}

/// The number of the first constraint that an assignment breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) usize);

/// The values of the three sides of every constraint.
pub(crate) struct Sides {
    pub(crate) a: Vec<Scalar>,
    pub(crate) b: Vec<Scalar>,
    pub(crate) c: Vec<Scalar>,
}

impl ConstraintSystem {
    /// Public variables, the constant one among them.
    pub fn public(&self) -> usize {
        self.public
    }

    /// Terms of all constraints.
    pub fn terms(&self) -> usize {
        [&self.a, &self.b, &self.c].iter().map(|matrix| matrix.columns.len()).sum()
    }

    /// All variables.
    pub fn variables(&self) -> usize {
        self.variables
    }

    /// Constraints, those that bind the public inputs among them.
    pub fn constraints(&self) -> usize {
        self.a.rows()
    }

    /// SHA-256 of the whole system: what a key must have been made for.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"haca constraint system v1");
        for number in [self.public, self.variables, self.constraints()] {
            hash.update((number as u64).to_le_bytes());
        }
        for matrix in [&self.a, &self.b, &self.c] {
            let values: Vec<[u8; 32]> = matrix.values.iter().map(Scalar::to_bytes_le).collect();
            let mut bytes = Vec::new();
            for (row, &start) in matrix.starts.iter().enumerate() {
                let range = start as usize..matrix.end(row);
                bytes.clear();
                bytes.extend_from_slice(&(range.len() as u64).to_le_bytes());
                for (variable, place) in matrix.columns[range.clone()].iter().zip(&matrix.coefficients[range])
                {
                    bytes.extend_from_slice(&variable.to_le_bytes());
                    bytes.extend_from_slice(&values[*place as usize]);
                }
                hash.update(&bytes);
            }
        }
        hash.finalize().into()
    }

    /// The sides of every constraint under an assignment of all variables.
    ///
    /// # Errors
    /// The first constraint that does not hold.
    ///
    /// # Panics
    /// If the assignment has another number of variables.
    pub(crate) fn sides(&self, assignment: &[Scalar]) -> Result<Sides, Broken> {
        assert_eq!(assignment.len(), self.variables, "a value for each variable");
        let [a, b, c] = [&self.a, &self.b, &self.c].map(|matrix| matrix.values(assignment));
        if assignment[0] != Scalar::ONE {
            return Err(Broken(0));
        }
        let holds = |row: &usize| a[*row] * b[*row] == c[*row];
        match (0..self.constraints()).into_par_iter().with_min_len(1024).find_first(|row| !holds(row)) {
            Some(row) => Err(Broken(row)),
            None => Ok(Sides { a, b, c }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zk::reference::chain;

    #[test]
    fn combinations_merge_and_drop_what_cancels() {
        let (x, y) = (Variable::Private(1), Variable::Private(0));
        let mut sum = Combination::of(x);
        sum.add_scaled(&Combination::of(y), Scalar::from(2));
        sum.add_scaled(&Combination::of(x), -Scalar::ONE);
        sum.add_scaled(&Combination::of(y), Scalar::from(3));
        assert_eq!(sum.canonical().0, vec![(y, Scalar::from(5))]);
    }

    #[test]
    fn an_assignment_that_breaks_a_constraint_is_told_which() {
        let (system, mut assignment) = chain(5, 1, 3);
        assert_eq!((system.constraints(), system.variables()), (5 + 2, 8));
        assert!(system.sides(&assignment).is_ok());
        assignment[4] += Scalar::ONE;
        assert_eq!(system.sides(&assignment).err(), Some(Broken(0)));
        assignment[4] -= Scalar::ONE;
        assignment[1] += Scalar::ONE;
        assert_eq!(system.sides(&assignment).err(), Some(Broken(4)));
    }

    #[test]
    fn the_digest_tells_systems_apart() {
        assert_eq!(chain(5, 1, 3).0.digest(), chain(5, 1, 4).0.digest());
        assert_ne!(chain(5, 1, 3).0.digest(), chain(6, 1, 3).0.digest());
    }
}
