//! Lanes: a few long-lived streams on which requests are pipelined.
//!
//! Threading: any task submits on any lane; one task per lane reads. A request is encoded into the lane's buffer and
//! handed to QUIC under one short lock, without waking anybody. Only if QUIC takes no more now is a task started
//! that writes on; what others submit meanwhile lies in the buffer and leaves in one piece. So a request costs no
//! task switch on its way out, and dropping a caller's future cannot cut a frame in half.
//!
//! A call keeps its credit until its answer was read, also where nobody waits for it any more: the node counts it,
//! too. So the lane's buffer and table never hold more than the node's `max_in_flight` requests.

use crate::conversation::{MAX_ANSWER, Session};
use crate::error::ClientError;
use crate::infer::Tensor;
use haca_wire::RequestId;
use haca_wire::frame::{Frame, FrameKind, FrameReader, HEADER_LEN};
use haca_wire::message::Encoder;
use haca_wire::message::infer::{RequestView, Response};
use haca_wire::message::session::Limits;
use haca_wire::receipt::Receipt;
use quinn::{RecvStream, SendStream, WriteError};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// All lanes of a session.
#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: Vec<Arc<Lane>>,
    turn: AtomicUsize,
    credit: Arc<Semaphore>,
    limits: Limits,
}

#[derive(Debug)]
struct Lane {
    session: Arc<Session>,
    outgoing: Mutex<Outgoing>,
    /// Shared by all lanes: an id is in flight once, whichever lane it is on.
    pending: Arc<Mutex<Pending>>,
}

#[derive(Debug)]
struct Outgoing {
    encoder: Encoder,
    buffer: Vec<u8>,
    /// Away while a task writes on with it, and for ever once the stream is dead.
    stream: Option<SendStream>,
}

#[derive(Debug, Default)]
struct Pending {
    calls: HashMap<RequestId, PendingCall>,
    ended: Option<ClientError>,
}

#[derive(Debug)]
struct PendingCall {
    answer: oneshot::Sender<Answered>,
    submitted: Instant,
    _credit: OwnedSemaphorePermit,
}

type Answered = Result<Reply, ClientError>;

/// What came for a request, not checked yet.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) output: Tensor,
    pub(crate) receipt: Receipt,
    pub(crate) latency: Duration,
    pub(crate) arrived: Instant,
    pub(crate) proof_delay_ms: u32,
}

/// An answer that is on its way.
#[derive(Debug)]
pub(crate) struct Awaited(oneshot::Receiver<Answered>);

impl Awaited {
    /// The answer, not checked yet.
    pub(crate) async fn wait(self) -> Answered {
        // The sender is dropped unused only if the runtime drops the reading task.
        self.0.await.unwrap_or(Err(ClientError::Closed))
    }
}

impl Lanes {
    /// Lanes on these streams, which carry nothing else from here on.
    pub(crate) fn start(
        session: &Arc<Session>,
        streams: Vec<(SendStream, RecvStream)>,
        limits: Limits,
    ) -> Self {
        let pending = Arc::<Mutex<Pending>>::default();
        let lane = |(send, recv)| {
            let outgoing = Outgoing { encoder: Encoder::new(), buffer: Vec::new(), stream: Some(send) };
            let lane = Arc::new(Lane {
                session: session.clone(),
                outgoing: Mutex::new(outgoing),
                pending: pending.clone(),
            });
            tokio::spawn(lane.clone().read(recv));
            lane
        };
        let credit = (limits.max_in_flight as usize).min(Semaphore::MAX_PERMITS);
        Self {
            lanes: streams.into_iter().map(lane).collect(),
            turn: AtomicUsize::new(0),
            credit: Arc::new(Semaphore::new(credit)),
            limits,
        }
    }

    /// Waits until the node's limit allows one more unanswered call. Also calls with a stream of their own count.
    pub(crate) async fn credit(&self) -> OwnedSemaphorePermit {
        (self.credit.clone().acquire_owned().await).expect("the semaphore of the lanes is never closed")
    }

    /// Sends a request as soon as the node's limit allows.
    pub(crate) async fn submit(&self, request: &RequestView<'_>) -> Result<Awaited, ClientError> {
        let credit = self.credit().await;
        let lane = &self.lanes[self.turn.fetch_add(1, Ordering::Relaxed) % self.lanes.len()];
        lane.submit(request, credit, self.limits.max_frame_bytes)
    }
}

impl Lane {
    fn submit(
        self: &Arc<Self>,
        request: &RequestView<'_>,
        credit: OwnedSemaphorePermit,
        max_frame: u32,
    ) -> Result<Awaited, ClientError> {
        let (answer, awaited) = oneshot::channel();
        let mut guard = lock(&self.outgoing);
        let outgoing = &mut *guard;
        let start = outgoing.buffer.len();
        request.encode(&mut outgoing.encoder, &mut outgoing.buffer);
        let size = outgoing.buffer.len() - start - HEADER_LEN;
        let call = PendingCall { answer, submitted: Instant::now(), _credit: credit };
        let admitted = if size > max_frame as usize {
            Err(ClientError::TooLarge { what: "a request", size: size as u64, limit: max_frame.into() })
        } else {
            lock(&self.pending).add(request.id, call)
        };
        if let Err(error) = admitted {
            outgoing.buffer.truncate(start);
            return Err(error);
        }
        self.flush(outgoing);
        Ok(Awaited(awaited))
    }

