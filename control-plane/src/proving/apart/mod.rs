//! Provers and verifiers that run apart from the node, and the node's end of their sessions.
//!
//! A service connects to an address of its own, over QUIC, with the node's TLS key pinned; it says who it is by a signature
//! over a secret of this TLS session, and the node takes those that its settings name. Then it asks, and is given: a prover
//! an opening, a verifier its docket. The node alone writes its store and its log.
//!
//! | module | holds |
//! |---|---|
//! | `frame`, `message`, `docketed` | the protocol, byte by byte |
//! | `listener`, `strangers` | the node's end: who is let in |
//! | `of_prover`, `of_verifier` | the node's end of a session with either |
//! | `link` | a service's end of a session |
//! | `prover`, `verifier` | the services |
//! | `counts` | what they count |
//!
//! Sessions run on one thread of low priority and never touch a shard. What a service sends is bounded before it is held;
//! before it is known, to a kilobyte and some seconds. Those that are not known yet have places of their own, so many of
//! each network.

mod counts;
mod docketed;
mod frame;
mod link;
mod listener;
mod message;
mod of_prover;
mod of_verifier;
mod prover;
mod strangers;
mod verifier;

pub use counts::Counts;
pub use link::{LinkError, Stop};
pub use listener::Served;
pub(super) use listener::{Admission, Desk, Listener, bind};
pub use prover::Prover;
pub use verifier::Verifier;

#[cfg(test)]
mod tests;
