//! Re-execution with a shipped model on its shipped rows.
#![cfg(feature = "audit")]
#![allow(clippy::unwrap_used)] // A test fails by panicking.

use std::path::PathBuf;
use std::sync::Arc;

use haca_kernels::import::{CompileOptions, compile};
use haca_kernels::npy::{self, Array};
use haca_kernels::{Backend, Executor, Model};
use haca_verifier::audit::Auditor;
use haca_wire::{Digest, Dtype, tensor};

fn shipped(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/models")).join(name)
}

fn model_and_rows() -> (Arc<Model>, Array) {
    let onnx = std::fs::read(shipped("mlp.onnx")).unwrap();
    let calibration = npy::read(shipped("mlp_calibration.npy")).unwrap();
    let compiled = compile(&onnx, &calibration, &CompileOptions::default(), &mut |_| {}).unwrap();
    (Arc::new(Model::load(&compiled.file).unwrap()), npy::read(shipped("mlp_input.npy")).unwrap())
}

fn bytes(row: &[f32]) -> Vec<u8> {
    row.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The hashes a node that ran all rows in one batch would have put in its receipts.
fn served(model: &Arc<Model>, rows: &Array) -> Vec<Digest> {
    let mut executor = Executor::new(Arc::clone(model), rows.rows());
    for row in 0..rows.rows() {
        executor.stage(row, haca_kernels::Dtype::F32, &bytes(rows.row(row))).unwrap();
    }
    executor.execute(rows.rows());
    let mut output = vec![0; 4 * model.output_len()];
    let mut hash = |row| {
        executor.write_output(row, haca_kernels::Dtype::F32, &mut output);
        tensor::hash(Dtype::F32, model.output_shape(), &output)
    };
    (0..rows.rows()).map(&mut hash).collect()
}

#[test]
fn every_executor_audits_what_was_served_in_a_batch() {
    let (model, rows) = model_and_rows();
    let served = served(&model, &rows);
    for backend in Backend::available() {
        let mut auditor = Auditor::with_backend(Arc::clone(&model), backend);
        assert_eq!(auditor.model().0, model.id());
        for (row, served) in served.iter().enumerate() {
            assert_eq!(
                auditor.output_hash(&bytes(rows.row(row))).as_ref(),
                Ok(served),
                "{backend:?} row {row}"
            );
        }
    }
}

#[test]
fn a_row_the_model_does_not_take_is_an_error_and_the_next_one_is_audited() {
    let (model, rows) = model_and_rows();
    let mut auditor = Auditor::new(model);
    assert!(auditor.output_hash(&[0; 3]).is_err());
    let mut bad = rows.row(0).to_vec();
    bad[5] = f32::NAN;
    assert!(auditor.output_hash(&bytes(&bad)).is_err());
    assert!(auditor.output_hash(&bytes(rows.row(0))).is_ok());
}
