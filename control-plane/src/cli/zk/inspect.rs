//! `haca zk inspect`.

use std::path::PathBuf;

use anyhow::Context;
use haca_verifier::zk::{CIRCUIT_VERSION, Circuit};
use haca_wire::ModelId;
use serde_json::json;

use crate::cli::{output, read};

/// Shows the circuit of a compiled model: constraints of each layer, and of what binds a proof to its input, output and
/// receipt. A model with an operator that has no circuit is refused, by its name.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  haca zk inspect mlp.haca
  haca zk inspect mlp.haca --sealed")]
pub(crate) struct Args {
    /// The compiled model
    #[arg(value_name = "OUT.haca")]
    model: PathBuf,
    /// The circuit of the statement with a sealed input
    #[arg(long)]
    sealed: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let model = read::model(&self.model)?;
        let circuit = Circuit::new(model, read::statement(self.sealed))
            .with_context(|| format!("{} has no circuit", self.model.display()))?;
        if self.json { output::print_json(&as_json(&circuit)) } else { output::print(&as_text(&circuit)) }
    }
}

fn as_text(circuit: &Circuit) -> String {
    let system = circuit.system();
    let mut facts = output::table(["", ""], 2);
    facts.add_row(["model", &ModelId(circuit.model().id()).to_string()]);
    facts.add_row(["statement", circuit.statement().as_str()]);
    facts.add_row(["circuit version", &CIRCUIT_VERSION.to_string()]);
    facts.add_row(["constraints", &system.constraints().to_string()]);
    facts.add_row(["terms in them", &system.terms().to_string()]);
    facts.add_row(["variables", &system.variables().to_string()]);
    facts.add_row(["public inputs", &(system.public() - 1).to_string()]);
    let mut parts = output::table(["part", "operator", "constraints"], 2);
    for cost in circuit.costs() {
        parts.add_row([cost.name.as_str(), cost.operator, &cost.constraints.to_string()]);
    }
    format!("{}\n\n{}", output::lines(&facts), output::lines(&parts))
}

fn as_json(circuit: &Circuit) -> serde_json::Value {
    let system = circuit.system();
    let parts: Vec<_> = circuit
        .costs()
        .iter()
        .map(|cost| json!({"name": cost.name, "operator": cost.operator, "constraints": cost.constraints}))
        .collect();
    json!({
        "model": ModelId(circuit.model().id()).to_string(),
        "statement": circuit.statement().as_str(),
        "circuit_version": CIRCUIT_VERSION,
        "constraints": system.constraints(),
        "terms": system.terms(),
        "variables": system.variables(),
        "public_inputs": system.public() - 1,
        "parts": parts,
    })
}
