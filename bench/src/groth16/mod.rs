//! The comparison `groth16`: batches of proofs checked from bytes, proofs made, parameters made, on one constraint system
//! for all. Who runs alternates, and each figure is the median of its rounds.

#[cfg(feature = "peers")]
mod peers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use clap::{Args, ValueEnum};
use haca_verifier::zk::reference::chain;
use haca_verifier::zk::setup::development;
use haca_verifier::zk::{Claim, ConstraintSystem, Proof, Prover, Scalar, StatementKind, VerifyingKey};
use rand_core::OsRng;

use crate::report::{self, Row};

const EXAMPLES: &str = "\
Examples:
  haca-bench groth16                                       every case, with the peers this was built with
  haca-bench groth16 --cases verify --json groth16.jsonl

The peers, ark-groth16 and bellman over blstrs, are there only with `--features peers`.";

/// Public inputs of the proofs that are checked.
const INPUTS: usize = 8;
/// Proofs in a batch.
const BATCH: usize = 1024;

/// Arguments of `haca-bench groth16`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// What to run, separated by commas [default: all].
    #[arg(long, value_delimiter = ',')]
    cases: Vec<Case>,
    /// Rounds of each case.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Threads for proving and setup; verifying takes one.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
    /// Binary logarithm of the constraints of `prove` and `setup` [default: 14 and 16, and 16].
    #[arg(long, value_parser = clap::value_parser!(u32).range(4..=20))]
    log: Option<u32>,
    /// Also write one JSON object for each row to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    /// A batch of 1,024 proofs with 8 public inputs, from bytes, on one thread.
    Verify,
    /// A proof of as many constraints, each over values that fill the field.
    Prove,
    /// Parameters for as many constraints.
    Setup,
}

const FOOTNOTE: &str = "\
batch-verify: from the bytes of proofs and public inputs, with all checks of points, on one thread; ark-groth16 one by \
one, with its asm. prove and setup: the same constraints and values for all, matrices made before; ours and ark-groth16 \
do not write the circuit again for each proof, bellman does.";

/// Seconds by runner, ours under the empty name.
type Seconds = BTreeMap<&'static str, Vec<f64>>;

/// Runs the comparison and prints it.
///
/// # Errors
/// When a proof does not hold.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    anyhow::ensure!(options.rounds > 0 && options.threads > 0, "--rounds and --threads: at least 1");
    let runs = |case| options.cases.is_empty() || options.cases.contains(&case);
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let mut rows = Vec::new();
    if runs(Case::Verify) {
        rows.push(pool(1)?.install(|| verify(options.rounds))?);
    }
    let threads = pool(options.threads)?;
    if runs(Case::Prove) {
        for log in options.log.map_or(vec![14, 16], |log| vec![log]) {
            rows.push(threads.install(|| prove(log, options.rounds))?);
        }
    }
    if runs(Case::Setup) {
        rows.push(threads.install(|| setup(options.log.unwrap_or(16), options.rounds))?);
    }
    println!("{}\n{FOOTNOTE}", report::table(&rows));
    options.json.as_deref().map_or(Ok(()), |path| report::write_json_lines(path, &rows))
}

/// A row of medians; `of` makes the figure of a time.
fn row(case: String, metric: (&'static str, &'static str), times: Seconds, of: impl Fn(f64) -> f64) -> Row {
    let figures: BTreeMap<&str, f64> =
        times.into_iter().filter_map(|(name, seconds)| Some((name, of(report::median(seconds)?)))).collect();
    let peers = figures.iter().filter(|(name, _)| !name.is_empty());
    let peers = peers.map(|(name, figure)| ((*name).to_owned(), *figure)).collect();
    Row::new("groth16", case, metric, figures.get("").copied(), peers)
}

fn timed<T>(
    times: &mut Seconds,
    name: &'static str,
    run: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    let result = run().with_context(|| format!("{name} failed"))?;
    times.entry(name).or_default().push(start.elapsed().as_secs_f64());
    Ok(result)
}

/// A chain that makes as many constraints as `2^log`, with those that bind the public inputs.
fn system(log: u32, public: usize) -> (Arc<ConstraintSystem>, Vec<Scalar>) {
    let (system, assignment) = chain((1 << log) - public - 1, public, 3);
    (Arc::new(system), assignment)
}

fn prover(log: u32, public: usize) -> anyhow::Result<(Prover, Vec<Scalar>)> {
    let (system, assignment) = system(log, public);
    let key = development(&system, [0; 32], StatementKind::Open, &mut OsRng)?;
    Ok((Prover::new(system, key)?, assignment))
}

fn verify(rounds: usize) -> anyhow::Result<Row> {
    let (prover, assignment) = prover(6, INPUTS)?;
    let inputs: Vec<[u8; 32]> = assignment[1..=INPUTS].iter().map(Scalar::to_bytes_be).collect();
    let proofs = (0..BATCH).map(|_| Ok(prover.prove(&assignment, &mut OsRng)?.to_bytes()));
    let proofs: Vec<[u8; Proof::LEN]> = proofs.collect::<anyhow::Result<_>>()?;
    let key = prover.verifying_key();
    let mut times = Seconds::new();
    for _ in 0..rounds {
        timed(&mut times, "", || check_batch(key, &proofs, &inputs))?;
        #[cfg(feature = "peers")]
        peers::verify(&mut times, &prover, &proofs, &inputs)?;
    }
    let case = format!("batch-verify {BATCH}");
    Ok(row(case, ("proofs_per_s", "proofs/s"), times, |seconds| BATCH as f64 / seconds))
}

fn check_batch(key: &VerifyingKey, proofs: &[[u8; Proof::LEN]], inputs: &[[u8; 32]]) -> anyhow::Result<()> {
    let batch: Vec<(&[u8], &[[u8; 32]])> = proofs.iter().map(|proof| (&proof[..], inputs)).collect();
    Ok(key.verify(&Claim::read_all(&batch)?)?)
}

fn prove(log: u32, rounds: usize) -> anyhow::Result<Row> {
    let (prover, assignment) = prover(log, 1)?;
    #[cfg(feature = "peers")]
    let peers = peers::Provers::new(&prover, &assignment)?;
    let mut times = Seconds::new();
    for _ in 0..rounds {
        let proof = timed(&mut times, "", || Ok(prover.prove(&assignment, &mut OsRng)?))?;
        prover.verifying_key().verify(&[Claim { proof, inputs: vec![assignment[1]] }])?;
        #[cfg(feature = "peers")]
        peers.prove(&mut times)?;
    }
    Ok(row(format!("prove 2^{log}"), ("seconds", "s"), times, |seconds| seconds))
}

fn setup(log: u32, rounds: usize) -> anyhow::Result<Row> {
    let (system, assignment) = system(log, 1);
    let mut times = Seconds::new();
    for _ in 0..rounds {
        timed(&mut times, "", || Ok(development(&system, [0; 32], StatementKind::Open, &mut OsRng)?))?;
        #[cfg(feature = "peers")]
        peers::setup(&mut times, &system, &assignment)?;
    }
    #[cfg(not(feature = "peers"))]
    drop(assignment);
    Ok(row(format!("setup 2^{log}"), ("seconds", "s"), times, |seconds| seconds))
}
