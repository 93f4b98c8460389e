//! `haca infer`.

mod proofs;
pub(super) mod salts;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use haca_client::{Client, ClientError, Inference, ReceiptState};
use haca_kernels::npy::{self, Array};
use haca_wire::message::model::ModelEntry;
use haca_wire::vocabulary::LogOutcome;
use haca_wire::{Mode, ModelId, Seal, Stage, Status};
use indicatif::ProgressBar;
use serde_json::json;
use tokio::task::JoinSet;

use self::proofs::Proofs;
use crate::cli::session::{self, Session};
use crate::cli::{output, progress, read};

/// A row that is refused for want of room is sent again after the time the node names, for this long in all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks a running node: each row of the input is one request. Every answer's receipt is verified before it counts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  haca infer --connect data/connect.toml --model mlp --input rows.npy -o answers.npy
  haca infer --connect data/connect.toml --model mlp --input rows.npy --mode tee --receipts receipts/ --wait durable
  haca infer --connect data/connect.toml --model mlp --input rows.npy --mode zk --receipts receipts/ --wait proved
  haca infer --connect data/connect.toml --model mlp --input rows.npy --mode zk --sealed --receipts receipts/ --wait proved
  haca infer --connect data/connect.toml --model lstm --input steps.npy --stream -o answers.npy")]
pub(crate) struct Args {
    /// The node's connect.toml
    #[arg(long, value_name = "DIR/connect.toml")]
    connect: PathBuf,
    /// Name of the model
    #[arg(long, value_name = "NAME")]
    model: String,
    /// Rows to ask about: float32, of shape [rows, …]
    #[arg(long, value_name = "X.npy")]
    input: PathBuf,
    /// Where to write the outputs, in the same order
    #[arg(short, long, value_name = "Y.npy")]
    output: Option<PathBuf>,
    /// Where on the verification spectrum
    #[arg(long, default_value = "vanilla", value_parser = modes())]
    mode: Mode,
    /// Of mode zk: neither receipts nor proofs tell of the rows. Each is sealed with a salt of its own, kept as DIR/ROW.salt
    /// beside its receipt: who has it can be shown the row, or can guess it
    #[arg(long, requires = "receipts", conflicts_with = "stream")]
    sealed: bool,
    /// Keep each row's receipt as DIR/ROW.receipt, rows counted from 0
    #[arg(long, value_name = "DIR")]
    receipts: Option<PathBuf>,
    /// Wait until the log holds every receipt; the receipt files then hold the log's proof, too. In mode zk, proved waits
    /// until every answer is proven; the receipt files then hold these proofs as well
    #[arg(long, value_enum)]
    wait: Option<Wait>,
    /// The rows are the steps of one stream in their order: each is answered as if those before it had been sent with it
    #[arg(long)]
    stream: bool,
    /// Requests that may be unanswered at a time; of a stream it is one
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum)]
enum Wait {
    /// In the log, and fsync has returned
    Durable,
    /// Of mode zk alone: proven, and the node's verifier has accepted the proof
    Proved,
}

