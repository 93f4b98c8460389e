//! Re-execution: the model at hand, run on the row at hand, must give the output of the receipt bit for bit.

use std::sync::Arc;

use haca_kernels::{Backend, Executor, InputError, Model, Stream, StreamExecutor};
use haca_wire::{Digest, Dtype, ModelId, tensor};

use crate::Rows;

/// Runs one model on single rows. It belongs to one thread; make one for each.
#[derive(Debug)]
pub struct Auditor {
    executor: Executor,
    output: Vec<u8>,
}

impl Auditor {
    /// An auditor of this model, on the fastest executor of this processor.
    pub fn new(model: Arc<Model>) -> Auditor {
        Auditor::with_backend(model, Backend::detect())
    }

    /// An auditor on a given executor: every one gives the same bits.
    ///
    /// # Panics
    /// If the processor does not have the backend.
    pub fn with_backend(model: Arc<Model>, backend: Backend) -> Auditor {
        let output = vec![0; model.output_len() * Dtype::F32.size()];
        Auditor { executor: Executor::with_backend(model, 1, backend), output }
    }

    /// The id that receipts of this model carry.
    pub fn model(&self) -> ModelId {
        ModelId(self.executor.model().id())
    }

    /// Runs the model on the little-endian float32 bytes of one row and hashes its float32 output as a receipt does.
    ///
    /// # Errors
    /// If the model does not take the row.
    pub fn output_hash(&mut self, row: &[u8]) -> Result<Digest, InputError> {
        self.executor.stage(0, haca_kernels::Dtype::F32, row)?;
        self.executor.execute(1);
        self.executor.write_output(0, haca_kernels::Dtype::F32, &mut self.output);
        Ok(tensor::hash(Dtype::F32, self.executor.model().output_shape(), &self.output))
    }
}

/// A step that the model does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("step {step}: {error}")]
pub struct ReplayError {
    /// Its row.
    pub step: usize,
    /// Why.
    pub error: InputError,
}

/// Replays a stream from a reset on, with the rows as its steps, and hashes the float32 output of each step as its receipt
/// does. The receipts' input hashes are those of [`Rows::into_steps`].
///
/// # Errors
/// The first step that the model does not take.
pub fn replay(stream: Arc<Stream>, steps: &Rows) -> Result<Vec<Digest>, ReplayError> {
    let mut executor = StreamExecutor::new(Arc::clone(&stream), 1);
    let mut states = stream.initial_states().to_vec();
    let mut output = vec![0; stream.output_len() * Dtype::F32.size()];
    let mut hash = |step: usize| {
        executor.stage(0, haca_kernels::Dtype::F32, steps.row(step), &states)?;
        executor.execute(1);
        states.copy_from_slice(executor.states(0));
        executor.write_output(0, haca_kernels::Dtype::F32, &mut output);
        Ok(tensor::hash(Dtype::F32, stream.output_shape(), &output))
    };
    (0..steps.len()).map(|step| hash(step).map_err(|error| ReplayError { step, error })).collect()
}
