//! A session with the node that a `connect.toml` describes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use haca_client::{Client, ClientError, ClientOptions};
use tokio::runtime::Runtime;

use super::read;

/// A client, and what runs it.
pub(crate) struct Session {
    pub(crate) client: Arc<Client>,
    pub(crate) address: SocketAddr,
    runtime: Runtime,
}

impl Session {
    /// Connects to the node.
    pub(crate) fn open(connect: &Path) -> anyhow::Result<Self> {
        let connect = read::connect(connect)?;
        let address = connect.address;
        let runtime = Runtime::new().context("the threads of the client cannot be started")?;
        let software = concat!("haca ", env!("CARGO_PKG_VERSION")).to_owned();
        let options = ClientOptions { software, ..ClientOptions::default() };
        let client = runtime.block_on(Client::connect(&connect, options));
        let client = client.map_err(|error| of(address, error))?;
        Ok(Self { client: Arc::new(client), address, runtime })
    }

    /// Runs one call on the client; its error names the node.
    pub(crate) fn call<T>(&self, call: impl Future<Output = Result<T, ClientError>>) -> anyhow::Result<T> {
        self.wait(call).map_err(|error| of(self.address, error))
    }

    /// Runs calls on the client until they are done.
    pub(crate) fn wait<T>(&self, calls: impl Future<Output = T>) -> T {
        self.runtime.block_on(calls)
    }
}

impl Drop for Session {
    /// Tells the node that this was all.
    fn drop(&mut self) {
        self.runtime.block_on(self.client.close());
    }
}

/// An error that names the node it came from.
pub(crate) fn of(address: SocketAddr, error: ClientError) -> anyhow::Error {
    let named = error.to_string().contains(&address.to_string());
    let error = anyhow::Error::new(error);
    if named { error } else { error.context(address) }
}
