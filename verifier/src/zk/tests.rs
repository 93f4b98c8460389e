//! The engine as a whole: against bellman's own generator, prover and verifier, and under mutation.

use std::sync::{Arc, LazyLock};

use bellman::groth16;
use ff::Field;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use rand_core::OsRng;
use rayon::prelude::*;

use super::reference::{Assigned, chain};
use super::*;
use crate::Policy;

struct Fixture {
    system: Arc<ConstraintSystem>,
    assignment: Vec<Scalar>,
    prover: Prover,
    proof: Proof,
}

impl Fixture {
    fn claim(&self) -> Claim {
        Claim { proof: self.proof.clone(), inputs: vec![self.assignment[1]] }
    }
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let (system, assignment) = chain(40, 1, 3);
    let system = Arc::new(system);
    let key = setup::development(&system, [7; 32], StatementKind::Open, &mut OsRng).unwrap();
    let prover = Prover::new(Arc::clone(&system), key).unwrap();
    let proof = prover.prove(&assignment, &mut OsRng).unwrap();
    Fixture { system, assignment, prover, proof }
});

#[test]
fn proofs_hold_here_and_by_bellman_and_bellmans_proofs_hold_here() {
    let Fixture { system, assignment, prover, proof } = &*FIXTURE;
    let key = prover.verifying_key();
    assert_eq!(key.verify(&[FIXTURE.claim()]), Ok(()));
    let prepared = groth16::prepare_verifying_key(&key.points);
    groth16::verify_proof(&prepared, &proof.0, &assignment[1..2]).unwrap();

    let assigned = Assigned { system, assignment };
    let parameters =
        groth16::generate_random_parameters::<blstrs::Bls12, _, _>(assigned, &mut OsRng).unwrap();
    let theirs = groth16::create_random_proof(assigned, &parameters, &mut OsRng).unwrap();
    let under_ours = groth16::create_random_proof(assigned, &prover.parameters(), &mut OsRng).unwrap();
    let claim = Claim { proof: Proof(under_ours), inputs: vec![assignment[1]] };
    assert_eq!(key.verify(&[claim]), Ok(()));
    let key = VerifyingKey::new(parameters.vk, *key.origin());
    assert_eq!(key.verify(&[Claim { proof: Proof(theirs), inputs: vec![assignment[1]] }]), Ok(()));
}

#[test]
fn an_assignment_that_solves_nothing_gets_no_proof() {
    let Fixture { system, assignment, prover, .. } = &*FIXTURE;
    let mut wrong = assignment.clone();
    wrong[1] += Scalar::ONE;
    assert_eq!(prover.prove(&wrong, &mut OsRng).err(), Some(ProverError::Unsatisfied(39)));
    let other = Arc::new(chain(41, 1, 3).0);
    let key = setup::development(system, [7; 32], StatementKind::Open, &mut OsRng).unwrap();
    assert_eq!(Prover::new(other, key).err(), Some(ProverError::OtherCircuit));
}

#[test]
fn a_batch_names_the_proofs_that_do_not_hold() {
    let Fixture { assignment, prover, .. } = &*FIXTURE;
    let key = prover.verifying_key();
    let mut claims: Vec<Claim> = (0..70)
        .map(|_| Claim { proof: prover.prove(assignment, &mut OsRng).unwrap(), inputs: vec![assignment[1]] })
        .collect();
    assert_eq!(key.verify(&claims), Ok(()));
    // Two errors that cancel unless each equation has a power of its own.
    let delta = key.points.alpha_g1;
    claims[13].proof.0.c = (claims[13].proof.0.c + blstrs::G1Projective::from(delta)).into();
    claims[14].proof.0.c = (claims[14].proof.0.c - blstrs::G1Projective::from(delta)).into();
    claims[69].inputs[0] += Scalar::ONE;
    assert_eq!(key.verify(&claims), Err(Refused::False(vec![13, 14, 69])));
    assert_eq!(key.verify(&[]), Err(Refused::Empty));
    claims[3].inputs.push(Scalar::ONE);
    assert_eq!(key.verify(&claims), Err(Refused::Inputs { index: 3, found: 2, expected: 1 }));
}

