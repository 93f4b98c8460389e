//! What can be asked of calibration, on the shipped perceptron.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use haca_kernels::import::{Accumulator, CompileOptions, Compiled, ImportError, RangeMethod, compile};
use haca_kernels::npy;

fn shipped(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/models").join(name)).unwrap()
}

fn rows() -> npy::Array {
    npy::parse(&shipped("mlp_calibration.npy")).unwrap()
}

fn compiled(rows: &npy::Array, options: &CompileOptions) -> Result<Compiled, ImportError> {
    compile(&shipped("mlp.onnx"), rows, options, &mut |_| ())
}

fn refusal(rows: &npy::Array, options: &CompileOptions) -> String {
    compiled(rows, options).unwrap_err().to_string()
}

fn limited(limit: f64) -> CompileOptions {
    CompileOptions { max_error: Some(limit), ..CompileOptions::default() }
}

/// Bits of the sums of each layer.
fn sums(compiled: &Compiled) -> Vec<u32> {
    compiled.report.layers.iter().map(|layer| layer.layer.accumulator_bits).collect()
}

#[test]
fn a_limit_on_the_error_is_measured_on_rows_held_back_and_met_by_wider_sums() {
    let loose = compiled(&rows(), &limited(1e-2)).unwrap();
    assert_eq!((loose.report.held_back, loose.report.rows), (60, 60), "a fifth of 300");
    assert_eq!(sums(&loose), [32, 32, 32]);
    let narrow = loose.report.relative_error();
    let strict = compiled(&rows(), &limited(narrow * 0.7)).unwrap();
    assert!(strict.report.relative_error() <= narrow * 0.7, "{}", strict.report.relative_error());
    assert!(sums(&strict).contains(&64), "{:?}", sums(&strict));
}

#[test]
fn a_limit_that_no_width_reaches_names_the_layer_in_the_way() {
    let message = refusal(&rows(), &limited(1e-9));
    assert!(message.contains("layer 'gemm") && message.contains("in the way"), "{message}");
    let narrow = CompileOptions { accumulator: Accumulator::Narrow, ..limited(1e-6) };
    assert!(refusal(&rows(), &narrow).contains("in the way"));
}

#[test]
fn percentiles_and_mean_squares_give_up_outliers_for_finer_scales() {
    let exponent = |compiled: &Compiled| compiled.report.layers[0].layer.output_exponent;
    let saturated = |compiled: &Compiled| compiled.report.layers[0].saturations;
    let with = |ranges| compiled(&rows(), &CompileOptions { ranges, ..CompileOptions::default() }).unwrap();
    let whole = with(RangeMethod::MinMax);
    assert_eq!(saturated(&whole), 0);
    let half = with(RangeMethod::Percentile(50.0));
    assert!(exponent(&half) > exponent(&whole) && saturated(&half) > 0, "{:?}", half.report.layers[0]);
    // Rounding at 15 bits costs less than any saturation of these layers.
    let square = with(RangeMethod::MeanSquare);
    assert!(square.report.relative_error() <= 2.0 * whole.report.relative_error());
}

#[test]
fn the_report_says_how_each_output_agrees() {
    let report = compiled(&rows(), &CompileOptions::default()).unwrap().report;
    assert_eq!(report.outputs.len(), 10);
    for output in &report.outputs {
        assert!(output.mean_error <= output.max_error && output.max_error <= report.max_error);
        assert!(output.correlation.unwrap() > 0.999_999, "{output:?}");
    }
}

#[test]
fn rows_that_calibrate_nothing_are_refused() {
    let mut same = rows();
    let first = same.row(0).to_vec();
    same.data = first.repeat(300);
    assert!(refusal(&same, &CompileOptions::default()).contains("all 300 rows are the same"));
    let few = npy::Array { shape: vec![9, 64], data: rows().data[..9 * 64].to_vec() };
    assert!(refusal(&few, &limited(1e-3)).contains("10 at least"));
    let other = npy::Array { shape: vec![9, 32], data: vec![0.0; 9 * 32] };
    assert!(refusal(&other, &CompileOptions::default()).contains("[rows, 64] is needed"));
    let mut broken = rows();
    broken.data[65] = f32::NAN;
    assert!(refusal(&broken, &CompileOptions::default()).contains("row 1, element 1 is NaN"));
}
