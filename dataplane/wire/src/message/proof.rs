//! Proofs of requests of mode `zk`: `AwaitProofs` and `ProofStates`.

use super::{DecodeError, Encoder, decode_root};
use crate::event::{Event, ProofEvent, VerdictEvent};
use crate::fb;
use crate::frame::FrameKind;
use crate::ids::RequestId;
use crate::vocabulary::ProofOutcome;
use flatbuffers::Vector;

/// Asks the node to answer once each of these requests is proven and its proof is verified, or it is known that it will
/// not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwaitProofs {
    /// The requests, of mode `zk`.
    pub ids: Vec<RequestId>,
}

/// What became of the proof of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofState {
    /// How it ended.
    pub outcome: ProofOutcome,
    /// The proof and what a verifier said of it, as the log holds them; `None` unless proved or refused.
    pub events: Option<(ProofEvent, VerdictEvent)>,
    /// The output's integers, row-major: what the proof says, before they become floats.
    pub output: Vec<i64>,
    /// Why there is no proof, for a person; empty if there is one.
    pub detail: String,
}

/// The answer, in the order that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofStates {
    /// One entry for each id.
    pub entries: Vec<ProofState>,
    /// The bytes of each verification key that a proof names.
    pub keys: Vec<Vec<u8>>,
}

impl AwaitProofs {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.frame(FrameKind::AwaitProofs, out, |builder| {
            let ids: Vec<_> = self.ids.iter().map(|id| fb::RequestId::new(&id.0)).collect();
            let ids = Some(builder.create_vector(&ids));
            fb::AwaitProofs::create(builder, &fb::AwaitProofsArgs { ids })
        });
    }

    /// Reads the payload of an `AwaitProofs` frame. The frame's limit bounds how many ids there are.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let request = decode_root::<fb::AwaitProofs<'_>>(payload)?;
        Ok(Self { ids: request.ids().iter().map(|id| RequestId(id.bytes().into())).collect() })
    }
}

impl ProofStates {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.frame(FrameKind::ProofStates, out, |builder| {
            let entries: Vec<_> = (self.entries.iter())
                .map(|entry| {
                    let events = entry.events.map(|(proof, verdict)| (proof.encode(), verdict.encode()));
                    let args = fb::ProofEntryArgs {
                        outcome: entry.outcome.to_fb(),
                        proof: events.map(|(proof, _)| builder.create_vector(&proof)),
                        verdict: events.map(|(_, verdict)| builder.create_vector(&verdict)),
                        output: Some(builder.create_vector(&entry.output)),
                        detail: Some(builder.create_string(&entry.detail)),
                    };
                    fb::ProofEntry::create(builder, &args)
                })
                .collect();
            let entries = Some(builder.create_vector(&entries));
            let keys: Vec<_> = (self.keys.iter())
                .map(|key| {
                    let bytes = Some(builder.create_vector(key));
                    fb::ProofKey::create(builder, &fb::ProofKeyArgs { bytes })
                })
                .collect();
            let keys = Some(builder.create_vector(&keys));
            fb::ProofStates::create(builder, &fb::ProofStatesArgs { entries, keys })
        });
    }

    /// Reads the payload of a `ProofStates` frame. Nothing is verified yet.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let states = decode_root::<fb::ProofStates<'_>>(payload)?;
        let entry = |entry: fb::ProofEntry<'_>| -> Result<ProofState, DecodeError> {
            let outcome = ProofOutcome::from_wire(entry.outcome().0);
            Ok(ProofState {
                outcome: outcome.ok_or(DecodeError::Field("outcome", "not a known outcome"))?,
                events: match (entry.proof(), entry.verdict()) {
                    (Some(proof), Some(verdict)) => Some((proof_event(proof)?, verdict_event(verdict)?)),
                    (None, None) => None,
                    _ => return Err(DecodeError::Field("verdict", "proof and verdict come together")),
                },
                output: entry.output().map(|output| output.iter().collect()).unwrap_or_default(),
                detail: entry.detail().unwrap_or_default().to_owned(),
            })
        };
        Ok(Self {
            entries: states.entries().iter().map(entry).collect::<Result<_, DecodeError>>()?,
            keys: states.keys().iter().map(|key| key.bytes().bytes().to_vec()).collect(),
        })
    }
}

pub(crate) fn proof_event(leaf: Vector<'_, u8>) -> Result<ProofEvent, DecodeError> {
    match Event::decode(leaf.bytes()) {
        Ok(Event::Proof(event)) => Ok(event),
        _ => Err(DecodeError::Field("proof", "not the leaf of a proof")),
    }
}

pub(crate) fn verdict_event(leaf: Vector<'_, u8>) -> Result<VerdictEvent, DecodeError> {
    match Event::decode(leaf.bytes()) {
        Ok(Event::Verdict(event)) => Ok(event),
        _ => Err(DecodeError::Field("verdict", "not the leaf of a verdict")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{PROOF_LEN, VerifierKey, proof_id};
    use crate::frame::HEADER_LEN;
    use crate::ids::Digest;

    #[test]
    fn both_directions_round_trip() {
        let mut encoder = Encoder::new();
        let ask = AwaitProofs { ids: vec![RequestId([1; 16]), RequestId([2; 16])] };
        let mut out = Vec::new();
        ask.encode(&mut encoder, &mut out);
        assert_eq!(AwaitProofs::decode(&out[HEADER_LEN..]), Ok(ask));

        let id = proof_id(&Digest([3; 32]));
        let proof = ProofEvent { id, index: 4, time: 5, key: Digest([6; 32]), proof: [7; PROOF_LEN] };
        let verdict = VerifierKey::from_seed(&[8; 32]).verdict(&proof, 9, true, 10);
        let proved = ProofState {
            outcome: ProofOutcome::Proved,
            events: Some((proof, verdict)),
            output: vec![-1, i64::MAX],
            detail: String::new(),
        };
        let failed = ProofState {
            outcome: ProofOutcome::Failed,
            events: None,
            output: Vec::new(),
            detail: "no key".into(),
        };
        let states = ProofStates { entries: vec![proved, failed], keys: vec![vec![1, 2, 3]] };
        let mut out = Vec::new();
        states.encode(&mut encoder, &mut out);
        assert_eq!(ProofStates::decode(&out[HEADER_LEN..]), Ok(states));
    }
}
