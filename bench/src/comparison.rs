//! What comparisons that load servers have in common: their arguments, their rounds and their tables.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::affinity;
use crate::load::{Pace, Plan};
use crate::report::{self, Row};
use crate::rpc::case::Case;
use crate::rpc::client::Run;

/// The name of our own server in every comparison. Its figures stand in the column `ours`.
pub(crate) const OURS: &str = "haca";

/// Arguments that every comparison takes.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Options {
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
    /// Core the servers run on.
    #[arg(long, default_value_t = 0)]
    pub(crate) server_cpu: usize,
    /// Core the client runs on.
    #[arg(long, default_value_t = 1)]
    client_cpu: usize,
    /// Leave out requests that were due while the client itself was away from its core for longer than so many
    /// microseconds; their share is printed [default: leave out nothing].
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    leave_out_pauses: Option<u64>,
    /// Also write one JSON object for each row to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Options {
    /// The load of one run.
    pub(crate) fn plan(&self, case: Case) -> Plan {
        Plan {
            lanes: case.connections,
            depth: case.depth,
            pace: self.rate.map_or(Pace::Maximum, Pace::PerSecond),
            warm_up: Duration::from_secs_f64(self.warm_up),
            measured: Duration::from_secs_f64(self.seconds),
            longest_pause: self.leave_out_pauses.map(Duration::from_micros),
            kernel_times: false,
        }
    }

    /// Runs `client` on the client's core.
    ///
    /// # Errors
    /// When it fails, or there is no such core.
    pub(crate) fn on_client_cpu(
        &self,
        client: impl FnOnce() -> anyhow::Result<Run> + Send,
    ) -> anyhow::Result<Run> {
        // A thread of its own for each run, because pinning is for good and belongs to the thread.
        thread::scope(|scope| {
            let client = thread::Builder::new().name("client".into()).spawn_scoped(scope, || {
                affinity::pin_to(self.client_cpu)?;
                client()
            })?;
            client.join().map_err(|_| anyhow::anyhow!("the client panicked; its message is above"))?
        })
    }
}

/// One comparison: every case on every server.
#[derive(Debug)]
pub(crate) struct Comparison<'a> {
    /// `rpc`, `infer`, …
    pub(crate) bench: &'static str,
    /// Stands before the connections and depth in a case's name, with a space; may be empty.
    pub(crate) subject: &'static str,
    pub(crate) options: &'a Options,
    pub(crate) cases: &'a [Case],
    /// What the latencies and rates of this comparison are.
    pub(crate) footnote: &'a str,
}

impl Comparison<'_> {
    /// Runs every case on each of `servers` in turn, as often as asked for, and prints the figures.
    ///
    /// # Errors
    /// When a run fails, or the figures cannot be written.
    pub(crate) fn run<S: Copy + PartialEq>(
        &self,
        servers: &[S],
        name: fn(S) -> &'static str,
        mut measure: impl FnMut(S, Case) -> anyhow::Result<Run>,
    ) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.options.server_cpu != self.options.client_cpu,
            "server and client would share core {}; a spinning client would starve the server",
            self.options.client_cpu
        );
        let mut results = Results(Vec::new());
        let progress = progress(self.cases.len() * self.options.rounds as usize * servers.len());
        for &case in self.cases {
            for _ in 0..self.options.rounds {
                for &server in servers {
                    let name = name(server);
                    progress.set_message(format!("{} {name}", self.case_name(case)));
                    let run =
                        measure(server, case).with_context(|| format!("case {case} on {name} failed"))?;
                    results.0.push((case, name, run));
                    progress.inc(1);
                }
            }
        }
        progress.finish_and_clear();
        let names: Vec<&str> = servers.iter().map(|&server| name(server)).collect();
        let rows: Vec<Row> = self.cases.iter().flat_map(|&case| self.rows(case, &names, &results)).collect();
        println!("{}\n{}\n", report::table(&rows), self.footnote);
        println!("{}\n{LOAD_FOOTNOTE}", self.load_table(&names, &results));
        self.options.json.as_deref().map_or(Ok(()), |path| report::write_json_lines(path, &rows))
    }

    fn case_name(&self, case: Case) -> String {
        format!("{} {case}", self.subject).trim_start().to_owned()
    }

    fn rows(&self, case: Case, servers: &[&'static str], results: &Results) -> impl Iterator<Item = Row> {
        METRICS.iter().map(move |&(metric, read)| {
            let figure = |server| results.over_rounds(case, server, read);
            let peers = servers.iter().filter(|&&server| server != OURS);
            let peers: BTreeMap<String, f64> =
                peers.filter_map(|&peer| Some((peer.to_owned(), figure(peer)?))).collect();
            Row::new(self.bench, self.case_name(case), metric, figure(OURS), peers)
        })
    }

    fn load_table(&self, servers: &[&'static str], results: &Results) -> comfy_table::Table {
        let mut table = report::new_table();
        table.set_header([
            "case",
            "server",
            "requests/s",
            "server cores",
            "client busy",
            "unanswered",
            "left out",
        ]);
        for &case in self.cases {
            for &server in servers {
                let of = |read: fn(&Run) -> f64| results.over_rounds(case, server, read).unwrap_or(f64::NAN);
                table.add_row([
                    self.case_name(case),
                    server.to_owned(),
                    report::figure(of(|run| run.measured.per_second())),
                    report::figure(of(|run| run.server_cores)),
                    format!("{:.0} %", of(|run| run.client_busy) * 100.0),
                    report::figure(of(|run| run.measured.unanswered() as f64)),
                    format!("{:.2} %", of(|run| run.measured.share_left_out()) * 100.0),
                ]);
            }
        }
        report::align_figures(&mut table, 2);
        table
    }
}

const LOAD_FOOTNOTE: &str = "\
client busy is the share of the window in which the client had work; near 100 % the client, not the server, \
sets that row's pace, and the server could do more. left out: see --leave-out-pauses.";

/// A metric of a run: its name and unit, and how to read it.
type Metric = ((&'static str, &'static str), fn(&Run) -> f64);

const METRICS: [Metric; 4] = [
    (("p50_us", "us"), |run| run.measured.latency_us(0.5)),
    (("p99_us", "us"), |run| run.measured.latency_us(0.99)),
    (("p999_us", "us"), |run| run.measured.latency_us(0.999)),
    (("rps_per_core", "1/s"), |run| run.measured.per_second() / run.server_cores),
];

/// Every run with its case and server.
#[derive(Debug)]
struct Results(Vec<(Case, &'static str, Run)>);

impl Results {
    /// The median over the rounds of one case on one server.
    fn over_rounds(&self, case: Case, server: &str, read: fn(&Run) -> f64) -> Option<f64> {
        let own = self.0.iter().filter(|(of, by, _)| *of == case && *by == server);
        report::median(own.map(|(_, _, run)| read(run)).collect())
    }
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

/// Reads a number of requests per second.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is not a rate"))?;
    if (1.0..=1e8).contains(&value) { Ok(value) } else { Err("between 1 and 100,000,000 requests/s".into()) }
}
