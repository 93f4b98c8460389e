//! The comparison `rpc`: a 64-byte echo over each implementation, with one client for all.

pub(crate) mod case;
pub(crate) mod client;
mod message;
mod ring;
pub(crate) mod serve;
pub(crate) mod transport;

use clap::{Args, ValueEnum};

use self::case::Case;
use self::client::{Run, Sockets, Streams};
use self::serve::Server;
use crate::comparison::{self, Comparison};
use crate::server_process::ServerProcess;

const EXAMPLES: &str = "\
Examples:
  haca-bench rpc                                   every case, every server this was built with
  haca-bench rpc --cases 1x1 --seconds 10          one case, for longer
  haca-bench rpc --cases 64x16 --rate 100000       latency at a fixed rate instead of full speed
  haca-bench rpc --socket-per-connection           as many separate clients
  haca-bench rpc --stream-per-request --json rpc.jsonl

s2n-quic takes minutes to build and is there only with `--features peers`.";

/// Arguments of `haca-bench rpc`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Connections x requests in flight on each, separated by commas.
    #[arg(long, value_delimiter = ',', default_values = ["1x1", "1x16", "64x1", "64x16"])]
    cases: Vec<Case>,
    /// Servers to run, separated by commas [default: all there are].
    #[arg(long, value_delimiter = ',')]
    servers: Vec<Server>,
    /// Open a stream for each request instead of one for each connection.
    #[arg(long)]
    stream_per_request: bool,
    /// Give each connection a UDP socket of its own, as separate clients have, instead of one for all, as one QUIC
    /// endpoint has.
    #[arg(long)]
    socket_per_connection: bool,
    #[command(flatten)]
    common: comparison::Options,
}

impl Options {
    fn sockets(&self) -> Sockets {
        if self.socket_per_connection { Sockets::OnePerConnection } else { Sockets::Shared }
    }
}

/// Runs the comparison and prints it.
///
/// # Errors
/// When a server cannot be started or reached, or does not echo; nothing is left running.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let servers = match options.servers.as_slice() {
        [] => Server::value_variants(),
        chosen => chosen,
    };
    let sockets = match options.sockets() {
        Sockets::Shared => SHARED_SOCKET,
        Sockets::OnePerConnection => SOCKET_PER_CONNECTION,
    };
    let footnote = format!("{FOOTNOTE}\n{sockets}");
    let comparison = Comparison {
        bench: "rpc",
        subject: "",
        options: &options.common,
        cases: &options.cases,
        footnote: &footnote,
    };
    comparison.run(servers, Server::name, |server, case| measure(options, server, case))
}

const FOOTNOTE: &str = "\
Latency is from when a request was due to its echo, as the one client of all servers sees it: a spinning \
quinn-proto client (for the floor, bare datagrams in the same loop) on a core of its own. Medians over rounds.
rps_per_core is requests/s divided by the cores the server used: CPU seconds of its process (all threads, user \
and kernel) per second. A server that spins uses its whole core by that measure.";

const SHARED_SOCKET: &str = "\
All connections of the client share one UDP socket, as those of one QUIC endpoint do: a send or a read can carry \
packets of several.";
const SOCKET_PER_CONNECTION: &str = "\
Each connection of the client has a UDP socket of its own.";

fn measure(options: &Options, server: Server, case: Case) -> anyhow::Result<Run> {
    let cpu = options.common.server_cpu.to_string();
    let process = ServerProcess::spawn(&["serve-echo", server.name(), "--cpu", &cpu])?;
    let plan = options.common.plan(case);
    let streams = if options.stream_per_request { Streams::OnePerRequest } else { Streams::OnePerConnection };
    let sockets = options.sockets();
    options.common.on_client_cpu(|| client::run(&process, plan, streams, sockets))
}