    /// Hands QUIC what it takes now. If that is not all, a task writes the rest.
    fn flush(self: &Arc<Self>, outgoing: &mut Outgoing) {
        let Some(mut stream) = outgoing.stream.take() else { return };
        let mut written = 0;
        while written < outgoing.buffer.len() {
            // Whoever continues after `Pending` polls again, with a waker of its own.
            let mut nobody = Context::from_waker(Waker::noop());
            match Pin::new(&mut stream).poll_write(&mut nobody, &outgoing.buffer[written..]) {
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(error)) => return self.write_failed(&error),
                Poll::Pending => {
                    outgoing.buffer.drain(..written);
                    tokio::spawn(self.clone().write_on(stream));
                    return;
                }
            }
        }
        outgoing.buffer.clear();
        outgoing.stream = Some(stream);
    }

    /// Writes until the buffer is empty, then gives the stream back.
    async fn write_on(self: Arc<Self>, mut stream: SendStream) {
        let mut piece = Vec::new();
        loop {
            {
                let mut outgoing = lock(&self.outgoing);
                if outgoing.buffer.is_empty() {
                    outgoing.stream = Some(stream);
                    return;
                }
                piece.clear();
                std::mem::swap(&mut piece, &mut outgoing.buffer);
            }
            if let Err(error) = stream.write_all(&piece).await {
                return self.write_failed(&error);
            }
        }
    }

    /// Ends the session. The reader sees that, and tells who waits.
    fn write_failed(&self, error: &WriteError) {
        self.session.write_failed(error);
    }

    /// Reads answers until the stream or the session ends, then fails what is left.
    async fn read(self: Arc<Self>, recv: RecvStream) {
        let error = self.read_answers(recv).await;
        let cause = self.session.end(error);
        lock(&self.pending).end(&cause);
    }

    async fn read_answers(&self, mut recv: RecvStream) -> ClientError {
        let address = self.session.address;
        let mut frames = FrameReader::new(MAX_ANSWER);
        loop {
            let chunk = match recv.read_chunk(usize::MAX, true).await {
                Ok(Some(chunk)) => chunk.bytes,
                Ok(None) => {
                    return match frames.finish() {
                        Err(error) => ClientError::frame(address, error),
                        Ok(()) => ClientError::protocol(address, "it ended a stream of requests"),
                    };
                }
                Err(error) => return self.session.read_failed(&error),
            };
            let arrived = Instant::now();
            let mut rest = &chunk[..];
            loop {
                match frames.next(&mut rest) {
                    Ok(Some(frame)) => {
                        if let Err(error) = self.deliver(frame, arrived) {
                            return error;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return ClientError::frame(address, error),
                }
            }
        }
    }

    fn deliver(&self, frame: Frame<'_>, arrived: Instant) -> Result<(), ClientError> {
        let address = self.session.address;
        let response = match frame.kind {
            FrameKind::Response => Response::decode(frame.payload)
                .map_err(|error| ClientError::decode(address, frame.kind, error))?,
            // Among pipelined requests a refusal names none of them: it is the session's.
            FrameKind::Refusal => return Err(self.session.refusal(frame.payload)),
            other => return Err(ClientError::unexpected(address, other, FrameKind::Response)),
        };
        let Some(call) = lock(&self.pending).calls.remove(&response.id) else {
            let reason = format!("it answered request {}, which is not in flight", response.id);
            return Err(ClientError::protocol(address, reason));
        };
        let answered = match response.result {
            Ok((output, receipt)) => Ok(Reply {
                output: output.into(),
                receipt,
                latency: arrived - call.submitted,
                arrived,
                proof_delay_ms: response.proof_delay_ms,
            }),
            Err(refusal) => Err(ClientError::refused(refusal)),
        };
        // Nobody waits any more if the caller dropped its future.
        let _ = call.answer.send(answered);
        Ok(())
    }
}

impl Pending {
    fn add(&mut self, id: RequestId, call: PendingCall) -> Result<(), ClientError> {
        if let Some(cause) = &self.ended {
            return Err(cause.clone());
        }
        match self.calls.entry(id) {
            Entry::Occupied(_) => Err(ClientError::DuplicateId(id)),
            Entry::Vacant(slot) => {
                slot.insert(call);
                Ok(())
            }
        }
    }

    fn end(&mut self, cause: &ClientError) {
        self.ended = Some(cause.clone());
        for (_, call) in self.calls.drain() {
            let _ = call.answer.send(Err(cause.clone()));
        }
    }
}

/// No state here is left half-changed by a panic, so a poisoned lock is as good as another.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
