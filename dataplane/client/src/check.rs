//! Whether an answer stands up: the leaf says what was asked and what was answered, and the node signed it.
//!
//! All answers of a batch share one signature, so it is checked once and remembered by its root; what is left per
//! answer is hashing. Tasks that hold answers of one batch at the same time wait for the one that checks.

use crate::infer::Tensor;
use haca_verifier::Trust;
use haca_verifier::attestation::development::{self, DevelopmentError};
use haca_wire::evidence::{self, DevelopmentEvidence};
use haca_wire::leaf::LeafError;
use haca_wire::message::model::ModelEntry;
use haca_wire::message::session::Welcome;
use haca_wire::receipt::{Receipt, ReceiptError};
use haca_wire::tensor::Shape;
use haca_wire::{Digest, Dtype, Leaf, Mode, NodeId, RequestId, SessionId, sign};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Batches whose signature is remembered. Answers of more than a few batches are rarely on their way at a time; one
/// that was forgotten costs a check more.
const REMEMBERED: usize = 16;

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The leaf does not read.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The leaf says something else than what was asked or answered.
    #[error("its leaf has the {field} {found}, it must be {expected}")]
    Field {
        /// Which field of the leaf.
        field: &'static str,
        /// What it must be.
        expected: Value,
        /// What it is.
        found: Value,
    },
    /// The output is no output of the model.
    #[error("the output is of shape {shape} and type {dtype}, the model's is of shape {expected}")]
    Output {
        /// The output's shape.
        shape: Shape,
        /// The output's element type.
        dtype: Dtype,
        /// The shape that the model table states.
        expected: Shape,
    },
    /// Path or signature do not verify.
    #[error(transparent)]
    Receipt(ReceiptError),
    /// There is no signature where there must be one.
    #[error("it is not signed, and answers in mode {0} must be")]
    Unsigned(Mode),
    /// Mode `tee` was answered by a node that showed no evidence.
    #[error("the node showed no attestation evidence for mode tee")]
    NoEvidence,
    /// The node's evidence is not acceptable.
    #[error(transparent)]
    Evidence(DevelopmentError),
}

/// The value of a leaf's field, in the form that is shown to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(String);

impl Value {
    fn new(value: impl fmt::Display) -> Self {
        Self(value.to_string())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What an answer is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) id: RequestId,
    pub(crate) model: &'a ModelEntry,
    pub(crate) mode: Mode,
    pub(crate) sealed: bool,
    pub(crate) dtype: Dtype,
    pub(crate) input: Digest,
}

/// Holds answers of one session against what was asked.
#[derive(Debug)]
pub(crate) struct Checker {
    node: NodeId,
    session: SessionId,
    signs_vanilla: bool,
    policy_epoch: u32,
    evidence: Option<Evidence>,
    verified: Mutex<VecDeque<VerifiedBatch>>,
}

/// The node's evidence, examined once per session.
#[derive(Debug)]
struct Evidence {
    digest: Digest,
    examined: Result<DevelopmentEvidence, DevelopmentError>,
}

#[derive(Debug, PartialEq, Eq)]
struct VerifiedBatch {
    root: Digest,
    size: u32,
    signature: [u8; sign::SIGNATURE_LEN],
}

impl Checker {
    pub(crate) fn new(welcome: &Welcome, trust: &Trust) -> Self {
        Self {
            node: trust.node_key,
            session: welcome.session,
            signs_vanilla: welcome.signs_vanilla,
            policy_epoch: welcome.policy_epoch,
            evidence: welcome
                .evidence
                .as_ref()
                .map(|bytes| Evidence { digest: evidence::digest(bytes), examined: examine(bytes, trust) }),
            verified: Mutex::new(VecDeque::with_capacity(REMEMBERED)),
        }
    }

    /// Checks everything that can be checked without the log and without the model.
    pub(crate) fn check(&self, asked: &Asked<'_>, output: &Tensor, receipt: &Receipt) -> Result<Leaf, Fault> {
        let leaf = receipt.leaf()?;
        must_be("request id", asked.id, leaf.request)?;
        must_be("session", self.session, leaf.session)?;
        must_be("node", self.node, leaf.node)?;
        must_be("model", asked.model.id, leaf.model)?;
        must_be("mode", asked.mode, leaf.mode)?;
        must_be("flag of a sealed input", asked.sealed, leaf.sealed)?;
        must_be(if asked.sealed { "commitment" } else { "input hash" }, asked.input, leaf.input)?;
        if output.shape() != asked.model.output_shape || output.dtype() != asked.dtype {
            let expected = asked.model.output_shape;
            return Err(Fault::Output { shape: output.shape(), dtype: output.dtype(), expected });
        }
        must_be("output hash", output.hash(), leaf.output)?;
        if leaf.policy_epoch < self.policy_epoch {
            must_be("policy epoch", self.policy_epoch, leaf.policy_epoch)?;
        }
        self.check_evidence(&leaf)?;
        self.check_signature(&leaf, receipt)?;
        Ok(leaf)
    }

    /// In mode `tee` the leaf names the evidence that was shown, and that must be good. In the other modes it may
    /// name it, and names no other.
    fn check_evidence(&self, leaf: &Leaf) -> Result<(), Fault> {
        let shown = self.evidence.as_ref().map(|evidence| evidence.digest).unwrap_or_default();
        if leaf.mode != Mode::Tee {
            return match leaf.evidence == Digest::default() {
                true => Ok(()),
                false => must_be("evidence digest", shown, leaf.evidence),
            };
        }
        let evidence = self.evidence.as_ref().ok_or(Fault::NoEvidence)?;
        must_be("evidence digest", shown, leaf.evidence)?;
        let held = evidence.examined.as_ref().map_err(|error| Fault::Evidence(error.clone()))?;
        let (issued, expires, completed) = (held.issued, held.expires, leaf.completed);
        if completed < issued || completed >= expires {
            return Err(Fault::Evidence(DevelopmentError::Time { issued, expires, completed }));
        }
        Ok(())
    }

    fn check_signature(&self, leaf: &Leaf, receipt: &Receipt) -> Result<(), Fault> {
        let root = receipt.batch_root().map_err(Fault::Receipt)?;
        let Some(signature) = receipt.signature else {
            return match leaf.mode {
                Mode::Vanilla if !self.signs_vanilla => Ok(()),
                mode => Err(Fault::Unsigned(mode)),
            };
        };
        let batch = VerifiedBatch { root, size: receipt.batch_size, signature };
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.contains(&batch) {
            return Ok(());
        }
        if !sign::verify_batch(&self.node, batch.size, &batch.root, &batch.signature) {
            return Err(Fault::Receipt(ReceiptError::Signature(root)));
        }
        verified.truncate(REMEMBERED - 1);
        verified.push_front(batch);
        Ok(())
    }
}

/// What of evidence does not depend on a leaf: its issuer and that issuer's signature, and that it binds the two
/// keys this session rests on.
fn examine(bytes: &[u8], trust: &Trust) -> Result<DevelopmentEvidence, DevelopmentError> {
    let evidence = DevelopmentEvidence::decode(bytes)?;
    development::check_trusted(&evidence, trust)?;
    let bound = evidence.binding.signing_key;
    if bound != trust.node_key {
        return Err(DevelopmentError::SigningKey { bound, leaf: trust.node_key });
    }
    Ok(evidence)
}

fn must_be<T: PartialEq + fmt::Display>(field: &'static str, expected: T, found: T) -> Result<(), Fault> {
    if expected == found {
        return Ok(());
    }
    Err(Fault::Field { field, expected: Value::new(expected), found: Value::new(found) })
}
