//! One model on one shard: what waits for its next run, and the run.
//!
//! Batching is natural: whatever has arrived when the shard gets to it runs together, up to the model's limit. With a
//! maximum delay a batch waits for company, but never past the point where one of its requests would miss its deadline.

mod rows;

use self::rows::Rows;
use crate::clock::Clock;
use crate::metrics::ShardMetrics;
use crate::proving::Backlog;
use crate::refusal::Reason;
use crate::shard::{Outbox, StreamKey};
use crate::sign::{BatchSigner, Served};
use crate::symbols::Steps;
use haca_kernels::Executor;
use haca_settle::Appender;
use haca_wire::message::Encoder;
use haca_wire::message::infer::{Answer, Step, encode_refused};
use haca_wire::message::model::ModelEntry;
use haca_wire::opening;
use haca_wire::tensor::TensorView;
use haca_wire::{Dtype, Mode, RequestId, Salt, Seal, SessionId, Status};
use std::time::{Duration, Instant};

/// Weight of the newest run in the running mean of what a run takes: one eighth.
const MEAN_WEIGHT: u32 = 8;

/// A batch that waits for company runs this long before its earliest deadline would ask for it: a parked shard's timer
/// may be that late on a busy machine.
const WAKE_UP: Duration = Duration::from_millis(1);

/// What a request says beyond its tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admission {
    pub(crate) stream: StreamKey,
    pub(crate) session: SessionId,
    pub(crate) request: RequestId,
    pub(crate) mode: Mode,
    /// When its packet was read.
    pub(crate) received: Instant,
    /// When its answer is worth nothing any more.
    pub(crate) deadline: Option<Instant>,
    /// The stream that it is a step of.
    pub(crate) step: Option<Step>,
    /// What its input is sealed with.
    pub(crate) seal: Option<Seal>,
}

struct Staged {
    admission: Admission,
    dtype: Dtype,
}

/// What a run needs of its shard.
pub(crate) struct Surroundings<'a> {
    pub(crate) signer: &'a mut BatchSigner,
    /// `None`: the log is switched off.
    pub(crate) log: &'a mut Option<Appender>,
    pub(crate) encoder: &'a mut Encoder,
    pub(crate) clock: &'a Clock,
    pub(crate) metrics: &'a ShardMetrics,
    /// `None`: mode `zk` is not offered.
    pub(crate) backlog: Option<&'a Backlog>,
}

/// A model as one shard serves it.
pub(crate) struct ServedModel {
    pub(crate) entry: ModelEntry,
    rows: Batch,
    /// `None`: the model takes no streams.
    steps: Option<Batch>,
    max_delay: Duration,
}

impl ServedModel {
    pub(crate) fn new(
        entry: ModelEntry,
        executor: Executor,
        steps: Option<Steps>,
        max_delay: Duration,
    ) -> Self {
        let rows = Batch::new(&entry, Form::Rows(executor));
        let steps = steps.map(|steps| Batch::new(&entry, Form::Steps(steps)));
        Self { entry, rows, steps, max_delay }
    }

    fn batches(&self) -> impl Iterator<Item = &Batch> {
        std::iter::once(&self.rows).chain(&self.steps)
    }

    /// Bytes that the opening of one answer takes in the log's queue, at most: few have a salt.
    pub(crate) fn opening_cost(&self) -> usize {
        let Batch { inputs, outputs, .. } = &self.rows;
        Appender::opening_cost(opening::len(inputs.elements, outputs.elements) + Salt::LEN)
    }

    /// The same for all that is staged of mode `zk`.
    pub(crate) fn staged_openings(&self) -> usize {
        let proven = self.rows.staged.iter().filter(|staged| staged.admission.mode == Mode::Zk);
        proven.count() * self.opening_cost()
    }

    pub(crate) fn accepts(&self, dtype: Dtype) -> bool {
        self.rows.form.accepts(kernel_dtype(dtype))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.batches().any(|batch| batch.staged.len() == batch.form.max_rows())
    }

    pub(crate) fn staged(&self) -> usize {
        self.batches().map(|batch| batch.staged.len()).sum()
    }

    /// Whether an answer could still be there by `deadline` if the request were staged at `now`.
    pub(crate) fn can_meet(&self, step: Option<Step>, deadline: Instant, now: Instant) -> bool {
        let batch = self.steps.as_ref().filter(|_| step.is_some()).unwrap_or(&self.rows);
        now + batch.run_time <= deadline
    }

    /// Whether a step of this stream is staged: the next one waits for its run.
    pub(crate) fn is_waiting(&self, session: SessionId, step: Step) -> bool {
        self.steps.as_ref().is_some_and(|batch| match &batch.form {
            Form::Steps(steps) => steps.is_waiting(session, step.symbol),
            Form::Rows(_) => false,
        })
    }

