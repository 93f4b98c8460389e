//! The async client of a HACA node.
//!
//! ```no_run
//! use haca_client::{Client, ClientOptions};
//! use haca_wire::{Mode, connect::Connect};
//! use std::path::Path;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let connect = Connect::read(Path::new("data/connect.toml"))?;
//! let client = Client::connect(&connect, ClientOptions::default()).await?;
//! let model = client.model("digits").await?;
//! let answer = client.infer(&model, Mode::Vanilla, &[0.0; 64]).await?;
//! println!("{:?} in {:?}", answer.output.to_f32(), answer.latency);
//! client.close().await;
//! # Ok(()) }
//! ```
//!
//! Nothing the node says is taken on trust: its TLS key must be the pinned one, and an answer is returned only after
//! its receipt was checked against the request, the output and the node's signing key. A node that is caught lying
//! is an error of its own, [`ClientError::Dishonest`].
//!
//! A [`Client`] is one QUIC connection. It is shared by reference; any number of tasks may call it at once, and what
//! they ask is pipelined on a few streams. Dropping a call's future is safe at every point: the answer is then
//! discarded when it comes. There is no reconnecting and no retrying: a call that fails says so once.

mod check;
mod client;
mod conversation;
pub mod dial;
mod error;
mod infer;
mod lane;
mod log;
mod proof;
mod push;
mod stream;
mod tls;

pub use check::{Fault, Value};
pub use client::{Client, ClientOptions};
pub use error::ClientError;
pub use infer::{Call, Inference, Tensor};
pub use log::ReceiptState;
pub use proof::{LoggedProof, ProofState};
pub use stream::Stream;
