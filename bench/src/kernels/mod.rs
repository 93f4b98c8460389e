//! The comparison `kernels`: compiled models against ONNX Runtime and tract, in one process, on one pinned thread, from float32
//! rows to float32 answers. Who runs alternates in short turns, so that both meet the same machine.

mod models;
mod ours;
mod peak;
mod peers;
mod turns;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use haca_kernels::Backend;

use self::models::Case;
use self::ours::Ours;
use self::peak::{Peak, Shares};
use self::peers::{PEERS, Peer, Peers};
use self::turns::{Runner, Timings};
use crate::affinity;
use crate::report::{self, Row};

const EXAMPLES: &str = "\
Examples:
  haca-bench kernels                               every case, with the peers this was built with
  haca-bench kernels --cases mlp,lstm_a --json kernels.jsonl

ONNX Runtime and tract are there only with `--features peers`. ONNX Runtime's library is found through ORT_DYLIB_PATH; the
wheel `onnxruntime` on PyPI has it as capi/libonnxruntime.so.*.";

/// Rows in a batch: each has its time for a row, and its share of the peak, as metrics of its own.
const BATCHES: [(usize, [&str; 2]); 3] = [
    (8, ["row_us_8", "of_peak_8"]),
    (64, ["row_us_64", "of_peak_64"]),
    (1024, ["row_us_1024", "of_peak_1024"]),
];
/// Different rows at batch 1: a branch predictor must not learn the one row there is.
const ROWS: usize = 64;
/// How far answers may be from the peer's before nothing is measured, as a share of their range: weights are random and
/// calibration rows few, so this is no measure of accuracy.
const TOLERANCE: f32 = 0.02;

/// Arguments of `haca-bench kernels`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Models to run, separated by commas [default: all].
    #[arg(long, value_delimiter = ',')]
    cases: Vec<Case>,
    /// Measured seconds for each case and batch size, all runners together.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Core to run on.
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// Executor [default: the fastest of this processor].
    #[arg(long, value_parser = backend)]
    backend: Option<Backend>,
    /// Also write one JSON object for each row to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const FOOTNOTE: &str = "\
One thread, from float32 rows to float32 answers; ours and the peers' turns alternate. p50 and p99 are of calls with \
one row, row_us_N is the median call with N rows divided by N. Weights are random, save those of `orderbook`; models are \
compiled with the default settings. `lstm_a step` and `orderbook step` are one step of each of N streams, peers take their whole windows. \
`of peak` sets the multiply-adds of a row, or the \
branches of trees, against what the core does in registers, and `of L2` the weights or branches that a row alone reads against \
what it reads from its second-level cache. ONNX Runtime is the library that ORT_DYLIB_PATH names (wheel `onnxruntime` on PyPI); tract is the crate `tract-onnx`. What a \
peer does not run is said in the second table.";

/// Runs the comparison and prints it.
///
/// # Errors
/// When a model does not compile or load, or answers differ.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    anyhow::ensure!((0.01..=600.0).contains(&options.seconds), "--seconds: between 0.01 and 600");
    affinity::pin_to(options.cpu)?;
    let cases = match options.cases.as_slice() {
        [] => Case::value_variants(),
        chosen => chosen,
    };
    let peers = Peers::load()?;
    let peak = Peak::measure(options.backend.unwrap_or_else(Backend::detect));
    let (mut measured_rows, mut agreement) = (Vec::new(), report::new_table());
    let mut header = ["case", "backend", "model KiB", "load ms"].map(str::to_owned).to_vec();
    header.extend(PEERS.iter().map(|peer| format!("difference from {peer}, of range")));
    agreement.set_header(header);
    for &case in cases {
        let measured = Measurement::new(case, options, &peers)
            .with_context(|| format!("case {} failed", case.name()))?;
        let mut row = vec![
            case.name().to_owned(),
            measured.ours.backend().name().to_owned(),
            report::figure(measured.ours.model_bytes() as f64 / 1024.0),
            report::figure(measured.ours.load().as_secs_f64() * 1e3),
        ];
        row.extend(measured.agreement.iter().cloned());
        agreement.add_row(row);
        measured_rows.extend(measured.run(options.seconds, peak.as_ref())?);
    }
    report::align_figures(&mut agreement, 2);
    let (rows, shares): (Vec<Row>, Vec<Shares>) = measured_rows.into_iter().unzip();
    let column = |of: fn(&Shares) -> Option<f64>| {
        let cell = |shares| of(shares).map_or_else(String::new, |share| format!("{share:.2}"));
        shares.iter().map(cell).collect()
    };
    let of_peak = column(|shares| shares.of_peak.map(|(_, share)| share));
    let columns = [("of peak", of_peak), ("of L2", column(|shares| shares.of_l2))];
    println!("{}\n{FOOTNOTE}\n\n{agreement}", report::table_with(&rows, &columns));
    if let Some(peak) = &peak {
        println!("\nThis core: {peak}.");
    }
    let lines = |(row, shares): (&Row, &Shares)| [vec![row.clone()], shares.rows(row)].concat();
    let lines: Vec<Row> = rows.iter().zip(&shares).flat_map(lines).collect();
    options.json.as_deref().map_or(Ok(()), |path| report::write_json_lines(path, &lines))
}

