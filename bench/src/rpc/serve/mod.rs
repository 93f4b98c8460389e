//! The servers under comparison, each run in a process of its own by a hidden subcommand.
//!
//! All do the same: on every bidirectional stream, bytes go back as they come, and its end is answered with an
//! end. Settings are those of [`super::transport`].

mod floor;
mod haca;
mod quinn;
#[cfg(feature = "peers")]
mod s2n_quic;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use super::transport::{Endpoint, Pin};
use crate::affinity;
use crate::server_process::announce;

/// Kernel buffer of a server's socket, each way: what our data plane asks for.
const SOCKET_BUFFER: usize = 4 << 20;

/// A server that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Server {
    /// Our data plane.
    Haca,
    /// `quinn` on tokio.
    Quinn,
    /// `s2n-quic` on tokio.
    #[cfg(feature = "peers")]
    #[value(name = "s2n-quic")]
    S2nQuic,
    /// Bare UDP over io_uring: no encryption, no streams, nothing repeated.
    Floor,
}

impl Server {
    /// Its name in tables, in JSON and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Haca => "haca",
            Self::Quinn => "quinn",
            #[cfg(feature = "peers")]
            Self::S2nQuic => "s2n-quic",
            Self::Floor => "floor",
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
        Server::Haca => haca::serve(options.cpu),
        Server::Quinn => quinn::serve(),
        #[cfg(feature = "peers")]
        Server::S2nQuic => s2n_quic::serve(),
        Server::Floor => floor::serve(),
    }
    .with_context(|| format!("the {} server failed", options.server.name()))
}

/// A socket on loopback, on a free port, with room for a burst of every connection, as ours has.
fn bind() -> anyhow::Result<UdpSocket> {
    let socket =
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot bind a UDP socket on 127.0.0.1")?;
    let buffers = socket2::SockRef::from(&socket);
    buffers.set_recv_buffer_size(SOCKET_BUFFER).context("cannot set SO_RCVBUF")?;
    buffers.set_send_buffer_size(SOCKET_BUFFER).context("cannot set SO_SNDBUF")?;
    Ok(socket)
}

fn announce_at(address: SocketAddr, pin: Option<Pin>) -> anyhow::Result<()> {
    let SocketAddr::V4(address) = address else { bail!("bound to {address} instead of an IPv4 address") };
    announce(&Endpoint { address, pin }.to_string())
}
