//! The servers under comparison, each run in a process of its own by a hidden subcommand.

use anyhow::Context;
use clap::{Args, ValueEnum};

use crate::affinity;

/// A server that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Server {
    /// ONNX Runtime behind gRPC.
    #[cfg(feature = "peers")]
    #[value(name = "onnxruntime+tonic")]
    OnnxRuntime,
}

impl Server {
    /// Its name in tables, in JSON and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "peers")]
            Self::OnnxRuntime => "onnxruntime+tonic",
        }
    }

    /// Whether what it needs is there, asked before anything is measured.
    ///
    /// # Errors
    /// When it is not; the error says where to get it.
    pub(super) fn is_there(self) -> anyhow::Result<()> {
        match self {
            #[cfg(feature = "peers")]
            Self::OnnxRuntime => super::onnxruntime::library().map(drop),
        }
    }
}

/// Arguments of the hidden subcommand.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Which server to be.
    server: Server,
    /// The core it runs on.
    #[arg(long)]
    cpu: usize,
}

/// Serves until standard input closes.
///
/// # Errors
/// When the server cannot start, or fails.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    affinity::pin_to(options.cpu)?;
    match options.server {
        #[cfg(feature = "peers")]
        Server::OnnxRuntime => onnxruntime_behind_grpc(),
    }
    .with_context(|| format!("the server {} failed", options.server.name()))
}

#[cfg(feature = "peers")]
fn onnxruntime_behind_grpc() -> anyhow::Result<()> {
    use std::net::{Ipv4Addr, TcpListener};

    use super::onnxruntime::{Model, library};
    use super::shipped::{MODEL, Shipped};

    let columns = Shipped::load(0.0)?.columns();
    let mut model = Model::load(&library()?, MODEL, columns)?;
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot bind a TCP socket on 127.0.0.1")?;
    crate::server_process::announce(&listener.local_addr()?.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(super::grpc::serve(listener, columns, move |rows| model.run(rows)))
}
