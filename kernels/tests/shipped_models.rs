//! The shipped models against ONNX Runtime's outputs for them (`bench/models/`, made by its `train.py`).

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use haca_kernels::import::{CompileOptions, Compiled, compile};
use haca_kernels::{Backend, Dtype, Executor, Model, npy};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/models").join(name)
}

fn compiled(model: &str) -> Compiled {
    compiled_with(model, model)
}

fn compiled_with(model: &str, rows: &str) -> Compiled {
    let onnx = std::fs::read(path(&format!("{model}.onnx"))).unwrap();
    let calibration = npy::read(path(&format!("{rows}_calibration.npy"))).unwrap();
    compile(&onnx, &calibration, &CompileOptions::default(), &mut |_| {}).unwrap()
}

/// Outputs of all rows on every backend, which must agree, in batches of 7.
fn run(model: &Arc<Model>, rows: &npy::Array) -> Vec<f32> {
    let mut results: Vec<Vec<f32>> = Vec::new();
    for backend in Backend::available() {
        let mut executor = Executor::with_backend(Arc::clone(model), 7, backend);
        let mut outputs = Vec::new();
        let indices: Vec<usize> = (0..rows.rows()).collect();
        for batch in indices.chunks(7) {
            for (slot, &row) in batch.iter().enumerate() {
                let bytes: Vec<u8> = rows.row(row).iter().flat_map(|x| x.to_le_bytes()).collect();
                executor.stage(slot, Dtype::F32, &bytes).unwrap();
            }
            executor.execute(batch.len());
            for slot in 0..batch.len() {
                let mut bytes = vec![0; model.output_len() * 4];
                executor.write_output(slot, Dtype::F32, &mut bytes);
                outputs.extend(bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)));
            }
        }
        results.push(outputs);
    }
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "executors disagree");
    results.remove(0)
}

fn largest_error(outputs: &[f32], reference: &[f32]) -> (f64, f64) {
    assert_eq!(outputs.len(), reference.len());
    let errors = outputs.iter().zip(reference).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
    let (low, high) =
        reference.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &x| (l.min(x), h.max(x)));
    (errors.fold(0.0, f64::max), f64::from(high) - f64::from(low))
}

#[test]
fn the_multilayer_perceptron_is_within_a_thousandth_of_the_output_range() {
    let compiled = compiled("mlp");
    let model = Arc::new(Model::load(&compiled.file).unwrap());
    let reference = npy::read(path("mlp_reference.npy")).unwrap();
    let outputs = run(&model, &npy::read(path("mlp_input.npy")).unwrap());
    let (error, range) = largest_error(&outputs, &reference.data);
    println!(
        "mlp: largest error {error:.3e} of range {range:.3e}, compiler's own figure {:.3e}",
        compiled.report.max_error
    );
    assert!(error <= 1e-3 * range, "{error} of {range}");
}

#[test]
fn trained_recurrent_nets_are_within_a_thousandth_of_the_output_range() {
    for name in ["lstm", "gru"] {
        let compiled = compiled_with(name, "recurrent");
        let operators: Vec<&str> = compiled.report.layers.iter().map(|layer| layer.layer.operator).collect();
        assert_eq!(operators, [name, name, "dense"]);
        let model = Arc::new(Model::load(&compiled.file).unwrap());
        assert_eq!((model.input_shape(), model.output_shape()), (&[20, 6][..], &[1][..]));
        let reference = npy::read(path(&format!("{name}_reference.npy"))).unwrap();
        let outputs = run(&model, &npy::read(path("recurrent_input.npy")).unwrap());
        let (error, range) = largest_error(&outputs, &reference.data);
        let bits = compiled.report.layers[0].layer.accumulator_bits;
        println!(
            "{name}: largest error {error:.3e} of range {range:.3e} ({:.1e}), {bits}-bit sums",
            error / range
        );
        assert!(error <= 1e-3 * range, "{name}: {error} of {range}");
    }
}

#[test]
fn the_tree_ensemble_agrees_to_float_accuracy() {
    let compiled = compiled("gbt");
    let model = Arc::new(Model::load(&compiled.file).unwrap());
    let reference = npy::read(path("gbt_reference.npy")).unwrap();
    let outputs = run(&model, &npy::read(path("gbt_input.npy")).unwrap());
    for (row, (output, reference)) in outputs.iter().zip(&reference.data).enumerate() {
        assert!(
            (output - reference).abs() <= 1e-6 * reference.abs().max(1.0),
            "row {row}: {output} against {reference}"
        );
    }
    assert!(compiled.report.relative_error() <= 1e-6);
}
