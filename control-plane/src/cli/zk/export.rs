//! `haca zk export`.

use std::path::PathBuf;

use anyhow::{Context, anyhow, ensure};
use haca_kernels::Model;
use haca_verifier::Rows;
use haca_verifier::zk::eip2537::Calls;
use haca_verifier::zk::export::Export;
use haca_verifier::zk::{Claim, Proof, Statement, StatementKind, VerifyingKey};
use haca_wire::receipt::ReceiptFile;
use haca_wire::{Leaf, event};

use crate::cli::{output, read};

/// Writes the proof of a receipt of mode zk, after checking it, as other programs read it. ZK.md describes the formats.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  haca zk export receipts/17.receipt --model mlp.haca --input X.npy -o 17.json
  haca zk export receipts/17.receipt --model mlp.haca --input X.npy --format eip2537 -o 17.calls.json
  haca zk export sealed/17.receipt --model mlp.haca -o 17.json")]
pub(crate) struct Args {
    /// The receipt file, written once its proof was there
    #[arg(value_name = "RECEIPT")]
    receipt: PathBuf,
    /// The compiled model that the receipt names
    #[arg(long, value_name = "OUT.haca")]
    model: PathBuf,
    /// The rows that were asked; the receipt's is found by its hash. Of a sealed input there is no need of them
    #[arg(long, value_name = "X.npy")]
    input: Option<PathBuf>,
    /// Where to write the proof
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// For whom
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// Key, proof and public inputs by their coordinates
    Json,
    /// Inputs of the Ethereum precompiles of EIP-2537
    Eip2537,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (receipt, model) = (self.receipt.display(), read::model(&self.model)?);
        let file = ReceiptFile::decode(&read::bytes(&self.receipt)?).with_context(|| receipt.to_string())?;
        let leaf = file.receipt.leaf().with_context(|| receipt.to_string())?;
        let carried = file.proof.ok_or_else(|| {
            anyhow!(
                "{receipt}: it carries no proof (its mode is {}); give one that haca infer --mode zk --receipts DIR \
                 --wait proved wrote",
                leaf.mode
            )
        })?;
        let key = VerifyingKey::from_bytes(&carried.key).with_context(|| receipt.to_string())?;
        ensure!(
            carried.proof.id == event::proof_id(&leaf.hash()) && carried.proof.key == key.id(),
            "{receipt}: its proof is of another receipt or under another key; do not rely on this receipt"
        );
        let proof = Proof::from_bytes(&carried.proof.proof).with_context(|| receipt.to_string())?;
        let (of, statement) = match StatementKind::of(&leaf) {
            StatementKind::Open => {
                let (rows, row) = self.row(&model, &leaf)?;
                let statement = Statement::new(&model, &key, &leaf, rows.row(row), &carried.output);
                (format!("row {row}"), statement)
            }
            StatementKind::Sealed => {
                ("a sealed input".to_owned(), Statement::sealed(&model, &key, &leaf, &carried.output))
            }
        };
        let Statement { inputs } = statement.with_context(|| receipt.to_string())?;
        key.verify(&[Claim { proof: proof.clone(), inputs: inputs.clone() }]).map_err(|_| {
            anyhow!("{receipt}: its proof does not hold, so it is not written; do not rely on this receipt")
        })?;
        let json = match self.format {
            Format::Json => serde_json::to_string(&Export::new(&key, &proof, &inputs)),
            Format::Eip2537 => serde_json::to_string(&Calls::new(&key, &proof, &inputs)?),
        }?;
        std::fs::write(&self.output, json + "\n").with_context(|| self.output.display().to_string())?;
        output::print(&format!(
            "{}: the proof of {of}, {} public inputs, under the key {}\n",
            self.output.display(),
            inputs.len(),
            key.id()
        ))
    }

    /// The rows that were given, and the receipt's among them.
    fn row(&self, model: &Model, leaf: &Leaf) -> anyhow::Result<(Rows, usize)> {
        let path = self.input.as_ref().ok_or_else(|| {
            anyhow!(
                "{}: its input is not sealed; give the rows that were asked by --input",
                self.receipt.display()
            )
        })?;
        let array = read::array(path)?;
        read::rows_fit(path, &array, model.input_shape(), "input")?;
        let rows = Rows::new(path, model.input_shape(), array.rows(), &array.data)?;
        let row = rows.find(&leaf.input).next().ok_or_else(|| {
            anyhow!(
                "{}: none of its {} rows is the receipt's; give the rows that were asked",
                rows.name(),
                rows.len()
            )
        })?;
        Ok((rows, row))
    }
}
