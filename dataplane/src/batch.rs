//! One model on one shard: what waits for its next run, and the run.
//!
//! Batching is natural: whatever has arrived when the shard gets to it runs together, up to the model's limit. With a
//! maximum delay a batch waits for company, but never past the point where one of its requests would miss its deadline.

use crate::clock::Clock;
use crate::metrics::ShardMetrics;
use crate::shard::{Outbox, StreamKey};
use crate::sign::{BatchSigner, Served};
use haca_kernels::{Executor, InputError};
use haca_settle::Appender;
use haca_wire::message::Encoder;
use haca_wire::message::infer::{Answer, encode_refused};
use haca_wire::message::model::ModelEntry;
use haca_wire::tensor::{self, TensorView};
use haca_wire::{Digest, Dtype, Mode, RequestId, SessionId, Status};
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
}

struct Staged {
    admission: Admission,
    dtype: Dtype,
    input: Digest,
}

/// What a run needs of its shard.
pub(crate) struct Surroundings<'a> {
    pub(crate) signer: &'a mut BatchSigner,
    /// `None`: the log is switched off.
    pub(crate) log: &'a mut Option<Appender>,
    pub(crate) encoder: &'a mut Encoder,
    pub(crate) clock: &'a Clock,
    pub(crate) metrics: &'a ShardMetrics,
}

/// A model as one shard serves it.
pub(crate) struct ServedModel {
    pub(crate) entry: ModelEntry,
    executor: Executor,
    staged: Vec<Staged>,
    /// The outputs of the batch that runs, one after the other: hashed first, sent once the batch is signed.
    outputs: Vec<u8>,
    max_delay: Duration,
    /// When the batch must run, if one is staged.
    fire_at: Option<Instant>,
    /// Running mean of what a run takes.
    run_time: Duration,
}

impl ServedModel {
    pub(crate) fn new(entry: ModelEntry, executor: Executor, max_delay: Duration) -> Self {
        let max_batch = executor.max_rows();
        let output_bytes = executor.model().output_len() * Dtype::F32.size();
        Self {
            entry,
            executor,
            staged: Vec::with_capacity(max_batch),
            outputs: vec![0; max_batch * output_bytes],
            max_delay,
            fire_at: None,
            run_time: Duration::ZERO,
        }
    }

    pub(crate) fn accepts(&self, dtype: Dtype) -> bool {
        self.executor.model().accepts(kernel_dtype(dtype))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.staged.len() == self.executor.max_rows()
    }

    pub(crate) fn staged(&self) -> usize {
        self.staged.len()
    }

    /// Whether an answer could still be there by `deadline` if the request were staged at `now`.
    pub(crate) fn can_meet(&self, deadline: Instant, now: Instant) -> bool {
        now + self.run_time <= deadline
    }

    /// Puts a request into the next batch. Its tensor was checked against the model's shape and element types.
    ///
    /// # Errors
    /// If a value of the input is refused (NaN).
    pub(crate) fn stage(&mut self, admission: Admission, input: &TensorView<'_>) -> Result<(), InputError> {
        debug_assert!(!self.is_full(), "the caller runs a full batch first");
        self.executor.stage(self.staged.len(), kernel_dtype(input.dtype), input.data)?;
        let latest = admission.received + self.max_delay;
        let fire_at = match admission.deadline {
            Some(deadline) => {
                let lead = self.run_time + WAKE_UP;
                latest.min(deadline.checked_sub(lead).unwrap_or(admission.received).max(admission.received))
            }
            None => latest,
        };
        self.fire_at = Some(self.fire_at.map_or(fire_at, |at| at.min(fire_at)));
        self.staged.push(Staged { admission, dtype: input.dtype, input: input.hash() });
        Ok(())
    }

    /// When the staged batch must run, if there is one.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.fire_at
    }

    /// Runs what is staged and writes the answers. Each leaf is in the log's queue before its answer can leave. Returns
    /// when it was done, if there was anything.
    pub(crate) fn run(
        &mut self,
        surroundings: &mut Surroundings<'_>,
        outbox: &mut Outbox,
    ) -> Option<Instant> {
        let rows = self.staged.len();
        if rows == 0 {
            return None;
        }
        let Surroundings { signer, log, encoder, clock, metrics } = surroundings;
        let started = Instant::now();
        self.fire_at = None;
        // Another model's run may have come between admission and here.
        if self.staged.iter().all(|staged| staged.admission.deadline.is_some_and(|at| at < started)) {
            for Staged { admission, .. } in self.staged.drain(..) {
                metrics.refusals[Status::DeadlineMissed as usize].add(1);
                outbox.answer(admission.stream, |out| {
                    let detail = "the deadline passed before the batch could run, so it was not computed";
                    encode_refused(encoder, out, admission.request, Status::DeadlineMissed, detail, 0);
                });
            }
            return None;
        }
        self.executor.execute(rows);
        let completed = clock.unix(Instant::now());

        signer.begin();
        let output_len = self.executor.model().output_len();
        let mut rest = &mut self.outputs[..];
        for (slot, staged) in self.staged.iter().enumerate() {
            let (output, after) = std::mem::take(&mut rest).split_at_mut(output_len * staged.dtype.size());
            rest = after;
            self.executor.write_output(slot, kernel_dtype(staged.dtype), output);
            let admission = &staged.admission;
            let served = Served {
                request: admission.request,
                session: admission.session,
                mode: admission.mode,
                input: staged.input,
                output: tensor::hash(staged.dtype, self.entry.output_shape.dims(), output),
                received: clock.unix(admission.received),
            };
            signer.add(self.entry.id, &served, completed);
        }
        signer.finish();
        if let Some(log) = log {
            for leaf in signer.leaves() {
                log.append(leaf).expect("requests are admitted only while the log's queue has room for them");
            }
        }
        let signed = Instant::now();

        let mut rest = &self.outputs[..];
        for (slot, staged) in self.staged.drain(..).enumerate() {
            let (output, after) = rest.split_at(output_len * staged.dtype.size());
            rest = after;
            metrics.service_time.record((signed - staged.admission.received).as_nanos() as u64);
            let output = TensorView { dtype: staged.dtype, shape: self.entry.output_shape, data: output };
            let answer = Answer { id: staged.admission.request, output, receipt: signer.receipt(slot) };
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

fn kernel_dtype(dtype: Dtype) -> haca_kernels::Dtype {
    match dtype {
        Dtype::F32 => haca_kernels::Dtype::F32,
        Dtype::I16 => haca_kernels::Dtype::I16,
    }
}
