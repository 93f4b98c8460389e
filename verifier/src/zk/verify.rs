//! Checking proofs, one or thousands at a time.
//!
//! A proof `(A, B, C)` of public inputs `x` holds if `e(A, B) = e(α, β) · e(Σ x_j K_j, γ) · e(C, δ)`. Equations of many
//! proofs under one key are each raised to a power of their own and multiplied: the pairings with β, γ and δ are then
//! taken once. Powers are of 2^128 - 1 numbers, none of them zero, and drawn after the batch is fixed, so that a batch with a
//! false proof passes with a chance of 2^-127 at most. A batch that fails is halved until the false ones are found.

use blstrs::{G1Affine, G2Affine, Scalar};
use ff::Field;
use rayon::prelude::*;
use thiserror::Error;

use super::curve::{Curve, G1};
use super::key::VerifyingKey;
use super::membership::all_in_g1;
use super::multiscalar::sum_of_products;
use super::pairing::Product;
use super::powers::{Power, products, times_lambda};
use super::proof::{Malformed, Proof, scalars_from_bytes};

/// A proof with the public inputs that it is said to prove.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The proof.
    pub proof: Proof,
    /// Its public inputs, without the constant one.
    pub inputs: Vec<Scalar>,
}

/// Which claim of a batch does not read, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("claim {index}: {source}")]
pub struct Unreadable {
    /// Its index.
    pub index: usize,
    /// What is wrong.
    pub source: Malformed,
}

impl Claim {
    /// Reads a batch of proofs with their public inputs, and checks them as [`Proof::from_bytes`] and
    /// [`scalars_from_bytes`] do, save for two checks of groups. Points of G1 are checked to be in it together: a batch
    /// with one outside passes with a chance below 2^-128. That points are in G2 is left to [`VerifyingKey::verify`],
    /// which finds it out on its way. Runs on the threads of the current rayon pool.
    ///
    /// # Errors
    /// [`Unreadable`] with the first claim that is wrong.
    pub fn read_all(batch: &[(&[u8], &[[u8; 32]])]) -> Result<Vec<Claim>, Unreadable> {
        let read = |(index, &(proof, inputs)): (usize, &(&[u8], &[[u8; 32]]))| {
            let claim = Proof::from_bytes_on_curve(proof)
                .and_then(|proof| Ok(Claim { proof, inputs: scalars_from_bytes(inputs)? }));
            claim.map_err(|source| Unreadable { index, source })
        };
        let claims: Vec<Claim> = batch.par_iter().enumerate().map(read).collect::<Result<_, _>>()?;
        let points: Vec<G1Affine> =
            claims.iter().flat_map(|claim| [claim.proof.0.a, claim.proof.0.c]).collect();
        if all_in_g1(&points) {
            return Ok(claims);
        }
        for (index, claim) in claims.iter().enumerate() {
            claim.proof.check_g1().map_err(|source| Unreadable { index, source })?;
        }
        // Chance does not make an inside point look outside.
        unreachable!("a sum of points of the group is in the group")
    }
}

/// Why a batch was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// Nothing was checked, so nothing holds.
    #[error("a batch without proofs proves nothing")]
    Empty,
    /// A claim of another statement.
    #[error("claim {index} has {found} public inputs, the key takes {expected}")]
    Inputs {
        /// Which claim.
        index: usize,
        /// Its public inputs.
        found: usize,
        /// The key's.
        expected: usize,
    },
    /// These claims do not hold; all others do.
    #[error("{} of the proofs do not hold, the first is number {}", .0.len(), .0[0])]
    False(Vec<usize>),
}

/// Proofs that one task scales and pairs.
const SHARE: usize = 64;

impl VerifyingKey {
    /// Checks all claims of a batch, on the threads of the current rayon pool. A claim with a point outside of G2 does not
    /// hold.
    ///
    /// # Errors
    /// [`Refused`]; the claims that do not hold are named.
    pub fn verify(&self, claims: &[Claim]) -> Result<(), Refused> {
        if claims.is_empty() {
            return Err(Refused::Empty);
        }
        let expected = self.inputs();
        if let Some((index, claim)) =
            claims.iter().enumerate().find(|(_, claim)| claim.inputs.len() != expected)
        {
            return Err(Refused::Inputs { index, found: claim.inputs.len(), expected });
        }
        let mut failed = Vec::new();
        self.bisect(claims, 0, &mut failed);
        if failed.is_empty() { Ok(()) } else { Err(Refused::False(failed)) }
    }

    fn bisect(&self, claims: &[Claim], first: usize, failed: &mut Vec<usize>) {
        if self.holds(claims) {
            return;
        }
        if claims.len() == 1 {
            failed.push(first);
            return;
        }
        let (low, high) = claims.split_at(claims.len() / 2);
        self.bisect(low, first, failed);
        self.bisect(high, first + low.len(), failed);
    }

    /// Whether all claims hold, of which there is at least one.
    fn holds(&self, claims: &[Claim]) -> bool {
        let powers = if claims.len() == 1 { vec![Power::ONE] } else { Power::draw(claims.len()) };
        let mut inputs = vec![Scalar::ZERO; self.inputs() + 1];
        for (claim, power) in claims.iter().zip(&powers) {
            let power = power.scalar();
            inputs[0] += power;
            inputs[1..].iter_mut().zip(&claim.inputs).for_each(|(sum, input)| *sum += *input * power);
        }
        let mut last: Vec<G1Affine> = claims.iter().map(|claim| claim.proof.0.c).collect();
        last.extend(claims.iter().map(|claim| times_lambda(&claim.proof.0.c)));
        let low = powers.iter().map(|power| Scalar::from(power.low));
        let halves: Vec<Scalar> = low.chain(powers.iter().map(|power| Scalar::from(power.high))).collect();
        let points = &self.points;
        let fixed = G1::normalize(&[
            -(points.alpha_g1 * inputs[0]),
            -sum_of_products::<G1>(&points.ic, &inputs),
            -sum_of_products::<G1>(&last, &halves),
        ]);
        let fixed = Product::new(&fixed, &[points.beta_g2, points.gamma_g2, points.delta_g2]);
        let shares = claims.par_chunks(SHARE).zip(powers.par_chunks(SHARE)).map(|(claims, powers)| {
            let left: Vec<G1Affine> = claims.iter().map(|claim| claim.proof.0.a).collect();
            let right: Vec<G2Affine> = claims.iter().map(|claim| claim.proof.0.b).collect();
            Product::in_group(&products(&left, powers), &right)
        });
        let product = shares.try_reduce_with(|a, b| Some(a.times(&b))).flatten();
        product.is_some_and(|product| product.times(&fixed).is_one())
    }
}