    /// Puts a request into the next batch. Its tensor was checked against the model's shapes and element types.
    ///
    /// # Errors
    /// If a value of the input is refused (NaN), or there is no such stream, or no room for one.
    pub(crate) fn stage(&mut self, admission: Admission, input: &TensorView<'_>) -> Result<(), Reason> {
        debug_assert!(!self.is_full(), "the caller runs a full batch first");
        let batch = match (admission.step, &mut self.steps) {
            (Some(_), Some(steps)) => steps,
            (Some(_), None) => return Err(Reason::NoSteps(self.entry.name.clone())),
            (None, _) => &mut self.rows,
        };
        batch.stage(admission, input, self.max_delay)
    }

    /// Frees the streams of a session that is gone.
    pub(crate) fn forget(&mut self, session: SessionId) {
        if let Some(Batch { form: Form::Steps(steps), .. }) = &mut self.steps {
            steps.forget(session);
        }
    }

    /// When what is staged must run, if there is something.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.batches().filter_map(|batch| batch.fire_at).min()
    }

    /// Runs what is staged and writes the answers. Each leaf is in the log's queue before its answer can leave. Returns
    /// when it was done, if there was anything.
    pub(crate) fn run(
        &mut self,
        surroundings: &mut Surroundings<'_>,
        outbox: &mut Outbox,
    ) -> Option<Instant> {
        let rows = self.rows.run(&self.entry, surroundings, outbox);
        let steps = self.steps.as_mut().and_then(|steps| steps.run(&self.entry, surroundings, outbox));
        steps.or(rows)
    }
}

/// In which form a batch is computed.
enum Form {
    /// Whole rows.
    Rows(Executor),
    /// Steps of streams.
    Steps(Steps),
}

impl Form {
    /// Shape of what a request carries, and its elements.
    fn input(&self) -> (&[u32], usize) {
        match self {
            Form::Rows(executor) => (executor.model().input_shape(), executor.model().input_len()),
            Form::Steps(steps) => {
                let stream = steps.executor().stream();
                (stream.step_shape(), stream.step_len())
            }
        }
    }

    fn output_len(&self) -> usize {
        match self {
            Form::Rows(executor) => executor.model().output_len(),
            Form::Steps(steps) => steps.executor().stream().output_len(),
        }
    }

    fn accepts(&self, dtype: haca_kernels::Dtype) -> bool {
        match self {
            Form::Rows(executor) => executor.model().accepts(dtype),
            Form::Steps(steps) => steps.executor().stream().accepts(dtype),
        }
    }

    fn max_rows(&self) -> usize {
        match self {
            Form::Rows(executor) => executor.max_rows(),
            Form::Steps(steps) => steps.executor().max_rows(),
        }
    }

    fn integers(&self, slot: usize) -> &[i64] {
        match self {
            Form::Rows(executor) => executor.output_fixed(slot),
            Form::Steps(_) => unreachable!("steps are not proven"),
        }
    }

    fn write_output(&self, slot: usize, dtype: Dtype, out: &mut [u8]) {
        match self {
            Form::Rows(executor) => executor.write_output(slot, kernel_dtype(dtype), out),
            Form::Steps(steps) => steps.executor().write_output(slot, kernel_dtype(dtype), out),
        }
    }
}

/// What waits for its run together.
struct Batch {
    form: Form,
    staged: Vec<Staged>,
    inputs: Rows,
    /// Hashed first, sent once the batch is signed.
    outputs: Rows,
    /// The integers of one output, as an opening has them.
    integers: Vec<u8>,
    /// When the batch must run, if one is staged.
    fire_at: Option<Instant>,
    /// Running mean of what a run takes.
    run_time: Duration,
}

impl Batch {
    fn new(entry: &ModelEntry, form: Form) -> Self {
        let (max_batch, output_len) = (form.max_rows(), form.output_len());
        let (shape, len) = form.input();
        let inputs = Rows::new(shape, len, max_batch);
        let outputs = Rows::new(entry.output_shape.dims(), output_len, max_batch);
        Self {
            staged: Vec::with_capacity(max_batch),
            inputs,
            outputs,
            integers: Vec::with_capacity(opening::len(0, output_len)),
            fire_at: None,
            run_time: Duration::ZERO,
            form,
        }
    }

    fn stage(
        &mut self,
        admission: Admission,
        input: &TensorView<'_>,
        max_delay: Duration,
    ) -> Result<(), Reason> {
        let slot = self.staged.len();
        let dtype = kernel_dtype(input.dtype);
        match (&mut self.form, admission.step) {
            (Form::Steps(steps), Some(step)) => steps.stage(admission.session, step, dtype, input.data)?,
            (Form::Rows(executor), None) => {
                executor.stage(slot, dtype, input.data).map_err(|error| Reason::Shape(error.to_string()))?
            }
            _ => unreachable!("steps go into the batch of steps, rows into that of rows"),
        }
        self.inputs.get_mut(slot, input.dtype).copy_from_slice(input.data);
        let latest = admission.received + max_delay;
        let fire_at = match admission.deadline {
            Some(deadline) => {
                let lead = self.run_time + WAKE_UP;
                latest.min(deadline.checked_sub(lead).unwrap_or(admission.received).max(admission.received))
            }
            None => latest,
        };
        self.fire_at = Some(self.fire_at.map_or(fire_at, |at| at.min(fire_at)));
        self.staged.push(Staged { admission, dtype: input.dtype });
        Ok(())
    }

