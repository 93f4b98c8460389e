//! The HACA data plane: thread-per-core QUIC inference server.

pub mod metrics;
pub mod quic;
pub mod server;
pub mod shard;
mod steering;
pub mod transport;
