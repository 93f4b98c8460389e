//! `haca zk ceremony new`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use haca_verifier::zk::StatementKind;
use haca_verifier::zk::ceremony::{Ceremony, Phase2, Powers};

use super::{Bar, check_free, read_circuit, read_powers, show, write_new};
use crate::cli::read;

/// Begins phase 1, powers of tau that serve every model up to a size, or phase 2, the key of one model under finished
/// powers. `haca zk inspect` shows the constraints of a model.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  haca zk ceremony new --powers 16 -o powers-0
  haca zk ceremony new --model mlp.haca --powers powers-finished -o mlp-0
  haca zk ceremony new --model mlp.haca --sealed --powers powers-finished -o mlp-sealed-0")]
pub(crate) struct Args {
    /// For phase 1, the binary logarithm of the most constraints; for phase 2, the finished file of phase 1
    #[arg(long, value_name = "K|FILE")]
    powers: PathBuf,
    /// The compiled model, for phase 2
    #[arg(long, value_name = "MODEL.haca")]
    model: Option<PathBuf>,
    /// For phase 2: the key is of the statement with a sealed input
    #[arg(long, requires = "model")]
    sealed: bool,
    /// Where to write the file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        check_free(&self.output)?;
        let ceremony = match &self.model {
            Some(model) => phase2(model, read::statement(self.sealed), &self.powers)?,
            None => Ceremony::Powers(Box::new(powers(&self.powers)?)),
        };
        write_new(&self.output, &ceremony.to_bytes())?;
        show(&ceremony, self.json)
    }
}

fn powers(log: &Path) -> anyhow::Result<Powers> {
    let number = log.to_str().and_then(|text| text.parse().ok());
    let log = number.with_context(|| {
        format!("--powers {}: not a number; a file of phase 1 needs --model beside it", log.display())
    })?;
    Ok(Powers::new(log)?)
}

fn phase2(model: &Path, statement: StatementKind, powers: &Path) -> anyhow::Result<Ceremony> {
    let circuit = read_circuit(model, statement)?;
    let read = read_powers(powers)?;
    let phase2 = Phase2::new(circuit.system(), circuit.model().id(), statement, &read, &Bar::new())
        .with_context(|| powers.display().to_string())?;
    Ok(Ceremony::Phase2(Box::new(phase2)))
}
