//! `tract`, an executor of ONNX in Rust.

use std::collections::HashMap;

use anyhow::anyhow;
use tract_onnx::prelude::*;

type Plan = Box<dyn Fn(Tensor) -> TractResult<Vec<f32>>>;

/// A loaded model. Runs on the calling thread alone.
pub(crate) struct Model {
    onnx: Vec<u8>,
    row: Vec<usize>,
    /// By rows in a batch: tract optimises for the shapes that it is told.
    plans: HashMap<usize, Plan>,
}

impl Model {
    /// Loads an ONNX model whose input is `[rows, …]`, with rows of shape `row`, and whose first output is
    /// `[rows, …]`, all float32.
    ///
    /// # Errors
    /// When tract does not take the model; the error says why.
    pub(crate) fn load(onnx: &[u8], row: &[usize]) -> anyhow::Result<Self> {
        let mut model = Self { onnx: onnx.to_vec(), row: row.to_vec(), plans: HashMap::new() };
        model.run(&vec![0.0; row.iter().product()])?;
        Ok(model)
    }

    /// Answers rows that lie one after the other.
    ///
    /// # Errors
    /// When the model does not take the rows.
    pub(crate) fn run(&mut self, rows: &[f32]) -> anyhow::Result<Vec<f32>> {
        let count = rows.len() / self.row.iter().product::<usize>();
        let shape: Vec<usize> = std::iter::once(count).chain(self.row.iter().copied()).collect();
        let plan = match self.plans.entry(count) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(plan(&self.onnx, &shape).map_err(describe)?)
            }
        };
        plan(Tensor::from_shape(&shape, rows).map_err(describe)?).map_err(describe)
    }
}

fn plan(mut onnx: &[u8], shape: &[usize]) -> TractResult<Plan> {
    let model = tract_onnx::onnx().model_for_read(&mut onnx)?;
    let model = model.with_input_fact(0, InferenceFact::dt_shape(f32::datum_type(), shape))?;
    let plan = model.into_optimized()?.into_runnable()?;
    Ok(Box::new(move |rows| {
        let outputs = plan.run(tvec!(rows.into()))?;
        Ok(outputs[0].to_plain_array_view::<f32>()?.iter().copied().collect())
    }))
}

fn describe(error: TractError) -> anyhow::Error {
    anyhow!("tract: {error:#}")
}
