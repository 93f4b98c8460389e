//! The proof of a receipt file, checked: what `receipt::check` asks of this module.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use haca_kernels::Model;
use haca_wire::receipt::ReceiptProof;
use haca_wire::{Digest, Leaf};
use sha2::{Digest as _, Sha256};

use super::{Claim, KeyError, Proof, Setup, Statement, StatementError, StatementKind, VerifyingKey};
use crate::receipt::{Asked, ProofKey};

/// Keys that are remembered. Receipts of a directory are of a few models, each with a key; one that was forgotten costs
/// some milliseconds.
const REMEMBERED: usize = 16;

/// Checks proofs of receipts of one model. Reads each key once. Threads may share it.
#[derive(Debug, Default)]
pub struct ProofChecker {
    model: Option<Arc<Model>>,
    keys: Mutex<HashMap<Digest, Result<Arc<VerifyingKey>, KeyError>>>,
}

impl ProofChecker {
    /// A checker of the proofs of this model; without one, of the form of proofs and keys alone.
    pub fn new(model: Option<Arc<Model>>) -> ProofChecker {
        ProofChecker { model, keys: Mutex::default() }
    }

    /// Checks that key and proof read, and that the key is of the leaf's model and statement; and given what was asked, that
    /// it and the output's integers are the leaf's, and that the proof holds for them.
    ///
    /// # Errors
    /// What is wrong, for a person. Also if it is known what was asked, but there is no model.
    pub fn check(
        &self,
        leaf: &Leaf,
        carried: &ReceiptProof,
        asked: Option<Asked<'_>>,
    ) -> Result<ProofKey, String> {
        let key = self.key(&carried.key).map_err(|error| error.to_string())?;
        let proof = Proof::from_bytes(&carried.proof.proof).map_err(|error| error.to_string())?;
        let (of_key, of_leaf) = (Digest(key.origin().model), Digest(leaf.model.0));
        if of_key != of_leaf {
            return Err(format!("the verification key is of model {of_key}, the receipt of {of_leaf}"));
        }
        let (of_key, of_leaf) = (key.origin().statement, StatementKind::of(leaf));
        if of_key != of_leaf {
            return Err(StatementError::OtherKind { key: of_key, leaf: of_leaf }.to_string());
        }
        if let Some(asked) = asked {
            let model = self.model.as_deref().ok_or("there is no model to check the proof with")?;
            let statement = match asked {
                Asked::Row { bytes, .. } => Statement::new(model, &key, leaf, bytes, &carried.output),
                Asked::Sealed => Statement::sealed(model, &key, leaf, &carried.output),
            };
            let Statement { inputs } = statement.map_err(|error| error.to_string())?;
            key.verify(&[Claim { proof, inputs }])
                .map_err(|_| "the proof does not hold for this receipt, its input and its output")?;
        }
        Ok(ProofKey { development: key.origin().setup == Setup::Development })
    }

