//! The same statement by ark-groth16: its verifier on what is exported, and its prover on the same constraints.

use std::sync::Arc;

use ark_bls12_381::{Bls12_381, Fq, Fq2, Fr, G1Affine, G2Affine};
use ark_ff::{PrimeField, UniformRand};
use ark_groth16::Groth16;
use ark_relations::r1cs::{
    ConstraintSynthesizer, ConstraintSystemRef, LinearCombination, SynthesisError, Variable,
};
use rand_core::OsRng;

use super::export::{Export, G1Text, G2Text};
use super::reference::{Assigned, chain, constraints};
use super::*;

fn number<F: PrimeField>(text: &str) -> F {
    let digits = text.strip_prefix("0x").unwrap();
    let bytes: Vec<u8> = (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    F::from_be_bytes_mod_order(&bytes)
}

fn g1([x, y]: &G1Text) -> G1Affine {
    // `new` panics for what is not in the group.
    G1Affine::new(number::<Fq>(x), number(y))
}

fn g2([x, y]: &G2Text) -> G2Affine {
    let of = |[c0, c1]: &[String; 2]| Fq2::new(number(c0), number(c1));
    G2Affine::new(of(x), of(y))
}

fn holds(json: &str) -> bool {
    let Export { curve, vk, proof, public_inputs } = serde_json::from_str(json).unwrap();
    assert_eq!(curve, "bls12-381");
    let key = ark_groth16::VerifyingKey::<Bls12_381> {
        alpha_g1: g1(&vk.alpha_g1),
        beta_g2: g2(&vk.beta_g2),
        gamma_g2: g2(&vk.gamma_g2),
        delta_g2: g2(&vk.delta_g2),
        gamma_abc_g1: vk.ic.iter().map(g1).collect(),
    };
    let proof = ark_groth16::Proof { a: g1(&proof.a), b: g2(&proof.b), c: g1(&proof.c) };
    let inputs: Vec<Fr> = public_inputs.iter().map(|input| number(input)).collect();
    Groth16::<Bls12_381>::verify_proof(&ark_groth16::prepare_verifying_key(&key), &proof, &inputs).unwrap()
}

#[derive(Clone, Copy)]
struct Ark<'a>(Assigned<'a>);

impl ConstraintSynthesizer<Fr> for Ark<'_> {
    fn generate_constraints(self, cs: ConstraintSystemRef<Fr>) -> Result<(), SynthesisError> {
        let of = |scalar: &Scalar| Fr::from_be_bytes_mod_order(&scalar.to_bytes_be());
        let mut variables = vec![Variable::One];
        for (index, value) in self.0.assignment.iter().enumerate().skip(1) {
            variables.push(if index < self.0.system.public() {
                cs.new_input_variable(|| Ok(of(value)))?
            } else {
                cs.new_witness_variable(|| Ok(of(value)))?
            });
        }
        for sides in constraints(self.0.system) {
            let [a, b, c] = sides.map(|side| {
                LinearCombination(
                    side.into_iter().map(|(index, value)| (of(&value), variables[index])).collect(),
                )
            });
            cs.enforce_constraint(a, b, c)?;
        }
        Ok(())
    }
}

#[test]
fn an_exported_proof_holds_by_another_implementation_and_a_changed_one_does_not() {
    let (system, assignment) = chain(30, 3, 5);
    let key = setup::development(&system, [0; 32], StatementKind::Open, &mut OsRng).unwrap();
    let prover = Prover::new(Arc::new(system), key).unwrap();
    let proof = prover.prove(&assignment, &mut OsRng).unwrap();
    let mut export = Export::new(prover.verifying_key(), &proof, &assignment[1..4]);
    assert!(holds(&serde_json::to_string(&export).unwrap()));
    export.public_inputs.swap(0, 1);
    assert!(!holds(&serde_json::to_string(&export).unwrap()));
}

#[test]
fn another_implementation_proves_the_same_constraints() {
    let (system, assignment) = chain(30, 3, 5);
    let circuit = Ark(Assigned { system: &system, assignment: &assignment });
    let key = Groth16::<Bls12_381>::generate_random_parameters_with_reduction(circuit, &mut OsRng).unwrap();
    let proof = Groth16::<Bls12_381>::create_random_proof_with_reduction(circuit, &key, &mut OsRng).unwrap();
    let prepared = ark_groth16::prepare_verifying_key(&key.vk);
    let inputs: Vec<Fr> =
        assignment[1..4].iter().map(|value| Fr::from_be_bytes_mod_order(&value.to_bytes_be())).collect();
    assert!(Groth16::<Bls12_381>::verify_proof(&prepared, &proof, &inputs).unwrap());
    assert!(!Groth16::<Bls12_381>::verify_proof(&prepared, &proof, &[Fr::rand(&mut OsRng); 3]).unwrap());
}
