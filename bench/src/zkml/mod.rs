//! The comparison `zkml`: a proof that a model gave an answer, made and checked, beside EZKL on the same ONNX file.

mod ezkl;
mod ours;
mod trees;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, ValueEnum};

use self::trees::Trees;
use crate::nets::{Random, lstm, perceptron};
use crate::onnx::{self, Node, Tensor, floats, integers, node};
use crate::report::{self, Row};

const EXAMPLES: &str = "\
Examples:
  haca-bench zkml                                                  ours alone
  haca-bench zkml --model transformer.haca --rounds 1              a model of yours
  HACA_PYTHON=venv/bin/python haca-bench zkml --json zkml.jsonl     beside EZKL, of a Python that has `ezkl` 23
                                                                   (for gbt also lightgbm, scikit-learn, torch and
                                                                   hummingbird-ml)";

/// Arguments of `haca-bench zkml`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// What to run, separated by commas [default: all].
    #[arg(long, value_delimiter = ',')]
    cases: Vec<Case>,
    /// Compiled models to prove instead, each on one random row, without the peer.
    #[arg(long, value_name = "OUT.haca", conflicts_with = "cases")]
    model: Vec<PathBuf>,
    /// Proofs of each case.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Also write one JSON object for each row to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    /// Perceptron 8-32-16-1 with ReLU.
    Mlp,
    /// One step of an LSTM of 32 units on 16 features, and a linear layer.
    #[value(name = "lstm_step", alias = "lstm-step")]
    LstmStep,
    /// 100 boosted trees of depth 6 on 16 features, beside the peer's own example of boosted trees; figures are by tree.
    Gbt,
}

/// One model, as each side takes it.
struct Model {
    name: &'static str,
    /// Shape of a row.
    row: &'static [usize],
    ours: Vec<u8>,
    peers: Peers,
    /// What our figures are divided by: trees.
    parts: f64,
}

/// What the peer proves.
enum Peers {
    /// This network.
    Network(Vec<u8>),
    /// The model of its example `lightgbm`, by tree.
    Example,
}

const TREES: usize = 100;

impl Case {
    const ALL: [Case; 3] = [Case::Mlp, Case::LstmStep, Case::Gbt];

    fn model(self) -> Model {
        let mut random = Random(7 + self as u64);
        match self {
            Case::Mlp => {
                let (nodes, constants) = perceptron(&mut random, &[8, 32, 16, 1]);
                let file = onnx::model("mlp", &[8], nodes, constants);
                Model { name: "mlp", row: &[8], peers: Peers::Network(file.clone()), ours: file, parts: 1.0 }
            }
            Case::LstmStep => {
                let (nodes, constants) = lstm(&mut random, 16, 32, 1);
                let ours = onnx::model("lstm_step", &[1, 16], nodes, constants);
                let (nodes, constants) = gates(&mut random, 16, 32);
                let peers = Peers::Network(onnx::model("lstm_step", &[1, 16], nodes, constants));
                Model { name: "lstm_step", row: &[1, 16], ours, peers, parts: 1.0 }
            }
            Case::Gbt => {
                let (nodes, constants) = Trees::new(&mut Random(9), TREES, 16).ensemble();
                let ours = onnx::model("gbt", &[16], nodes, constants);
                Model { name: "gbt", row: &[16], ours, peers: Peers::Example, parts: TREES as f64 }
            }
        }
    }
}

/// The step of an LSTM from states of zero, gate by gate, for a peer that does not take the operator.
fn gates(random: &mut Random, inputs: usize, hidden: usize) -> (Vec<Node>, Vec<Tensor>) {
    let bound = 1.0 / (hidden as f32).sqrt();
    let mut constants = vec![integers("one", &[1], &[1])];
    let mut nodes = vec![node("Squeeze", &["x", "one"], &["row"])];
    for gate in ["i", "o", "g"] {
        let (weight, bias, sum) = (format!("w{gate}"), format!("b{gate}"), format!("s{gate}"));
        constants.push(floats(&weight, &[inputs, hidden], &random.weights(inputs * hidden, bound)));
        constants.push(floats(&bias, &[hidden], &random.weights(hidden, bound)));
        nodes.push(node("Gemm", &["row", &weight, &bias], &[&sum]));
        nodes.push(node(if gate == "g" { "Tanh" } else { "Sigmoid" }, &[&sum], &[gate]));
    }
    constants.push(floats("head", &[hidden, 1], &random.weights(hidden, bound)));
    nodes.push(node("Mul", &["i", "g"], &["cell"]));
    nodes.push(node("Tanh", &["cell"], &["bounded"]));
    nodes.push(node("Mul", &["o", "bounded"], &["state"]));
    nodes.push(node("MatMul", &["state", "head"], &["y"]));
    (nodes, constants)
}

