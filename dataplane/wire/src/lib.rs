//! What a HACA node and its callers say to each other, and the receipt that outlives the conversation.
//!
//! A session is a QUIC connection with the ALPN [`ALPN`]. Every bidirectional stream carries [`frame`]s; each frame
//! is one [`message`]. The first frame of a session is a `Hello`; the node answers `Welcome` or `Refusal`.
//! Requests may be pipelined on one stream, or each have a stream of its own.
//!
//! What is answered is described by a fixed-layout [`leaf`]; the leaves of one batch form a small RFC 6962 tree
//! ([`merkle`]) whose root the node signs once ([`sign`]). Leaf, path and signature are the [`receipt`].
//!
//! Nothing here does I/O or keeps state between calls, and nothing here trusts its input: every decoder returns a
//! value or an error, never panics, and checks each length before it allocates.

pub mod connect;
pub mod event;
pub mod evidence;
pub mod frame;
pub mod ids;
pub mod leaf;
pub mod merkle;
pub mod message;
pub mod opening;
pub mod receipt;
pub mod seal;
pub mod sha256;
pub mod sign;
pub mod tensor;
pub mod vocabulary;

#[allow(clippy::all, clippy::pedantic, missing_docs, unused_imports, unsafe_op_in_unsafe_fn, dead_code)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used, mismatched_lifetime_syntaxes, unreachable_pub)]
#[rustfmt::skip]
mod wire_generated;
use wire_generated::haca::wire::fb;

pub use ids::{Digest, ModelId, NodeId, PayerId, RequestId, SessionId};
pub use leaf::Leaf;
pub use seal::{Salt, Seal};
pub use vocabulary::{Dtype, Mode, Stage, Status};

/// The ALPN token of this protocol. A connection that offers another one is refused by TLS.
pub const ALPN: &[u8] = b"haca/1";

/// The version both sides name in `Hello` and `Welcome`.
pub const PROTOCOL_VERSION: u16 = 2;
