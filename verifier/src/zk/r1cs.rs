//! Constraint systems: products of linear combinations of variables, as sparse matrices.
//!
//! A system is built once from a model, and then serves setup and every proof; only the assignment is made anew. Each
//! linear combination is kept canonical: sorted by variable, each once, none with a coefficient of zero. Setup and
//! prover both count variables by where they occur, and would disagree about one that cancels itself out.

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
        self.0.sort_unstable_by_key(|(variable, _)| *variable);
        self.0.dedup_by(|(variable, coefficient), (kept, sum)| {
            let same = variable == kept;
            if same {
                *sum += *coefficient;
            }
            same
        });
        self.0.retain(|(_, coefficient)| !bool::from(coefficient.is_zero()));
        self
    }
}

/// One side of all constraints: a row for each, canonical.
#[derive(Debug, Clone, Default)]
pub(crate) struct Matrix {
    /// First entry of each row, then the number of entries.
    starts: Vec<u32>,
    columns: Vec<u32>,
    coefficients: Vec<Scalar>,
}

impl Matrix {
    fn push(&mut self, row: impl IntoIterator<Item = (u32, Scalar)>) {
        self.starts.push(self.columns.len() as u32);
        for (column, coefficient) in row {
            self.columns.push(column);
            self.coefficients.push(coefficient);
        }
    }

    fn rows(&self) -> usize {
        self.starts.len()
    }

    /// Variables and coefficients of a row.
    pub(crate) fn row(&self, row: usize) -> impl Iterator<Item = (usize, &Scalar)> {
        let end = self.starts.get(row + 1).map_or(self.columns.len(), |end| *end as usize);
        let range = self.starts[row] as usize..end;
        self.columns[range.clone()].iter().map(|column| *column as usize).zip(&self.coefficients[range])
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
    /// A system of constraints `a · b = c` over `public` public variables, the constant one among them, and `private`
    /// others. A constraint `x · 0 = 0` is added for each public variable, so that each is bound by every proof.
    pub(crate) fn new(public: usize, private: usize, constraints: Vec<[Combination; 3]>) -> ConstraintSystem {
        let mut system = ConstraintSystem {
            public,
            variables: public + private,
            a: Matrix::default(),
            b: Matrix::default(),
            c: Matrix::default(),
        };
        let number = |variable| match variable {
            Variable::Public(index) => index,
            Variable::Private(index) => public as u32 + index,
        };
        for sides in constraints {
            for (matrix, side) in [&mut system.a, &mut system.b, &mut system.c].into_iter().zip(sides) {
                matrix
                    .push(side.canonical().0.into_iter().map(|(variable, value)| (number(variable), value)));
            }
        }
        for variable in 0..public as u32 {
            system.a.push([(variable, Scalar::ONE)]);
            system.b.push([]);
            system.c.push([]);
        }
        system
    }

    /// Public variables, the constant one among them.
    pub fn public(&self) -> usize {
        self.public
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
            for row in 0..matrix.rows() {
                hash.update((matrix.row(row).count() as u64).to_le_bytes());
                for (variable, coefficient) in matrix.row(row) {
                    hash.update((variable as u32).to_le_bytes());
                    hash.update(coefficient.to_bytes_le());
                }
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
