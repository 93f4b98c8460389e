//! The servers under comparison, each run in a process of its own by a hidden subcommand.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use haca_control_plane::proving::Services;
use haca_dataplane::{Config, Node};
use haca_kernels::import::{CompileOptions, compile};
use haca_kernels::npy;

use super::haca::MODEL_NAME;
use super::shipped;
use crate::affinity;
use crate::comparison::OURS;
use crate::rpc::transport::{Endpoint, Pin};
use crate::server_process::announce;

/// A server that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Server {
    /// A node, with settlement on and every answer signed.
    Haca,
    /// The same node with its log switched off: what settlement costs. Only where it is asked for.
    #[value(name = "haca-unsettled")]
    HacaUnsettled,
    /// The same node with prover and verifier at work, and asked for more proofs than it can make. Only where it is asked
    /// for.
    #[value(name = "haca-proving")]
    HacaProving,
    /// ONNX Runtime behind gRPC.
    #[cfg(feature = "peers")]
    #[value(name = "onnxruntime+tonic")]
    OnnxRuntime,
}

impl Server {
    /// Its name in tables, in JSON and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Haca => OURS,
            Self::HacaUnsettled => "haca-unsettled",
            Self::HacaProving => "haca-proving",
            #[cfg(feature = "peers")]
            Self::OnnxRuntime => "onnxruntime+tonic",
        }
    }

    /// Whether it belongs to the comparison with others, and not only to one of ourselves.
    pub(super) fn is_peer_or_ours(self) -> bool {
        !matches!(self, Self::HacaUnsettled | Self::HacaProving)
    }

    /// Whether it is a node of ours.
    pub(super) fn is_node(self) -> bool {
        matches!(self, Self::Haca | Self::HacaUnsettled | Self::HacaProving)
    }

    /// Whether what it needs is there, asked before anything is measured.
    ///
    /// # Errors
    /// When it is not; the error says where to get it.
    pub(super) fn is_there(self) -> anyhow::Result<()> {
        match self {
            Self::Haca | Self::HacaUnsettled | Self::HacaProving => Ok(()),
            #[cfg(feature = "peers")]
            Self::OnnxRuntime => crate::onnxruntime::library().map(drop),
        }
    }
}

/// Arguments of the hidden subcommand.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Which server to be.
    server: Server,
    /// The core it runs on.
    #[arg(long)]
    cpu: usize,
    /// The core that a node's log runs on.
    #[arg(long)]
    log_cpu: usize,
    /// A node's setting of that name, if not the default.
    #[arg(long, allow_hyphen_values = true)]
    spin_us: Option<i64>,
    /// An empty directory for its data.
    #[arg(long)]
    data: PathBuf,
}

/// Serves until standard input closes.
///
/// # Errors
/// When the server cannot start, or fails.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    // A node's shards pin themselves to the core they are given.
    affinity::pin_to(if options.server.is_node() { options.log_cpu } else { options.cpu })?;
    match options.server {
        Server::Haca | Server::HacaUnsettled | Server::HacaProving => node(options),
        #[cfg(feature = "peers")]
        Server::OnnxRuntime => onnxruntime_behind_grpc(),
    }
    .with_context(|| format!("the server {} failed", options.server.name()))
}

/// Proofs that a node may owe: few, so that a run that asked for too many need not wait long for the last.
const MAX_PENDING: u64 = 64;

/// A node with the defaults of `haca up` but for its address, its core, the proofs that it may owe and what is asked for.
fn node(options: &Options) -> anyhow::Result<()> {
    let models = options.data.join("models");
    fs::create_dir_all(&models).with_context(|| format!("cannot make {}", models.display()))?;
    let calibration = npy::parse(shipped::CALIBRATION).context("bench/models/mlp_calibration.npy")?;
    let compiled = compile(shipped::MODEL, &calibration, &CompileOptions::default(), &mut |_| ())?;
    fs::write(models.join(format!("{MODEL_NAME}.haca")), compiled.file).context("cannot write the model")?;
    let mut config =
        Config { listen: (Ipv4Addr::LOCALHOST, 0).into(), cpus: vec![options.cpu], ..Config::default() };
    config.log.enabled = options.server != Server::HacaUnsettled;
    config.zk.max_pending = MAX_PENDING;
    config.spin_us = options.spin_us.unwrap_or(config.spin_us);
    let services = (options.server == Server::HacaProving)
        .then(|| Services::open(&options.data, &config))
        .transpose()?;
    let mut node = Node::start(&options.data, &config, services.as_ref().map(Services::proving))?;
    let _services = services.map(|services| services.start(&mut node)).transpose()?;
    let certificate = fs::read(options.data.join("tls.crt")).context("cannot read the node's certificate")?;
    let SocketAddr::V4(address) = node.connect().address else {
        bail!("bound to {} instead of an IPv4 address", node.connect().address)
    };
    announce(&Endpoint { address, pin: Some(Pin::of(&certificate.into())) }.to_string())?;
    // The bench ends this process when it is done.
    loop {
        std::thread::park();
    }
}

#[cfg(feature = "peers")]
fn onnxruntime_behind_grpc() -> anyhow::Result<()> {
    use std::net::TcpListener;

    use super::shipped::{MODEL, Shipped};
    use crate::onnxruntime::{Library, library};

    let columns = Shipped::load(0.0)?.columns();
    let library = Library::load(&library()?)?;
    let mut model = library.model(MODEL, &[columns])?;
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot bind a TCP socket on 127.0.0.1")?;
    crate::server_process::announce(&listener.local_addr()?.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(super::grpc::serve(listener, columns, move |rows| model.run(rows)))
}
