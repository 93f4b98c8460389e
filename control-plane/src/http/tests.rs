use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

struct Running {
    address: SocketAddr,
    ready: Arc<AtomicBool>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), HttpError>>,
}

async fn start() -> Running {
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.local_addr();
    let ready = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&ready);
    let health = Health {
        ready: Box::new(move || {
            state.load(Ordering::Relaxed).then_some(()).ok_or_else(|| "shard 1 is starting".into())
        }),
        warning: Box::new(|| Some("the disk is slow".into())),
        metrics: Box::new(|| "haca_requests_total 7\n".into()),
    };
    let (stop, stopped) = oneshot::channel();
    let shutdown = async move { stopped.await.unwrap_or_default() };
    let served = tokio::spawn(server.serve(router(health), shutdown));
    Running { address, ready, stop, served }
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn health_readiness_and_metrics_are_answered() {
    let running = start().await;
    assert!(get(running.address, "/healthz").await.starts_with("HTTP/1.1 200"));
    let answer = get(running.address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("shard 1 is starting"), "{answer}");
    running.ready.store(true, Ordering::Relaxed);
    let answer = get(running.address, "/readyz").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("warning: the disk is slow\n"),
        "{answer}"
    );
    let answer = get(running.address, "/metrics").await;
    assert!(answer.contains("version=0.0.4") && answer.ends_with("haca_requests_total 7\n"), "{answer}");
    assert!(get(running.address, "/").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_shutdown_ends_an_idle_connection_and_the_server() {
    let running = start().await;
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await.unwrap();
    running.stop.send(()).unwrap();
    running.served.await.unwrap().unwrap();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn an_address_in_use_is_named_with_its_remedy() {
    let running = start().await;
    let error = Server::bind(running.address).await.unwrap_err().to_string();
    assert!(error.contains(&running.address.to_string()) && error.contains("--http"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_stays_silent_loses_its_connection() {
    let running = start().await;
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    let mut rest = Vec::new();
    // Time is paused: the read returns once the connection's lifetime has been skipped over.
    let _ = silent.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}
