//! Proofs of requests of mode `zk`: waiting for them, and what a receipt file carries of one.
//!
//! That a proof holds is not checked here: that takes the model, and `haca verify` does it. What a verifier that is trusted
//! has signed is.

use crate::client::Client;
use crate::error::ClientError;
use crate::log::ReceiptState;
use haca_wire::event::{self, ProofEvent, VerdictEvent};
use haca_wire::frame::FrameKind;
use haca_wire::message::Encoder;
use haca_wire::message::proof::{self, AwaitProofs, ProofStates};
use haca_wire::receipt::{Inclusion, ReceiptProof};
use haca_wire::vocabulary::{LogOutcome, ProofOutcome};
use haca_wire::{Digest, Leaf, RequestId, merkle};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// Requests that are asked about in one question. Of each the answer has two leaves, the output and perhaps a key: so
/// many stay far below the longest answer that is taken.
const ASKED_TOGETHER: usize = 32;

/// What became of the proof of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofState {
    /// The request.
    pub id: RequestId,
    /// How it ended.
    pub outcome: ProofOutcome,
    /// The proof and the trusted verifier's verdict; `None` unless proved or refused.
    pub events: Option<(ProofEvent, VerdictEvent)>,
    /// Bytes of the verification key that the proof names; empty if there is no proof.
    pub key: Arc<[u8]>,
    /// The output's integers, row-major: what the proof says, before they become floats.
    pub output: Vec<i64>,
    /// Why there is no proof, for a person; empty if there is one.
    pub detail: String,
}

/// A proof, and what the log says of its two events at stage `checkpointed`, asked by the ids that they have.
#[derive(Debug, Clone, Copy)]
pub struct LoggedProof<'a> {
    /// The proof.
    pub state: &'a ProofState,
    /// What the log says of the proof's event.
    pub proof: &'a ReceiptState,
    /// What the log says of the verdict's.
    pub verdict: &'a ReceiptState,
}

impl Client {
    /// Waits until each of these requests is proven and its proof is verified, or it is known that it will not be, and
    /// returns what became of each, in the order asked. Verdicts are checked to be signed by the verifier that
    /// connect.toml names, and keys to be those that the proofs name; that a proof is of the receipt at hand is checked by
    /// [`Client::receipt_file`].
    ///
    /// # Errors
    /// If the node refuses, the connection ends, or what it says does not stand up. A request without a proof is no error:
    /// see [`ProofState::outcome`].
    pub async fn await_proofs(&self, ids: &[RequestId]) -> Result<Vec<ProofState>, ClientError> {
        let mut states = Vec::with_capacity(ids.len());
        let limit = self.welcome().limits.max_await_ids as usize;
        for ids in ids.chunks(ASKED_TOGETHER.min(limit)) {
            let mut request = Vec::new();
            AwaitProofs { ids: ids.to_vec() }.encode(&mut Encoder::new(), &mut request);
            let _credit = self.lanes().credit().await;
            let payload = self.session().ask(&request, FrameKind::ProofStates).await?;
            let answer = ProofStates::decode(&payload)
                .map_err(|error| self.undecodable(FrameKind::ProofStates, error))?;
            let (told, asked) = (answer.entries.len(), ids.len());
            if told != asked {
                let reason = format!("it told {told} states of {asked} proofs");
                return Err(self.session().end(ClientError::protocol(self.session().address, reason)));
            }
            let keys: Vec<(Digest, Arc<[u8]>)> = (answer.keys.into_iter())
                .map(|key| (Digest(Sha256::digest(&key).into()), Arc::from(key)))
                .collect();
            for (&id, entry) in ids.iter().zip(answer.entries) {
                let verifier = self.trust().verifier_key;
                let state = accept(id, entry, &keys, verifier);
                states.push(state.map_err(|reason| ClientError::BadProof { request: id, reason })?);
            }
        }
        Ok(states)
    }
}

