//! Why a node says no: to one request ([`Reason`]), or to a whole connection ([`Violation`]). Each carries what a person
//! needs to know: which value, which limit, what to do.

use crate::session::RETRY_AFTER_US;
use haca_wire::message::DecodeError;
use haca_wire::tensor::TensorError;
use haca_wire::{Mode, Status};
use std::time::Duration;

/// Why a connection is closed.
pub(crate) struct Violation {
    pub(crate) status: Status,
    pub(crate) detail: String,
}

impl Violation {
    pub(crate) fn new(status: Status, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }
}

impl From<DecodeError> for Violation {
    fn from(error: DecodeError) -> Self {
        Self::new(Status::Malformed, error.to_string())
    }
}

/// Why a request is refused.
pub(crate) enum Reason {
    Draining,
    InFlight(u32),
    Mode(Mode),
    /// Mode `zk` is not to be had for this, for this reason.
    Zk(String),
    /// Sealed inputs are not taken for this, for this reason.
    Seal(String),
    ProverBehind(Duration),
    LogFull {
        stalled: bool,
    },
    UnknownModel(u32),
    Tensor(TensorError),
    Shape(String),
    Deadline(u32),
    NoSteps(String),
    UnknownSymbol(u64),
    SymbolsFull(usize),
}

impl Reason {
    /// Status, what to tell a person, and when to try again.
    pub(crate) fn explain(self) -> (Status, String, u32) {
        match self {
            Reason::Draining => {
                (Status::Draining, "the node is shutting down; connect to another".to_owned(), 0)
            }
            Reason::InFlight(limit) => (
                Status::LimitExceeded,
                format!("{limit} requests of this session are unanswered; wait for answers"),
                RETRY_AFTER_US,
            ),
            Reason::Zk(why) => (Status::ModeUnavailable, format!("zk is not available: {why}"), 0),
            Reason::Seal(why) => (Status::ModeUnavailable, format!("sealed inputs are not taken: {why}"), 0),
            Reason::ProverBehind(retry) => {
                let detail = "as many answers as may wait for their proofs; the prover is behind".to_owned();
                (Status::Overloaded, detail, u32::try_from(retry.as_micros()).unwrap_or(u32::MAX).max(1))
            }
            Reason::Mode(mode) => (
                Status::ModeUnavailable,
                format!("{mode} is not available: the node has no attestation evidence"),
                0,
            ),
            Reason::LogFull { stalled: false } => {
                (Status::Overloaded, "the settlement log's queue is full".to_owned(), RETRY_AFTER_US)
            }
            Reason::LogFull { stalled: true } => (
                Status::LogUnavailable,
                "the settlement log takes no entries now; the operator sees why at /readyz".to_owned(),
                1000 * RETRY_AFTER_US,
            ),
            Reason::UnknownModel(handle) => {
                (Status::UnknownModel, format!("no model has handle {handle}; list the models again"), 0)
            }
            Reason::Tensor(error) => (Status::BadTensor, error.to_string(), 0),
            Reason::Shape(detail) => (Status::BadTensor, detail, 0),
            Reason::NoSteps(model) => {
                (Status::BadTensor, format!("model {model:?} takes whole rows only, no streams"), 0)
            }
            Reason::UnknownSymbol(symbol) => (
                Status::UnknownSymbol,
                format!("this session has no stream of symbol {symbol}; begin it with a reset"),
                0,
            ),
            Reason::SymbolsFull(limit) => (
                Status::LimitExceeded,
                format!(
                    "all {limit} streams of the model are in use on this shard; sessions that end free theirs"
                ),
                0,
            ),
            Reason::Deadline(deadline_us) => (
                Status::DeadlineMissed,
                format!(
                    "the answer would not have been there within {deadline_us} us, so it was not computed"
                ),
                0,
            ),
        }
    }
}
