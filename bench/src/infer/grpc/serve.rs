//! The gRPC server, as a team would build it that cares for its throughput on one core.
//!
//! Chosen by measuring on one core with 64 connections × 16 calls in flight: a current-thread runtime (the
//! multi-thread one answered a fifth fewer and its p99 was several times as long), `TCP_NODELAY`, and natural
//! batching: the calls that are ready go to the model together, which was worth a third more calls than one
//! model run for each. Larger HTTP/2 windows change nothing, since messages are small against the default.
//! It speaks plain text, which favours it: our side encrypts.

use std::convert::Infallible;
use std::net::TcpListener;
use std::task::{Context, Poll};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::{PATH, Rows};

/// Most calls that go to the model at once.
const BATCH: usize = 256;
/// Calls that wait for the model before further ones have to wait in their connections.
const QUEUE: usize = 4096;

/// Answers calls on `listener` until the process ends. `execute` gets rows of `columns` values, row-major, and
/// returns as many rows of a width of its own.
///
/// # Errors
/// When the listener breaks.
pub(in super::super) async fn serve<F>(
    listener: TcpListener,
    columns: usize,
    execute: F,
) -> anyhow::Result<()>
where
    F: FnMut(&[f32]) -> anyhow::Result<Vec<f32>> + Send + 'static,
{
    listener.set_nonblocking(true).context("cannot use the listening socket")?;
    let listener = tokio::net::TcpListener::from_std(listener).context("cannot use the listening socket")?;
    let (queue, calls) = mpsc::channel(QUEUE);
    tokio::spawn(run_batches(calls, columns, execute));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served =
        Server::builder().add_service(Inference { columns, queue }).serve_with_incoming(incoming).await;
    served.context("the gRPC server broke")
}

/// A call that waits for the model.
#[derive(Debug)]
struct Call {
    rows: Rows,
    answer: oneshot::Sender<Result<Rows, Status>>,
}

/// Runs whatever is ready in one batch, for as long as there are connections.
async fn run_batches<F>(mut calls: mpsc::Receiver<Call>, columns: usize, mut execute: F)
where
    F: FnMut(&[f32]) -> anyhow::Result<Vec<f32>>,
{
    let (mut batch, mut values): (Vec<Call>, Vec<f32>) = (Vec::with_capacity(BATCH), Vec::new());
    while calls.recv_many(&mut batch, BATCH).await > 0 {
        values.clear();
        let floats = batch.iter().flat_map(|call| call.rows.values.as_chunks().0);
        values.extend(floats.map(|bytes| f32::from_le_bytes(*bytes)));
        match execute(&values) {
            Ok(outputs) => {
                let width = outputs.len() / (values.len() / columns);
                // One allocation for the batch; each answer is a slice of it.
                let mut outputs: Bytes = outputs.iter().flat_map(|value| value.to_le_bytes()).collect();
                for Call { rows: Rows { rows, .. }, answer } in batch.drain(..) {
                    let values = outputs.split_to(rows as usize * width * size_of::<f32>());
                    // A caller that has gone needs no answer.
                    let _ = answer.send(Ok(Rows { rows, values }));
                }
            }
            Err(error) => {
                let refusal = Status::internal(format!("{error:#}"));
                for call in batch.drain(..) {
                    let _ = call.answer.send(Err(refusal.clone()));
                }
            }
        }
    }
}

/// What the generator of `tonic` would have written, by hand.
#[derive(Clone, Debug)]
struct Inference {
    columns: usize,
    queue: mpsc::Sender<Call>,
}

impl NamedService for Inference {
    const NAME: &'static str = "haca.bench.Inference";
}

impl Service<http::Request<Body>> for Inference {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != PATH {
            return Box::pin(async { Ok(Status::unimplemented("the only method is Infer").into_http()) });
        }
        let method = Infer(self.clone());
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Rows, Rows>::default());
            Ok(grpc.unary(method, request).await)
        })
    }
}

#[derive(Debug)]
struct Infer(Inference);

impl Service<Request<Rows>> for Infer {
    type Response = Response<Rows>;
    type Error = Status;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Rows>) -> Self::Future {
        let Inference { columns, queue } = self.0.clone();
        Box::pin(async move {
            let rows = request.into_inner();
            if rows.rows == 0 || rows.values.len() != rows.rows as usize * columns * size_of::<f32>() {
                return Err(Status::invalid_argument(format!(
                    "{} bytes are not {} rows of {columns} float32",
                    rows.values.len(),
                    rows.rows
                )));
            }
            let (answer, answered) = oneshot::channel();
            let stopped = || Status::unavailable("the server is stopping");
            queue.send(Call { rows, answer }).await.map_err(|_| stopped())?;
            answered.await.map_err(|_| stopped())?.map(Response::new)
        })
    }
}