/// Holds what the node says of a proof against itself and against the trusted verifier.
fn accept(
    id: RequestId,
    entry: proof::ProofState,
    keys: &[(Digest, Arc<[u8]>)],
    verifier: Option<Digest>,
) -> Result<ProofState, String> {
    let proof::ProofState { outcome, events, output, detail } = entry;
    let judged = matches!(outcome, ProofOutcome::Proved | ProofOutcome::Refused);
    let state = ProofState { id, outcome, events, key: Arc::from([]), output, detail };
    let (proof, verdict) = match events {
        Some(events) if judged => events,
        None if !judged => return Ok(state),
        Some(_) => return Err(format!("it is said to be {outcome}, and there is a proof")),
        None => return Err(format!("it is said to be {outcome}, and there is no proof")),
    };
    let verifier =
        verifier.ok_or("connect.toml names no verifier; get its present one from the node's operator")?;
    if verdict.verifier != verifier {
        let found = verdict.verifier;
        return Err(format!("the verdict is of the verifier {found}, connect.toml names {verifier}"));
    }
    if verdict.proof != proof.hash() || verdict.id != event::verdict_id(&verdict.proof, &verifier) {
        return Err("the verdict is on another proof".into());
    }
    if !verdict.is_signed() {
        return Err("the verdict is not signed by its verifier".into());
    }
    if verdict.accepted != (outcome == ProofOutcome::Proved) {
        return Err(format!("it is said to be {outcome}, and the verdict says otherwise"));
    }
    let (_, key) = (keys.iter().find(|(id, _)| *id == proof.key))
        .ok_or_else(|| format!("the verification key {} is missing", proof.key))?;
    Ok(ProofState { key: Arc::clone(key), ..state })
}

/// What a receipt file carries of a proof, once everything of it belongs to this leaf.
pub(crate) fn put_together(
    leaf: &Leaf,
    receipt: Option<&ReceiptState>,
    logged: LoggedProof<'_>,
) -> Result<ReceiptProof, ClientError> {
    let request = leaf.request;
    let bad = |reason: String| ClientError::BadProof { request, reason };
    let LoggedProof { state, proof: of_proof, verdict: of_verdict } = logged;
    if state.id != request {
        return Err(bad(format!("it is that of request {}", state.id)));
    }
    let (proof, verdict) = state.events.ok_or_else(|| bad(format!("it is {}", state.outcome)))?;
    if proof.id != event::proof_id(&leaf.hash()) {
        return Err(bad("it is that of another receipt".into()));
    }
    if let Some(receipt) = receipt.filter(|receipt| receipt.index != proof.index) {
        let (named, index) = (proof.index, receipt.index);
        return Err(bad(format!("it is of leaf {named}, the log holds the receipt at {index}")));
    }
    let proof_inclusion = in_log(of_proof, proof.id, &proof.hash()).map_err(bad)?;
    let verdict_inclusion =
        in_log(of_verdict, verdict.id, &merkle::leaf_hash(&verdict.encode())).map_err(bad)?;
    if verdict.index != of_proof.index {
        let (named, index) = (verdict.index, of_proof.index);
        return Err(bad(format!("its verdict is on leaf {named}, the log holds the proof at {index}")));
    }
    let (output, key) = (state.output.clone(), state.key.to_vec());
    Ok(ReceiptProof { proof, proof_inclusion, verdict, verdict_inclusion, output, key })
}

/// The log's proof that it holds the event with this id and hash.
fn in_log(state: &ReceiptState, id: RequestId, hash: &Digest) -> Result<Inclusion, String> {
    if state.id != id {
        return Err(format!("what the log says is of {}, the event has the id {id}", state.id));
    }
    if state.outcome != LogOutcome::Logged {
        return Err(format!("the log does not hold the event {id}: {}", state.outcome));
    }
    if state.leaf_hash != *hash {
        return Err(format!(
            "the log holds the leaf {} for the event {id}, whose leaf is {hash}",
            state.leaf_hash
        ));
    }
    state.inclusion.clone().ok_or_else(|| format!("the event {id} is not under a checkpoint yet"))
}
