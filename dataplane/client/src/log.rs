//! Receipts in the log: waiting for them, and the receipt file.

use crate::client::Client;
use crate::error::ClientError;
use crate::proof::{LoggedProof, put_together};
use haca_verifier::TreeHead;
use haca_wire::frame::FrameKind;
use haca_wire::message::Encoder;
use haca_wire::message::log::{AwaitReceipts, LogEntry, ReceiptStates};
use haca_wire::receipt::{Inclusion, MAX_FILE, Receipt, ReceiptFile};
use haca_wire::vocabulary::LogOutcome;
use haca_wire::{Digest, RequestId, Stage, evidence, merkle};

/// What the log says of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptState {
    /// The request.
    pub id: RequestId,
    /// Whether the log holds a leaf for it.
    pub outcome: LogOutcome,
    /// The leaf's index in the log.
    pub index: u64,
    /// The hash of the leaf that the log holds.
    pub leaf_hash: Digest,
    /// The proof that a checkpoint covers that leaf, if [`Stage::Checkpointed`] was awaited and the leaf is logged.
    /// It was verified: it leads from `leaf_hash` to the root that the trusted log signed.
    pub inclusion: Option<Inclusion>,
}

impl Client {
    /// Waits until the log holds these requests this far, and returns what it says of each, in the order asked.
    ///
    /// An id that the log does not know and that is not on its way does not hold up the others: see
    /// [`ReceiptState::outcome`]. That the leaf is the one of the receipt at hand is checked by
    /// [`Client::receipt_file`].
    ///
    /// # Errors
    /// If the node refuses, the connection ends, or a proof does not stand up.
    pub async fn await_receipts(
        &self,
        stage: Stage,
        ids: &[RequestId],
    ) -> Result<Vec<ReceiptState>, ClientError> {
        let mut states = Vec::with_capacity(ids.len());
        // One question after the other: the log works through them in order anyway.
        for ids in ids.chunks(self.welcome().limits.max_await_ids as usize) {
            let mut request = Vec::new();
            AwaitReceipts { stage, ids: ids.to_vec() }.encode(&mut Encoder::new(), &mut request);
            let _credit = self.lanes().credit().await;
            let payload = self.session().ask(&request, FrameKind::ReceiptStates).await?;
            let answer = ReceiptStates::decode(&payload)
                .map_err(|error| self.undecodable(FrameKind::ReceiptStates, error))?;
            self.accept(stage, ids, answer, &mut states)?;
        }
        Ok(states)
    }

    /// Puts together what `haca verify` reads later: receipt, evidence, the log's proof where `state` has it, and the proof
    /// of a receipt of mode `zk`.
    ///
    /// # Errors
    /// [`ClientError::NotLogged`], [`ClientError::BadInclusion`] or [`ClientError::BadProof`] if `state` or `proof` is not
    /// that of this receipt; [`ClientError::TooLarge`] if the file would be longer than receipt files are.
    pub fn receipt_file(
        &self,
        receipt: &Receipt,
        state: Option<&ReceiptState>,
        proof: Option<LoggedProof<'_>>,
    ) -> Result<ReceiptFile, ClientError> {
        let leaf = receipt.leaf().map_err(|error| ClientError::BadInclusion {
            request: state.map(|state| state.id).unwrap_or_default(),
            reason: error.to_string(),
        })?;
        if let Some(state) = state {
            let request = leaf.request;
            if state.id != request {
                let reason = format!("it is that of request {}", state.id);
                return Err(ClientError::BadInclusion { request, reason });
            }
            if state.outcome != LogOutcome::Logged {
                return Err(ClientError::NotLogged { request, outcome: state.outcome });
            }
            let hash = leaf.hash();
            if state.leaf_hash != hash {
                let reason = format!(
                    "the log holds the leaf {} at index {}, the receipt's is {hash}",
                    state.leaf_hash, state.index
                );
                return Err(ClientError::BadInclusion { request, reason });
            }
        }
        let shown = self.welcome().evidence.as_ref();
        let file = ReceiptFile {
            receipt: receipt.clone(),
            evidence: shown.filter(|evidence| evidence::digest(evidence) == leaf.evidence).cloned(),
            inclusion: state.and_then(|state| state.inclusion.clone()),
            proof: proof.map(|proof| put_together(&leaf, state, proof)).transpose()?,
        };
        // Only a proof, of a model with many inputs or outputs, can make a file so long.
        if file.proof.is_some() {
            let (size, limit) = (file.encode().len(), MAX_FILE);
            if size > limit {
                let (size, limit) = (size as u64, limit as u64);
                return Err(ClientError::TooLarge { what: "a receipt file with its proof", size, limit });
            }
        }
        Ok(file)
    }

    fn accept(
        &self,
        stage: Stage,
        ids: &[RequestId],
        answer: ReceiptStates,
        states: &mut Vec<ReceiptState>,
    ) -> Result<(), ClientError> {
        let address = self.session().address;
        if answer.entries.len() != ids.len() {
            let reason = format!("it told {} states of {} receipts", answer.entries.len(), ids.len());
            return Err(self.session().end(ClientError::protocol(address, reason)));
        }
        let head = match stage {
            Stage::Durable => None,
            Stage::Checkpointed => Some(self.tree_head(&answer)?),
        };
        for (&id, entry) in ids.iter().zip(answer.entries) {
            let LogEntry { outcome, index, leaf_hash, path } = entry;
            let inclusion = match &head {
                Some(head) if outcome == LogOutcome::Logged => {
                    let root = merkle::root_from_path(&leaf_hash, index, head.size, &path);
                    if root != Some(head.root) {
                        let reason = format!(
                            "its path of {} digests does not lead from index {index} to the root {} of {} leaves",
                            path.len(),
                            head.root,
                            head.size
                        );
                        return Err(ClientError::BadInclusion { request: id, reason });
                    }
                    let checkpoint = answer.checkpoint.clone();
                    Some(Inclusion { index, tree_size: head.size, path, checkpoint })
                }
                _ => None,
            };
            states.push(ReceiptState { id, outcome, index, leaf_hash, inclusion });
        }
        Ok(())
    }

    /// The tree head of an answer, once the trusted log's signature over it verified.
    fn tree_head(&self, answer: &ReceiptStates) -> Result<TreeHead, ClientError> {
        let head = (self.trust().log_key.verify(&answer.checkpoint))
            .map_err(|error| ClientError::BadCheckpoint(error.to_string()))?;
        if head.size != answer.tree_size {
            let said = answer.tree_size;
            let reason = format!("it is of {} leaves, the node says {said}", head.size);
            return Err(ClientError::BadCheckpoint(reason));
        }
        Ok(head)
    }
}
