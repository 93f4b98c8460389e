//! Inference: what a shard does with the frames of its callers.
//!
//! A session begins with `Hello`; before that nothing else is taken. A request is checked and staged where it lies in
//! its frame, and answered in the same turn unless its batch waits for company. Whatever cannot be served is refused
//! with a reason; a frame that is not one closes the connection with a reason.

mod awaits;
mod pushes;

pub(crate) use awaits::{MAX_AWAITS, MAX_PROOF_AWAITS};

use crate::batch::{Admission, Surroundings};
use crate::clock::Clock;
use crate::metrics::ShardMetrics;
use crate::models::{ModelTable, TableChange};
use crate::proving::Proving;
use crate::push::{Push, Pusher};
use crate::refusal::{Reason, Violation};
use crate::shard::{Application, Arrival, ConnectionKey, Outbox, StreamKey, Turn};
use crate::sign::BatchSigner;
use haca_settle::{Appender, LogHandle};
use haca_wire::frame::{Frame, FrameKind, FrameReader};
use haca_wire::message::infer::{RequestView, encode_refused};
use haca_wire::message::log::ReceiptStates;
use haca_wire::message::model::{ModelEntry, ModelList, Pushed};
use haca_wire::message::proof::ProofStates;
use haca_wire::message::session::{Hello, Limits, Welcome};
use haca_wire::message::{DecodeError, Encoder, Refusal};
use haca_wire::{Digest, Dtype, Mode, NodeId, PROTOCOL_VERSION, RequestId, SessionId, Status};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The hint that goes with a refusal for overload: about what a full queue takes to drain.
pub(crate) const RETRY_AFTER_US: u32 = 1000;

/// Bytes of answers in one turn, above which no more model tables are written in it.
const MAX_TURN_ANSWERS: usize = 8 << 20;

/// What every shard knows of the node.
#[derive(Debug, Clone)]
pub(crate) struct NodeFacts {
    pub(crate) node: NodeId,
    pub(crate) software: String,
    pub(crate) limits: Limits,
    pub(crate) policy_epoch: u32,
    pub(crate) signs_vanilla: bool,
    /// Attestation evidence; `tee` is offered where there is some.
    pub(crate) evidence: Option<Vec<u8>>,
    /// The key that permits pushes.
    pub(crate) operator: [u8; 32],
    /// Bytes of incomplete frames that one session may have open.
    pub(crate) max_partial_bytes: usize,
}

/// What other threads tell an inference shard.
pub(crate) enum Message {
    /// A model was pushed.
    Adopt(Box<TableChange>),
    /// The log's answer to an `AwaitReceipts`.
    Receipts { stream: StreamKey, states: Box<ReceiptStates> },
    /// The prover's answer to an `AwaitProofs`.
    Proofs { stream: StreamKey, states: Result<Box<ProofStates>, String> },
    /// The registry's answer to a push.
    Pushed { stream: StreamKey, outcome: Result<Box<ModelEntry>, Refusal> },
}

/// One connection.
pub(crate) struct Session {
    id: SessionId,
    challenge: Digest,
    ready: bool,
    /// A push of this session was not permitted: no signature is verified for it again.
    push_denied: bool,
    /// Bytes held of frames that are not complete, over all streams.
    partial: usize,
    /// The session failed and is being closed: read no more of it.
    closed: bool,
    /// It may hold streams.
    has_streams: bool,
}

/// One stream.
pub(crate) struct Stream {
    reader: FrameReader,
    push: Option<Box<Push>>,
    /// What the reader holds, as it is counted in the session.
    held: usize,
}

/// The application of an inference shard.
pub(crate) struct Inference {
    facts: Arc<NodeFacts>,
    models: ModelTable,
    signer: BatchSigner,
    /// `None`: the log is switched off.
    log: Option<Appender>,
    log_handle: LogHandle,
    /// `None`: mode `zk` is not offered.
    proving: Option<Proving>,
    pusher: Pusher,
    encoder: Encoder,
    clock: Clock,
    metrics: Arc<ShardMetrics>,
    /// Bytes that the openings of what is staged will take in the log's queue.
    staged_openings: usize,
    /// Requests staged, over all models: each will need a place in the log's queue.
    staged: usize,
    awaits: usize,
    proof_awaits: usize,
    draining: bool,
    /// Where the log sends its answers.
    replies: Arc<dyn Fn(Message) + Send + Sync>,
    /// The end of the last run in this turn: what came after it waited for it.
    ran_until: Option<Instant>,
}

