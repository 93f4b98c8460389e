//! s2n-quic on tokio, as its documentation shows it: a task for each connection and each stream.
//!
//! Its rustls provider is used because that builds with a C compiler alone; the provider matters only in the
//! handshake, packets are protected by aws-lc with either.
//!
//! On one core a current-thread runtime serves about a tenth more requests/s than a multi-thread one with one
//! worker, at the same latency, so it gets that.

use anyhow::Context;
use s2n_quic::Connection;
use s2n_quic::provider::io::tokio::Builder as Io;
use s2n_quic::provider::limits::Limits;
use s2n_quic::provider::tls::rustls::Server as Tls;
use s2n_quic::stream::BidirectionalStream;

use super::{announce_at, bind};
use crate::rpc::transport::{ALPN, CONNECTION_WINDOW, IDLE_TIMEOUT, Identity, STREAM_WINDOW, STREAMS};

pub(super) fn serve() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(accept())
}

async fn accept() -> anyhow::Result<()> {
    let identity = Identity::generate()?;
    let tls = Tls::builder()
        .with_certificate(identity.certificate.as_ref(), identity.key.secret_pkcs8_der())
        .and_then(|tls| tls.with_application_protocols([ALPN].into_iter()))
        .and_then(|tls| tls.build())
        .map_err(|error| anyhow::anyhow!("cannot set up TLS: {error}"))?;
    let socket = bind()?;
    let address = socket.local_addr()?;
    let io = Io::default().with_rx_socket(socket)?.build()?;
    let mut server = s2n_quic::Server::builder()
        .with_tls(tls)?
        .with_io(io)?
        .with_limits(limits()?)?
        .start()
        .context("cannot start")?;
    announce_at(address, Some(identity.pin()))?;
    while let Some(incoming) = server.accept().await {
        tokio::spawn(connection(incoming));
    }
    Ok(())
}

/// A connection's or stream's failure ends only that; the client notices it and fails the run.
async fn connection(mut connection: Connection) -> Option<()> {
    while let Some(stream) = connection.accept_bidirectional_stream().await.ok()? {
        tokio::spawn(echo(stream));
    }
    Some(())
}

async fn echo(mut stream: BidirectionalStream) -> Option<()> {
    while let Some(chunk) = stream.receive().await.ok()? {
        stream.send(chunk).await.ok()?;
    }
    stream.finish().ok()
}

fn limits() -> anyhow::Result<Limits> {
    let limits = Limits::new()
        .with_max_idle_timeout(IDLE_TIMEOUT)?
        .with_data_window(u64::from(CONNECTION_WINDOW))?
        .with_bidirectional_local_data_window(u64::from(STREAM_WINDOW))?
        .with_bidirectional_remote_data_window(u64::from(STREAM_WINDOW))?
        .with_max_open_remote_bidirectional_streams(u64::from(STREAMS))?;
    Ok(limits)
}
