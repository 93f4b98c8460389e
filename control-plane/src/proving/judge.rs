//! Judging proofs: what the verifier within the node and those apart have in common.
//!
//! It knows nothing of circuits and proving keys: it computes the public inputs from the leaf and its opening, takes the
//! verification key that the proof names, and checks that this key was made for the leaf's model.

use super::workbench::{Models, WorkbenchError};
use haca_kernels::Model;
use haca_verifier::zk::{
    Claim, KeyError, Malformed, Proof, Refused, Statement, StatementError, StatementKind, VerifyingKey,
};
use haca_wire::event::{ProofEvent, proof_id};
use haca_wire::opening::{self, Opening};
use haca_wire::{Digest, Leaf, ModelId};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// A proof, and what it is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) leaf: Leaf,
    pub(crate) proof: ProofEvent,
    /// Index of the proof's leaf in the log.
    pub(crate) index: u64,
    /// Of a sealed input it may lack row and salt: see [`shown`].
    pub(crate) opening: Vec<u8>,
    /// Bytes of the verification key.
    pub(crate) key: Arc<[u8]>,
}

/// What verifiers are shown of an opening: all of it, or of a sealed input the output's integers alone. They judge by no more.
pub(crate) fn shown<'a>(leaf: &Leaf, opening: &'a [u8], output: &[i64]) -> Cow<'a, [u8]> {
    if !leaf.sealed {
        return Cow::Borrowed(opening);
    }
    let mut shown = Vec::with_capacity(opening::len(0, output.len()));
    opening::push_output(output, &mut shown);
    Cow::Owned(shown)
}

fn open(case: &Case, model: &Model) -> Option<Opening> {
    let (inputs, outputs, sealed) = (model.input_len(), model.output_len(), case.leaf.sealed);
    match sealed && case.opening.len() == opening::len(0, outputs) {
        true => Opening::decode(&case.opening, 0, outputs, false),
        false => Opening::decode(&case.opening, inputs, outputs, sealed),
    }
}

/// What is to be said of a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judgement {
    Holds,
    /// It does not, and why.
    Refused(String),
    /// There is nothing to judge it by.
    Impossible(String),
}