/// What an inference shard is made of.
pub(crate) struct InferenceParts {
    pub(crate) facts: Arc<NodeFacts>,
    pub(crate) signer: BatchSigner,
    pub(crate) log: Option<Appender>,
    pub(crate) log_handle: LogHandle,
    pub(crate) proving: Option<Proving>,
    pub(crate) pusher: Pusher,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<ShardMetrics>,
    pub(crate) replies: Arc<dyn Fn(Message) + Send + Sync>,
}

impl Inference {
    pub(crate) fn new(parts: InferenceParts) -> Self {
        let InferenceParts { facts, signer, log, log_handle, proving, pusher, clock, metrics, replies } =
            parts;
        Self {
            facts,
            models: ModelTable::default(),
            signer,
            log,
            log_handle,
            proving,
            pusher,
            encoder: Encoder::new(),
            clock,
            metrics,
            staged_openings: 0,
            staged: 0,
            awaits: 0,
            proof_awaits: 0,
            draining: false,
            replies,
            ran_until: None,
        }
    }

    /// Runs what is staged for one model.
    fn run_model(&mut self, handle: u32, turn: &mut Turn<'_>) {
        let Some(model) = self.models.find(handle) else { return };
        self.staged -= model.staged();
        if self.staged_openings > 0 {
            self.staged_openings -= model.staged_openings();
        }
        let mut surroundings = Surroundings {
            signer: &mut self.signer,
            log: &mut self.log,
            encoder: &mut self.encoder,
            clock: &self.clock,
            metrics: &self.metrics,
            backlog: self.proving.as_ref().map(|proving| &*proving.backlog),
        };
        self.ran_until = model.run(&mut surroundings, turn.outbox).or(self.ran_until);
    }

