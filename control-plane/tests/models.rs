//! `haca model compile`, `inspect` and `run` on the shipped models, as a person runs them.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod tool;

use std::path::{Path, PathBuf};

use haca_kernels::npy::{self, Array};
use tempfile::TempDir;
use tool::{Ran, haca, shipped};

fn compile(name: &str, dir: &Path) -> PathBuf {
    let model = dir.join(format!("{name}.haca"));
    let (onnx, rows) = (shipped(&format!("{name}.onnx")), shipped(&format!("{name}_calibration.npy")));
    haca!("model", "compile", onnx, "--calibrate", rows, "-o", model).done();
    model
}

fn run(model: &Path, input: &Path, output: &Path) -> Ran {
    haca!("model", "run", model, "--input", input, "-o", output)
}

/// Compiles a shipped model, runs it on its rows, and returns its outputs beside ONNX Runtime's.
fn outputs_and_reference(name: &str) -> (Array, Array) {
    let dir = TempDir::new().unwrap();
    let output = dir.path().join("y.npy");
    run(&compile(name, dir.path()), &shipped(&format!("{name}_input.npy")), &output).done();
    (npy::read(output).unwrap(), npy::read(shipped(&format!("{name}_reference.npy"))).unwrap())
}

fn largest_error(outputs: &Array, reference: &Array) -> f32 {
    assert_eq!(outputs.shape, reference.shape);
    outputs.data.iter().zip(&reference.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn the_shipped_perceptron_agrees_with_its_float_reference() {
    let (outputs, reference) = outputs_and_reference("mlp");
    assert!(largest_error(&outputs, &reference) < 0.02, "of a range of about 40");
    let digit = |array: &Array, row| {
        let logits = array.row(row).iter().enumerate();
        logits.max_by(|a, b| a.1.total_cmp(b.1)).map(|(digit, _)| digit)
    };
    for row in 0..outputs.rows() {
        assert_eq!(digit(&outputs, row), digit(&reference, row), "row {row}");
    }
}

#[test]
fn the_shipped_trees_agree_with_their_float_reference() {
    let (outputs, reference) = outputs_and_reference("gbt");
    assert!(largest_error(&outputs, &reference) < 1e-3, "of a range of about 270");
}

#[test]
fn compiling_again_gives_the_same_file_and_inspect_shows_its_id() {
    let dir = TempDir::new().unwrap();
    let model = compile("mlp", dir.path());
    let first = std::fs::read(&model).unwrap();
    let again = compile("mlp", dir.path());
    assert_eq!(std::fs::read(again).unwrap(), first);

    let inspected = haca!("model", "inspect", model, "--json").json();
    let text = haca!("model", "inspect", model).done();
    assert!(text.contains(inspected["id"].as_str().unwrap()));
    assert_eq!(inspected["input_shape"], serde_json::json!([64]));
    assert_eq!(inspected["layers"].as_array().unwrap().len(), 3);
    assert!(inspected["calibration"]["max_error"].as_f64().unwrap() < 0.02);
}

#[test]
fn the_constraints_of_a_proof_are_shown_for_each_layer() {
    let dir = TempDir::new().unwrap();
    let model = compile("mlp", dir.path());
    let shown = haca!("zk", "inspect", model, "--json").json();
    let parts = shown["parts"].as_array().unwrap();
    let sum: u64 = parts.iter().map(|part| part["constraints"].as_u64().unwrap()).sum();
    assert_eq!(shown["constraints"].as_u64().unwrap(), sum);
    assert_eq!(parts.iter().filter(|part| part["operator"] == "dense").count(), 3);
    assert!(haca!("zk", "inspect", model).done().contains(&sum.to_string()));
}

#[test]
fn an_array_of_float64_is_refused_with_the_way_to_convert_it() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x64.npy");
    let mut bytes = std::fs::read(shipped("mlp_input.npy")).unwrap();
    let at = bytes.windows(3).position(|window| window == b"<f4").unwrap();
    bytes[at + 2] = b'8';
    std::fs::write(&path, bytes).unwrap();
    let model = compile("mlp", dir.path());
    run(&model, &path, &dir.path().join("y.npy")).failed(&["x64.npy", "float64", "astype"]);
}

#[test]
fn a_truncated_array_is_refused_with_what_is_missing() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("cut.npy");
    let bytes = std::fs::read(shipped("mlp_input.npy")).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
    let model = compile("mlp", dir.path());
    run(&model, &path, &dir.path().join("y.npy")).failed(&["cut.npy", "truncated"]);
    assert!(!dir.path().join("y.npy").exists());
}

