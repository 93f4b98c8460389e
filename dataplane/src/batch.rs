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
use haca_wire::{Digest, Dtype, Mode, RequestId, SessionId, Status, sha256};
use std::ops::Range;
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
}

/// The rows of a batch as they travel, one for each slot, to be hashed together.
struct Rows {
    /// What is hashed in front of a row, by element type.
    heads: [tensor::Head; 2],
    /// Elements of a row.
    elements: usize,
    /// Room for a row of the widest type in each slot.
    bytes: Vec<u8>,
    hashes: Vec<Digest>,
}

impl Rows {
    fn new(dims: &[u32], elements: usize, slots: usize) -> Self {
        let heads = [Dtype::F32, Dtype::I16].map(|dtype| tensor::Head::new(dtype, dims));
        let bytes = vec![0; slots * elements * Dtype::F32.size()];
        Self { heads, elements, bytes, hashes: Vec::with_capacity(slots) }
    }

    fn place(&self, slot: usize, dtype: Dtype) -> Range<usize> {
        let start = slot * self.elements * Dtype::F32.size();
        start..start + self.elements * dtype.size()
    }

    fn get(&self, slot: usize, dtype: Dtype) -> &[u8] {
        &self.bytes[self.place(slot, dtype)]
    }

    fn get_mut(&mut self, slot: usize, dtype: Dtype) -> &mut [u8] {
        let place = self.place(slot, dtype);
        &mut self.bytes[place]
    }

    /// Hashes the rows of the first slots, which have these types.
    fn hash(&mut self, dtypes: impl Iterator<Item = Dtype>) {
        self.hashes.clear();
        let mut hashes = std::mem::take(&mut self.hashes);
        let row = |(slot, dtype)| {
            let head = match dtype {
                Dtype::F32 => &self.heads[0],
                Dtype::I16 => &self.heads[1],
            };
            head.before(self.get(slot, dtype))
        };
        sha256::digest_each(dtypes.enumerate().map(row), |hash| hashes.push(hash));
        self.hashes = hashes;
    }
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
    inputs: Rows,
    /// Hashed first, sent once the batch is signed.
    outputs: Rows,
    max_delay: Duration,
    /// When the batch must run, if one is staged.
    fire_at: Option<Instant>,
    /// Running mean of what a run takes.
    run_time: Duration,
}

