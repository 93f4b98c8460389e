//! The demo's part in mode `zk`: rows one after the other, each from its answer to its verified proof and offline check.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use haca_client::LoggedProof;
use haca_control_plane::shipped::Shipped;
use haca_kernels::Model;
use haca_kernels::npy::Array;
use haca_verifier::receipt::Asked;
use haca_verifier::zk::{Circuit, Proof, ProofChecker, StatementKind};
use haca_wire::connect::Connect;
use haca_wire::receipt::ReceiptProof;
use haca_wire::vocabulary::ProofOutcome;
use haca_wire::{Leaf, Mode, Stage};
use serde_json::{Value, json};

use super::Checks;
use crate::cli::infer::percentile;
use crate::cli::session::Session;
use crate::cli::{output, progress};

/// Rows of each model that are proven: a proof takes a good part of a second.
const ROWS: usize = 4;
/// Rows with a sealed input.
const SEALED_ROWS: usize = 1;

/// One model in mode `zk`.
pub(super) struct ProvenLine {
    model: &'static str,
    kind: StatementKind,
    constraints: usize,
    pub(super) rows: usize,
    /// Sorted.
    answers: Vec<Duration>,
    /// From each answer until the log held the proof and the verifier's verdict. Sorted.
    proofs: Vec<Duration>,
    /// Of each proof: reading key and proof, and verifying. Sorted.
    checks: Vec<Duration>,
}

/// Asks about the first rows of a model in mode `zk`, waits for each proof, and verifies each receipt offline; those of sealed
/// inputs without the input.
pub(super) fn demonstrate(
    shipped: &Shipped,
    model: &Arc<Model>,
    kind: StatementKind,
    session: &Session,
    connect: &Connect,
) -> anyhow::Result<ProvenLine> {
    let client = &session.client;
    let entry = session.call(client.model(shipped.name))?;
    let input = shipped.input()?;
    let rows = match kind {
        StatementKind::Open => ROWS,
        StatementKind::Sealed => SEALED_ROWS,
    };
    let rows = rows.min(input.rows());
    let constraints = Circuit::new(Arc::clone(model), kind)?.system().constraints();
    let mut line = ProvenLine {
        model: shipped.name,
        kind,
        constraints,
        rows,
        answers: Vec::new(),
        proofs: Vec::new(),
        checks: Vec::new(),
    };
    let checker = ProofChecker::new(Some(Arc::clone(model)));
    let bar = progress::bar(rows as u64, "proving");
    for row in 0..rows {
        let row = Array { shape: [&[1], &input.shape[1..]].concat(), data: input.row(row).to_vec() };
        let answer = match kind {
            StatementKind::Open => session.call(client.infer(&entry, Mode::Zk, &row.data))?,
            StatementKind::Sealed => session.call(client.infer_sealed(&entry, &row.data))?,
        };
        let answered = Instant::now();
        let states = session.call(client.await_proofs(&[answer.leaf.request]))?;
        line.proofs.push(answered.elapsed());
        line.answers.push(answer.latency);
        let state = &states[0];
        ensure!(state.outcome == ProofOutcome::Proved, "the proof is {}: {}", state.outcome, state.detail);
        let events = state.events.map(|(proof, verdict)| [answer.leaf.request, proof.id, verdict.id]);
        let logged = session.call(client.await_receipts(Stage::Checkpointed, &events.unwrap_or_default()))?;
        let [of_receipt, proof, verdict] = &logged[..] else { unreachable!("a state for each id") };
        let proof = LoggedProof { state, proof, verdict };
        let file = client.receipt_file(&answer.receipt, Some(of_receipt), Some(proof))?;

        let outputs = Array {
            shape: [&[1], &model.output_shape().iter().map(|dim| *dim as usize).collect::<Vec<_>>()[..]]
                .concat(),
            data: answer.output.to_f32().unwrap_or_default(),
        };
        let shown = (kind == StatementKind::Open).then_some(&row);
        let mut checks = Checks::new(model, connect, shown, &outputs)?;
        let mut check = |leaf: &Leaf, carried: &ReceiptProof, asked: Option<Asked<'_>>| {
            let began = Instant::now();
            let outcome = checker.check(leaf, carried, asked);
            line.checks.push(began.elapsed());
            outcome
        };
        checks.hold(&file, Some(&mut check))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    for times in [&mut line.answers, &mut line.proofs, &mut line.checks] {
        times.sort_unstable();
    }
    Ok(line)
}

pub(super) fn as_text(lines: &[ProvenLine]) -> String {
    let mut table = output::table(
        [
            "model",
            "mode",
            "input",
            "rows",
            "constraints",
            "answer p50",
            "proof p50",
            "proof max",
            "proof size",
            "check p50",
        ],
        3,
    );
    let (micros, millis) = (
        |time: Duration| format!("{:.1} µs", time.as_secs_f64() * 1e6),
        |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3),
    );
    for line in lines {
        table.add_row([
            line.model.to_owned(),
            Mode::Zk.to_string(),
            line.kind.to_string(),
            line.rows.to_string(),
            line.constraints.to_string(),
            micros(percentile(&line.answers, 50)),
            millis(percentile(&line.proofs, 50)),
            millis(percentile(&line.proofs, 100)),
            format!("{} B", Proof::LEN),
            millis(percentile(&line.checks, 50)),
        ]);
    }
    format!(
        "{}Proof: from the answer until the log holds the proof and the verifier's verdict on it. Check: of one proof, \
         offline, of a\nsealed input without it.\nDevelopment keys: whoever made them could forge proofs.\n",
        output::lines(&table)
    )
}

pub(super) fn as_json(line: &ProvenLine) -> Value {
    let seconds = |times: &[Duration], percent| percentile(times, percent).as_secs_f64();
    json!({
        "model": line.model,
        "mode": Mode::Zk.as_str(),
        "input": line.kind.as_str(),
        "rows": line.rows,
        "constraints": line.constraints,
        "answer_us": { "p50": seconds(&line.answers, 50) * 1e6 },
        "proof_seconds": { "p50": seconds(&line.proofs, 50), "max": seconds(&line.proofs, 100) },
        "proof_bytes": Proof::LEN,
        "check_seconds": { "p50": seconds(&line.checks, 50) },
    })
}
