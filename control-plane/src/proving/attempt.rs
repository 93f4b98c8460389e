//! Proving one request: what the prover within the node and the one apart have in common.

use super::queue::Announced;
use super::workbench::{Workbench, WorkbenchError};
use haca_verifier::seal;
use haca_verifier::zk::{Binding, Proof, ProverError, StatementKind};
use haca_wire::event::PROOF_LEN;
use haca_wire::opening::Opening;
use haca_wire::{Digest, Leaf};
use rand_core::OsRng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Why there will be no proof.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unprovable {
    #[error(transparent)]
    Bench(#[from] WorkbenchError),
    #[error("its opening is not one of its model's")]
    Opening,
    #[error("the model refuses the row: {0}")]
    Row(String),
    #[error("the commitment to the input does not open to the row with the salt that came with it")]
    Seal,
    #[error("the circuit gives another output than the node gave")]
    Output,
    #[error(transparent)]
    Prover(#[from] ProverError),
    #[error("the prover panicked; see its log")]
    Panicked,
}

impl Unprovable {
    /// Whether trying again may help.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Bench(error) if error.may_pass())
    }

    /// The same without paths.
    pub(crate) fn to_caller(&self) -> String {
        match self {
            Self::Bench(error) => error.to_caller(),
            other => other.to_string(),
        }
    }
}

/// A proof, with what belongs into its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) proof: [u8; PROOF_LEN],
    /// Id and bytes of the verification key.
    pub(crate) key: Digest,
    pub(crate) key_bytes: Vec<u8>,
    /// The output's integers.
    pub(crate) output: Vec<i64>,
}

/// Proves that the leaf's model gave its output on its input, on the threads of the pool.
pub(crate) fn prove(
    workbench: &mut Workbench,
    pool: &rayon::ThreadPool,
    leaf: &Leaf,
    opening: &[u8],
) -> Result<Made, Unprovable> {
    let attempt = AssertUnwindSafe(|| pool.install(|| attempt(workbench, leaf, opening)));
    // A panic must not end the service: the request gets its record, and a bench is only memory.
    catch_unwind(attempt).unwrap_or(Err(Unprovable::Panicked))
}

/// Makes a model's circuit and its key for open inputs, if they are not there, before somebody waits for them; and has its
/// key for sealed inputs made, where these are taken.
pub(crate) fn make_ready(workbench: &mut Workbench, pool: &rayon::ThreadPool, announced: Announced) {
    let (begun, Announced { model, sealed }) = (Instant::now(), announced);
    let ready = || {
        pool.install(|| {
            let key = workbench.get(&model, StatementKind::Open)?.prover.verifying_key().id();
            tracing::info!(%model, %key, seconds = begun.elapsed().as_secs_f64(), "ready to prove");
            if sealed { workbench.make_sealed_key_ahead(&model) } else { Ok(()) }
        })
    };
    match catch_unwind(AssertUnwindSafe(ready)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%model, %error, "cannot be proven"),
        Err(_) => tracing::error!(%model, "cannot be proven: the prover panicked"),
    }
}

fn attempt(workbench: &mut Workbench, leaf: &Leaf, opening: &[u8]) -> Result<Made, Unprovable> {
    let bench = workbench.get(&leaf.model, StatementKind::of(leaf))?;
    let model = bench.circuit.model();
    let opening = Opening::decode(opening, model.input_len(), model.output_len(), leaf.sealed);
    let opening = opening.ok_or(Unprovable::Opening)?;
    let staged = bench.stager.stage(0, haca_kernels::Dtype::F32, &opening.input);
    staged.map_err(|error| Unprovable::Row(error.to_string()))?;
    let key = bench.prover.verifying_key();
    let (key, key_bytes) = (key.id(), key.to_bytes());
    let binding = Binding::new(leaf, &key);
    let witness = match &opening.salt {
        None => bench.circuit.witness(&bench.stager.staged(0), &binding),
        // The shard copied what the caller sent, and looked at none of it.
        Some(salt) if seal::commitment(salt, &opening.input) != leaf.input => return Err(Unprovable::Seal),
        Some(salt) => bench.circuit.sealed_witness(&opening.input, salt, &binding),
    };
    if witness.output != opening.output {
        return Err(Unprovable::Output);
    }
    let proof: Proof = bench.prover.prove(&witness.assignment, &mut OsRng)?;
    Ok(Made { proof: proof.to_bytes(), key, key_bytes, output: opening.output })
}
