//! Parameters of a constraint system made by one party: the `development` setup.
//!
//! Whoever runs this can keep the secrets and forge proofs; the key says so. All points are multiples of the two
//! generators by known scalars, so they come from tables of the generators' multiples: one table in each group, digits
//! of ten bits with a sign, one mixed addition for each digit.

use bellman::groth16;
use blstrs::Scalar;
use ff::Field;
use group::Group;
use group::prime::PrimeCurveAffine;
use rand_core::{CryptoRng, RngCore};
use rayon::prelude::*;
use thiserror::Error;

use super::circuit::{CIRCUIT_VERSION, StatementKind};
use super::curve::{Curve, G1, G2};
use super::fourier::Domain;
use super::key::{Origin, Setup, VerifyingKey};
use super::proving::{Lists, ProvingKey};
use super::r1cs::ConstraintSystem;

/// Why a system has no parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SetupError {
    /// More constraints than the field's roots of unity serve.
    #[error("{0} constraints are more than BLS12-381 has a domain for")]
    TooLarge(usize),
    /// A private variable in no constraint: the system is wrong.
    #[error("variable {0} occurs in no constraint")]
    Unconstrained(usize),
}

/// Makes parameters of a model's system, which proves statements of this kind, with secrets from `random`, which are dropped.
///
/// # Errors
/// [`SetupError`].
pub fn development(
    system: &ConstraintSystem,
    model: [u8; 32],
    statement: StatementKind,
    random: &mut (impl RngCore + CryptoRng),
) -> Result<ProvingKey, SetupError> {
    let mut draw = || loop {
        let secret = Scalar::random(&mut *random);
        if !bool::from(secret.is_zero()) && secret != Scalar::ONE {
            break secret;
        }
    };
    with_secrets(system, model, statement, [draw(), draw(), draw(), draw()])
}

/// Makes parameters with these τ, α, β and δ.
///
/// # Panics
/// If δ is zero, or τ in the domain of the system, which of random ones none is.
pub(super) fn with_secrets(
    system: &ConstraintSystem,
    model: [u8; 32],
    statement: StatementKind,
    [tau, alpha, beta, delta]: [Scalar; 4],
) -> Result<ProvingKey, SetupError> {
    let domain = Domain::new(system.constraints()).ok_or(SetupError::TooLarge(system.constraints()))?;
    let lagrange = domain.lagrange(tau).expect("one of 2^32 in 2^255 is in a domain");
    let inverse_delta = delta.invert().into_option().expect("δ is not zero");

    let variables = system.variables();
    let [a, b, c] =
        [&system.a, &system.b, &system.c].map(|matrix| matrix.columns_weighted(&lagrange, variables));
    let shares: Vec<Scalar> =
        a.par_iter().zip(&b).zip(&c).map(|((a, b), c)| beta * a + alpha * b + c).collect();
    let (public, private) = shares.split_at(system.public());
    if let Some(index) = private.iter().position(|share| bool::from(share.is_zero())) {
        return Err(SetupError::Unconstrained(system.public() + index));
    }
    let private: Vec<Scalar> = private.par_iter().map(|share| share * inverse_delta).collect();
    let vanishing = tau.pow_vartime([domain.size() as u64]) - Scalar::ONE;
    let quotient: Vec<Scalar> =
        std::iter::successors(Some(vanishing * inverse_delta), |power| Some(*power * tau))
            .take(domain.size() - 1)
            .collect();
    let occurring = |values: &[Scalar]| -> Vec<Scalar> {
        values.iter().copied().filter(|value| !bool::from(value.is_zero())).collect()
    };
    let b = occurring(&b);

    let (table, table_g2) = (Table::<G1>::new(), Table::<G2>::new());
    let verifying_key = groth16::VerifyingKey {
        alpha_g1: table.multiply(&[alpha])[0],
        beta_g1: table.multiply(&[beta])[0],
        beta_g2: table_g2.multiply(&[beta])[0],
        // The ceremony's γ: its secrecy protects nothing.
        gamma_g2: PrimeCurveAffine::generator(),
        delta_g1: table.multiply(&[delta])[0],
        delta_g2: table_g2.multiply(&[delta])[0],
        ic: table.multiply(public),
    };
    let origin = Origin {
        setup: Setup::Development,
        model,
        circuit_version: CIRCUIT_VERSION,
        statement,
        circuit: system.digest(),
    };
    let lists = Lists {
        h: table.multiply(&quotient),
        l: table.multiply(&private),
        a: table.multiply(&occurring(&a)),
        b_g1: table.multiply(&b),
        b_g2: table_g2.multiply(&b),
    };
    Ok(ProvingKey::new(VerifyingKey::new(verifying_key, origin), lists))
}

