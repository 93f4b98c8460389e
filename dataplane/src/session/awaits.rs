//! Questions that are answered later, by the log or by the prover: how far receipts have come, what became of proofs.

use super::{Inference, Message, RETRY_AFTER_US};
use crate::proving::ProofsBusy;
use crate::refusal::Violation;
use crate::shard::{Arrival, StreamKey, Turn};
use haca_wire::message::Refusal;
use haca_wire::message::log::AwaitReceipts;
use haca_wire::message::proof::{AwaitProofs, ProofStates};
use haca_wire::{RequestId, Stage, Status};
use std::sync::Arc;

/// `AwaitReceipts` that one shard may have unanswered. Each takes one place in the shard's inbox when it is answered.
pub(crate) const MAX_AWAITS: usize = 512;

/// The same for `AwaitProofs`, which wait for as long as a prover is behind: they must not take the places of others.
pub(crate) const MAX_PROOF_AWAITS: usize = 256;

/// Why a question is not taken, and what to tell a person.
type Refused = (Status, String);

impl Inference {
    pub(super) fn await_receipts(
        &mut self,
        payload: &[u8],
        arrival: &mut Arrival<'_, Self>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Violation> {
        let AwaitReceipts { stage, ids } = AwaitReceipts::decode(payload)?;
        let asked = self.admit_question(&ids, arrival).and_then(|()| self.ask_log(ids, stage, arrival.key));
        if let Err((status, detail)) = asked {
            let retry_after_us = if status == Status::LimitExceeded { 0 } else { RETRY_AFTER_US };
            self.answer_refusal(arrival.key, Refusal { status, detail, retry_after_us }, turn.outbox);
        }
        Ok(())
    }

    pub(super) fn await_proofs(
        &mut self,
        payload: &[u8],
        arrival: &mut Arrival<'_, Self>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Violation> {
        let AwaitProofs { ids } = AwaitProofs::decode(payload)?;
        let asked = self.admit_question(&ids, arrival).and_then(|()| self.ask_prover(ids, arrival.key));
        if let Err((status, detail)) = asked {
            let retry_after_us = if status == Status::Overloaded { 1000 * RETRY_AFTER_US } else { 0 };
            self.answer_refusal(arrival.key, Refusal { status, detail, retry_after_us }, turn.outbox);
        }
        Ok(())
    }

    /// Whether a session may ask about so many requests now. Whatever comes of it, the question will be answered.
    fn admit_question(&self, ids: &[RequestId], arrival: &mut Arrival<'_, Self>) -> Result<(), Refused> {
        let limit = self.facts.limits.max_await_ids as usize;
        let max_in_flight = self.facts.limits.max_in_flight;
        let unanswered = arrival.pending.on_connection();
        arrival.pending.expect_answer();
        if ids.len() > limit {
            Err((Status::LimitExceeded, format!("{} ids asked for, the limit is {limit}", ids.len())))
        } else if unanswered >= max_in_flight {
            Err((Status::LimitExceeded, format!("{max_in_flight} requests of this session are unanswered")))
        } else {
            Ok(())
        }
    }

    fn ask_log(&mut self, ids: Vec<RequestId>, stage: Stage, stream: StreamKey) -> Result<(), Refused> {
        if self.log.is_none() {
            let detail = "the settlement log is switched off on this node".to_owned();
            return Err((Status::LogUnavailable, detail));
        }
        if self.awaits >= MAX_AWAITS {
            let detail = format!("{MAX_AWAITS} questions about receipts wait already");
            return Err((Status::Overloaded, detail));
        }
        let replies = Arc::clone(&self.replies);
        let reply = move |states| replies(Message::Receipts { stream, states: Box::new(states) });
        (self.log_handle.await_receipts(ids, stage, Box::new(reply)))
            .map_err(|busy| (Status::LogUnavailable, busy.to_string()))?;
        self.awaits += 1;
        Ok(())
    }

    fn ask_prover(&mut self, ids: Vec<RequestId>, stream: StreamKey) -> Result<(), Refused> {
        let Some(proving) = &self.proving else {
            return Err((Status::ModeUnavailable, "this node has no prover".to_owned()));
        };
        if self.proof_awaits >= MAX_PROOF_AWAITS {
            let detail = format!("{MAX_PROOF_AWAITS} questions about proofs wait already");
            return Err((Status::Overloaded, detail));
        }
        let replies = Arc::clone(&self.replies);
        let reply = move |states: Result<ProofStates, String>| {
            replies(Message::Proofs { stream, states: states.map(Box::new) });
        };
        (proving.ask)(ids, Box::new(reply))
            .map_err(|busy @ ProofsBusy| (Status::Overloaded, busy.to_string()))?;
        self.proof_awaits += 1;
        Ok(())
    }
}
