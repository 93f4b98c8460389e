//! `haca model run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use haca_kernels::npy::{self, Array};
use haca_kernels::{Dtype, Executor, Model};
use rayon::prelude::*;
use serde_json::json;

use crate::cli::{output, progress, read};

/// Rows one executor runs at a time: enough to share each weight it loads, small enough to stay in cache.
const BATCH: usize = 64;

/// Runs a compiled model with no server. The output has the very bits that a server would answer.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  haca model run mlp.haca --input rows.npy -o answers.npy")]
pub(crate) struct Args {
    /// The compiled model
    #[arg(value_name = "OUT.haca")]
    model: PathBuf,
    /// Rows to run it on: float32, of shape [rows, …]
    #[arg(long, value_name = "X.npy")]
    input: PathBuf,
    /// Where to write the outputs, in the same order
    #[arg(short, long, value_name = "Y.npy")]
    output: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let model = read::model(&self.model)?;
        let input = read::array(&self.input)?;
        read::rows_fit(&self.input, &input, model.input_shape(), "input")?;
        let outputs = execute(&model, &self.input, &input)?;
        npy::write(&self.output, &outputs)?;
        if self.json {
            return output::print_json(
                &json!({ "rows": input.rows(), "output": self.output, "shape": outputs.shape }),
            );
        }
        output::print(&format!(
            "{}: {} rows, shape {:?}\n",
            self.output.display(),
            input.rows(),
            outputs.shape
        ))
    }
}

/// The outputs of all rows, in their order.
fn execute(model: &Arc<Model>, path: &Path, input: &Array) -> anyhow::Result<Array> {
    let rows = input.rows();
    let bar = progress::bar(rows as u64, "running");
    let batches: Vec<Vec<f32>> = (0..rows.div_ceil(BATCH))
        .into_par_iter()
        .map_init(
            || Executor::new(Arc::clone(model), BATCH),
            |executor, batch| {
                let batch = batch * BATCH..rows.min((batch + 1) * BATCH);
                bar.inc(batch.len() as u64);
                let mut bytes = Vec::with_capacity(4 * model.input_len().max(model.output_len()));
                for (slot, row) in batch.clone().enumerate() {
                    bytes.clear();
                    bytes.extend(input.row(row).iter().flat_map(|value| value.to_le_bytes()));
                    let staged = executor.stage(slot, Dtype::F32, &bytes);
                    staged.with_context(|| format!("{}: row {row}", path.display()))?;
                }
                executor.execute(batch.len());
                bytes.resize(4 * model.output_len(), 0);
                let mut values = Vec::with_capacity(batch.len() * model.output_len());
                for slot in 0..batch.len() {
                    executor.write_output(slot, Dtype::F32, &mut bytes);
                    values.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
                }
                Ok(values)
            },
        )
        .collect::<anyhow::Result<_>>()?;
    bar.finish_and_clear();
    let mut shape = vec![rows];
    shape.extend(model.output_shape().iter().map(|dim| *dim as usize));
    Ok(Array { shape, data: batches.concat() })
}
