//! Batches of a shipped model, with a signer and no log.

use super::*;
use crate::sign::Signing;
use haca_kernels::import::{CompileOptions, compile};
use haca_kernels::{Model, StreamExecutor, npy};
use haca_wire::Digest;
use haca_wire::frame::{FrameKind, FrameReader};
use haca_wire::message::infer::Response;
use haca_wire::sign::NodeKey;
use haca_wire::tensor::{self, Shape};
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

/// The model as one shard serves it, with room for the streams of one batch.
fn served(onnx: &[u8], rows: &[u8]) -> ServedModel {
    let compiled =
        compile(onnx, &npy::parse(rows).unwrap(), &CompileOptions::default(), &mut |_| ()).unwrap();
    let model = Arc::new(Model::load(&compiled.file).unwrap());
    let stream = model.stream().ok().map(Arc::new);
    let shape = |dims: &[u32]| Shape::new(dims.iter().copied()).unwrap();
    let entry = ModelEntry {
        handle: 1,
        name: "model".into(),
        id: haca_wire::ModelId(model.id()),
        input_shape: shape(model.input_shape()),
        output_shape: shape(model.output_shape()),
        accepts_i16: false,
        max_batch: BATCH as u32,
        step_shape: stream.as_ref().map(|stream| shape(stream.step_shape())),
        zk_refused: None,
        sealed_refused: None,
    };
    let steps = stream.map(|stream| Steps::new(StreamExecutor::new(stream, BATCH), BATCH));
    ServedModel::new(entry, Executor::new(model, BATCH), steps, Duration::ZERO)
}

/// A shard around a model.
struct Around {
    signer: BatchSigner,
    clock: Clock,
    metrics: ShardMetrics,
    encoder: Encoder,
    outbox: Outbox,
}

impl Around {
    fn new() -> Self {
        let signing = Signing {
            key: Arc::new(NodeKey::from_seed(&[1; 32])),
            sign_vanilla: true,
            policy_epoch: 0,
            evidence: Digest::default(),
        };
        let clock = Clock::new();
        Self {
            signer: BatchSigner::new(signing, 0, &clock, BATCH),
            clock,
            metrics: ShardMetrics::default(),
            encoder: Encoder::new(),
            outbox: Outbox::default(),
        }
    }

    fn run(&mut self, served: &mut ServedModel) {
        let mut surroundings = Surroundings {
            signer: &mut self.signer,
            log: &mut None,
            encoder: &mut self.encoder,
            clock: &self.clock,
            metrics: &self.metrics,
            backlog: None,
        };
        served.run(&mut surroundings, &mut self.outbox);
    }

    /// The answers since the last call: output and input hash, or why there is none.
    fn answers(&mut self) -> Vec<Result<(Vec<u8>, Digest), Status>> {
        let mut answers = Vec::new();
        self.outbox.flush(|mut rest| {
            let mut reader = FrameReader::new(1 << 16);
            while let Some(frame) = reader.next(&mut rest).unwrap() {
                assert_eq!(frame.kind, FrameKind::Response);
                let result = Response::decode(frame.payload).unwrap().result;
                answers.push(match result {
                    Ok((output, receipt)) => Ok((output.data.to_vec(), receipt.verify().unwrap().input)),
                    Err(refusal) => Err(refusal.status),
                });
            }
        });
        answers
    }
}

fn admission(session: u8, request: usize, step: Option<Step>) -> Admission {
    Admission {
        stream: StreamKey::of_nobody(0),
        session: SessionId([session; 16]),
        request: RequestId([request as u8; 16]),
        mode: Mode::Tee,
        received: Instant::now(),
        deadline: None,
        step,
        seal: None,
    }
}

fn mlp() -> ServedModel {
    served(
        include_bytes!("../../../bench/models/mlp.onnx"),
        include_bytes!("../../../bench/models/mlp_calibration.npy"),
    )
}

fn lstm() -> ServedModel {
    served(
        include_bytes!("../../../bench/models/lstm.onnx"),
        include_bytes!("../../../bench/models/recurrent_calibration.npy"),
    )
}

/// Its streams are of a window of 40 steps.
fn orderbook() -> ServedModel {
    served(
        include_bytes!("../../../bench/models/orderbook.onnx"),
        include_bytes!("../../../bench/models/orderbook_calibration.npy"),
    )
}

#[test]
fn a_batch_allocates_nothing_once_it_is_warm() {
    let forms = [(mlp(), false), (lstm(), false), (lstm(), true), (orderbook(), true)];
    for (mut served, is_step) in forms {
        let mut around = Around::new();
        let shape = if is_step { served.entry.step_shape.unwrap() } else { served.entry.input_shape };
        let row = vec![0; shape.elements().unwrap() * 4];
        let mut turn = 0;
        let mut run = |around: &mut Around| {
            for request in 0..BATCH {
                // Every fourth turn begins the streams again, in sessions of their own.
                let step = Step { symbol: request as u64, reset: turn % 4 == 0 };
                let admission = admission((turn / 4) as u8, request, is_step.then_some(step));
                let input = TensorView { dtype: Dtype::F32, shape, data: &row };
                assert!(served.stage(admission, &input).is_ok());
            }
            around.run(&mut served);
            turn += 1;
            if turn % 4 == 0 {
                served.forget(SessionId([(turn / 4 - 1) as u8; 16]));
            }
        };
        let mut turns = |around: &mut Around, turns: usize| {
            for _ in 0..turns {
                run(around);
                around.outbox.flush(|_| {});
            }
        };
        turns(&mut around, 7);
        let before = ALLOCATIONS.get();
        turns(&mut around, 5);
        assert_eq!(ALLOCATIONS.get() - before, 0);
        run(&mut around);
        let answers = around.answers();
        assert_eq!(answers.len(), BATCH);
        assert!(answers.iter().all(Result::is_ok));
    }
}

