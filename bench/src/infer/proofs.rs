//! Whether every request of mode `zk` that a node answered has its proof in the end.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use comfy_table::Table;
use haca_client::{Client, ClientOptions};
use haca_wire::connect::Connect;
use haca_wire::vocabulary::ProofOutcome;

use super::haca::ToProve;
use crate::report;

/// What became of the requests of mode `zk` of one run.
#[derive(Debug)]
pub(super) struct Proven {
    answered: usize,
    refused: u64,
    /// How long the run went, and then its last proof took.
    ran: Duration,
    waited: Duration,
}

/// Waits for the proofs of a run that `began` then, from the node with this data directory.
///
/// # Errors
/// When one of them is not proven, or a verdict is not its verifier's.
pub(super) fn wait(data: &Path, began: Instant, to_prove: &ToProve) -> anyhow::Result<Proven> {
    let ended = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let connect = Connect::read(&data.join("connect.toml"))?;
    let states = runtime.block_on(async {
        let client = Client::connect(&connect, ClientOptions::default()).await?;
        let states = client.await_proofs(&to_prove.answered).await;
        client.close().await;
        states
    });
    for state in states.context("proofs were not told")? {
        let (id, outcome) = (state.id, state.outcome);
        anyhow::ensure!(outcome == ProofOutcome::Proved, "request {id} is {outcome}: {}", state.detail);
    }
    anyhow::ensure!(!to_prove.answered.is_empty(), "the run was too short for a request of mode zk");
    let answered = to_prove.answered.len();
    Ok(Proven { answered, refused: to_prove.refused, ran: ended - began, waited: ended.elapsed() })
}

/// A line for each run.
pub(super) fn table(runs: &[Proven]) -> Table {
    let mut table = report::new_table();
    table.set_header([
        "zk asked",
        "refused",
        "answered and proven",
        "proofs/s",
        "asked per proof",
        "last proof after",
    ]);
    for run in runs {
        let asked = run.answered as u64 + run.refused;
        let pace = run.answered as f64 / (run.ran + run.waited).as_secs_f64();
        table.add_row([
            report::figure(asked as f64),
            report::figure(run.refused as f64),
            report::figure(run.answered as f64),
            report::figure(pace),
            report::figure(asked as f64 / run.ran.as_secs_f64() / pace),
            format!("{:.1} s", run.waited.as_secs_f64()),
        ]);
    }
    report::align_figures(&mut table, 0);
    table
}

pub(super) const FOOTNOTE: &str = "\
haca-proving: a node with prover and verifier at work; some of its requests are of mode zk, and count like the others. \
Every answer in mode zk has a proof that the verifier accepted, or the run fails. asked per proof: requests of mode zk \
per second for each proof per second. last proof after: the end of the run.";
