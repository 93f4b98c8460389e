//! The peer: EZKL through its Python package, in a process of its own.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Context;
use serde::Deserialize;
use serde_json::json;

use super::{Figures, Model, Peers};

const SCRIPT: &str = include_str!("../../zkml/ezkl_peer.py");
const EXAMPLE: &str = include_str!("../../zkml/lightgbm_example.py");

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

#[derive(Deserialize)]
struct Example {
    trees: u32,
    leaves: u32,
}

/// Proves a row of the model; of the peer's own example of trees, figures are by tree.
pub(super) fn prove(python: &OsString, model: &Model, row: &[f32], rounds: usize) -> anyhow::Result<Figures> {
    let (folder, name) = (tempfile::tempdir()?, model.name);
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("peer.py"), SCRIPT)?;
    std::fs::write(path("example.py"), EXAMPLE)?;
    let run = |script: &str, rounds: Option<String>| {
        said(name, Command::new(python).arg(path(script)).arg(folder.path()).args(rounds))
            .with_context(|| format!("HACA_PYTHON={}", python.to_string_lossy()))
    };
    let trees = match &model.peers {
        Peers::Network(network) => {
            std::fs::write(path("network.onnx"), network)?;
            std::fs::write(path("input.json"), json!({ "input_data": [row] }).to_string())?;
            1.0
        }
        Peers::Example => {
            let Example { trees, leaves } = serde_json::from_str(&run("example.py", None)?)?;
            println!("{name}: EZKL's example lightgbm, {trees} trees of {leaves} leaves together");
            f64::from(trees)
        }
    };
    let Said { version, prove_s, verify_ms, proof_bytes, log_rows, input_scale, param_scale } =
        serde_json::from_str(&run("peer.py", Some(rounds.to_string()))?)?;
    println!(
        "{name}: EZKL {version}, 2^{log_rows} rows, scales 2^{input_scale} of inputs and 2^{param_scale} of parameters"
    );
    Ok(Figures { prove_s: prove_s / trees, verify_ms: verify_ms / trees, proof_bytes })
}

/// What a script says on the line that is for us.
fn said(name: &str, command: &mut Command) -> anyhow::Result<String> {
    let ran = command.output()?;
    let (stdout, stderr) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let said = stdout.lines().find_map(|line| line.strip_prefix("HACA ")).map(str::to_owned);
    said.with_context(|| format!("EZKL failed on {name}: {}", last_lines(&stderr)))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
