//! The key that phase 2 begins with: that of a constraint system under the powers of phase 1, with δ = 1.
//!
//! The key needs the system's polynomials at τ, of which only powers in the exponent are known. The Lagrange polynomials of
//! the domain at τ are an inverse Fourier transform of the powers, of which each variable's points are sums by the
//! coefficients of its column.

use bellman::groth16;
use blstrs::{Bls12, G1Affine, G2Affine, Scalar};
use ff::Field;
use group::prime::PrimeCurveAffine;
use rayon::prelude::*;

use super::powers::Powers;
use super::{CeremonyError, Watch};
use crate::zk::curve::{Curve, G1, G2};
use crate::zk::fourier::Domain;
use crate::zk::multiscalar::sum_of_products;
use crate::zk::proving::Lists;
use crate::zk::r1cs::ConstraintSystem;
use crate::zk::setup::SetupError;

/// Points of one task.
const SHARE: usize = 64;

/// A key with δ = 1.
#[derive(Clone, PartialEq)]
pub(super) struct Initial {
    pub(super) verifying: groth16::VerifyingKey<Bls12>,
    pub(super) lists: Lists,
}

/// Binary logarithm of the domain of a system.
pub(super) fn log(system: &ConstraintSystem) -> Result<u32, CeremonyError> {
    let domain = Domain::new(system.constraints()).ok_or(SetupError::TooLarge(system.constraints()))?;
    Ok(domain.size().trailing_zeros())
}

impl Initial {
    /// The key of a system under powers.
    pub(super) fn new(
        system: &ConstraintSystem,
        powers: &Powers,
        watch: &impl Watch,
    ) -> Result<Initial, CeremonyError> {
        let (needed, found) = (log(system)?, powers.log());
        if needed > found {
            return Err(CeremonyError::TooFewPowers { needed, found });
        }
        let size = 1 << needed;
        watch.begin("transform", 4 * size * (needed as usize + 1));
        let tau = lagrange::<G1>(&powers.points.tau[..size], watch);
        let tau_g2 = lagrange::<G2>(&powers.points.tau_g2[..size], watch);
        let alpha = lagrange::<G1>(&powers.points.alpha[..size], watch);
        let beta = lagrange::<G1>(&powers.points.beta[..size], watch);

        let variables = system.variables();
        let [a, b, c] = [&system.a, &system.b, &system.c].map(|matrix| matrix.columns(variables));
        let unused = |index: usize| a[index].is_empty() && b[index].is_empty() && c[index].is_empty();
        if let Some(index) = (system.public()..variables).find(|index| unused(*index)) {
            return Err(SetupError::Unconstrained(index).into());
        }
        watch.begin("add up", 4 * variables);
        let shares = columns::<G1>(variables, watch, |index| {
            vec![(&beta, &a[index]), (&alpha, &b[index]), (&tau, &c[index])]
        });
        let (public, private) = shares.split_at(system.public());
        let one = |columns: &[Column]| -> Vec<usize> {
            (0..variables).filter(|index| !columns[*index].is_empty()).collect()
        };
        let (left, right) = (one(&a), one(&b));
        let a_points = columns::<G1>(left.len(), watch, |index| vec![(&tau, &a[left[index]])]);
        let b_g1 = columns::<G1>(right.len(), watch, |index| vec![(&tau, &b[right[index]])]);
        let b_g2 = columns::<G2>(right.len(), watch, |index| vec![(&tau_g2, &b[right[index]])]);

        let quotient: Vec<_> = powers.points.tau[..size - 1]
            .iter()
            .zip(&powers.points.tau[size..])
            .map(|(low, high)| high.to_curve() - low)
            .collect();
        let generator = (G1Affine::generator(), G2Affine::generator());
        Ok(Initial {
            verifying: groth16::VerifyingKey {
                alpha_g1: powers.points.alpha[0],
                beta_g1: powers.points.beta[0],
                beta_g2: powers.points.beta_g2,
                // As in a development key: its secrecy protects nothing.
                gamma_g2: generator.1,
                delta_g1: generator.0,
                delta_g2: generator.1,
                ic: public.to_vec(),
            },
            lists: Lists { h: G1::normalize(&quotient), l: private.to_vec(), a: a_points, b_g1, b_g2 },
        })
    }
}

