//! The HACA data plane: a thread-per-core QUIC inference server.
//!
//! Read it in the order of a request: [`transport`] takes packets from the kernel, `steering` has seen
//! to it that they are the right shard's, [`shard`] runs QUIC, `session` reads the frames, `batch` runs the model,
//! [`sign`] makes the receipts, and the answers go back the same way while the leaves go to `haca-settle`.
//! [`server`] starts a group of shards for any [`shard::Application`]; [`node`] puts a whole node together.

pub mod attest;
pub mod background;
mod batch;
pub mod clock;
pub mod config;
pub mod keys;
pub mod metrics;
mod models;
pub mod node;
pub mod proving;
mod push;
pub mod quic;
mod refusal;
pub mod server;
mod session;
pub mod shard;
pub mod sign;
mod steering;
mod symbols;
pub mod transport;

pub use config::Config;
pub use node::Node;
pub use proving::{Admitted, Backlog, Proving};