impl ServedModel {
    pub(crate) fn new(entry: ModelEntry, executor: Executor, max_delay: Duration) -> Self {
        let max_batch = executor.max_rows();
        let model = executor.model();
        let inputs = Rows::new(model.input_shape(), model.input_len(), max_batch);
        let outputs = Rows::new(model.output_shape(), model.output_len(), max_batch);
        Self {
            entry,
            executor,
            staged: Vec::with_capacity(max_batch),
            inputs,
            outputs,
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
        let slot = self.staged.len();
        self.executor.stage(slot, kernel_dtype(input.dtype), input.data)?;
        self.inputs.get_mut(slot, input.dtype).copy_from_slice(input.data);
        let latest = admission.received + self.max_delay;
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

        for (slot, Staged { dtype, .. }) in self.staged.iter().enumerate() {
            self.executor.write_output(slot, kernel_dtype(*dtype), self.outputs.get_mut(slot, *dtype));
        }
        self.inputs.hash(self.staged.iter().map(|staged| staged.dtype));
        self.outputs.hash(self.staged.iter().map(|staged| staged.dtype));
        signer.begin();
        let hashes = self.inputs.hashes.iter().zip(&self.outputs.hashes);
        for (Staged { admission, .. }, (input, output)) in self.staged.iter().zip(hashes) {
            let served = Served {
                request: admission.request,
                session: admission.session,
                mode: admission.mode,
                input: *input,
                output: *output,
                received: clock.unix(admission.received),
            };
            signer.add(self.entry.id, &served, completed);
        }
        signer.finish();
        if let Some(log) = log {
            for (leaf, hash) in signer.leaves().iter().zip(signer.hashes()) {
                log.append_hashed(leaf, hash)
                    .expect("requests are admitted only while the log's queue has room for them");
            }
        }
        let signed = Instant::now();

        for (slot, staged) in self.staged.drain(..).enumerate() {
            metrics.service_time.record((signed - staged.admission.received).as_nanos() as u64);
            let data = self.outputs.get(slot, staged.dtype);
            let output = TensorView { dtype: staged.dtype, shape: self.entry.output_shape, data };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::Signing;
    use haca_kernels::import::{CompileOptions, compile};
    use haca_kernels::{Model, npy};
    use haca_wire::frame::{FrameKind, FrameReader};
    use haca_wire::message::infer::Response;
    use haca_wire::sign::NodeKey;
    use haca_wire::tensor::Shape;
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;
    use std::sync::Arc;

    /// Counts what the current thread allocates.
    struct Counting;

    thread_local! {
        static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    }

    // SAFETY: hands every call to the system's allocator as it came.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            ALLOCATIONS.set(ALLOCATIONS.get() + 1);
            // SAFETY: the caller keeps `alloc`'s contract.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            // SAFETY: the caller keeps `dealloc`'s contract.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    #[global_allocator]
    static COUNTING: Counting = Counting;

    const BATCH: usize = 32;

    #[test]
    fn a_batch_allocates_nothing_once_it_is_warm() {
        let (onnx, rows) = (
            include_bytes!("../../bench/models/mlp.onnx"),
            include_bytes!("../../bench/models/mlp_calibration.npy"),
        );
        let compiled =
            compile(onnx, &npy::parse(rows).unwrap(), &CompileOptions::default(), &mut |_| ()).unwrap();
        let model = Arc::new(Model::load(&compiled.file).unwrap());
        let shape = |dims: &[u32]| Shape::new(dims.iter().copied()).unwrap();
        let entry = ModelEntry {
            handle: 1,
            name: "mlp".into(),
            id: haca_wire::ModelId(model.id()),
            input_shape: shape(model.input_shape()),
            output_shape: shape(model.output_shape()),
            accepts_i16: false,
            max_batch: BATCH as u32,
        };
        let row = vec![0; model.input_len() * 4];
        let mut served = ServedModel::new(entry, Executor::new(model, BATCH), Duration::ZERO);
        let signing = Signing {
            key: Arc::new(NodeKey::from_seed(&[1; 32])),
            sign_vanilla: true,
            policy_epoch: 0,
            evidence: Digest::default(),
        };
        let (clock, metrics) = (Clock::new(), ShardMetrics::default());
        let mut signer = BatchSigner::new(signing, 0, &clock, BATCH);
        let (mut encoder, mut outbox) = (Encoder::new(), Outbox::default());
        let mut run = |outbox: &mut Outbox| {
            for request in 0..BATCH {
                let admission = Admission {
                    stream: StreamKey::of_nobody(0),
                    session: SessionId::default(),
                    request: RequestId([request as u8; 16]),
                    mode: Mode::Tee,
                    received: Instant::now(),
                    deadline: None,
                };
                let input = TensorView { dtype: Dtype::F32, shape: served.entry.input_shape, data: &row };
                served.stage(admission, &input).unwrap();
            }
            let mut surroundings = Surroundings {
                signer: &mut signer,
                log: &mut None,
                encoder: &mut encoder,
                clock: &clock,
                metrics: &metrics,
            };
            served.run(&mut surroundings, outbox).unwrap();
        };
        for _ in 0..3 {
            run(&mut outbox);
            outbox.flush(|_| {});
        }
        let before = ALLOCATIONS.get();
        run(&mut outbox);
        assert_eq!(ALLOCATIONS.get() - before, 0);

        let mut answers = 0;
        outbox.flush(|mut rest| {
            let mut reader = FrameReader::new(1 << 16);
            while let Some(frame) = reader.next(&mut rest).unwrap() {
                assert_eq!(frame.kind, FrameKind::Response);
                let (_, receipt) = Response::decode(frame.payload).unwrap().result.unwrap();
                receipt.verify().unwrap();
                answers += 1;
            }
        });
        assert_eq!(answers, BATCH);
    }
}