#[test]
fn rows_of_another_shape_and_rows_with_nan_are_refused() {
    let dir = TempDir::new().unwrap();
    let (model, output) = (compile("mlp", dir.path()), dir.path().join("y.npy"));
    run(&model, &shipped("gbt_input.npy"), &output).failed(&["gbt_input.npy", "[400, 10]", "[rows, 64]"]);
    let mut input = npy::read(shipped("mlp_input.npy")).unwrap();
    input.data[3 * 64 + 7] = f32::NAN;
    let path = dir.path().join("nan.npy");
    npy::write(&path, &input).unwrap();
    run(&model, &path, &output).failed(&["nan.npy", "row 3", "element 7", "NaN"]);
}

#[test]
fn a_model_file_with_a_byte_changed_is_refused_or_is_another_model() {
    let dir = TempDir::new().unwrap();
    let model = compile("gbt", dir.path());
    let bytes = std::fs::read(&model).unwrap();
    let inspect = || haca!("model", "inspect", model, "--json");
    let id = inspect().json()["id"].clone();
    let mut refused = 0;
    for at in (0..64).chain((64..bytes.len()).step_by(bytes.len() / 32)) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x55;
        std::fs::write(&model, changed).unwrap();
        let inspected = inspect();
        if inspected.code == 0 {
            assert_ne!(inspected.json()["id"], id, "byte {at}");
        } else {
            inspected.failed(&["gbt.haca"]);
            refused += 1;
        }
    }
    assert!(refused > 0);
    std::fs::write(&model, &bytes[..bytes.len() / 2]).unwrap();
    inspect().failed(&["gbt.haca"]);
}

#[test]
fn an_unsupported_operator_is_named_with_those_that_are_supported() {
    let dir = TempDir::new().unwrap();
    let mut onnx = std::fs::read(shipped("mlp.onnx")).unwrap();
    let at = onnx.windows(4).position(|window| window == b"Relu").unwrap();
    onnx[at] = b'S';
    let path = dir.path().join("selu.onnx");
    std::fs::write(&path, onnx).unwrap();
    let (rows, output) = (shipped("mlp_calibration.npy"), dir.path().join("out.haca"));
    haca!("model", "compile", path, "--calibrate", rows, "-o", output).failed(&[
        "selu.onnx",
        "Selu",
        "Gemm",
        "TreeEnsembleRegressor",
    ]);
    assert!(!output.exists());
}

#[test]
fn a_missing_file_is_named_and_a_wrong_call_is_usage() {
    haca(["model", "inspect", "no/such.haca"]).failed(&["no/such.haca", "check the path"]);
    let unwritable = "/proc/out.haca";
    let (onnx, rows) = (shipped("mlp.onnx"), shipped("mlp_calibration.npy"));
    haca!("model", "compile", onnx, "--calibrate", rows, "-o", unwritable)
        .failed(&[unwritable, "cannot be written"]);
    for wrong in
        [&["model", "compile"][..], &["verify"], &["model", "run", "x", "--colour"], &["frobnicate"], &[]]
    {
        let ran = haca(wrong);
        assert_eq!(ran.code, 2, "{wrong:?}: {}", ran.stderr);
    }
    assert_eq!(haca(["--help"]).code, 0);
}

#[test]
fn a_limit_on_the_error_is_met_on_rows_held_back_or_names_the_layer_in_the_way() {
    let dir = TempDir::new().unwrap();
    let compile = |limit: &str| {
        let (onnx, rows, out) =
            (shipped("mlp.onnx"), shipped("mlp_calibration.npy"), dir.path().join("m.haca"));
        haca!("model", "compile", onnx, "--calibrate", rows, "-o", out, "--max-error", limit, "--json")
    };
    let report = compile("5e-4").json();
    assert_eq!(report["calibration"]["held_back"], 60);
    assert!(report["calibration"]["relative_error"].as_f64().unwrap() <= 5e-4);
    assert_eq!(report["outputs"].as_array().unwrap().len(), 10);
    compile("1e-9").failed(&["mlp.onnx", "layer 'gemm", "in the way"]);
}

#[test]
fn inspect_prints_the_memory_plan() {
    let dir = TempDir::new().unwrap();
    let model = compile("mlp", dir.path());
    let text = haca!("model", "inspect", &model).done();
    assert!(text.contains("arenas for each row of a batch: i16"), "{text}");
    let inspected = haca!("model", "inspect", &model, "--json").json();
    let buffers = inspected["buffers"].as_array().unwrap();
    let names: Vec<&str> = buffers.iter().map(|buffer| buffer["tensor"].as_str().unwrap()).collect();
    assert_eq!(names, ["input", "gemm1", "gemm2", "gemm3"]);
    assert_eq!(buffers[0]["bytes_per_row"], 128, "64 integers of 16 bits");
}