#[test]
fn numbers_that_are_not_reduced_are_refused() {
    let order = {
        let mut bytes = (-Scalar::ONE).to_bytes_be();
        bytes[31] += 1;
        bytes
    };
    assert_eq!(scalars_from_bytes(&[[0; 32], order]), Err(Malformed::Scalar(1)));
    assert_eq!(scalars_from_bytes(&[[255; 32]]), Err(Malformed::Scalar(0)));
    assert_eq!(scalars_from_bytes(&[(-Scalar::ONE).to_bytes_be()]), Ok(vec![-Scalar::ONE]));
}

#[test]
fn identities_and_points_outside_the_group_are_refused() {
    let bytes = FIXTURE.proof.to_bytes();
    assert_eq!(Proof::from_bytes(&bytes).as_ref(), Ok(&FIXTURE.proof));
    assert_eq!(Proof::from_bytes(&bytes[..191]), Err(Malformed::Length(191)));
    for (point, range) in [('A', 0..48), ('B', 48..144), ('C', 144..192)] {
        let mut identity = bytes;
        identity[range.clone()].fill(0);
        identity[range.start] = 0xc0;
        assert_eq!(Proof::from_bytes(&identity), Err(Malformed::Identity(point)));
        // Points of the curve by small x coordinates: the group is a small part of the curve.
        let mut outside = bytes;
        outside[range.clone()].fill(0);
        outside[range.start] = 0x80;
        let found = (0..=255).find_map(|x| {
            outside[range.end - 1] = x;
            match Proof::from_bytes(&outside) {
                Err(Malformed::NotOnCurve(_) | Malformed::Identity(_)) => None,
                other => Some(other),
            }
        });
        assert_eq!(found, Some(Err(Malformed::NotInGroup(point))));
    }
}

#[test]
fn a_batch_of_bytes_names_the_claim_that_does_not_read() {
    let inputs = [FIXTURE.assignment[1].to_bytes_be()];
    let good = FIXTURE.proof.to_bytes();
    let mut batch: Vec<(&[u8], &[[u8; 32]])> = vec![(&good, &inputs); 130];
    assert_eq!(Claim::read_all(&batch).unwrap().len(), 130);
    let mut outside = good;
    outside[144..].fill(0);
    outside[144] = 0x80;
    let on_curve = (1..=255).any(|x| {
        outside[191] = x;
        Proof::from_bytes_on_curve(&outside).is_ok()
    });
    assert!(on_curve);
    batch[77].0 = &outside;
    let source = Malformed::NotInGroup('C');
    assert_eq!(Claim::read_all(&batch).unwrap_err(), Unreadable { index: 77, source });
    batch[5].1 = &[[255; 32]];
    assert_eq!(Claim::read_all(&batch).unwrap_err().source, Malformed::Scalar(0));
}

#[test]
fn keys_round_trip_and_inconsistent_ones_are_refused() {
    let key = FIXTURE.prover.verifying_key();
    let bytes = key.to_bytes();
    let read = VerifyingKey::from_bytes(&bytes).unwrap();
    assert_eq!((read.id(), read.origin(), read.inputs()), (key.id(), key.origin(), 1));
    assert_eq!(read.verify(&[FIXTURE.claim()]), Ok(()));
    assert_eq!(read.origin().setup, Setup::Development);
    assert_eq!(read.check_policy(Policy::DEVELOPMENT), Ok(()));
    assert_eq!(read.check_policy(Policy::PRODUCTION), Err(KeyError::Development));

    let mut equal = bytes.clone();
    equal.copy_within(452..548, 308);
    assert_eq!(VerifyingKey::from_bytes(&equal).err(), Some(KeyError::Inconsistent("γ and δ are equal")));
    let mut other = bytes.clone();
    other.copy_within(116..164, 164);
    assert_eq!(
        VerifyingKey::from_bytes(&other).err(),
        Some(KeyError::Inconsistent("β differs in G1 and G2"))
    );
    let mut other = bytes.clone();
    other.copy_within(116..164, 404);
    assert_eq!(
        VerifyingKey::from_bytes(&other).err(),
        Some(KeyError::Inconsistent("δ differs in G1 and G2"))
    );
    let mut version = bytes.clone();
    version[8] = 1;
    assert_eq!(VerifyingKey::from_bytes(&version).err(), Some(KeyError::Version(1)));
    let mut longer = bytes;
    longer.push(0);
    assert!(matches!(VerifyingKey::from_bytes(&longer), Err(KeyError::Damaged(_))));
}

