//! The peers: ark-groth16 over its own arithmetic, bellman over blstrs.

use anyhow::Context;
use ark_bls12_381::{Bls12_381, Fr};
use ark_ff::{PrimeField, UniformRand};
use ark_groth16::Groth16;
use ark_relations::r1cs::{
    ConstraintMatrices, ConstraintSynthesizer, ConstraintSystemRef, LinearCombination, SynthesisError,
    Variable,
};
use ark_serialize::CanonicalDeserialize;
use bellman::groth16;
use blstrs::Bls12;
use haca_verifier::zk::reference::{Assigned, constraints};
use haca_verifier::zk::{ConstraintSystem, Proof, Prover, Scalar};
use rand_core::OsRng;

use super::{Seconds, timed};

const ARK: &str = "ark-groth16";
const BELLMAN: &str = "bellman";

fn fr(scalar: &Scalar) -> Fr {
    Fr::from_be_bytes_mod_order(&scalar.to_bytes_be())
}

/// The system as arkworks takes one.
#[derive(Clone, Copy)]
struct Ark<'a>(Assigned<'a>);

impl ConstraintSynthesizer<Fr> for Ark<'_> {
    fn generate_constraints(self, cs: ConstraintSystemRef<Fr>) -> Result<(), SynthesisError> {
        let Assigned { system, assignment } = self.0;
        let mut variables = vec![Variable::One];
        for (index, value) in assignment.iter().enumerate().skip(1) {
            variables.push(if index < system.public() {
                cs.new_input_variable(|| Ok(fr(value)))?
            } else {
                cs.new_witness_variable(|| Ok(fr(value)))?
            });
        }
        for sides in constraints(system) {
            let [a, b, c] = sides.map(|side| {
                let terms = side.into_iter().map(|(index, coefficient)| (fr(&coefficient), variables[index]));
                LinearCombination(terms.collect())
            });
            cs.enforce_constraint(a, b, c)?;
        }
        Ok(())
    }
}

/// Both verifiers on the same bytes, under the same key.
pub(super) fn verify(
    times: &mut Seconds,
    prover: &Prover,
    proofs: &[[u8; Proof::LEN]],
    inputs: &[[u8; 32]],
) -> anyhow::Result<()> {
    let key = &prover.parameters().vk;
    let ark_key = ark_key(key)?;
    let prepared = ark_groth16::prepare_verifying_key(&ark_key);
    timed(times, ARK, || {
        for bytes in proofs {
            let proof = ark_groth16::Proof::<Bls12_381>::deserialize_compressed(&bytes[..])?;
            let inputs: Vec<Fr> = inputs.iter().map(ark_scalar).collect::<anyhow::Result<_>>()?;
            anyhow::ensure!(Groth16::<Bls12_381>::verify_proof(&prepared, &proof, &inputs)?, "a false proof");
        }
        Ok(())
    })?;
    timed(times, BELLMAN, || {
        let mut batch = groth16::batch::Verifier::<Bls12>::new();
        for bytes in proofs {
            let proof = groth16::Proof::<Bls12>::read(&bytes[..])?;
            batch.queue((proof, haca_verifier::zk::scalars_from_bytes(inputs)?));
        }
        batch.verify(OsRng, key).ok().context("a false proof")
    })
}

fn ark_scalar(bytes: &[u8; 32]) -> anyhow::Result<Fr> {
    let mut little = *bytes;
    little.reverse();
    Ok(Fr::deserialize_compressed(&little[..])?)
}

/// Both libraries write points alike.
fn ark_key(key: &groth16::VerifyingKey<Bls12>) -> anyhow::Result<ark_groth16::VerifyingKey<Bls12_381>> {
    let g1 = |point: &blstrs::G1Affine| {
        ark_bls12_381::G1Affine::deserialize_compressed(&point.to_compressed()[..])
    };
    let g2 = |point: &blstrs::G2Affine| {
        ark_bls12_381::G2Affine::deserialize_compressed(&point.to_compressed()[..])
    };
    Ok(ark_groth16::VerifyingKey {
        alpha_g1: g1(&key.alpha_g1)?,
        beta_g2: g2(&key.beta_g2)?,
        gamma_g2: g2(&key.gamma_g2)?,
        delta_g2: g2(&key.delta_g2)?,
        gamma_abc_g1: key.ic.iter().map(g1).collect::<Result<_, _>>()?,
    })
}

/// The peers' provers of one system, with parameters of their own.
pub(super) struct Provers<'a> {
    prover: &'a Prover,
    assignment: &'a [Scalar],
    key: ark_groth16::ProvingKey<Bls12_381>,
    matrices: ConstraintMatrices<Fr>,
    values: Vec<Fr>,
}

impl<'a> Provers<'a> {
    pub(super) fn new(prover: &'a Prover, assignment: &'a [Scalar]) -> anyhow::Result<Self> {
        let circuit = Ark(Assigned { system: prover.system(), assignment });
        let key = Groth16::<Bls12_381>::generate_random_parameters_with_reduction(circuit, &mut OsRng)?;
        let cs = ark_relations::r1cs::ConstraintSystem::new_ref();
        circuit.generate_constraints(cs.clone())?;
        cs.finalize();
        let matrices = cs.to_matrices().context("no matrices")?;
        Ok(Provers { prover, assignment, key, matrices, values: assignment.iter().map(fr).collect() })
    }

    pub(super) fn prove(&self, times: &mut Seconds) -> anyhow::Result<()> {
        let public = self.prover.system().public();
        let proof = timed(times, ARK, || {
            Ok(Groth16::<Bls12_381>::create_proof_with_reduction_and_matrices(
                &self.key,
                Fr::rand(&mut OsRng),
                Fr::rand(&mut OsRng),
                &self.matrices,
                public,
                self.matrices.num_constraints,
                &self.values,
            )?)
        })?;
        let prepared = ark_groth16::prepare_verifying_key(&self.key.vk);
        let holds = Groth16::<Bls12_381>::verify_proof(&prepared, &proof, &self.values[1..public])?;
        anyhow::ensure!(holds, "{ARK} made a false proof");
        let circuit = Assigned { system: self.prover.system(), assignment: self.assignment };
        let parameters = self.prover.parameters();
        timed(times, BELLMAN, || {
            outside_the_pool(|| Ok(groth16::create_random_proof(circuit, &parameters, &mut OsRng)?))
        })?;
        Ok(())
    }
}

/// Runs on a thread of its own: bellman has its own pool, and refuses to wait on a thread of another.
fn outside_the_pool<T: Send>(run: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| scope.spawn(run).join().expect("bellman does not panic"))
}

/// Both generators.
pub(super) fn setup(
    times: &mut Seconds,
    system: &ConstraintSystem,
    assignment: &[Scalar],
) -> anyhow::Result<()> {
    let assigned = Assigned { system, assignment };
    timed(times, ARK, || {
        Ok(Groth16::<Bls12_381>::generate_random_parameters_with_reduction(Ark(assigned), &mut OsRng)?)
    })?;
    timed(times, BELLMAN, || Ok(groth16::generate_random_parameters::<Bls12, _, _>(assigned, &mut OsRng)?))?;
    Ok(())
}