/// Bits of a digit. A table for G1 of 26 · 512 points has 1.3 MB, which the second-level cache holds.
const DIGIT: usize = 10;
const DIGITS: usize = 256usize.div_ceil(DIGIT);
/// Multiples of the generator by `1..=2^(DIGIT - 1)`, times `2^(DIGIT · digit)`.
struct Table<C: Curve>(Vec<Vec<C::Affine>>);

impl<C: Curve> Table<C> {
    fn new() -> Table<C> {
        let mut base = C::Point::generator();
        let rows = (0..DIGITS).map(|_| {
            let row: Vec<C::Point> = std::iter::successors(Some(base), |point| Some(*point + base))
                .take(1 << (DIGIT - 1))
                .collect();
            base = (0..DIGIT).fold(base, |point, _| point.double());
            C::normalize(&row)
        });
        Table(rows.collect())
    }

    /// The generator times each scalar.
    fn multiply(&self, scalars: &[Scalar]) -> Vec<C::Affine> {
        let parts = scalars.par_chunks(1024).map(|scalars| {
            let points: Vec<C::Point> = scalars.iter().map(|scalar| self.product(scalar)).collect();
            C::normalize(&points)
        });
        parts.collect::<Vec<_>>().concat()
    }

    fn product(&self, scalar: &Scalar) -> C::Point {
        let bytes = scalar.to_bytes_le();
        let mut sum = C::Point::identity();
        let mut carry = 0;
        for (digit, row) in self.0.iter().enumerate() {
            let mut value = bits(&bytes, digit * DIGIT) + carry;
            carry = i32::from(value > 1 << (DIGIT - 1));
            value -= carry << DIGIT;
            match value {
                0 => {}
                1.. => sum += &row[value as usize - 1],
                _ => sum += &-row[-value as usize - 1],
            }
        }
        sum
    }
}

/// `DIGIT` bits of a little-endian number from bit `from` on.
fn bits(bytes: &[u8; 32], from: usize) -> i32 {
    let byte = |index: usize| i32::from(bytes.get(index).copied().unwrap_or(0));
    ((byte(from / 8) | byte(from / 8 + 1) << 8) >> (from % 8)) & ((1 << DIGIT) - 1)
}

// The widest digit begins at any bit of a byte, and is read from two.
const _: () = assert!(DIGIT + 6 <= 16 && DIGIT.is_multiple_of(2));

#[cfg(test)]
mod tests {
    use super::*;
    use blstrs::G1Projective;
    use rand_core::OsRng;

    #[test]
    fn tables_multiply_the_generators() {
        let mut scalars = vec![Scalar::ZERO, Scalar::ONE, -Scalar::ONE, Scalar::from(512), Scalar::from(513)];
        scalars.extend((0..20).map(|_| Scalar::random(OsRng)));
        let of = Table::<G1>::new().multiply(&scalars);
        let of_g2 = Table::<G2>::new().multiply(&scalars);
        for ((scalar, point), twisted) in scalars.iter().zip(of).zip(of_g2) {
            assert_eq!(G1Projective::from(point), G1Projective::generator() * scalar);
            assert_eq!(twisted.to_curve(), blstrs::G2Projective::generator() * scalar);
        }
    }
}
