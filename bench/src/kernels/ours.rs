//! Our executors with their rows as they arrive: whole rows, or the newest steps of streams.

use std::sync::Arc;
use std::time::{Duration, Instant};

use haca_kernels::import::{CompileOptions, compile};
use haca_kernels::npy::Array;
use haca_kernels::{Backend, Dtype, Executor, Model, StreamExecutor, Work};

use super::BATCHES;
use super::models::Case;
use super::turns::Runner;

/// One model, ready to answer.
pub(super) struct Ours {
    form: Form,
    model: Arc<Model>,
    backend: Backend,
    load: Duration,
    answers: Vec<u8>,
}

enum Form {
    Rows(Executor),
    Steps {
        executor: StreamExecutor,
        /// Of a stream for each row of the largest batch.
        states: Vec<Vec<i32>>,
    },
}

impl Ours {
    pub(super) fn new(case: Case, backend: Option<Backend>) -> anyhow::Result<Self> {
        let rows = case.calibration_rows();
        let shape = std::iter::once(rows).chain(case.row().iter().copied()).collect();
        let calibration = Array { shape, data: case.calibration() };
        let compiled = compile(&case.onnx(), &calibration, &CompileOptions::default(), &mut |_| ())?;
        let start = Instant::now();
        let model = Arc::new(Model::load(&compiled.file)?);
        let load = start.elapsed();
        let backend = backend.unwrap_or_else(Backend::detect);
        let most = BATCHES[BATCHES.len() - 1].0;
        let form = if case.is_step() {
            let stream = Arc::new(model.stream()?);
            let states = vec![stream.initial_states().to_vec(); most];
            Form::Steps { executor: StreamExecutor::with_backend(stream, most, backend), states }
        } else {
            Form::Rows(Executor::with_backend(Arc::clone(&model), most, backend))
        };
        Ok(Self { form, model, backend, load, answers: Vec::new() })
    }

    pub(super) fn backend(&self) -> Backend {
        self.backend
    }

    /// What it took from the bytes of the file to a model that is proven and packed.
    pub(super) fn load(&self) -> Duration {
        self.load
    }

    pub(super) fn model_bytes(&self) -> usize {
        self.model.memory_bytes()
    }

    /// What a row takes, or a step.
    pub(super) fn work(&self) -> Work {
        match &self.form {
            Form::Rows(_) => self.model.work(self.backend),
            Form::Steps { executor, .. } => executor.stream().work(self.backend),
        }
    }

    /// The answers to whole rows; streams take them step by step, from their initial states on.
    pub(super) fn answers(&mut self, rows: &[f32]) -> anyhow::Result<Vec<f32>> {
        let len = self.model.input_len();
        if let Form::Steps { executor, states } = &mut self.form {
            let (window, initial) = (executor.stream().window(), executor.stream().initial_states());
            states.iter_mut().for_each(|states| states.copy_from_slice(initial));
            let step = len / window;
            for end in 1..=window {
                let newest = rows.chunks_exact(len).map(|row| &row[(end - 1) * step..end * step]);
                self.answers.clear();
                take_steps(executor, states, newest, &mut self.answers)?;
            }
        } else {
            self.run(rows)?;
        }
        Ok(self.answers.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }
}

impl Runner for Ours {
    fn run(&mut self, rows: &[f32]) -> anyhow::Result<()> {
        let (inputs, outputs) = (self.model.input_len(), self.model.output_len());
        self.answers.clear();
        match &mut self.form {
            Form::Rows(executor) => {
                let count = rows.len() / inputs;
                for (slot, row) in rows.chunks_exact(inputs).enumerate() {
                    executor.stage(slot, Dtype::F32, bytes(row))?;
                }
                executor.execute(count);
                self.answers.resize(count * outputs * 4, 0);
                for (slot, answer) in self.answers.chunks_exact_mut(outputs * 4).enumerate() {
                    executor.write_output(slot, Dtype::F32, answer);
                }
                Ok(())
            }
            Form::Steps { executor, states } => {
                let step = inputs / executor.stream().window();
                let newest = rows.chunks_exact(inputs).map(|row| &row[inputs - step..]);
                take_steps(executor, states, newest, &mut self.answers)
            }
        }
    }
}

/// Takes a stream for each step through it, and appends the answers.
fn take_steps<'a>(
    executor: &mut StreamExecutor,
    states: &mut [Vec<i32>],
    steps: impl Iterator<Item = &'a [f32]>,
    answers: &mut Vec<u8>,
) -> anyhow::Result<()> {
    let mut count = 0;
    for (step, states) in steps.zip(states.iter()) {
        executor.stage(count, Dtype::F32, bytes(step), states)?;
        count += 1;
    }
    executor.execute(count);
    let outputs = executor.stream().output_len() * 4;
    answers.resize(count * outputs, 0);
    for (slot, (answer, states)) in answers.chunks_exact_mut(outputs).zip(states).enumerate() {
        executor.write_output(slot, Dtype::F32, answer);
        states.copy_from_slice(executor.states(slot));
    }
    Ok(())
}

fn bytes(row: &[f32]) -> &[u8] {
    // SAFETY: floats are bytes, and a byte has no alignment.
    unsafe { std::slice::from_raw_parts(row.as_ptr().cast(), size_of_val(row)) }
}
