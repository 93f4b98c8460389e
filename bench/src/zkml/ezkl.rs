//! The peer: EZKL through its Python package, in a process of its own.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Context;
use serde::Deserialize;
use serde_json::json;

use super::{Figures, Model};

const SCRIPT: &str = include_str!("../../zkml/ezkl_peer.py");

/// The Python that has it.
pub(super) fn python() -> Option<OsString> {
    std::env::var_os("HACA_PYTHON")
}

#[derive(Deserialize)]
struct Said {
    version: String,
    prove_s: f64,
    verify_ms: f64,
    proof_bytes: f64,
    log_rows: u32,
    input_scale: i32,
    param_scale: i32,
}

/// Proves a row of the model.
pub(super) fn prove(python: &OsString, model: &Model, row: &[f32], rounds: usize) -> anyhow::Result<Figures> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("network.onnx"), &model.peers)?;
    std::fs::write(path("input.json"), json!({ "input_data": [row] }).to_string())?;
    std::fs::write(path("peer.py"), SCRIPT)?;
    let ran = Command::new(python).arg(path("peer.py")).arg(folder.path()).arg(rounds.to_string()).output();
    let ran = ran.with_context(|| format!("HACA_PYTHON={}", python.to_string_lossy()))?;
    let (stdout, stderr) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let said = stdout.lines().find_map(|line| line.strip_prefix("HACA "));
    let said = said.with_context(|| format!("EZKL failed on {}: {}", model.name, last_lines(&stderr)))?;
    let Said { version, prove_s, verify_ms, proof_bytes, log_rows, input_scale, param_scale } =
        serde_json::from_str(said)?;
    println!(
        "{}: EZKL {version}, 2^{log_rows} rows, scales 2^{input_scale} of inputs and 2^{param_scale} of parameters",
        model.name
    );
    Ok(Figures { prove_s, verify_ms, proof_bytes })
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