/// One change of some bytes.
#[derive(Debug, Clone)]
enum Change {
    Flip { at: prop::sample::Index, bit: u8 },
    Replace { at: prop::sample::Index, with: u8 },
    Swap { one: prop::sample::Index, other: prop::sample::Index },
    Cut { at: prop::sample::Index },
}

impl Change {
    fn any() -> impl Strategy<Value = Change> {
        let at = any::<prop::sample::Index>;
        prop_oneof![
            4 => (at(), 0u8..8).prop_map(|(at, bit)| Change::Flip { at, bit }),
            2 => (at(), any::<u8>()).prop_map(|(at, with)| Change::Replace { at, with }),
            2 => (at(), at()).prop_map(|(one, other)| Change::Swap { one, other }),
            1 => at().prop_map(|at| Change::Cut { at }),
        ]
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        match self {
            _ if length == 0 => {}
            Change::Flip { at, bit } => bytes[at.index(length)] ^= 1 << bit,
            Change::Replace { at, with } => bytes[at.index(length)] = *with,
            Change::Swap { one, other } => bytes.swap(one.index(length), other.index(length)),
            Change::Cut { at } => bytes.truncate(at.index(length)),
        }
    }
}

/// Runs a test on cases of a strategy, on all cores. `HACA_ZK_MUTATIONS=1000000` runs as many.
pub(super) fn on_cases<S: Strategy>(
    strategy: impl Fn() -> S + Sync,
    test: impl Fn(S::Value) -> Result<(), TestCaseError> + Sync,
) {
    const CHUNK: u32 = 1000;
    let cases: u32 =
        std::env::var("HACA_ZK_MUTATIONS").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300);
    (0..cases.div_ceil(CHUNK)).into_par_iter().for_each(|chunk| {
        let config = ProptestConfig {
            failure_persistence: None,
            // A cut input is none that is checked, so a share of many cases is passed over.
            max_global_rejects: u32::MAX,
            ..ProptestConfig::with_cases(CHUNK.min(cases - chunk * CHUNK))
        };
        if let Err(error) = TestRunner::new(config).run(&strategy(), &test) {
            panic!("{error}");
        }
    });
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec(Change::any(), 1..4)
}

fn changed(original: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = original.to_vec();
    changes.iter().for_each(|change| change.apply(&mut bytes));
    bytes
}

#[test]
fn mutated_proofs_are_never_accepted() {
    let original = FIXTURE.proof.to_bytes();
    on_cases(changes, |changes| {
        let bytes = changed(&original, &changes);
        prop_assume!(bytes != original);
        if let Ok(proof) = Proof::from_bytes(&bytes) {
            let claim = Claim { proof, inputs: vec![FIXTURE.assignment[1]] };
            prop_assert_eq!(FIXTURE.prover.verifying_key().verify(&[claim]), Err(Refused::False(vec![0])));
        }
        Ok(())
    });
}

#[test]
fn mutated_keys_accept_nothing() {
    let original = FIXTURE.prover.verifying_key().to_bytes();
    on_cases(changes, |changes| {
        let bytes = changed(&original, &changes);
        prop_assume!(bytes != original);
        if let Ok(key) = VerifyingKey::from_bytes(&bytes) {
            prop_assert_ne!(key.id(), FIXTURE.prover.verifying_key().id());
            // A change of what the key was made for leaves its points alone, and is seen by the id.
            if bytes[116..] != original[116..] {
                prop_assert!(key.verify(&[FIXTURE.claim()]).is_err());
            }
        }
        Ok(())
    });
}

#[test]
fn mutated_inputs_are_never_accepted() {
    let original = FIXTURE.assignment[1].to_bytes_be();
    on_cases(changes, |changes| {
        let bytes = changed(&original, &changes);
        prop_assume!(bytes != original && bytes.len() == 32);
        if let Ok(inputs) = scalars_from_bytes(&[bytes.try_into().unwrap()]) {
            let claim = Claim { proof: FIXTURE.proof.clone(), inputs };
            prop_assert_eq!(FIXTURE.prover.verifying_key().verify(&[claim]), Err(Refused::False(vec![0])));
        }
        Ok(())
    });
}
