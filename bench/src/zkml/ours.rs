//! Our side: compiled, proven and checked by the library that node and verifier use.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use haca_kernels::import::{CompileOptions, compile};
use haca_kernels::npy::Array;
use haca_kernels::{Dtype, Executor, Model as Compiled};
use haca_verifier::zk::setup::development;
use haca_verifier::zk::{Binding, Circuit, Claim, Proof, Prover, Statement, StatementKind};
use haca_wire::{Digest, Leaf, Mode, ModelId, NodeId, PayerId, RequestId, SessionId, tensor};
use rand_core::OsRng;

use super::{Figures, Model};
use crate::report;

/// Compiles the model, proves a row of it, and checks each proof.
pub(super) fn prove(
    model: &Model,
    calibration: Vec<f32>,
    row: &[f32],
    rounds: usize,
) -> anyhow::Result<Figures> {
    let rows = calibration.len() / row.len();
    let calibration = Array { shape: [&[rows], model.row].concat(), data: calibration };
    let compiled = compile(&model.ours, &calibration, &CompileOptions::default(), &mut |_| {})?;
    prove_compiled(model.name, Arc::new(Compiled::load(&compiled.file)?), row, rounds)
}

/// Proves a row of a compiled model, and checks each proof.
pub(super) fn prove_compiled(
    name: &str,
    compiled: Arc<Compiled>,
    row: &[f32],
    rounds: usize,
) -> anyhow::Result<Figures> {
    let start = Instant::now();
    let circuit = Circuit::new(Arc::clone(&compiled), StatementKind::Open)?;
    let system = circuit.system();
    let seconds = start.elapsed().as_secs_f64();
    let (constraints, terms) = (system.constraints(), system.terms());
    println!("{name}: ours, {constraints} constraints of {terms} terms, written in {seconds:.1} s");
    let start = Instant::now();
    let key = development(system, compiled.id(), circuit.statement(), &mut OsRng)?;
    println!("{name}: ours, a development key in {:.1} s", start.elapsed().as_secs_f64());
    let prover = Prover::new(Arc::clone(circuit.system()), key)?;
    let key = prover.verifying_key();

    let row: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut executor = Executor::new(Arc::clone(&compiled), 1);
    executor.stage(0, Dtype::F32, &row).map_err(|error| anyhow::anyhow!("{error}"))?;
    executor.execute(1);
    let mut floats = vec![0; 4 * compiled.output_len()];
    executor.write_output(0, Dtype::F32, &mut floats);
    let leaf = leaf(&compiled, &row, &floats);

    let (mut prove, mut verify) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = Instant::now();
        let witness = circuit.witness(&executor.staged(0), &Binding::new(&leaf, &key.id()));
        let proof = prover.prove(&witness.assignment, &mut OsRng)?.to_bytes();
        prove.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        let statement = Statement::new(&compiled, key, &leaf, &row, &witness.output)?;
        key.verify(&[Claim { proof: Proof::from_bytes(&proof)?, inputs: statement.inputs }])?;
        verify.push(start.elapsed().as_secs_f64());
    }
    let median = |times| report::median(times).context("at least one round");
    Ok(Figures { prove_s: median(prove)?, verify_ms: 1e3 * median(verify)?, proof_bytes: Proof::LEN as f64 })
}

fn leaf(model: &Compiled, row: &[u8], output: &[u8]) -> Leaf {
    Leaf {
        mode: Mode::Zk,
        sealed: false,
        policy_epoch: 0,
        request: RequestId([1; 16]),
        session: SessionId([2; 16]),
        payer: PayerId::default(),
        node: NodeId([3; 32]),
        model: ModelId(model.id()),
        input: tensor::hash(haca_wire::Dtype::F32, model.input_shape(), row),
        output: tensor::hash(haca_wire::Dtype::F32, model.output_shape(), output),
        evidence: Digest::default(),
        sequence: 0,
        received: 0,
        completed: 0,
        price: 0,
    }
}