    fn run(
        &mut self,
        entry: &ModelEntry,
        surroundings: &mut Surroundings<'_>,
        outbox: &mut Outbox,
    ) -> Option<Instant> {
        let rows = self.staged.len();
        if rows == 0 {
            return None;
        }
        let Surroundings { signer, log, encoder, clock, metrics, backlog } = surroundings;
        let started = Instant::now();
        self.fire_at = None;
        // Another model's run may have come between admission and here.
        if self.staged.iter().all(|staged| staged.admission.deadline.is_some_and(|at| at < started)) {
            if let Form::Steps(steps) = &mut self.form {
                steps.drop_staged();
            }
            for Staged { admission, .. } in self.staged.drain(..) {
                metrics.refusals[Status::DeadlineMissed as usize].add(1);
                if let Some(backlog) = backlog.filter(|_| admission.mode == Mode::Zk) {
                    backlog.leave(1);
                }
                outbox.answer(admission.stream, |out| {
                    let detail = "the deadline passed before the batch could run, so it was not computed";
                    encode_refused(encoder, out, admission.request, Status::DeadlineMissed, detail, 0);
                });
            }
            return None;
        }
        match &mut self.form {
            Form::Rows(executor) => executor.execute(rows),
            Form::Steps(steps) => steps.execute(rows),
        }
        let completed = clock.unix(Instant::now());

        for (slot, Staged { dtype, .. }) in self.staged.iter().enumerate() {
            self.form.write_output(slot, *dtype, self.outputs.get_mut(slot, *dtype));
        }
        self.inputs.hash(self.staged.iter().map(|staged| staged.dtype));
        self.outputs.hash(self.staged.iter().map(|staged| staged.dtype));
        if let Form::Steps(steps) = &mut self.form {
            steps.chain(&mut self.inputs.hashes);
            steps.keep(&self.inputs.hashes);
        }
        signer.begin();
        let hashes = self.inputs.hashes.iter().zip(&self.outputs.hashes);
        for (Staged { admission, .. }, (input, output)) in self.staged.iter().zip(hashes) {
            let served = Served {
                request: admission.request,
                session: admission.session,
                mode: admission.mode,
                sealed: admission.seal.is_some(),
                // Whether it opens, the prover looks.
                input: admission.seal.map_or(*input, |seal| seal.commitment),
                output: *output,
                received: clock.unix(admission.received),
            };
            signer.add(entry.id, &served, completed);
        }
        signer.finish();
        if let Some(log) = log {
            for (slot, (leaf, hash)) in signer.leaves().iter().zip(signer.hashes()).enumerate() {
                let Staged { admission, dtype } = &self.staged[slot];
                let appended = if admission.mode == Mode::Zk {
                    self.integers.clear();
                    opening::push_output(self.form.integers(slot), &mut self.integers);
                    let salt = admission.seal.as_ref().map_or(&[][..], |seal| &seal.salt.0);
                    log.append_opened(leaf, hash, &[self.inputs.get(slot, *dtype), &self.integers, salt])
                } else {
                    log.append_hashed(leaf, hash)
                };
                appended.expect("requests are admitted only while the log's queues have room for them");
            }
        }
        let signed = Instant::now();

        for (slot, staged) in self.staged.drain(..).enumerate() {
            metrics.service_time.record((signed - staged.admission.received).as_nanos() as u64);
            let data = self.outputs.get(slot, staged.dtype);
            let output = TensorView { dtype: staged.dtype, shape: entry.output_shape, data };
            let proof_delay_ms = match backlog {
                Some(backlog) if staged.admission.mode == Mode::Zk => milliseconds(backlog.delay()),
                _ => 0,
            };
            let (id, receipt) = (staged.admission.request, signer.receipt(slot));
            let answer = Answer { id, output, receipt, proof_delay_ms };
            outbox.answer(staged.admission.stream, |out| answer.encode(encoder, out));
        }
        let finished = Instant::now();
        let took = finished - started;
        self.run_time = self.run_time - self.run_time / MEAN_WEIGHT + took / MEAN_WEIGHT;
        metrics.answers.add(rows as u64);
        metrics.batches.add(1);
        metrics.batch_size.record(rows as u64);
        metrics.run_time.record(took.as_nanos() as u64);
        Some(finished)
    }
}

/// Rounded up: zero says that there will be no proof.
fn milliseconds(delay: Duration) -> u32 {
    u32::try_from(delay.as_millis()).unwrap_or(u32::MAX).saturating_add(1)
}

fn kernel_dtype(dtype: Dtype) -> haca_kernels::Dtype {
    match dtype {
        Dtype::F32 => haca_kernels::Dtype::F32,
        Dtype::I16 => haca_kernels::Dtype::I16,
    }
}

#[cfg(test)]
mod tests;
