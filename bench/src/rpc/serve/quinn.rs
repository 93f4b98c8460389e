//! quinn on tokio, as its documentation shows it: a task for each connection and each stream.
//!
//! On one core a current-thread runtime serves a tenth to a sixth more requests/s than a multi-thread one with one
//! worker, at the same latency, so it gets that.

use std::sync::Arc;

use anyhow::Context;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Connection, Endpoint, EndpointConfig, Incoming, RecvStream, SendStream, ServerConfig, TokioRuntime,
};

use super::{announce_at, bind};
use crate::rpc::transport::{ALPN, Identity, crypto_provider, quinn_transport};

pub(super) fn serve() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(accept())
}

async fn accept() -> anyhow::Result<()> {
    let identity = Identity::generate()?;
    let socket = bind()?;
    let address = socket.local_addr()?;
    let pin = identity.pin();
    let config = server_config(identity)?;
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime))?;
    announce_at(address, Some(pin))?;
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(connection(incoming));
    }
    Ok(())
}

/// A connection's or stream's failure ends only that; the client notices it and fails the run.
async fn connection(incoming: Incoming) -> Option<()> {
    let connection: Connection = incoming.await.ok()?;
    loop {
        let (send, receive) = connection.accept_bi().await.ok()?;
        tokio::spawn(echo(send, receive));
    }
}

async fn echo(mut send: SendStream, mut receive: RecvStream) -> Option<()> {
    while let Some(chunk) = receive.read_chunk(usize::MAX, true).await.ok()? {
        send.write_chunk(chunk.bytes).await.ok()?;
    }
    send.finish().ok()
}

fn server_config(identity: Identity) -> anyhow::Result<ServerConfig> {
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(crypto_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("the cipher suite we accept is not one of TLS 1.3")?
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate], identity.key.into())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(quinn_transport()));
    Ok(config)
}