    fn key(&self, bytes: &[u8]) -> Result<Arc<VerifyingKey>, KeyError> {
        let id = Digest(Sha256::digest(bytes).into());
        // Nothing here is left half-changed by a panic, so a poisoned lock is as good as another.
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if !keys.contains_key(&id) && keys.len() == REMEMBERED {
            keys.clear();
        }
        keys.entry(id).or_insert_with(|| VerifyingKey::from_bytes(bytes).map(Arc::new)).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use haca_kernels::{Dtype, Executor, npy};
    use haca_wire::receipt::ReceiptFile;
    use haca_wire::{Mode, ModelId, RequestId, tensor};
    use rand_core::OsRng;

    use super::*;
    use crate::attestation::Policy;
    use crate::receipt::{Given, check};
    use crate::report::{Check, Outcome, Report, Verdict};
    use crate::specimen;
    use crate::zk::{Binding, Circuit, Prover, setup};
    use crate::{Rows, Trust};

    struct Proven {
        model: Arc<Model>,
        input: Rows,
        trust: Trust,
        leaf: Leaf,
        file: ReceiptFile,
        /// The same row's proof for a request with another id.
        other: ReceiptFile,
        /// The same receipt's proof under another key.
        other_key: ReceiptFile,
    }

    static PROVEN: LazyLock<Proven> = LazyLock::new(|| {
        let golden = |name: &str| {
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/tests/golden").join(name)
        };
        let model = Arc::new(Model::load(&std::fs::read(golden("dense0.haca")).unwrap()).unwrap());
        let array = npy::read(golden("dense0_input.npy")).unwrap();
        let name = std::path::Path::new("X.npy");
        let input = Rows::new(name, model.input_shape(), array.rows(), &array.data).unwrap();

        let mut executor = Executor::new(Arc::clone(&model), 1);
        executor.stage(0, Dtype::F32, input.row(0)).unwrap();
        executor.execute(1);
        let mut floats = vec![0; 4 * model.output_len()];
        executor.write_output(0, Dtype::F32, &mut floats);
        let leaf = Leaf {
            mode: Mode::Zk,
            evidence: Digest::default(),
            model: ModelId(model.id()),
            input: tensor::hash(haca_wire::Dtype::F32, model.input_shape(), input.row(0)),
            output: tensor::hash(haca_wire::Dtype::F32, model.output_shape(), &floats),
            ..specimen::leaf()
        };
        let circuit = Circuit::new(Arc::clone(&model), StatementKind::Open).unwrap();
        let make = || {
            let key =
                setup::development(circuit.system(), model.id(), StatementKind::Open, &mut OsRng).unwrap();
            Prover::new(Arc::clone(circuit.system()), key).unwrap()
        };
        let prove = |prover: &Prover, leaf: &Leaf| {
            let key = prover.verifying_key();
            let witness = circuit.witness(&executor.staged(0), &Binding::new(leaf, &key.id()));
            let proof = prover.prove(&witness.assignment, &mut OsRng).unwrap();
            specimen::proven(leaf, proof.to_bytes(), key.to_bytes(), witness.output)
        };
        let prover = make();
        let file = prove(&prover, &leaf);
        let other = prove(&prover, &Leaf { request: RequestId([9; 16]), ..leaf });
        let other_key = prove(&make(), &leaf);
        Proven { input, trust: specimen::trust(), leaf, file, other, other_key, model }
    });

    impl Proven {
        fn given(&self) -> Given<'_> {
            Given {
                trust: Some(&self.trust),
                policy: Policy::DEVELOPMENT,
                input: Some(&self.input),
                output: None,
                model: Some(self.leaf.model),
                keys: &[],
                opened: None,
            }
        }

        fn report(&self, file: &ReceiptFile, given: &Given<'_>) -> Report {
            let checker = ProofChecker::new(given.model.map(|_| Arc::clone(&self.model)));
            let mut rerun = |_: usize, _: &[u8]| Ok(self.leaf.output);
            let mut proof = |leaf: &Leaf, carried: &ReceiptProof, asked: Option<Asked<'_>>| {
                checker.check(leaf, carried, asked)
            };
            check(file, given, Some(&mut rerun), Some(&mut proof))
        }

        /// The file with its proof changed, as if the prover had logged and the verifier accepted it so.
        fn changed(&self, change: impl Fn(&mut ReceiptProof)) -> ReceiptFile {
            let mut carried = self.file.proof.clone().unwrap();
            change(&mut carried);
            let ReceiptProof { proof, key, output, .. } = carried;
            ReceiptFile {
                proof: Some(specimen::judged(proof, &specimen::VERIFIER, true, key, output)),
                ..self.file.clone()
            }
        }

