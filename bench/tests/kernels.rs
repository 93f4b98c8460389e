//! The comparison as a person runs it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

fn kernels(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haca-bench"));
    command.env_remove("ORT_DYLIB_PATH").args(["kernels", "--seconds", "0.02"]).args(arguments);
    command.output().unwrap()
}

#[cfg(not(feature = "peers"))]
#[test]
fn every_metric_of_a_case_is_measured_on_the_backend_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("kernels.jsonl");
    let output = kernels(&["--cases", "mlp,gbt_a", "--backend", "scalar", "--json", json.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("scalar"));
    let text = std::fs::read_to_string(json).unwrap();
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let metrics = ["p50_us", "p99_us", "row_us_8", "row_us_64", "row_us_1024"];
    for (row, (case, metric)) in
        rows.iter().zip(["mlp", "gbt_a"].iter().flat_map(|case| metrics.map(|metric| (case, metric))))
    {
        assert_eq!(
            (&row["bench"], &row["case"], &row["metric"]),
            (&"kernels".into(), &(*case).into(), &metric.into())
        );
        assert!(row["ours"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert_eq!(rows.len(), 10);
}

#[cfg(feature = "peers")]
#[test]
fn a_missing_library_is_an_error_that_says_where_to_get_it() {
    let output = kernels(&[]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("ORT_DYLIB_PATH is not set") && message.contains("pip download"), "{message}");
}

#[test]
fn an_unknown_backend_is_refused_with_those_there_are() {
    let output = kernels(&["--backend", "abacus"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("scalar"));
}
