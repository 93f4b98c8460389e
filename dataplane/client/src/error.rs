//! What can go wrong between a caller and a node.

use crate::check::Fault;
use haca_wire::frame::{FrameError, FrameKind};
use haca_wire::message::{DecodeError, Refusal};
use haca_wire::tensor::Shape;
use haca_wire::vocabulary::LogOutcome;
use haca_wire::{Digest, Dtype, NodeId, PROTOCOL_VERSION, RequestId, Status};
use std::net::SocketAddr;
use std::time::Duration;

/// What can go wrong between a caller and a node.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// No UDP socket.
    #[error("no UDP socket to reach {address} from: {reason}")]
    Socket {
        /// The node.
        address: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// The node did not answer in time.
    #[error(
        "{address} did not answer within {waited:?}; is the node up, and does the address in connect.toml lead \
         to it over UDP?"
    )]
    Unreachable {
        /// The node.
        address: SocketAddr,
        /// How long it was given.
        waited: Duration,
    },
    /// The node holds another TLS key than the pinned one.
    #[error(
        "{address} holds the TLS key {seen}, connect.toml pins {pin}: it is another node, or its data directory \
         was made anew; get its present connect.toml from its operator"
    )]
    WrongPin {
        /// The node.
        address: SocketAddr,
        /// The pin of connect.toml.
        pin: Digest,
        /// The pin of the key that was shown.
        seen: Digest,
    },
    /// Something else than this protocol is spoken there.
    #[error(
        "{address} does not speak {alpn:?} (TLS: no application protocol in common); use a client of the node's \
         release, or correct the address"
    )]
    WrongProtocol {
        /// The node.
        address: SocketAddr,
        /// What it should have spoken.
        alpn: String,
    },
    /// The node speaks another version of this protocol.
    #[error(
        "{address} does not speak protocol version {PROTOCOL_VERSION}: {detail}; use a client of the node's release"
    )]
    Version {
        /// The node.
        address: SocketAddr,
        /// What the node said of it.
        detail: String,
    },
    /// The node signs with another key than connect.toml names.
    #[error(
        "{address} says it signs with {said}, connect.toml names {expected}; get its present connect.toml from its \
         operator"
    )]
    WrongNode {
        /// The node.
        address: SocketAddr,
        /// The key of connect.toml.
        expected: NodeId,
        /// The key of `Welcome`.
        said: NodeId,
    },
    /// The log key of connect.toml does not parse.
    #[error("connect.toml: {0}")]
    LogKey(String),
    /// The connection is gone, and with it every call in flight. Whether they were executed is not known.
    #[error("the connection to {address} ended: {reason}")]
    Disconnected {
        /// The node.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The client was closed by its owner.
    #[error("this client was closed")]
    Closed,
    /// The node refused the call, or closed the session with this reason.
    #[error("refused ({status}): {detail}{}", retry_hint(*retry_after))]
    Refused {
        /// Why.
        status: Status,
        /// The same for a person.
        detail: String,
        /// When to try again; `None`: trying again does not help.
        retry_after: Option<Duration>,
    },
    /// The node broke the protocol.
    #[error("{address} broke the protocol: {reason}")]
    Protocol {
        /// The node.
        address: SocketAddr,
        /// How.
        reason: String,
    },
    /// The answer does not stand up. It is not returned, and nothing of it should be believed.
    #[error("the answer to request {request} does not stand up: {fault}")]
    Dishonest {
        /// The request.
        request: RequestId,
        /// What is wrong with the answer.
        fault: Fault,
    },
    /// The log's proof for a receipt does not stand up.
    #[error("the log's proof for request {request} does not stand up: {reason}")]
    BadInclusion {
        /// The request.
        request: RequestId,
        /// What is wrong with it.
        reason: String,
    },
    /// The checkpoint is not the trusted log's.
    #[error("checkpoint: {0}")]
    BadCheckpoint(String),
    /// What the node says of a proof does not stand up.
    #[error("the proof of request {request} does not stand up: {reason}")]
    BadProof {
        /// The request.
        request: RequestId,
        /// What is wrong with it.
        reason: String,
    },
    /// The log holds no leaf for a request, or another one.
    #[error("the log does not hold the receipt of request {request}: {outcome}")]
    NotLogged {
        /// The request.
        request: RequestId,
        /// What the log says of it.
        outcome: LogOutcome,
    },
    /// No model has this name.
    #[error("the node serves no model named {name:?}; it serves {}", names(served))]
    UnknownModel {
        /// The name that was asked for.
        name: String,
        /// The names there are.
        served: Vec<String>,
    },
    /// The input does not have the shape the model takes.
    #[error("model {model:?} takes rows of shape {expected}; this input has shape {got}")]
    InputShape {
        /// The model's name.
        model: String,
        /// The shape of its input.
        expected: Shape,
        /// The shape of the input that was given.
        got: Shape,
    },
    /// The input does not have an element type the model takes.
    #[error("model {model:?} takes no input of element type {dtype}; send f32")]
    InputType {
        /// The model's name.
        model: String,
        /// The type that was given.
        dtype: Dtype,
    },
    /// The model takes no streams of steps.
    #[error("model {model:?} takes no streams; send whole rows")]
    NoStreams {
        /// The model's name.
        model: String,
    },
    /// Whether the last step of a stream was taken is not known.
    #[error("it is not known whether the last step of symbol {symbol} was taken: reset the stream")]
    StreamLost {
        /// The stream.
        symbol: u64,
    },
    /// More was asked for in one message than the node takes, or a file would be longer than its readers take.
    #[error("{what} of {size} is over the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        size: u64,
        /// The limit: the one that `Welcome` stated, or the format's.
        limit: u64,
    },
    /// A request with this id is in flight already.
    #[error("request id {0} is in flight already; every request has an id of its own")]
    DuplicateId(RequestId),
    /// A name that no model may have.
    #[error(
        "{0:?} is no name for a model: use 1 to 128 letters, digits, '.', '_' and '-', a letter or digit first"
    )]
    ModelName(String),
    /// The system gave no random bytes for a request id.
    #[error("the system gave no random bytes: {0}")]
    Random(String),
}

impl ClientError {
    /// Says whether asking the node again could help without anything being changed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Refused { retry_after: Some(_), .. })
    }

    pub(crate) fn refused(refusal: Refusal) -> Self {
        let retry_after =
            (refusal.retry_after_us != 0).then(|| Duration::from_micros(refusal.retry_after_us.into()));
        Self::Refused { status: refusal.status, detail: refusal.detail, retry_after }
    }

    pub(crate) fn protocol(address: SocketAddr, reason: impl Into<String>) -> Self {
        Self::Protocol { address, reason: reason.into() }
    }

    pub(crate) fn frame(address: SocketAddr, error: FrameError) -> Self {
        Self::protocol(address, error.to_string())
    }

    pub(crate) fn decode(address: SocketAddr, kind: FrameKind, error: DecodeError) -> Self {
        Self::protocol(address, format!("a {kind:?} frame: {error}"))
    }

    pub(crate) fn unexpected(address: SocketAddr, kind: FrameKind, expected: FrameKind) -> Self {
        Self::protocol(address, format!("a {kind:?} frame came where {expected:?} belongs"))
    }
}

fn retry_hint(after: Option<Duration>) -> String {
    after.map(|after| format!("; try again after {after:?}")).unwrap_or_default()
}

fn names(served: &[String]) -> String {
    if served.is_empty() { "none".to_owned() } else { served.join(", ") }
}
