//! The comparison `rpc`: a 64-byte echo over each implementation, with one client for all.

pub(crate) mod case;
pub(crate) mod client;
mod message;
mod ring;
pub(crate) mod serve;
mod transport;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use self::case::Case;
use self::client::{Run, Streams};
use self::serve::Server;
use crate::affinity;
use crate::load::{Pace, Plan};
use crate::report::{self, Row};
use crate::server_process::ServerProcess;

const BENCH: &str = "rpc";

const EXAMPLES: &str = "\
Examples:
  haca-bench rpc                                   every case, every server this was built with
  haca-bench rpc --cases 1x1 --seconds 10          one case, for longer
  haca-bench rpc --cases 64x16 --rate 100000       latency at a fixed rate instead of full speed
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
    /// Measured seconds of each run.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// Seconds of each run that come before and are discarded.
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    warm_up: f64,
    /// How often each run is repeated, servers taking turns; figures are medians.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Requests per second over all connections, due whatever the server does [default: full speed].
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Open a stream for each request instead of one for each connection.
    #[arg(long)]
    stream_per_request: bool,
    /// Core the servers run on.
    #[arg(long, default_value_t = 0)]
    server_cpu: usize,
    /// Core the client runs on.
    #[arg(long, default_value_t = 1)]
    client_cpu: usize,
    /// Also write one JSON object for each row to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the comparison and prints it.
///
/// # Errors
/// When a server cannot be started or reached, or does not echo; nothing is left running.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    anyhow::ensure!(
        options.server_cpu != options.client_cpu,
        "server and client would share core {}; a spinning client would starve the server",
        options.client_cpu
    );
    let servers = match options.servers.as_slice() {
        [] => Server::value_variants(),
        chosen => chosen,
    };
    let mut results = Vec::new();
    let progress = progress(options.cases.len() * options.rounds as usize * servers.len());
    for &case in &options.cases {
        for _ in 0..options.rounds {
            for &server in servers {
                progress.set_message(format!("{case} {}", server.name()));
                let run = measure(options, server, case)
                    .with_context(|| format!("case {case} on {} failed", server.name()))?;
                results.push((case, server, run));
                progress.inc(1);
            }
        }
    }
    progress.finish_and_clear();
    let rows: Vec<Row> = options.cases.iter().flat_map(|&case| rows(case, servers, &results)).collect();
    println!("{}", report::table(&rows));
    println!("{FOOTNOTE}\n");
    println!("{}", load_table(&options.cases, servers, &results));
    println!("{LOAD_FOOTNOTE}");
    if let Some(path) = &options.json {
        report::write_json_lines(path, &rows)?;
    }
    Ok(())
}

const FOOTNOTE: &str = "\
Latency is from when a request was due to its echo, as the one client of all servers sees it: a spinning \
quinn-proto client (for the floor, bare datagrams in the same loop) on a core of its own. Medians over rounds.
rps_per_core is requests/s divided by the cores the server used: CPU seconds of its process (all threads, user \
and kernel) per second. A server that spins uses its whole core by that measure.";

const LOAD_FOOTNOTE: &str = "\
client busy is the share of the window in which the client had work; near 100 % the client, not the server, \
sets that row's pace, and the server could do more.";

type Results = [(Case, Server, Run)];

fn measure(options: &Options, server: Server, case: Case) -> anyhow::Result<Run> {
    let process =
        ServerProcess::spawn(&["serve-echo", server.name(), "--cpu", &options.server_cpu.to_string()])?;
    let plan = Plan {
        lanes: case.connections,
        depth: case.depth,
        pace: options.rate.map_or(Pace::Maximum, Pace::PerSecond),
        warm_up: Duration::from_secs_f64(options.warm_up),
        measured: Duration::from_secs_f64(options.seconds),
    };
    let streams = if options.stream_per_request { Streams::OnePerRequest } else { Streams::OnePerConnection };
    // A thread of its own for each run, because pinning is for good and belongs to the thread.
    thread::scope(|scope| {
        let client = thread::Builder::new().name("client".into()).spawn_scoped(scope, || {
            affinity::pin_to(options.client_cpu)?;
            client::run(&process, plan, streams)
        })?;
        client.join().map_err(|_| anyhow::anyhow!("the client panicked; its message is above"))?
    })
}

/// A metric of a run: its name and unit, and how to read it.
type Metric = ((&'static str, &'static str), fn(&Run) -> f64);

const METRICS: [Metric; 4] = [
    (("p50_us", "us"), |run| run.measured.latency_us(0.5)),
    (("p99_us", "us"), |run| run.measured.latency_us(0.99)),
    (("p999_us", "us"), |run| run.measured.latency_us(0.999)),
    (("rps_per_core", "1/s"), |run| run.measured.per_second() / run.server_cores),
];

fn rows(case: Case, servers: &[Server], results: &Results) -> impl Iterator<Item = Row> {
    METRICS.iter().map(move |&(metric, read)| {
        let figures = servers.iter().filter_map(|&server| {
            let figure = over_rounds(case, server, results, read)?;
            Some((server.name().to_owned(), figure))
        });
        Row::new(BENCH, case.to_string(), metric, None, figures.collect::<BTreeMap<_, _>>())
    })
}

fn load_table(cases: &[Case], servers: &[Server], results: &Results) -> comfy_table::Table {
    let mut table = report::new_table();
    table.set_header(["case", "server", "requests/s", "server cores", "client busy", "unanswered"]);
    for &case in cases {
        for &server in servers {
            let of = |read: fn(&Run) -> f64| over_rounds(case, server, results, read).unwrap_or(f64::NAN);
            table.add_row([
                case.to_string(),
                server.name().to_owned(),
                report::figure(of(|run| run.measured.per_second())),
                report::figure(of(|run| run.server_cores)),
                format!("{:.0} %", of(|run| run.client_busy) * 100.0),
                report::figure(of(|run| run.measured.unanswered() as f64)),
            ]);
        }
    }
    report::align_figures(&mut table, 2);
    table
}

/// The median over the rounds of one case on one server.
fn over_rounds(case: Case, server: Server, results: &Results, read: fn(&Run) -> f64) -> Option<f64> {
    let own = results.iter().filter(|(of, by, _)| *of == case && *by == server);
    report::median(own.map(|(_, _, run)| read(run)).collect())
}

/// It moves between runs only: a ticking thread would share a core with what is measured.
fn progress(runs: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({eta} left)")
        .expect("the template above is well-formed");
    ProgressBar::new(runs as u64).with_style(style)
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    if (0.01..=3600.0).contains(&value) { Ok(value) } else { Err("between 0.01 and 3600 seconds".into()) }
}

fn rate(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is not a rate"))?;
    if (1.0..=1e8).contains(&value) { Ok(value) } else { Err("between 1 and 100,000,000 requests/s".into()) }
}