/// Why a proof is refused, or not judged. Of a key of another release nothing is known: it may well be right.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error("it is the proof of another receipt")]
    Receipt,
    #[error("its verification key is another than it names")]
    OtherKey,
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Proof(#[from] Malformed),
    #[error(transparent)]
    Statement(#[from] StatementError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("its opening is not one of its model's")]
    Opening,
    #[error("{0}")]
    Model(String),
}

/// Keys and models that were read. Both are immutable, and few.
pub(crate) struct Judge {
    folder: Models,
    keys: HashMap<Digest, Arc<VerifyingKey>>,
    models: HashMap<ModelId, Arc<Model>>,
}

/// Claims of proofs under one key, each with the place of its case.
struct Batch {
    key: Arc<VerifyingKey>,
    claims: Vec<(usize, Claim)>,
}

impl Judge {
    /// One that finds models in this folder.
    pub(crate) fn new(folder: Models) -> Self {
        Self { folder, keys: HashMap::new(), models: HashMap::new() }
    }

    /// Whether a model is in memory, so that its file is not read.
    pub(crate) fn holds(&self, id: &ModelId) -> bool {
        self.models.contains_key(id)
    }

    /// Checks proofs, those under one key together, on the threads of the current rayon pool.
    ///
    /// # Errors
    /// If a model cannot be read now; trying again may help.
    pub(crate) fn judge(&mut self, cases: &[Case]) -> Result<Vec<Judgement>, WorkbenchError> {
        let mut judgements = vec![Judgement::Holds; cases.len()];
        let mut batches: HashMap<Digest, Batch> = HashMap::new();
        for (at, case) in cases.iter().enumerate() {
            match self.claim(case)? {
                Ok((key, claim)) => {
                    let batch = batches.entry(key.id());
                    batch.or_insert_with(|| Batch { key, claims: Vec::new() }).claims.push((at, claim));
                }
                Err(wrong) => judgements[at] = wrong.into(),
            }
        }
        for Batch { key, claims } in batches.into_values() {
            let (places, claims): (Vec<usize>, Vec<Claim>) = claims.into_iter().unzip();
            match key.verify(&claims) {
                Ok(()) => {}
                Err(Refused::False(failed)) => failed.iter().for_each(|&failed| {
                    judgements[places[failed]] = Wrong::from(Refused::False(vec![0])).into();
                }),
                Err(refused) => {
                    places.iter().for_each(|&at| judgements[at] = Wrong::from(refused.clone()).into());
                }
            }
        }
        Ok(judgements)
    }

    /// The output's integers, of a case whose proof holds.
    pub(crate) fn output(&mut self, case: &Case) -> Option<Vec<i64>> {
        let model = self.model(&case.leaf.model).ok()?;
        open(case, &model).map(|opening| opening.output)
    }

    /// What a proof claims, or why it claims nothing.
    fn claim(&mut self, case: &Case) -> Result<Result<(Arc<VerifyingKey>, Claim), Wrong>, WorkbenchError> {
        if case.proof.id != proof_id(&case.leaf.hash()) {
            return Ok(Err(Wrong::Receipt));
        }
        let key = match self.key(&case.proof.key, &case.key) {
            Ok(key) => key,
            Err(wrong) => return Ok(Err(wrong)),
        };
        let model = match self.model(&case.leaf.model) {
            Ok(model) => model,
            Err(error) if error.may_pass() => return Err(error),
            // One model that is gone must not hold up the others.
            Err(error) => {
                tracing::error!(model = %case.leaf.model, %error, "its proofs cannot be checked");
                return Ok(Err(Wrong::Model(error.to_caller())));
            }
        };
        let claim = || {
            let Opening { input, output, .. } = open(case, &model).ok_or(Wrong::Opening)?;
            let proof = Proof::from_bytes(&case.proof.proof)?;
            let statement = match StatementKind::of(&case.leaf) {
                StatementKind::Open => Statement::new(&model, &key, &case.leaf, &input, &output),
                StatementKind::Sealed => Statement::sealed(&model, &key, &case.leaf, &output),
            }?;
            Ok(Claim { proof, inputs: statement.inputs })
        };
        Ok(claim().map(|claim| (key, claim)))
    }

    fn key(&mut self, id: &Digest, bytes: &[u8]) -> Result<Arc<VerifyingKey>, Wrong> {
        if let Some(key) = self.keys.get(id) {
            return Ok(Arc::clone(key));
        }
        let key = Arc::new(VerifyingKey::from_bytes(bytes)?);
        if key.id() != *id {
            return Err(Wrong::OtherKey);
        }
        bound(&mut self.keys);
        self.keys.insert(*id, Arc::clone(&key));
        Ok(key)
    }

    fn model(&mut self, id: &ModelId) -> Result<Arc<Model>, WorkbenchError> {
        if let Some(model) = self.models.get(id) {
            return Ok(Arc::clone(model));
        }
        let model = self.folder.load(id)?;
        bound(&mut self.models);
        self.models.insert(*id, Arc::clone(&model));
        Ok(model)
    }
}

impl From<Wrong> for Judgement {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Opening
            | Wrong::Model(_)
            | Wrong::Key(KeyError::Version(_))
            | Wrong::Statement(StatementError::CircuitVersion(_)) => Judgement::Impossible(wrong.to_string()),
            Wrong::Refused(Refused::False(_)) => Judgement::Refused("it does not hold".to_owned()),
            wrong => Judgement::Refused(wrong.to_string()),
        }
    }
}

/// Begins anew when too many are known: they are read again as they are needed.
fn bound<K, V>(known: &mut HashMap<K, V>) {
    if known.len() >= MAX_KNOWN {
        known.clear();
    }
}

const MAX_KNOWN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use haca_wire::Salt;

    #[test]
    fn what_another_release_made_is_not_called_false() {
        let other: [Wrong; 2] = [KeyError::Version(9).into(), StatementError::CircuitVersion(9).into()];
        for wrong in other {
            assert!(
                matches!(Judgement::from(wrong), Judgement::Impossible(why) if why.contains("version 9"))
            );
        }
        assert!(matches!(Judgement::from(Wrong::OtherKey), Judgement::Refused(_)));
    }

    #[test]
    fn of_a_sealed_input_verifiers_are_shown_the_output_alone() {
        let open = Leaf::decode(&[&[1, 0, 2, 0][..], &[0; Leaf::LEN - 4]].concat()).unwrap();
        let sealed = Leaf { sealed: true, ..open };
        let (input, output) = (vec![0xaa; 8], vec![5, -6]);
        let opening = |salt| Opening { input: input.clone(), output: output.clone(), salt }.encode();
        assert_eq!(*shown(&open, &opening(None), &output), opening(None));
        let all = opening(Some(Salt([0xbb; Salt::LEN])));
        let seen = shown(&sealed, &all, &output);
        assert_eq!(Opening::decode(&seen, 0, 2, false).unwrap().output, output);
        assert!(!seen.contains(&0xaa) && !seen.contains(&0xbb));
    }
}