    /// Takes one frame. An error closes the connection.
    fn frame(
        &mut self,
        frame: Frame<'_>,
        arrival: &mut Arrival<'_, Self>,
        push: &mut Option<Box<Push>>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Violation> {
        if !arrival.session.ready && frame.kind != FrameKind::Hello {
            return Err(Violation::new(Status::Malformed, "the first frame of a session must be Hello"));
        }
        match frame.kind {
            FrameKind::Request => self.request(frame.payload, arrival, turn),
            FrameKind::Hello => self.hello(frame.payload, arrival, turn),
            FrameKind::AwaitReceipts => self.await_receipts(frame.payload, arrival, turn),
            FrameKind::AwaitProofs => self.await_proofs(frame.payload, arrival, turn),
            FrameKind::ListModels => {
                // A small question with a large answer: flow control sees the answers only after the turn, so whoever
                // asks faster than the shard can write is stopped here.
                if turn.outbox.len() > MAX_TURN_ANSWERS {
                    let detail =
                        format!("more than {MAX_TURN_ANSWERS} bytes of answers were asked for at once");
                    return Err(Violation::new(Status::LimitExceeded, detail));
                }
                let list = ModelList { models: self.models.current() };
                turn.outbox.write(arrival.key, |out| list.encode(&mut self.encoder, out));
                Ok(())
            }
            FrameKind::PushModel => self.begin_push(frame.payload, arrival, push, turn),
            FrameKind::ModelChunk => self.continue_push(frame.payload, arrival, push, turn),
            FrameKind::Welcome
            | FrameKind::Response
            | FrameKind::ReceiptStates
            | FrameKind::ProofStates
            | FrameKind::ModelList
            | FrameKind::Pushed
            | FrameKind::Refusal => {
                Err(Violation::new(Status::Malformed, format!("{:?} is for the node to send", frame.kind)))
            }
        }
    }

    fn hello(
        &mut self,
        payload: &[u8],
        arrival: &mut Arrival<'_, Self>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Violation> {
        if arrival.session.ready {
            return Err(Violation::new(Status::Malformed, "a session says Hello once"));
        }
        let hello = Hello::decode(payload)?;
        if hello.protocol_version != PROTOCOL_VERSION {
            let detail = format!(
                "you speak protocol version {}, this node speaks {PROTOCOL_VERSION}; install a matching client",
                hello.protocol_version
            );
            return Err(Violation::new(Status::VersionMismatch, detail));
        }
        arrival.session.ready = true;
        let facts = &self.facts;
        let welcome = Welcome {
            protocol_version: PROTOCOL_VERSION,
            software: facts.software.clone(),
            node: facts.node,
            session: arrival.session.id,
            limits: facts.limits,
            models: self.models.current(),
            policy_epoch: facts.policy_epoch,
            signs_vanilla: facts.signs_vanilla,
            evidence: facts.evidence.clone(),
            operator_challenge: arrival.session.challenge,
        };
        turn.outbox.write(arrival.key, |out| welcome.encode(&mut self.encoder, out));
        Ok(())
    }

    fn request(
        &mut self,
        payload: &[u8],
        arrival: &mut Arrival<'_, Self>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Violation> {
        self.metrics.requests.add(1);
        let request = match RequestView::decode(payload) {
            Ok(request) => request,
            // The frame reads and only the tensor does not fit itself: that is one request's fault, not the session's.
            Err(DecodeError::Tensor(error)) => {
                let id = RequestView::id_of(payload)?;
                self.refuse(arrival, id, Reason::Tensor(error), turn.outbox);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        if let Err(reason) = self.admit(&request, arrival, turn) {
            self.refuse(arrival, request.id, reason, turn.outbox);
        }
        Ok(())
    }

    /// Stages the request, or says why not.
    fn admit(
        &mut self,
        request: &RequestView<'_>,
        arrival: &mut Arrival<'_, Self>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Reason> {
        if self.draining {
            return Err(Reason::Draining);
        }
        let max_in_flight = self.facts.limits.max_in_flight;
        if arrival.pending.on_connection() >= max_in_flight {
            return Err(Reason::InFlight(max_in_flight));
        }
        match request.mode {
            Mode::Vanilla => {}
            Mode::Tee if self.facts.evidence.is_none() => return Err(Reason::Mode(Mode::Tee)),
            Mode::Tee | Mode::Zk => {}
        }
        if self.log.as_mut().is_some_and(|log| log.free() <= self.staged) {
            return Err(Reason::LogFull { stalled: self.log_handle.is_stalled() });
        }
        let Some(model) = self.models.find(request.model) else {
            return Err(Reason::UnknownModel(request.model));
        };
        let (what, shape) = match (request.step, model.entry.step_shape) {
            (None, _) => ("rows", model.entry.input_shape),
            (Some(_), Some(shape)) => ("steps", shape),
            (Some(_), None) => return Err(Reason::NoSteps(model.entry.name.clone())),
        };
        if request.input.shape != shape {
            return Err(Reason::Shape(format!(
                "model {:?} takes {what} of shape {shape}, got {}",
                model.entry.name, request.input.shape
            )));
        }
        if !model.accepts(request.input.dtype) {
            return Err(Reason::Shape(format!(
                "model {:?} takes f32, got {}",
                model.entry.name, request.input.dtype
            )));
        }
        let deadline = (request.deadline_us > 0)
            .then(|| turn.now + Duration::from_micros(u64::from(request.deadline_us)));
        if let Some(deadline) = deadline {
            let now = self.ran_until.unwrap_or(turn.now);
            if !model.can_meet(request.step, deadline, now) {
                return Err(Reason::Deadline(request.deadline_us));
            }
        }
        let admission = Admission {
            stream: arrival.key,
            session: arrival.session.id,
            request: request.id,
            mode: request.mode,
            received: turn.now,
            deadline,
            step: request.step,
            seal: request.seal,
        };
        let opening = match request.mode {
            Mode::Zk => self.enter_backlog(request)?,
            mode if request.seal.is_some() => {
                return Err(Reason::Seal(format!("not by mode {mode}, only by zk")));
            }
            Mode::Vanilla | Mode::Tee => 0,
        };
        // The step before must be done: it makes the states that this one starts from.
        if let (Some(step), Some(model)) = (request.step, self.models.find(request.model))
            && model.is_waiting(admission.session, step)
        {
            self.clock.renew(turn.now);
            self.run_model(request.model, turn);
        }
        let Some(model) = self.models.find(request.model) else {
            return Err(Reason::UnknownModel(request.model));
        };
        if let Err(reason) = model.stage(admission, &request.input) {
            if let Some(proving) = self.proving.as_ref().filter(|_| request.mode == Mode::Zk) {
                proving.backlog.leave(1);
            }
            return Err(reason);
        }
        self.staged_openings += opening;
        arrival.session.has_streams |= request.step.is_some();
        self.staged += 1;
        arrival.pending.expect_answer();
        if model.is_full() {
            self.clock.renew(turn.now);
            self.run_model(request.model, turn);
        }
        Ok(())
    }

    /// Takes a place among what waits for proofs. Returns the bytes that the opening will take in the log's queue.
    fn enter_backlog(&mut self, request: &RequestView<'_>) -> Result<usize, Reason> {
        let unavailable = |why: &str| Err(Reason::Zk(why.to_owned()));
        let (Some(proving), Some(log)) = (&self.proving, &mut self.log) else {
            return unavailable("this node has no prover");
        };
        let Some(model) = self.models.find(request.model) else {
            return Err(Reason::UnknownModel(request.model));
        };
        if let Some(why) = &model.entry.zk_refused {
            return unavailable(why);
        }
        if let Some(why) = model.entry.sealed_refused.as_ref().filter(|_| request.seal.is_some()) {
            return Err(Reason::Seal(why.clone()));
        }
        if request.step.is_some() {
            return unavailable("steps of streams are not proven; send whole rows");
        }
        if request.input.dtype != Dtype::F32 {
            return unavailable("the input must be f32");
        }
        let cost = model.opening_cost();
        if log.free_opening_bytes() < self.staged_openings + cost {
            return Err(Reason::LogFull { stalled: self.log_handle.is_stalled() });
        }
        proving.backlog.enter().map_err(Reason::ProverBehind)?;
        Ok(cost)
    }

    #[cold]
    fn refuse(
        &mut self,
        arrival: &mut Arrival<'_, Self>,
        id: RequestId,
        reason: Reason,
        outbox: &mut Outbox,
    ) {
        let (status, detail, retry_after_us) = reason.explain();
        self.metrics.refusals[status as usize].add(1);
        arrival.pending.expect_answer();
        outbox.answer(arrival.key, |out| {
            encode_refused(&mut self.encoder, out, id, status, &detail, retry_after_us);
        });
    }

    fn answer_refusal(&mut self, stream: StreamKey, refusal: Refusal, outbox: &mut Outbox) {
        self.metrics.refusals[refusal.status as usize].add(1);
        outbox.answer(stream, |out| refusal.encode(&mut self.encoder, out));
    }
}

impl Application for Inference {
    type Session = Session;
    type Stream = Stream;
    type Message = Message;

    fn connected(&mut self, _: ConnectionKey, _: SocketAddr) -> Session {
        let mut random = [0; 48];
        getrandom::fill(&mut random).expect("the kernel's random source does not fail once it is seeded");
        let (id, challenge) = random.split_at(16);
        Session {
            id: SessionId::from_slice(id).expect("16 bytes were split off"),
            challenge: Digest::from_slice(challenge).expect("32 bytes are left"),
            ready: false,
            push_denied: false,
            partial: 0,
            closed: false,
            has_streams: false,
        }
    }

    fn opened(&mut self) -> Stream {
        Stream { reader: FrameReader::new(self.facts.limits.max_frame_bytes as usize), push: None, held: 0 }
    }

    fn received(&mut self, mut arrival: Arrival<'_, Self>, bytes: &[u8], turn: &mut Turn<'_>) {
        if arrival.session.closed {
            return;
        }
        // The reader's frames borrow it, and taking a frame needs the rest of the stream.
        let Stream { reader, push, .. } = arrival.stream;
        let mut borrowed = (std::mem::replace(reader, FrameReader::new(0)), push.take());
        let mut rest = bytes;
        let result = loop {
            let (reader, push) = &mut borrowed;
            match reader.next(&mut rest) {
                Ok(Some(frame)) => {
                    if let Err(violation) = self.frame(frame, &mut arrival, push, turn) {
                        break Err(violation);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(Violation::new(Status::Malformed, error.to_string())),
            }
        };
        (arrival.stream.reader, arrival.stream.push) = borrowed;
        let held = arrival.stream.reader.buffered();
        arrival.session.partial += held;
        arrival.session.partial -= std::mem::replace(&mut arrival.stream.held, held);
        let limit = self.facts.max_partial_bytes;
        let result = if result.is_ok() && arrival.session.partial > limit {
            let detail = format!("more than {limit} bytes of incomplete frames are open");
            Err(Violation::new(Status::LimitExceeded, detail))
        } else {
            result
        };
        if let Err(violation) = result {
            self.metrics.refusals[violation.status as usize].add(1);
            arrival.session.closed = true;
            turn.outbox.close(arrival.key.connection, violation.status as u32, violation.detail);
        }
    }

    fn ended(&mut self, arrival: Arrival<'_, Self>, turn: &mut Turn<'_>) {
        arrival.session.partial -= std::mem::take(&mut arrival.stream.held);
        if arrival.session.closed {
            return;
        }
        if let Err(error) = arrival.stream.reader.finish() {
            self.metrics.refusals[Status::Malformed as usize].add(1);
            turn.outbox.close(arrival.key.connection, Status::Malformed as u32, error.to_string());
        } else if arrival.stream.push.take().is_some() {
            let detail = "the stream ended before the whole model had arrived".to_owned();
            let refusal = Refusal { status: Status::Malformed, detail, retry_after_us: 0 };
            self.answer_refusal(arrival.key, refusal, turn.outbox);
        }
    }

    fn reset(&mut self, arrival: Arrival<'_, Self>, turn: &mut Turn<'_>) {
        arrival.session.partial -= std::mem::take(&mut arrival.stream.held);
        if arrival.stream.push.take().is_some() {
            let detail = "the stream was reset before the whole model had arrived".to_owned();
            let refusal = Refusal { status: Status::Malformed, detail, retry_after_us: 0 };
            self.answer_refusal(arrival.key, refusal, turn.outbox);
        }
    }

    fn disconnected(&mut self, session: Session) {
        if session.has_streams {
            self.models.forget(session.id);
        }
    }

    fn message(&mut self, message: Message, turn: &mut Turn<'_>) {
        match message {
            Message::Adopt(change) => {
                // What waits for company in a model that makes room is answered first.
                if let Some(dropped) = change.dropped {
                    self.run_model(dropped, turn);
                }
                self.models.adopt(*change);
            }
            Message::Receipts { stream, states } => {
                self.awaits -= 1;
                turn.outbox.answer(stream, |out| states.encode(&mut self.encoder, out));
            }
            Message::Proofs { stream, states: Ok(states) } => {
                self.proof_awaits -= 1;
                turn.outbox.answer(stream, |out| states.encode(&mut self.encoder, out));
            }
            Message::Proofs { stream, states: Err(detail) } => {
                self.proof_awaits -= 1;
                let refusal = Refusal { status: Status::LogUnavailable, detail, retry_after_us: 0 };
                self.answer_refusal(stream, refusal, turn.outbox);
            }
            Message::Pushed { stream, outcome: Ok(model) } => {
                turn.outbox.answer(stream, |out| Pushed { model: *model }.encode(&mut self.encoder, out));
            }
            Message::Pushed { stream, outcome: Err(refusal) } => {
                self.answer_refusal(stream, refusal, turn.outbox);
            }
        }
    }

    fn end_of_turn(&mut self, turn: &mut Turn<'_>) {
        self.clock.renew(turn.now);
        while let Some(handle) = self.models.due(turn.now, self.draining) {
            self.run_model(handle, turn);
        }
        self.ran_until = None;
    }

    fn after_transmit(&mut self) {
        // Waking a committer that sleeps is a system call; no answer waits for it.
        if let Some(log) = &mut self.log {
            log.wake();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.models.deadline()
    }

    fn drain(&mut self) {
        self.draining = true;
    }
}
