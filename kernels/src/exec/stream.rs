//! Execution of streams: one time step of any set of streams a call.

use std::sync::Arc;

use super::slide::{halves, halves_mut};
use super::{Backend, Executor, InputError};
use crate::model::stream::{Format, Kept};
use crate::model::{Dtype, Stream};

/// Takes streams through their next steps, any of them together, each in a slot of its own.
///
/// Stage steps with their streams' states into slots, execute, read the slots' outputs and states. The states are the
/// caller's: what was staged is used for one step, and a step that is refused changes none.
#[derive(Debug)]
pub struct StreamExecutor {
    stream: Arc<Stream>,
    executor: Executor,
    /// The window of a stream that keeps its steps as they came; empty for other streams.
    floats: Box<[u8]>,
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
        let kept = stream.kept().iter().filter(|kept| kept.format == Format::F32);
        let kept: usize = kept.map(|kept| kept.words.len()).sum();
        let floats = if kept > 0 { kept + stream.step_len() } else { 0 };
        let floats = vec![0; floats * size_of::<f32>()].into();
        StreamExecutor { stream, executor, floats }
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
        self.executor.memory_bytes() + self.floats.len()
    }

    /// Converts one step to fixed point into slot `slot`, as [`Executor::stage`] does, with the states that its stream has
    /// before it. States beyond their bounds are brought to them; steps that are kept as they came have none.
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
        assert_eq!(states.len(), self.stream.initial_states().len(), "words of state");
        if !self.floats.is_empty() {
            return self.stage_floats(slot, dtype, step, states);
        }
        self.executor.stage(slot, dtype, step)?;
        let slots = self.executor.scratch.carried_mut(slot);
        self.stream.kept().iter().for_each(|kept| kept.take(states, slots));
        Ok(())
    }

    /// Stages the whole window of a stream that keeps its steps as they came, and leaves its last ones as the states.
    fn stage_floats(
        &mut self,
        slot: usize,
        dtype: Dtype,
        step: &[u8],
        states: &[i32],
    ) -> Result<(), InputError> {
        let elements = self.stream.step_len();
        let expected = elements * dtype.size();
        if step.len() != expected {
            return Err(InputError::Length { found: step.len(), expected, elements });
        }
        if !self.stream.accepts(dtype) {
            return Err(InputError::Dtype);
        }
        assert!(slot < self.max_rows(), "slot {slot} of {}", self.max_rows());
        let slots = self.executor.scratch.carried_mut(slot);
        let (before, newest) = self.floats.split_at_mut(states.len() * size_of::<f32>());
        for (bytes, state) in before.as_chunks_mut().0.iter_mut().zip(states) {
            *bytes = state.to_le_bytes();
        }
        newest.copy_from_slice(step);
        let last = self.floats[expected..].as_chunks().0;
        slots.iter_mut().zip(last).for_each(|(slot, &bytes)| *slot = i32::from_le_bytes(bytes));
        self.executor.stage(slot, dtype, &self.floats).map_err(|error| match error {
            InputError::Nan { element } => InputError::Nan { element: element.saturating_sub(states.len()) },
            other => other,
        })
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

impl Kept {
    /// Brings states to their bounds.
    pub(super) fn take(&self, from: &[i32], to: &mut [i32]) {
        let (from, to) = (&from[self.words.clone()], &mut to[self.words.clone()]);
        match self.format {
            Format::I32(low, high) => {
                from.iter().zip(to).for_each(|(&value, to)| *to = value.clamp(low, high));
            }
            Format::I16(low, high) => {
                let pairs = halves(from).iter().zip(halves_mut(to));
                pairs.for_each(|(&value, to)| *to = value.clamp(low, high));
            }
            Format::F32 => to.copy_from_slice(from),
        }
    }
}