        /// Asserts that the proof fails with this word, and nothing else does.
        fn assert_failed(&self, file: &ReceiptFile, word: &str) {
            let report = self.report(file, &self.given());
            for (check, outcome) in report.lines() {
                match outcome {
                    Outcome::Failed(reason) => {
                        assert!(check == Check::Proof && reason.contains(word), "{word}\n{report}");
                    }
                    _ => assert_ne!(check, Check::Proof, "\n{report}"),
                }
            }
        }
    }

    #[test]
    fn an_honest_file_holds_but_for_the_output_that_was_not_given() {
        let report = PROVEN.report(&PROVEN.file, &PROVEN.given());
        for (check, outcome) in report.lines() {
            assert!(check == Check::Output || matches!(outcome, Outcome::Held(_)), "\n{report}");
        }
        let rewritten = ReceiptFile::decode(&PROVEN.file.encode()).unwrap();
        assert_eq!(PROVEN.report(&rewritten, &PROVEN.given()), report);
        for given in [Given { input: None, ..PROVEN.given() }, Given { model: None, ..PROVEN.given() }] {
            let report = PROVEN.report(&PROVEN.file, &given);
            assert!(matches!(report.outcome(Check::Proof), Outcome::NotChecked { .. }), "\n{report}");
            assert_eq!(report.verdict(), Verdict::Incomplete, "\n{report}");
        }
    }

    #[test]
    fn a_proof_that_the_verifier_accepted_wrongly_fails() {
        let other = PROVEN.other.proof.as_ref().unwrap();
        PROVEN.assert_failed(
            &PROVEN.changed(|carried| carried.proof.proof = other.proof.proof),
            "does not hold",
        );
        PROVEN.assert_failed(&PROVEN.changed(|carried| carried.proof.proof[0] = 0), "point A");
        let swapped = PROVEN.changed(|carried| carried.proof.proof.copy_within(144..192, 0));
        PROVEN.assert_failed(&swapped, "does not hold");
    }

    #[test]
    fn other_integers_of_the_output_fail() {
        PROVEN.assert_failed(&PROVEN.changed(|carried| carried.output[0] ^= 1 << 8), "output");
        let shorter = PROVEN.changed(|carried| {
            carried.output.pop();
        });
        PROVEN.assert_failed(&shorter, "output");
        PROVEN.assert_failed(&PROVEN.changed(|carried| carried.output.push(0)), "output");
    }

    #[test]
    fn a_proof_under_another_key_fails_unless_it_is_one() {
        let other = PROVEN.other_key.proof.as_ref().unwrap();
        let moved = PROVEN.changed(|carried| {
            carried.key = other.key.clone();
            carried.proof.key = other.proof.key;
        });
        PROVEN.assert_failed(&moved, "does not hold");
        PROVEN.assert_failed(&PROVEN.changed(|carried| carried.key = other.key.clone()), "the proof names");
        let damaged = PROVEN.changed(|carried| {
            carried.key.pop();
            carried.proof.key = Digest(Sha256::digest(&carried.key).into());
        });
        PROVEN.assert_failed(&damaged, "verification key");
        let report = PROVEN.report(&PROVEN.other_key, &PROVEN.given());
        assert!(matches!(report.outcome(Check::Proof), Outcome::Held(_)), "\n{report}");
    }

    #[test]
    fn a_proof_of_another_request_fails_though_input_and_output_are_the_same() {
        let other = ReceiptFile { proof: PROVEN.other.proof.clone(), ..PROVEN.file.clone() };
        PROVEN.assert_failed(&other, "another receipt");
    }

    #[test]
    fn a_proof_under_a_key_of_the_other_statement_fails_also_where_only_its_form_is_checked() {
        let (leaf, carried) = (Leaf { sealed: true, ..PROVEN.leaf }, PROVEN.file.proof.clone().unwrap());
        let file = specimen::proven(&leaf, carried.proof.proof, carried.key, carried.output);
        PROVEN.assert_failed(&file, "of the statement 'open'");
        let report = PROVEN.report(&file, &Given { model: None, ..PROVEN.given() });
        let Outcome::Failed(reason) = report.outcome(Check::Proof) else { panic!("\n{report}") };
        assert!(reason.contains("of the statement 'open'"), "{reason}");
    }

    #[test]
    fn form_is_checked_without_the_model() {
        let given = Given { model: None, ..PROVEN.given() };
        let malformed = PROVEN.changed(|carried| carried.proof.proof[0] = 0);
        let report = PROVEN.report(&malformed, &given);
        assert!(matches!(report.outcome(Check::Proof), Outcome::Failed(_)), "\n{report}");
    }

    #[test]
    fn a_row_without_a_model_is_no_proof() {
        let (carried, asked) =
            (PROVEN.file.proof.as_ref().unwrap(), Asked::Row { index: 0, bytes: PROVEN.input.row(0) });
        assert!(ProofChecker::new(None).check(&PROVEN.leaf, carried, Some(asked)).is_err());
    }

    #[test]
    fn the_production_policy_refuses_the_development_key() {
        let report = PROVEN.report(&PROVEN.file, &Given { policy: Policy::PRODUCTION, ..PROVEN.given() });
        let Outcome::Failed(reason) = report.outcome(Check::Proof) else { panic!("\n{report}") };
        assert!(reason.contains("development key"), "{reason}");
    }

    #[test]
    fn no_more_keys_are_remembered_than_said() {
        let checker = ProofChecker::default();
        for byte in 0..3 * REMEMBERED as u8 {
            assert!(checker.key(&[byte]).is_err());
        }
        assert!(checker.keys.lock().unwrap().len() <= REMEMBERED);
    }
}
