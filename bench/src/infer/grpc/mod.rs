//! The peer's side of `infer`: ONNX Runtime behind gRPC, and what asks it.
//!
//! `message Rows { uint32 rows = 1; bytes values = 2; }` and `rpc Infer(Rows) returns (Rows)` in the package
//! `haca.bench`, written out here because generating them would need `protoc`. The values travel as raw
//! little-endian float32, as in KServe's `raw_input_contents`: a packed `repeated float` costs the peer more.

mod client;
mod http2;
mod serve;

pub(super) use client::load;
pub(super) use serve::serve;

use bytes::Bytes;

/// The path of the one method.
const PATH: &str = "/haca.bench.Inference/Infer";

/// Rows of a tensor, in both directions.
#[derive(Clone, PartialEq, prost::Message)]
struct Rows {
    /// How many rows `values` holds.
    #[prost(uint32, tag = "1")]
    rows: u32,
    /// Little-endian float32, row-major.
    #[prost(bytes = "bytes", tag = "2")]
    values: Bytes,
}
