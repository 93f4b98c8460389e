//! Pushes of models: permitted, collected, and handed to the registry.

use super::{Inference, Message, RETRY_AFTER_US};
use crate::push::{Push, PushJob};
use crate::refusal::Violation;
use crate::shard::{Arrival, Turn};
use haca_wire::message::Refusal;
use haca_wire::message::model::{ModelEntry, PushModel};
use haca_wire::{Digest, Status, sign};
use std::sync::Arc;

impl Inference {
    pub(super) fn begin_push(
        &mut self,
        payload: &[u8],
        arrival: &mut Arrival<'_, Self>,
        push: &mut Option<Box<Push>>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Violation> {
        let announced = PushModel::decode(payload)?;
        arrival.pending.expect_answer();
        let limit = self.facts.limits.max_model_bytes;
        let session = &mut *arrival.session;
        let mut is_permitted = || {
            // One wrong signature is enough: verifying another costs the shard tens of microseconds.
            session.push_denied = session.push_denied
                || !sign::verify_push(
                    &self.facts.operator,
                    &session.challenge,
                    &Digest(announced.id.0),
                    &announced.name,
                    &announced.operator_signature,
                );
            !session.push_denied
        };
        let refusal = if self.draining {
            Some((Status::Draining, "the node is shutting down".to_owned()))
        } else if announced.length > limit {
            Some((
                Status::LimitExceeded,
                format!("a model of {} bytes; the limit is {limit}", announced.length),
            ))
        } else if push.is_some() {
            Some((Status::Malformed, "a push is already under way on this stream".to_owned()))
        } else if !is_permitted() {
            let detail = "the operator's key did not sign this push; connect again with the operator.key of the node's data directory";
            Some((Status::NotPermitted, detail.to_owned()))
        } else {
            match self.pusher.begin(announced) {
                Some(begun) => {
                    *push = Some(Box::new(begun));
                    None
                }
                None => Some((Status::Overloaded, "another model is being pushed; try again".to_owned())),
            }
        };
        if let Some((status, detail)) = refusal {
            let retry_after_us = if status == Status::Overloaded { 1000 * RETRY_AFTER_US } else { 0 };
            self.answer_refusal(arrival.key, Refusal { status, detail, retry_after_us }, turn.outbox);
        }
        Ok(())
    }

    pub(super) fn continue_push(
        &mut self,
        chunk: &[u8],
        arrival: &mut Arrival<'_, Self>,
        push: &mut Option<Box<Push>>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Violation> {
        // Chunks behind a push that was refused are still on their way when the refusal leaves.
        let Some(under_way) = push else { return Ok(()) };
        if !under_way.append(chunk) {
            *push = None;
            let detail = "more bytes arrived than the push announced".to_owned();
            let refusal = Refusal { status: Status::Malformed, detail, retry_after_us: 0 };
            self.answer_refusal(arrival.key, refusal, turn.outbox);
        } else if under_way.is_complete()
            && let Some(push) = push.take()
        {
            let (stream, replies) = (arrival.key, Arc::clone(&self.replies));
            let reply = move |outcome: Result<ModelEntry, Refusal>| {
                let outcome = outcome.map(Box::new);
                replies(Message::Pushed { stream, outcome });
            };
            self.pusher.submit(PushJob { push: *push, reply: Box::new(reply) });
        }
        Ok(())
    }
}