#[test]
fn streams_of_several_symbols_answer_as_their_windows_do_and_chain_their_inputs() {
    answers_as_windows_do(lstm(), 20, include_bytes!("../../../bench/models/recurrent_input.npy"));
    answers_as_windows_do(orderbook(), 40, include_bytes!("../../../bench/models/orderbook_input.npy"));
}

fn answers_as_windows_do(mut served: ServedModel, window: usize, rows: &[u8]) {
    let mut around = Around::new();
    let shape = served.entry.step_shape.unwrap();
    let step_bytes = shape.elements().unwrap() * 4;
    let rows = npy::parse(rows).unwrap();
    let row = |symbol: usize| -> Vec<u8> {
        rows.row(symbol).iter().flat_map(|value| value.to_le_bytes()).collect()
    };
    let inputs: Vec<Vec<u8>> = (0..3).map(row).collect();
    let mut hashes = vec![Digest::default(); 3];
    let mut last = Vec::new();
    for at in 0..window {
        for (symbol, input) in inputs.iter().enumerate() {
            let step = Step { symbol: symbol as u64, reset: at == 0 };
            let data = &input[at * step_bytes..][..step_bytes];
            assert!(!served.is_waiting(SessionId([1; 16]), step));
            let input = TensorView { dtype: Dtype::F32, shape, data };
            assert!(served.stage(admission(1, symbol, Some(step)), &input).is_ok());
            assert!(served.is_waiting(SessionId([1; 16]), step));
            hashes[symbol] = tensor::step_hash(&hashes[symbol], &input.hash());
        }
        around.run(&mut served);
        last = around.answers();
        let chained: Vec<Digest> = last.iter().map(|answer| answer.as_ref().unwrap().1).collect();
        assert_eq!(chained, hashes);
    }
    for (symbol, input) in inputs.iter().enumerate() {
        let shape = served.entry.input_shape;
        let input = TensorView { dtype: Dtype::F32, shape, data: input };
        assert!(served.stage(admission(1, symbol, None), &input).is_ok());
    }
    around.run(&mut served);
    let whole = around.answers();
    for (stepped, whole) in last.iter().zip(&whole) {
        assert_eq!(stepped.as_ref().unwrap().0, whole.as_ref().unwrap().0);
    }
}

#[test]
fn a_step_that_is_refused_or_dropped_changes_nothing_and_there_are_so_many_streams() {
    let (mut served, mut around) = (lstm(), Around::new());
    let shape = served.entry.step_shape.unwrap();
    let zeros = vec![0; shape.elements().unwrap() * 4];
    let mut bad = zeros.clone();
    bad[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let stage =
        |served: &mut ServedModel, session: u8, symbol: usize, reset: bool, late: bool, data: &[u8]| {
            let step = Step { symbol: symbol as u64, reset };
            let mut admission = admission(session, symbol, Some(step));
            admission.deadline = late.then_some(admission.received);
            served.stage(admission, &TensorView { dtype: Dtype::F32, shape, data })
        };
    assert!(matches!(stage(&mut served, 1, 0, false, false, &zeros), Err(Reason::UnknownSymbol(0))));
    assert!(matches!(stage(&mut served, 1, 0, true, false, &bad), Err(Reason::Shape(_))));
    assert!(matches!(stage(&mut served, 1, 0, false, false, &zeros), Err(Reason::UnknownSymbol(0))));
    let mut answer = |served: &mut ServedModel, reset: bool, late: bool| {
        assert!(stage(served, 1, 0, reset, late, &zeros).is_ok());
        around.run(served);
        around.answers().remove(0)
    };
    let first = answer(&mut served, true, false);
    assert_eq!(answer(&mut served, false, true), Err(Status::DeadlineMissed));
    assert_eq!(answer(&mut served, true, true), Err(Status::DeadlineMissed));
    let second = answer(&mut served, false, false);
    assert_ne!(first, second);
    assert_eq!(answer(&mut served, true, false), first);
    assert_eq!(answer(&mut served, false, false), second);
    for symbol in 1..BATCH {
        assert!(stage(&mut served, 2, symbol, true, false, &zeros).is_ok());
    }
    assert!(matches!(stage(&mut served, 3, 0, true, false, &zeros), Err(Reason::SymbolsFull(BATCH))));
    // A session that ends frees its streams, those with a step on its way too.
    served.forget(SessionId([2; 16]));
    assert!(stage(&mut served, 3, 0, true, false, &zeros).is_ok());
    around.run(&mut served);
    assert_eq!(around.answers().last(), Some(&first));
    assert!(stage(&mut served, 3, 0, false, false, &zeros).is_ok());
    around.run(&mut served);
    assert_eq!(around.answers(), [second]);
}
