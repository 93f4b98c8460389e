//! `haca demo`: the main path from a trained ONNX model to receipts verified offline, in one process on loopback.

mod proven;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use haca_client::{Client, Inference};
use haca_control_plane::proving::Services;
use haca_control_plane::shipped::{SHIPPED, Shipped};
use haca_dataplane::{Config, Node};
use haca_kernels::Model;
use haca_kernels::import::{self, CompileOptions};
use haca_kernels::npy::Array;
use haca_verifier::audit::Auditor;
use haca_verifier::receipt::{self, CheckProof, Given};
use haca_verifier::zk::StatementKind;
use haca_verifier::{Policy, Rows, Trust, Verdict};
use haca_wire::connect::Connect;
use haca_wire::receipt::ReceiptFile;
use haca_wire::sign::OperatorKey;
use haca_wire::{Mode, ModelId, Stage};
use serde_json::{Value, json};

use self::proven::ProvenLine;
use super::infer::{Answers, Asked, outputs, percentile};
use super::model::push::operator_key;
use super::session::Session;
use super::{output, progress, read};

/// Requests under way in the pass that measures throughput.
const IN_FLIGHT: usize = 64;

/// An answer may be this far from ONNX Runtime's, as a share of the output's range.
const LARGEST_ERROR: f64 = 1e-3;

/// Runs the whole main path in one process: compiles the shipped models, serves them on loopback, asks about the shipped
/// rows in modes vanilla and tee and about some in mode zk, one with a sealed input, waits until every receipt is durable and, in mode zk, proven,
/// verifies every receipt offline, and compares the answers with ONNX Runtime's. Exits 0 only if all of it held.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  haca demo
  haca demo --data demo-data      (keeps the data directory, to look at and to run haca up on)")]
pub(crate) struct Args {
    /// Keep the data in this directory, instead of one that is removed at the end
    #[arg(long, value_name = "DIR")]
    data: Option<std::path::PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let temporary = tempfile::tempdir().context("a temporary directory for the demo's data")?;
        let data = self.data.as_deref().unwrap_or(temporary.path());
        let config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Config::default() };
        let services = Services::open(data, &config)?;
        let mut node = Node::start(data, &config, Some(services.proving()))?;
        let proving = services.start(&mut node)?;
        let result = run(&node, data);
        // Stopped in good order whatever happened, so that the data directory can be looked at.
        proving.stop();
        let stopped = node.stop();
        let demonstrated = result?;
        stopped?;
        if self.json {
            output::print_json(&demonstrated.as_json())
        } else {
            output::print(&demonstrated.as_text())
        }
    }
}

fn run(node: &Node, data: &Path) -> anyhow::Result<Demonstrated> {
    let connect_file = data.join("connect.toml");
    let operator = operator_key(&data.join("operator.key"))?;
    let session = Session::open(&connect_file)?;
    let connect = read::connect(&connect_file)?;
    let before = node.log().status().tree_size;
    let (mut lines, mut proven) = (Vec::new(), Vec::new());
    let mut receipts = 0;
    for shipped in SHIPPED {
        let model = compile_and_push(shipped, &session, &operator)?;
        for mode in [Mode::Vanilla, Mode::Tee] {
            let (line, verified) = demonstrate(shipped, &model, mode, &session, &connect)
                .with_context(|| format!("model {}, mode {mode}", shipped.name))?;
            lines.push(line);
            receipts += verified;
        }
        // Sealed inputs take longer to prove: one model shows them.
        let kinds = if proven.is_empty() { &StatementKind::ALL[..] } else { &[StatementKind::Open] };
        for kind in kinds {
            let line = proven::demonstrate(shipped, &model, *kind, &session, &connect)
                .with_context(|| format!("model {}, mode zk, {kind} input", shipped.name))?;
            receipts += line.rows;
            proven.push(line);
        }
    }
    // Of each receipt that was proven the log has two more: the proof, and the verdict on it.
    let proofs: usize = proven.iter().map(|line| line.rows).sum();
    let status = node.log().status();
    let checkpoint = node.log().latest_checkpoint().context("the log has published no checkpoint")?;
    ensure!(
        status.tree_size - before == (receipts + 2 * proofs) as u64,
        "the log has {} new leaves, {receipts} receipts were issued and {proofs} of them proven",
        status.tree_size - before
    );
    Ok(Demonstrated {
        lines,
        proven,
        receipts,
        log_size: status.tree_size,
        log_bytes: status.disk_bytes,
        checkpoint: checkpoint.note.clone(),
    })
}

