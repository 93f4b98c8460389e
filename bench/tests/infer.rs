//! The comparison as a person runs it: the binary, a node in its own process, the shipped model.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

fn infer(arguments: &[&str]) -> Output {
    let short = ["infer", "--seconds", "0.5", "--warm-up", "0.05", "--rounds", "1"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_haca-bench"));
    command.env_remove("ORT_DYLIB_PATH").args(short).args(arguments).output().unwrap()
}

#[test]
fn a_node_answers_every_row_and_its_receipts_hold() {
    let folder = tempfile::tempdir().unwrap();
    let (json, data) = (folder.path().join("infer.jsonl"), folder.path().join("data"));
    std::fs::create_dir(&data).unwrap();
    let (json_name, data_name) = (json.to_str().unwrap(), data.to_str().unwrap());
    let output = infer(&["--servers", "haca", "--cases", "2x3", "--json", json_name, "--data", data_name]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(json).unwrap();
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let metrics: Vec<&str> = rows.iter().map(|row| row["metric"].as_str().unwrap()).collect();
    assert_eq!(metrics, ["p50_us", "p99_us", "p999_us", "rps_per_core"]);
    for row in &rows {
        assert_eq!((&row["bench"], &row["case"]), (&"infer".into(), &"mlp 2x3".into()));
        assert!(row["ours"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert!(data.read_dir().unwrap().next().is_none(), "the node's data is removed after the run");
}

#[cfg(feature = "peers")]
#[test]
fn a_missing_library_is_an_error_that_says_where_to_get_it() {
    let output = infer(&[]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("ORT_DYLIB_PATH is not set") && message.contains("pip download"), "{message}");
}

#[test]
fn a_data_folder_that_is_not_there_is_named() {
    let output = infer(&["--servers", "haca", "--data", "/nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere"));
}
