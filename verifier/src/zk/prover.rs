//! Proofs from a constraint system, its parameters and an assignment.

use std::sync::Arc;

use bellman::groth16;
use blstrs::Scalar;
use ff::Field;
use group::Curve as _;
use rand_core::{CryptoRng, RngCore};
use thiserror::Error;

use super::curve::{G1, G2};
use super::fourier::Domain;
use super::multiscalar::sum_of_products;
use super::proof::Proof;
use super::proving::ProvingKey;
use super::r1cs::{Broken, ConstraintSystem};

/// Why there is no prover, or no proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProverError {
    /// The key is of another system.
    #[error("the proving key was made for another circuit; make one for this model and circuit version")]
    OtherCircuit,
    /// The assignment is not a solution.
    #[error("the assignment breaks constraint {0} of the circuit")]
    Unsatisfied(usize),
}

/// Makes proofs of one system. Threads may share it.
pub struct Prover {
    system: Arc<ConstraintSystem>,
    key: ProvingKey,
    domain: Domain,
    /// Variables that occur on the left sides and on the right sides.
    left: Vec<u32>,
    right: Vec<u32>,
}

impl Prover {
    /// A prover of this system.
    ///
    /// # Errors
    /// [`ProverError::OtherCircuit`] if the key is of another.
    pub fn new(system: Arc<ConstraintSystem>, key: ProvingKey) -> Result<Prover, ProverError> {
        let domain = Domain::new(system.constraints()).ok_or(ProverError::OtherCircuit)?;
        let left = system.a.variables(system.variables());
        let right = system.b.variables(system.variables());
        let fits = key.verifying_key().origin().circuit == system.digest()
            && key.verifying_key().inputs() + 1 == system.public()
            && key.h().len() == domain.size() - 1
            && key.l().len() == system.variables() - system.public()
            && key.a().len() == left.len()
            && key.b_g1().len() == right.len()
            && key.b_g2().len() == right.len();
        if fits { Ok(Prover { system, key, domain, left, right }) } else { Err(ProverError::OtherCircuit) }
    }

    /// The key that its proofs are checked against.
    pub fn verifying_key(&self) -> &super::VerifyingKey {
        self.key.verifying_key()
    }

    /// The system that is proven.
    pub fn system(&self) -> &Arc<ConstraintSystem> {
        &self.system
    }

    /// A copy of the points that proofs are made of, as bellman has them.
    #[cfg(any(test, feature = "zk-reference"))]
    pub fn parameters(&self) -> groth16::Parameters<blstrs::Bls12> {
        let key = &self.key;
        groth16::Parameters {
            vk: key.verifying_key().points.clone(),
            h: Arc::new(key.h().to_vec()),
            l: Arc::new(key.l().to_vec()),
            a: Arc::new(key.a().to_vec()),
            b_g1: Arc::new(key.b_g1().to_vec()),
            b_g2: Arc::new(key.b_g2().to_vec()),
        }
    }

    /// Proves that the assignment (the constant one, the public inputs, the private variables) solves the system. The
    /// proof is blinded by `random`, so no two are the same. Runs on the threads of the current rayon pool.
    ///
    /// # Errors
    /// [`ProverError::Unsatisfied`] if it does not solve it.
    ///
    /// # Panics
    /// If the assignment has another number of variables.
    pub fn prove(
        &self,
        assignment: &[Scalar],
        random: &mut (impl RngCore + CryptoRng),
    ) -> Result<Proof, ProverError> {
        let Prover { system, key, domain, left, right } = self;
        let sides = system.sides(assignment).map_err(|Broken(row)| ProverError::Unsatisfied(row))?;
        let quotient = domain.quotient(sides.a, sides.b, sides.c);
        let among = |variables: &[u32]| -> Vec<Scalar> {
            variables.iter().map(|variable| assignment[*variable as usize]).collect()
        };
        let (left, right) = (among(left), among(right));
        // At the same time: while one sum is at a part that takes one thread, others use the rest.
        let (h, ((l, a), (b, b_g2))) = rayon::join(
            || sum_of_products::<G1>(key.h(), &quotient),
            || {
                rayon::join(
                    || {
                        let l = || sum_of_products::<G1>(key.l(), &assignment[system.public()..]);
                        rayon::join(l, || sum_of_products::<G1>(key.a(), &left))
                    },
                    || {
                        let b = || sum_of_products::<G1>(key.b_g1(), &right);
                        rayon::join(b, || sum_of_products::<G2>(key.b_g2(), &right))
                    },
                )
            },
        );

        let (r, s) = (Scalar::random(&mut *random), Scalar::random(&mut *random));
        let points = &key.verifying_key().points;
        let a = a + points.alpha_g1 + points.delta_g1 * r;
        let b = b + points.beta_g1 + points.delta_g1 * s;
        let b_g2 = b_g2 + points.beta_g2 + points.delta_g2 * s;
        let c = h + l + a * s + b * r - points.delta_g1 * (r * s);
        Ok(Proof(groth16::Proof { a: a.to_affine(), b: b_g2.to_affine(), c: c.to_affine() }))
    }
}
