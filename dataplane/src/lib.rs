//! The HACA data plane: thread-per-core QUIC inference server.

pub mod metrics;
pub mod shard;
mod steering;
pub mod transport;