fn modes() -> impl clap::builder::TypedValueParser<Value = Mode> {
    let words = PossibleValuesParser::new(Mode::ALL.iter().map(|mode| mode.as_str()));
    words.try_map(|word| word.parse::<Mode>())
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        ensure!(
            self.wait != Some(Wait::Proved) || self.mode == Mode::Zk,
            "--wait proved: answers of mode {} are not proven; ask with --mode zk, or give --wait durable",
            self.mode
        );
        ensure!(
            !self.sealed || self.mode == Mode::Zk,
            "--sealed: a receipt of mode {} shows its input's hash and has no proof; ask with --mode zk",
            self.mode
        );
        let input = read::array(&self.input)?;
        ensure!(input.rows() > 0, "{}: the array has no rows", self.input.display());
        if let Some(directory) = &self.receipts {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("{}: no directory for receipts", directory.display()))?;
        }
        let session = Session::open(&self.connect)?;
        let model = session.call(session.client.model(&self.model))?;
        let shape = match (self.stream, model.step_shape) {
            (false, _) => model.input_shape,
            (true, Some(shape)) => shape,
            (true, None) => return Err(anyhow!("model {} takes no streams; send whole rows", model.name)),
        };
        read::rows_fit(&self.input, &input, shape.dims(), "input")?;

        let rows = input.rows();
        let bar = progress::bar(rows as u64, "asking");
        let mut asked = Asked::new(Arc::clone(&session.client), model.clone(), self.mode, input, bar);
        asked.sealed = self.sealed;
        let asked = Arc::new(asked);
        let began = Instant::now();
        let failure = match self.stream {
            false => session.wait(asked.ask_all(self.in_flight as usize)),
            true => session.wait(asked.ask_in_stream()),
        };
        let elapsed = began.elapsed();
        let answers = asked.finish();

        if let Some((row, error)) = failure {
            // What was answered is the caller's, whatever came after.
            self.keep_receipts(&session, &answers, &[], None)?;
            return Err(self.failed(&session, error, row, answers.len()));
        }
        if let Some(path) = &self.output {
            npy::write(path, &outputs(&model, &answers))?;
        }
        let proofs = match self.wait {
            Some(Wait::Proved) => Some(Proofs::wait(&session, &answers, self.receipts.is_some())),
            _ => None,
        };
        let proofs = proofs.transpose();
        let states = self.wait_for_log(&session, &answers);
        // If prover or log fail, the receipts are worth keeping without what they did not give.
        let known = proofs.as_ref().ok().and_then(Option::as_ref);
        self.keep_receipts(&session, &answers, states.as_deref().unwrap_or_default(), known)?;
        let (states, proofs) = (states?, proofs?);
        if let Some(proofs) = &proofs {
            proofs.all_proved(&session, &answers)?;
        }
        drop(session);

        let mut latencies: Vec<_> = answers.values().map(|answer| answer.latency).collect();
        latencies.sort_unstable();
        let mut batches: Vec<_> = answers.values().map(|answer| answer.receipt.batch_size).collect();
        batches.sort_unstable();
        let summary = Summary {
            model: model.name,
            id: model.id,
            mode: self.mode,
            rows,
            elapsed,
            retries: asked.retries.load(Ordering::Relaxed),
            latencies,
            batches,
            logged: self.wait.map(|_| Logged {
                stage: self.stage(),
                tree_size: states.iter().filter_map(|state| Some(state.inclusion.as_ref()?.tree_size)).max(),
            }),
            proofs,
        };
        if self.json {
            return output::print_json(&summary.as_json(&self));
        }
        output::print(&summary.as_text(&self))
    }

    /// A receipt file with the log's proof in it is worth waiting for the next checkpoint.
    fn stage(&self) -> Stage {
        if self.receipts.is_some() { Stage::Checkpointed } else { Stage::Durable }
    }

    fn failed(&self, session: &Session, error: ClientError, row: usize, answered: usize) -> anyhow::Error {
        match &error {
            // Not this row's fault.
            ClientError::Refused { status: Status::ModeUnavailable, detail, .. } => {
                let remedy = if self.sealed { "ask without --sealed" } else { "choose another --mode" };
                anyhow!("{}: {detail}; {remedy}", session.address)
            }
            _ => session::of(session.address, error)
                .context(format!("{}: row {row}, after {answered} answers", self.input.display())),
        }
    }

    /// What the log says of every answer; nothing where nobody wants to wait for it.
    fn wait_for_log(&self, session: &Session, answers: &Answers) -> anyhow::Result<Vec<ReceiptState>> {
        if self.wait.is_none() {
            return Ok(Vec::new());
        }
        let stage = self.stage();
        let ids: Vec<_> = answers.values().map(|answer| answer.leaf.request).collect();
        let bar = progress::bar(ids.len() as u64, stage.as_str());
        let mut states = Vec::with_capacity(ids.len());
        for ids in ids.chunks(session.client.welcome().limits.max_await_ids as usize) {
            states.extend(session.call(session.client.await_receipts(stage, ids))?);
            bar.inc(ids.len() as u64);
        }
        bar.finish_and_clear();
        for ((row, answer), state) in answers.iter().zip(&states) {
            let outcome = state.outcome;
            ensure!(
                outcome == LogOutcome::Logged,
                "{}: the log does not hold the receipt of row {row} (request {}): {outcome}",
                session.address,
                answer.leaf.request,
            );
        }
        Ok(states)
    }

    fn keep_receipts(
        &self,
        session: &Session,
        answers: &Answers,
        states: &[ReceiptState],
        proofs: Option<&Proofs>,
    ) -> anyhow::Result<()> {
        let Some(directory) = &self.receipts else { return Ok(()) };
        let (mut states, mut bad_proof) = (states.iter(), None);
        for (row, answer) in answers {
            let proof = proofs.and_then(|proofs| proofs.of(*row));
            let state = states.next();
            let file = match session.client.receipt_file(&answer.receipt, state, proof) {
                // The receipt is worth keeping without it.
                Err(error) if proof.is_some() => {
                    bad_proof.get_or_insert((*row, error));
                    session.client.receipt_file(&answer.receipt, state, None)
                }
                made => made,
            };
            let file = file.map_err(|error| session::of(session.address, error))?;
            // First, so that no receipt stands beside the salt of one before it.
            if let Some(Seal { salt, .. }) = &answer.seal {
                salts::write(directory, *row, salt)?;
            }
            let path = directory.join(format!("{row}.receipt"));
            std::fs::write(&path, file.encode()).with_context(|| path.display().to_string())?;
        }
        bad_proof.map_or(Ok(()), |(row, error)| {
            Err(session::of(session.address, error).context(format!("the proof of row {row}")))
        })
    }
}

