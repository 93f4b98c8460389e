//! The HACA data plane: thread-per-core QUIC inference server.
