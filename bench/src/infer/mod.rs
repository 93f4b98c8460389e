//! The comparison `infer`: the shipped multilayer perceptron, asked a row at a time, against ONNX Runtime behind
//! gRPC. Every answer is held against the reference.

#[cfg(feature = "peers")]
mod grpc;
mod haca;
mod proofs;
pub(crate) mod serve;
mod shipped;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::{Args, ValueEnum};

use self::proofs::Proven;
use self::serve::Server;
use crate::comparison::{self, Comparison};
use crate::load::{Pace, Plan};
use crate::rpc::case::Case;
use crate::rpc::client::Run;
use crate::server_process::ServerProcess;

const EXAMPLES: &str = "\
Examples:
  haca-bench infer                                 both cases, every server this was built with
  haca-bench infer --cases 64x16 --rate 20000      latency at a fixed rate instead of full speed
  haca-bench infer --json infer.jsonl
  haca-bench infer --servers haca,haca-unsettled --cases 1x1      what settlement costs, on one core with the shard
  haca-bench infer --servers haca,haca-unsettled --cases 1x1 --log-cpu 1 --spin-us -1 --kernel-times --leave-out-pauses 25
                                                   the same with the log on the client's core, where it costs the
                                                   client some of its time, which is left out, and the shard none;
                                                   the shard does not park while the client is away
  haca-bench infer --servers haca,haca-proving --cases 1x1 --rate 10000 --zk-rate 100 --seconds 300 --rounds 2
                                                   what a prover does to the others when it is asked for too much

ONNX Runtime and tonic take minutes to build and are there only with `--features peers`. ONNX Runtime's library
is found through ORT_DYLIB_PATH; the wheel `onnxruntime` on PyPI has it as capi/libonnxruntime.so.*.";

/// Arguments of `haca-bench infer`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Connections x requests in flight on each, separated by commas.
    #[arg(long, value_delimiter = ',', default_values = ["1x1", "64x16"])]
    cases: Vec<Case>,
    /// Servers to run, separated by commas [default: all there are].
    #[arg(long, value_delimiter = ',')]
    servers: Vec<Server>,
    /// Where the node keeps its data while it runs, on the disk that settlement is to write to [default: the
    /// system's temporary folder].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Core for the threads of the node's log [default: the servers' core].
    #[arg(long)]
    log_cpu: Option<usize>,
    /// Microseconds that the node polls for before it parks; -1: it never parks [default: the node's].
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    spin_us: Option<i64>,
    /// Time answers by the kernel's clock when their packets arrive, so that the client's absences meanwhile are no part of
    /// the latency; --leave-out-pauses then leaves out what it was kept from sending. For nodes, case 1x1, full speed.
    #[arg(long, conflicts_with = "rate")]
    kernel_times: bool,
    /// Requests of mode zk per second, of those that --rate gives, where the server is haca-proving.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 100.0, value_parser = comparison::rate)]
    zk_rate: f64,
    #[command(flatten)]
    common: comparison::Options,
}

const FOOTNOTE: &str = "\
A request is one row of 64 float32, an answer ten. Latency is from when a request was due to its whole answer, \
as a spinning client on a core of its own sees it; medians over rounds. At full speed all slots of a case are \
always taken, so latency there is slots / rps.
rps_per_core is requests/s divided by the cores the server used: CPU seconds of its process (user and kernel, \
/proc/PID/stat) per second. It counts the node's settlement and its polling between \
requests, so it says little where the server is mostly idle.
haca: a node as `haca up` starts it, in mode tee: QUIC with TLS, settlement on, a signed receipt with every \
answer; one receipt of 1,024 is verified after the run.
With --kernel-times an answer is there when the kernel got it, with --spin-us the node has that setting.
onnxruntime+tonic: ONNX Runtime with one thread, calls that are ready run as one batch, HTTP/2 without TLS, no \
receipts.";

/// Runs the comparison and prints it.
///
/// # Errors
/// When a server cannot be started or reached, or answers wrongly; nothing is left running.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let servers: Vec<Server> = match options.servers.as_slice() {
        [] => Server::value_variants().iter().copied().filter(|server| server.is_peer_or_ours()).collect(),
        chosen => chosen.to_vec(),
    };
    for server in &servers {
        server.is_there()?;
        anyhow::ensure!(
            !options.kernel_times || server.is_node(),
            "--kernel-times cannot time the answers of {}; name nodes with --servers",
            server.name()
        );
    }
    let alone = |case: &Case| case.connections == 1 && case.depth == 1;
    anyhow::ensure!(
        !options.kernel_times || options.cases.iter().all(alone),
        "--kernel-times is for one request at a time; give --cases 1x1"
    );
    let comparison = Comparison {
        bench: "infer",
        subject: "mlp",
        options: &options.common,
        cases: &options.cases,
        footnote: FOOTNOTE,
    };
    let data = options.data.clone().unwrap_or_else(std::env::temp_dir);
    let mut proven = Vec::new();
    comparison
        .run(&servers, Server::name, |server, case| measure(options, &data, server, case, &mut proven))?;
    if !proven.is_empty() {
        println!("\n{}\n{}", proofs::table(&proven), proofs::FOOTNOTE);
    }
    Ok(())
}

fn measure(
    options: &Options,
    data: &Path,
    server: Server,
    case: Case,
    proven: &mut Vec<Proven>,
) -> anyhow::Result<Run> {
    // Dropped after the process that uses it.
    let data = tempfile::tempdir_in(data).with_context(|| format!("no folder in {}", data.display()))?;
    let folder = data.path().to_str().context("the name of the data folder is not UTF-8")?;
    let cpu = options.common.server_cpu;
    let log_cpu = options.log_cpu.unwrap_or(cpu);
    let (cpu, log_cpu) = (cpu.to_string(), log_cpu.to_string());
    let spin = options.spin_us.map(|micros| micros.to_string());
    let mut arguments =
        vec!["serve-model", server.name(), "--cpu", &cpu, "--log-cpu", &log_cpu, "--data", folder];
    if let Some(micros) = &spin {
        arguments.extend(["--spin-us", micros]);
    }
    let process = ServerProcess::spawn(&arguments)?;
    let plan = Plan { kernel_times: options.kernel_times, ..options.common.plan(case) };
    options.common.on_client_cpu(|| match server {
        Server::Haca | Server::HacaUnsettled => Ok(haca::load(&process, plan, None)?.0),
        Server::HacaProving => {
            let Pace::PerSecond(rate) = plan.pace else {
                anyhow::bail!("haca-proving is asked at a rate: give --rate")
            };
            let every = (rate / options.zk_rate).round().max(1.0) as u64;
            let began = Instant::now();
            let (run, to_prove) = haca::load(&process, plan, Some(every))?;
            proven.push(proofs::wait(data.path(), began, &to_prove)?);
            Ok(run)
        }
        #[cfg(feature = "peers")]
        Server::OnnxRuntime => grpc::load(&process, plan),
    })
}
