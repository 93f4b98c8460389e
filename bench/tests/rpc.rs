//! The comparison as a person runs it: the binary, real servers in their own processes, real sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::sync::Mutex;

/// Runs share two cores and spin on one of them, so they take turns.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn rpc(arguments: &[&str]) -> Output {
    let _turn = ONE_AT_A_TIME.lock();
    let short = ["rpc", "--seconds", "0.3", "--warm-up", "0.05", "--rounds", "1"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_haca-bench"));
    command.args(short).args(arguments).output().unwrap()
}

fn json_lines(arguments: &[&str]) -> Vec<serde_json::Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rpc.jsonl");
    let output = rpc(&[arguments, &["--json", file.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_server_echoes_and_every_metric_is_reported() {
    let rows = json_lines(&["--cases", "1x1,3x5"]);
    let metrics = ["p50_us", "p99_us", "p999_us", "rps_per_core"];
    let expected = ["1x1", "3x5"].iter().flat_map(|case| metrics.iter().map(move |metric| (*case, *metric)));
    let found = rows.iter().map(|row| (row["case"].as_str().unwrap(), row["metric"].as_str().unwrap()));
    assert_eq!(found.collect::<BTreeSet<_>>(), expected.collect());
    for row in &rows {
        assert_eq!(row["bench"], "rpc");
        assert!(row["ours"].as_f64().unwrap() > 0.0, "{row}");
        for peer in ["quinn", "floor"] {
            assert!(row["peers"][peer].as_f64().unwrap() > 0.0, "{row}");
            assert!(row["ratio"][peer].as_f64().unwrap() > 0.0, "{row}");
        }
    }
}

#[test]
fn a_stream_for_each_request_works_with_every_server() {
    assert_eq!(json_lines(&["--cases", "2x16", "--stream-per-request"]).len(), 4);
}

#[test]
fn a_socket_for_each_connection_works_with_every_server_and_is_said() {
    let arguments = ["--cases", "3x5", "--socket-per-connection"];
    assert_eq!(json_lines(&arguments).len(), 4);
    let said = |arguments: &[&str]| String::from_utf8(rpc(arguments).stdout).unwrap();
    let one_server = ["--servers", "haca"];
    assert!(said(&[&arguments[..], &one_server].concat()).contains("a UDP socket of its own"));
    assert!(said(&[&arguments[..2], &one_server].concat()).contains("share one UDP socket"));
}

#[test]
fn a_fixed_rate_works_with_every_server() {
    assert_eq!(json_lines(&["--cases", "2x4", "--rate", "2000"]).len(), 4);
}

#[test]
fn sharing_a_core_is_refused() {
    let output = rpc(&["--cases", "1x1", "--server-cpu", "0", "--client-cpu", "0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("share core 0"));
}

#[test]
fn a_core_that_is_not_there_is_named() {
    let output = rpc(&["--cases", "1x1", "--client-cpu", "1000"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("core 1000"));
}

#[test]
fn a_malformed_case_is_a_usage_error() {
    let output = rpc(&["--cases", "64y16"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("64x16"));
}