fn backend(name: &str) -> Result<Backend, String> {
    let names: Vec<&str> = Backend::available().map(Backend::name).collect();
    let chosen = Backend::available().find(|backend| backend.name() == name);
    chosen.ok_or_else(|| format!("this processor has {}", names.join(", ")))
}

/// One case, ready to run.
struct Measurement {
    case: Case,
    ours: Ours,
    peers: Vec<Box<dyn Peer>>,
    /// By peer: how far its answers are from ours, as a share of their range; or why it does not run the case.
    agreement: Vec<String>,
}

impl Measurement {
    fn new(case: Case, options: &Options, peers: &Peers) -> anyhow::Result<Self> {
        let mut ours = Ours::new(case, options.backend)?;
        let (mut loaded, mut agreement) = (Vec::new(), Vec::new());
        for peer in peers.load_case(case) {
            agreement.push(match peer {
                Err(error) => format!("{error:#}"),
                Ok(mut peer) => {
                    let difference = compare_answers(case, &mut ours, &mut *peer)
                        .with_context(|| format!("beside {}", peer.name()))?;
                    loaded.push(peer);
                    format!("{difference:.1e}")
                }
            });
        }
        Ok(Self { case, ours, peers: loaded, agreement })
    }

    fn run(mut self, seconds: f64, peak: Option<&Peak>) -> anyhow::Result<Vec<(Row, Shares)>> {
        let rows = self.case.rows(3, ROWS);
        let single = self.time(&rows, 1, seconds)?;
        let work = self.ours.work();
        let shares = |metric, row: &Row, batch| {
            let figures = row.ours.zip(peak);
            figures.map_or_else(Shares::default, |(us, peak)| Shares::new(metric, us, batch, work, peak))
        };
        let p50 = self.row(("p50_us", "us"), &single, |timings| timings.quantile_us(0.5));
        let p99 = self.row(("p99_us", "us"), &single, |timings| timings.quantile_us(0.99));
        let mut table = vec![(p50.clone(), shares("of_peak_1", &p50, 1)), (p99, Shares::default())];
        for (batch, [metric, of_peak]) in BATCHES {
            let rows = self.case.rows(4, batch);
            let timings = self.time(&rows, batch, seconds)?;
            let per_row = |timings: &Timings| timings.quantile_us(0.5) / batch as f64;
            let row = self.row((metric, "us"), &timings, per_row);
            table.push((row.clone(), shares(of_peak, &row, batch)));
        }
        Ok(table)
    }

    /// Timings by runner, ours first.
    fn time(&mut self, rows: &[f32], batch: usize, seconds: f64) -> anyhow::Result<Vec<Timings>> {
        let batches: Vec<&[f32]> =
            rows.chunks_exact(batch * self.case.row().iter().product::<usize>()).collect();
        let mut runners: Vec<&mut dyn Runner> = vec![&mut self.ours];
        runners.extend(self.peers.iter_mut().map(|peer| peer.as_mut() as &mut dyn Runner));
        turns::time(&mut runners, &batches, seconds)
    }

    fn row(
        &self,
        metric: (&'static str, &'static str),
        timings: &[Timings],
        read: impl Fn(&Timings) -> f64,
    ) -> Row {
        let names = self.peers.iter().map(|peer| peer.name().to_owned());
        let peers: BTreeMap<String, f64> = names.zip(timings[1..].iter().map(&read)).collect();
        Row::new("kernels", self.case.name().to_owned(), metric, Some(read(&timings[0])), peers)
    }
}

/// The largest difference of answers, as a share of the range of the peer's.
fn compare_answers(case: Case, ours: &mut Ours, peer: &mut dyn Peer) -> anyhow::Result<f32> {
    let rows = case.rows(2, ROWS);
    let wanted = peer.answers(&rows)?;
    let given = ours.answers(&rows)?;
    anyhow::ensure!(given.len() == wanted.len(), "{} answers, not {}", given.len(), wanted.len());
    let (least, most) =
        wanted.iter().fold((f32::MAX, f32::MIN), |(least, most), &x| (least.min(x), most.max(x)));
    let largest = given.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let difference = largest / (most - least);
    anyhow::ensure!(difference <= TOLERANCE, "answers differ by {difference:.1e} of range");
    Ok(difference)
}
