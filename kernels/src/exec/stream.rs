//! Execution of streams: one time step of any set of streams a call.

use std::sync::Arc;

use super::{Backend, Executor, InputError};
use crate::model::{Dtype, Stream};

/// Takes streams through their next steps, any of them together, each in a slot of its own.
///
/// Stage steps with their streams' states into slots, execute, read the slots' outputs and states. The states are the
/// caller's: what was staged is used for one step, and a step that is refused changes none.
#[derive(Debug)]
pub struct StreamExecutor {
    stream: Arc<Stream>,
    executor: Executor,
}

impl StreamExecutor {
    /// An executor for up to `max_rows` streams a call (at least one) on the fastest backend of this processor.
    pub fn new(stream: Arc<Stream>, max_rows: usize) -> StreamExecutor {
        StreamExecutor::with_backend(stream, max_rows, Backend::detect())
    }

    /// An executor on a given backend.
    ///
    /// # Panics
    /// If `max_rows` is 0, or the processor does not have the backend.
    pub fn with_backend(stream: Arc<Stream>, max_rows: usize, backend: Backend) -> StreamExecutor {
        let executor = Executor::with_backend(Arc::clone(stream.model()), max_rows, backend);
        StreamExecutor { stream, executor }
    }

    /// What it runs.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Its number of slots.
    pub fn max_rows(&self) -> usize {
        self.executor.max_rows()
    }

    /// Bytes of its own memory.
    pub fn memory_bytes(&self) -> usize {
        self.executor.memory_bytes()
    }

    /// Converts one step to fixed point into slot `slot`, as [`Executor::stage`] does, with the states that its stream has
    /// before it. States beyond their bounds are brought to them.
    ///
    /// # Errors
    /// [`InputError`]; the slot's content is then undefined until it is staged again.
    ///
    /// # Panics
    /// If `slot` is not below [`StreamExecutor::max_rows`], or `states` are not as many as [`Stream::initial_states`].
    pub fn stage(
        &mut self,
        slot: usize,
        dtype: Dtype,
        step: &[u8],
        states: &[i32],
    ) -> Result<(), InputError> {
        self.executor.stage(slot, dtype, step)?;
        let slots = self.executor.scratch.carried_mut(slot);
        assert_eq!(states.len(), slots.len(), "words of state");
        for ((to, &state), &bound) in slots.iter_mut().zip(states).zip(self.stream.bounds()) {
            *to = state.clamp(-bound, bound);
        }
        Ok(())
    }

    /// Takes the streams of slots `0..rows` through their steps.
    ///
    /// # Panics
    /// If `rows` is above [`StreamExecutor::max_rows`].
    pub fn execute(&mut self, rows: usize) {
        self.executor.execute(rows);
    }

    /// The states of the stream of `slot` after its step.
    pub fn states(&self, slot: usize) -> &[i32] {
        self.executor.scratch.carried(slot)
    }

    /// The exact outputs of `slot`, as [`Executor::output_fixed`].
    pub fn output_fixed(&self, slot: usize) -> &[i64] {
        self.executor.output_fixed(slot)
    }

    /// Writes the outputs of `slot`, as [`Executor::write_output`].
    ///
    /// # Panics
    /// As [`Executor::write_output`].
    pub fn write_output(&self, slot: usize, dtype: Dtype, out: &mut [u8]) {
        self.executor.write_output(slot, dtype, out);
    }
}