/// Rows with coefficients.
type Column = Vec<(u32, Scalar)>;

/// For each index the sum of points by the columns that `of` gives for it.
fn columns<'a, C: Curve>(
    count: usize,
    watch: &impl Watch,
    of: impl Fn(usize) -> Vec<(&'a Vec<C::Affine>, &'a Column)> + Sync,
) -> Vec<C::Affine> {
    let starts: Vec<usize> = (0..count).step_by(SHARE).collect();
    let shares = starts.into_par_iter().map(|start| {
        let indices = start..count.min(start + SHARE);
        watch.advance(indices.len());
        let sums: Vec<C::Point> = indices
            .map(|index| {
                let (mut points, mut scalars) = (Vec::new(), Vec::new());
                for (list, column) in of(index) {
                    points.extend(column.iter().map(|(row, _)| list[*row as usize]));
                    scalars.extend(column.iter().map(|(_, coefficient)| *coefficient));
                }
                sum_of_products::<C>(&points, &scalars)
            })
            .collect();
        C::normalize(&sums)
    });
    shares.collect::<Vec<_>>().concat()
}

/// The Lagrange polynomials of the domain at τ, from as many powers of τ as it has elements.
fn lagrange<C: Curve>(powers: &[C::Affine], watch: &impl Watch) -> Vec<C::Affine> {
    let log = powers.len().trailing_zeros();
    let inverse = |scalar: Scalar| scalar.invert().into_option().expect("neither roots nor sizes are zero");
    let scale = inverse(Scalar::from(powers.len() as u64));
    let mut values: Vec<C::Point> =
        powers.par_iter().with_min_len(SHARE).map(|point| point.to_curve() * scale).collect();
    watch.advance(powers.len());
    let roots: Vec<Scalar> =
        std::iter::successors(Some(Scalar::ONE), |power| Some(*power * inverse(Domain::root(log))))
            .take(powers.len() / 2)
            .collect();
    transform::<C>(&mut values, &roots, 1, watch);
    let ordered: Vec<C::Point> =
        (0..values.len()).map(|index| values[index.reverse_bits() >> (usize::BITS - log)]).collect();
    ordered.par_chunks(SHARE).map(C::normalize).collect::<Vec<_>>().concat()
}

/// Decimation in frequency; the result is in bit-reversed order. A multiplication takes longer than to hand it to another
/// thread.
fn transform<C: Curve>(values: &mut [C::Point], roots: &[Scalar], stride: usize, watch: &impl Watch) {
    if values.len() > 1 {
        let (low, high) = values.split_at_mut(values.len() / 2);
        low.par_iter_mut().zip(&mut *high).enumerate().for_each(|(index, (low, high))| {
            let difference = *low - *high;
            *low += *high;
            *high = if index == 0 { difference } else { difference * roots[index * stride] };
        });
        watch.advance(2 * low.len());
        rayon::join(
            || transform::<C>(low, roots, 2 * stride, watch),
            || transform::<C>(high, roots, 2 * stride, watch),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::OsRng;

    #[test]
    fn lagrange_polynomials_come_from_powers() {
        for log in [1, 2, 7] {
            let domain = Domain::new(1 << log).unwrap();
            let tau = Scalar::random(OsRng);
            let mut power = Scalar::ONE;
            let powers: Vec<G1Affine> = (0..domain.size())
                .map(|_| {
                    let point = G1Affine::generator() * power;
                    power *= tau;
                    point.into()
                })
                .collect();
            let expected: Vec<G1Affine> = domain
                .lagrange(tau)
                .unwrap()
                .into_iter()
                .map(|value| (G1Affine::generator() * value).into())
                .collect();
            assert_eq!(lagrange::<G1>(&powers, &()), expected);
        }
    }
}