fn compile_and_push(
    shipped: &Shipped,
    session: &Session,
    operator: &OperatorKey,
) -> anyhow::Result<Arc<Model>> {
    let calibration = shipped.calibration()?;
    let options = CompileOptions { name: Some(shipped.name.to_owned()), ..CompileOptions::default() };
    let bar = progress::bar(calibration.rows() as u64, "compiling");
    let compiled = import::compile(shipped.onnx, &calibration, &options, &mut |progress| {
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
    })?;
    bar.finish_and_clear();
    session.call(session.client.push_model(shipped.name, &compiled.file, operator, |_| {}))?;
    Ok(Arc::new(Model::load(&compiled.file)?))
}

/// One model in one mode: a pass with one request at a time for latency, one with many for throughput.
fn demonstrate(
    shipped: &Shipped,
    model: &Arc<Model>,
    mode: Mode,
    session: &Session,
    connect: &Connect,
) -> anyhow::Result<(Line, usize)> {
    let entry = session.call(session.client.model(shipped.name))?;
    let rows = shipped.input()?.rows();
    let mut passes = Vec::new();
    for in_flight in [1, IN_FLIGHT] {
        let bar = progress::bar(rows as u64, "asking");
        let asked =
            Arc::new(Asked::new(Arc::clone(&session.client), entry.clone(), mode, shipped.input()?, bar));
        let began = Instant::now();
        let failure = session.wait(asked.ask_all(in_flight));
        let elapsed = began.elapsed();
        if let Some((row, error)) = failure {
            return Err(anyhow::Error::new(error).context(format!("row {row}")));
        }
        passes.push((asked.finish(), elapsed));
    }
    let reference = shipped.reference()?;
    let mut line = Line::new(shipped.name, mode, entry.id, rows);
    let mut verified = 0;
    for (answers, _) in &passes {
        let answered = outputs(&entry, answers);
        let error = largest_error(&answered.data, &reference.data);
        // NaN is not at most anything, so it does not pass.
        ensure!(
            error <= LARGEST_ERROR,
            "an answer is {error:.1e} of the output's range from ONNX Runtime's; at most {LARGEST_ERROR:.0e} is allowed"
        );
        line.largest_error = line.largest_error.max(error);
        verified += verify(shipped, model, &answered, answers, session, connect)?;
    }
    let mut latencies: Vec<Duration> = passes[0].0.values().map(|answer| answer.latency).collect();
    latencies.sort_unstable();
    (line.p50, line.p99) = (percentile(&latencies, 50), percentile(&latencies, 99));
    line.per_second = rows as f64 / passes[1].1.as_secs_f64();
    let mut batches: Vec<u32> = passes[1].0.values().map(|answer| answer.receipt.batch_size).collect();
    batches.sort_unstable();
    (line.batch_p50, line.batch_max) = (percentile(&batches, 50), percentile(&batches, 100));
    Ok((line, verified))
}

/// Waits until the log covers every receipt, then checks each as `haca verify --strict` would, from its file's bytes.
fn verify(
    shipped: &Shipped,
    model: &Arc<Model>,
    answered: &Array,
    answers: &Answers,
    session: &Session,
    connect: &Connect,
) -> anyhow::Result<usize> {
    let client: &Client = &session.client;
    let answers: Vec<&Inference> = answers.values().collect();
    let ids: Vec<_> = answers.iter().map(|answer| answer.leaf.request).collect();
    let states = session.call(client.await_receipts(Stage::Checkpointed, &ids))?;

    let mut checks = Checks::new(model, connect, Some(&shipped.input()?), answered)?;
    let bar = progress::bar(answers.len() as u64, "verifying");
    for (answer, state) in answers.iter().zip(&states) {
        checks.hold(&client.receipt_file(&answer.receipt, Some(state), None)?, None)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(answers.len())
}

/// What receipts of one model are checked against, as `haca verify --strict` does.
struct Checks {
    trust: Trust,
    model: ModelId,
    /// `None`: the input is sealed.
    inputs: Option<Rows>,
    outputs: Rows,
    auditor: Auditor,
}

impl Checks {
    fn new(
        model: &Arc<Model>,
        connect: &Connect,
        inputs: Option<&Array>,
        outputs: &Array,
    ) -> anyhow::Result<Self> {
        let rows = |name: &str, dims: &[u32], array: &Array| {
            Rows::new(Path::new(name), dims, array.rows(), &array.data)
        };
        Ok(Self {
            trust: Trust::from_connect(connect)?,
            model: ModelId(model.id()),
            inputs: inputs.map(|inputs| rows("input", model.input_shape(), inputs)).transpose()?,
            outputs: rows("output", model.output_shape(), outputs)?,
            auditor: Auditor::new(Arc::clone(model)),
        })
    }

    /// Fails unless every check of the file's bytes holds, or the proof makes up for it.
    fn hold(&mut self, file: &ReceiptFile, check_proof: Option<CheckProof<'_>>) -> anyhow::Result<()> {
        let Self { trust, model, inputs, outputs, auditor } = self;
        let given = Given {
            trust: Some(trust),
            policy: Policy::DEVELOPMENT,
            input: inputs.as_ref(),
            output: Some(outputs),
            model: Some(*model),
            keys: &[],
            opened: None,
        };
        let mut rerun = |_: usize, row: &[u8]| auditor.output_hash(row).map_err(|error| error.to_string());
        let report = receipt::check_bytes(&file.encode(), &given, Some(&mut rerun), check_proof);
        ensure!(report.verdict() == Verdict::Held, "a receipt does not hold:\n{report}");
        Ok(())
    }
}

/// The largest difference as a share of the reference's range.
fn largest_error(answered: &[f32], reference: &[f32]) -> f64 {
    if answered.len() != reference.len() {
        return f64::INFINITY;
    }
    let (low, high) = (reference.iter())
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)));
    let largest = (answered.iter().zip(reference))
        .map(|(a, b)| f64::from((a - b).abs()))
        .fold(0.0, |largest, error| if error > largest || error.is_nan() { error } else { largest });
    largest / f64::from(high - low)
}