/// The rows on their way.
pub(crate) struct Asked {
    client: Arc<Client>,
    model: ModelEntry,
    mode: Mode,
    sealed: bool,
    input: Array,
    bar: ProgressBar,
    next: AtomicUsize,
    retries: AtomicUsize,
    answers: Mutex<Answers>,
}

/// The answers by row.
pub(crate) type Answers = BTreeMap<usize, Inference>;

impl Asked {
    /// Nothing of it is asked yet.
    pub(crate) fn new(
        client: Arc<Client>,
        model: ModelEntry,
        mode: Mode,
        input: Array,
        bar: ProgressBar,
    ) -> Self {
        let (next, retries, answers) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::default());
        Self { client, model, mode, sealed: false, input, bar, next, retries, answers }
    }

    /// Ends the bar and gives what was answered.
    pub(crate) fn finish(&self) -> Answers {
        self.bar.finish_and_clear();
        std::mem::take(&mut *self.answers())
    }

    /// Asks about every row, `in_flight` at a time. Returns the first row that failed; those not yet asked then
    /// never are.
    pub(crate) async fn ask_all(self: &Arc<Self>, in_flight: usize) -> Option<(usize, ClientError)> {
        let mut lines = JoinSet::new();
        for _ in 0..in_flight.min(self.input.rows()) {
            lines.spawn(Arc::clone(self).ask_in_turn());
        }
        while let Some(ended) = lines.join_next().await {
            if let Err(failure) =
                ended.expect("a line of requests neither panics nor is aborted before the first failure")
            {
                lines.shutdown().await;
                return Some(failure);
            }
        }
        None
    }

    /// Takes one row after the other that nobody has taken.
    async fn ask_in_turn(self: Arc<Self>) -> Result<(), (usize, ClientError)> {
        loop {
            let row = self.next.fetch_add(1, Ordering::Relaxed);
            if row >= self.input.rows() {
                return Ok(());
            }
            let answer = self.ask(self.input.row(row)).await.map_err(|error| (row, error))?;
            self.answers().insert(row, answer);
            self.bar.inc(1);
        }
    }

    /// Asks about one row after the other, as steps of a stream. Returns the first that failed.
    async fn ask_in_stream(&self) -> Option<(usize, ClientError)> {
        let mut stream = match self.client.stream(&self.model, self.mode, 0) {
            Ok(stream) => stream,
            Err(error) => return Some((0, error)),
        };
        for row in 0..self.input.rows() {
            let mut patience = PATIENCE;
            let answer = loop {
                match stream.step(self.input.row(row)).await {
                    Err(ClientError::Refused { retry_after: Some(after), .. }) if after <= patience => {
                        patience -= after;
                        self.retries.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(after).await;
                    }
                    done => break done,
                }
            };
            match answer {
                Ok(answer) => drop(self.answers().insert(row, answer)),
                Err(error) => return Some((row, error)),
            }
            self.bar.inc(1);
        }
        None
    }

    async fn ask(&self, row: &[f32]) -> Result<Inference, ClientError> {
        let mut patience = PATIENCE;
        loop {
            let answer = match self.sealed {
                false => self.client.infer(&self.model, self.mode, row).await,
                true => self.client.infer_sealed(&self.model, row).await,
            };
            match answer {
                Err(ClientError::Refused { retry_after: Some(after), .. }) if after <= patience => {
                    patience -= after;
                    self.retries.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(after).await;
                }
                done => return done,
            }
        }
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outputs in the order of the rows.
pub(crate) fn outputs(model: &ModelEntry, answers: &Answers) -> Array {
    let mut shape = vec![answers.len()];
    shape.extend(model.output_shape.dims().iter().map(|dim| *dim as usize));
    // Rows were sent as f32, and the client has checked that answers are of the same type.
    Array {
        shape,
        data: answers.values().flat_map(|answer| answer.output.to_f32().unwrap_or_default()).collect(),
    }
}

/// What is said at the end.
struct Summary {
    model: String,
    id: ModelId,
    mode: Mode,
    rows: usize,
    elapsed: Duration,
    retries: usize,
    /// Sorted.
    latencies: Vec<Duration>,
    /// Sorted.
    batches: Vec<u32>,
    logged: Option<Logged>,
    proofs: Option<Proofs>,
}

/// How far the receipts have come.
struct Logged {
    stage: Stage,
    tree_size: Option<u64>,
}

impl Summary {
    fn percentile(&self, percent: usize) -> Duration {
        percentile(&self.latencies, percent)
    }

    fn per_second(&self) -> f64 {
        self.rows as f64 / self.elapsed.as_secs_f64()
    }

    fn as_text(&self, args: &Args) -> String {
        let mut table = output::table(
            ["model", "mode", "rows", "requests/s", "p50", "p99", "batch p50", "largest batch", "sent again"],
            2,
        );
        table.add_row([
            self.model.clone(),
            self.mode.to_string(),
            self.rows.to_string(),
            format!("{:.0}", self.per_second()),
            format!("{:.1} µs", micros(self.percentile(50))),
            format!("{:.1} µs", micros(self.percentile(99))),
            percentile(&self.batches, 50).to_string(),
            percentile(&self.batches, 100).to_string(),
            self.retries.to_string(),
        ]);
        let mut text = format!("{}id  {}\n", output::lines(&table), self.id);
        if let Some(path) = &args.output {
            text += &format!("outputs   {}\n", path.display());
        }
        if let Some(directory) = &args.receipts {
            text += &format!("receipts  {} in {}, each verified\n", self.rows, directory.display());
            if args.sealed {
                text += "salts     beside them: keep these as private as the rows\n";
            }
        }
        match &self.logged {
            Some(Logged { tree_size: Some(size), .. }) => {
                text += &format!("log       all under a checkpoint of {size} receipts\n");
            }
            Some(Logged { stage, .. }) => text += &format!("log       all {stage}\n"),
            None => {}
        }
        if let Some(proofs) = &self.proofs {
            text += &proofs.as_text();
        }
        text
    }

    fn as_json(&self, args: &Args) -> serde_json::Value {
        json!({
            "model": self.model,
            "id": self.id,
            "mode": self.mode.as_str(),
            "sealed": args.sealed,
            "rows": self.rows,
            "seconds": self.elapsed.as_secs_f64(),
            "requests_per_second": self.per_second(),
            "latency_us": { "p50": micros(self.percentile(50)), "p99": micros(self.percentile(99)) },
            "batch": { "p50": percentile(&self.batches, 50), "max": percentile(&self.batches, 100) },
            "sent_again": self.retries,
            "output": args.output,
            "receipts": args.receipts,
            "stage": self.logged.as_ref().map(|logged| logged.stage.as_str()),
            "tree_size": self.logged.as_ref().and_then(|logged| logged.tree_size),
            "proofs": self.proofs.as_ref().map(Proofs::as_json),
        })
    }
}

/// The smallest of the sorted values that at least `percent` of a hundred of them do not exceed.
pub(crate) fn percentile<T: Copy + Default>(sorted: &[T], percent: usize) -> T {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

fn micros(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<u32> = (1..=200).collect();
        assert_eq!([50, 99, 100].map(|percent| percentile(&values, percent)), [100, 198, 200]);
        assert_eq!(percentile(&[7], 99), 7);
        assert_eq!(percentile::<u32>(&[], 50), 0);
    }
}