/// What one side came to.
struct Figures {
    prove_s: f64,
    verify_ms: f64,
    proof_bytes: f64,
}

const FOOTNOTE: &str = "\
One row; medians. prove: from the row to the proof, the circuit's values included; keys were made before. verify: from the \
proof's bytes, in one process each. EZKL: fixed parameters, public input and output, base 128 with 4 legs, calibrated for \
resources, the fastest that was found. gbt: seconds and milliseconds by tree; EZKL proves its own example `lightgbm`, whose trees on \
four features are far smaller than ours, as products of matrices. lstm_step: EZKL does not take ONNX's LSTM and gets three gates and a linear \
layer, without the forget gate and the products with the state, which are of zeros. Both use all cores.";

/// Runs the comparison and prints it.
///
/// # Errors
/// When a proof does not hold, or the peer fails.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    anyhow::ensure!(options.rounds > 0, "--rounds: at least 1");
    let peer = ezkl::python().filter(|_| options.model.is_empty());
    let mut rows = Vec::new();
    for path in &options.model {
        let name = path.display().to_string();
        let model = Arc::new(haca_kernels::Model::load(&std::fs::read(path).with_context(|| name.clone())?)?);
        let mut random = Random(11);
        let row: Vec<f32> = (0..model.input_len()).map(|_| random.normal()).collect();
        let figures = ours::prove_compiled(&name, model, &row, options.rounds)?;
        let metrics = [("prove_s", "s"), ("verify_ms", "ms"), ("proof_bytes", "B")];
        let values = [figures.prove_s, figures.verify_ms, figures.proof_bytes];
        rows.extend(
            metrics
                .into_iter()
                .zip(values)
                .map(|(metric, value)| Row::new("zkml", name.clone(), metric, Some(value), BTreeMap::new())),
        );
    }
    for case in Case::ALL.into_iter().filter(|_| options.model.is_empty()) {
        if !options.cases.is_empty() && !options.cases.contains(&case) {
            continue;
        }
        let model = case.model();
        let mut random = Random(11);
        let rows_of = |random: &mut Random, count: usize| -> Vec<f32> {
            (0..count * model.row.iter().product::<usize>()).map(|_| random.normal()).collect()
        };
        let calibration = rows_of(&mut random, 512);
        let row = rows_of(&mut random, 1);
        let ours = ours::prove(&model, calibration, &row, options.rounds)?;
        let peers = peer.as_ref().and_then(|python| {
            let proven = ezkl::prove(python, &model, &row, options.rounds);
            proven.inspect_err(|error| println!("{}: {error:#}", model.name)).ok()
        });
        let mut add = |metric, ours: f64, peer: Option<f64>| {
            let peers: BTreeMap<String, f64> =
                peer.map(|peer| ("ezkl".to_owned(), peer)).into_iter().collect();
            rows.push(Row::new("zkml", model.name.to_owned(), metric, Some(ours), peers));
        };
        let peers = peers.as_ref();
        add(("prove_s", "s"), ours.prove_s / model.parts, peers.map(|peer| peer.prove_s));
        add(("verify_ms", "ms"), ours.verify_ms / model.parts, peers.map(|peer| peer.verify_ms));
        add(("proof_bytes", "B"), ours.proof_bytes, peers.map(|peer| peer.proof_bytes));
    }
    println!("{}\n{FOOTNOTE}", report::table(&rows));
    if peer.is_none() {
        println!("EZKL was left out: name a Python that has it by HACA_PYTHON.");
    }
    options.json.as_deref().map_or(Ok(()), |path| report::write_json_lines(path, &rows))
}