struct Line {
    model: &'static str,
    mode: Mode,
    id: ModelId,
    rows: usize,
    p50: Duration,
    p99: Duration,
    per_second: f64,
    batch_p50: u32,
    batch_max: u32,
    largest_error: f64,
}

impl Line {
    fn new(model: &'static str, mode: Mode, id: ModelId, rows: usize) -> Self {
        Self {
            model,
            mode,
            id,
            rows,
            p50: Duration::ZERO,
            p99: Duration::ZERO,
            per_second: 0.0,
            batch_p50: 0,
            batch_max: 0,
            largest_error: 0.0,
        }
    }
}

struct Demonstrated {
    lines: Vec<Line>,
    proven: Vec<ProvenLine>,
    receipts: usize,
    log_size: u64,
    log_bytes: u64,
    checkpoint: String,
}

impl Demonstrated {
    fn as_text(&self) -> String {
        let mut table = output::table(
            [
                "model",
                "mode",
                "rows",
                "p50",
                "p99",
                "requests/s",
                "batch p50",
                "largest batch",
                "largest error",
            ],
            2,
        );
        let micros = |duration: Duration| format!("{:.1} µs", duration.as_secs_f64() * 1e6);
        for line in &self.lines {
            table.add_row([
                line.model.to_owned(),
                line.mode.to_string(),
                line.rows.to_string(),
                micros(line.p50),
                micros(line.p99),
                format!("{:.0}", line.per_second),
                line.batch_p50.to_string(),
                line.batch_max.to_string(),
                format!("{:.1e}", line.largest_error),
            ]);
        }
        format!(
            "{}\n{}\nLatency: one request at a time, client and node in one process. Requests/s and batches: {IN_FLIGHT} in \
             flight.\nLargest error: against ONNX Runtime, as a share of the output's range. tee: development issuer, \
             proves nothing\nabout hardware.\n\n\
             receipts    {} issued, durable, and verified offline: signature, path, evidence, inclusion, checkpoint,\n\
             \x20           input, output, model, and the same bits again from re-execution; of mode zk proof and verdict\n\
             log         {} leaves, {} on disk\n\
             checkpoint  {}\n",
            output::lines(&table),
            proven::as_text(&self.proven),
            self.receipts,
            self.log_size,
            output::bytes(self.log_bytes as usize),
            self.checkpoint.trim_end().replace('\n', "\n            "),
        )
    }

    fn as_json(&self) -> Value {
        let lines: Vec<Value> = (self.lines.iter())
            .map(|line| {
                json!({
                    "model": line.model,
                    "id": line.id,
                    "mode": line.mode.as_str(),
                    "rows": line.rows,
                    "latency_us": { "p50": line.p50.as_secs_f64() * 1e6, "p99": line.p99.as_secs_f64() * 1e6 },
                    "requests_per_second": line.per_second,
                    "batch": { "p50": line.batch_p50, "max": line.batch_max },
                    "largest_error": line.largest_error,
                })
            })
            .collect();
        json!({
            "runs": lines,
            "proven": self.proven.iter().map(proven::as_json).collect::<Vec<_>>(),
            "receipts_verified": self.receipts,
            "log": { "leaves": self.log_size, "bytes": self.log_bytes, "checkpoint": self.checkpoint },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_error_is_a_share_of_the_range_and_counts_nan() {
        assert_eq!(largest_error(&[0.0, 9.0], &[0.0, 10.0]), 0.1);
        assert!(largest_error(&[f32::NAN, 9.0], &[0.0, 10.0]).is_nan());
        assert_eq!(largest_error(&[0.0], &[0.0, 10.0]), f64::INFINITY);
    }
}
