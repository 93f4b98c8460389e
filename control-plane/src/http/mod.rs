//! The operator's HTTP side: health and metrics, on an address of its own.
//!
//! It runs on a tokio runtime beside the shards and never touches one: what it answers comes from closures that read
//! atomics. It is bounded by itself: at most [`MAX_CONNECTIONS`] connections, each at most [`CONNECTION_LIFETIME`]
//! long, so that a slow or forgotten caller costs a file descriptor for a while and nothing else.

mod exposition;
mod health;
mod listener;

pub use exposition::{Proofs, exposition, service_exposition};
pub use health::{Health, NotReady, router};

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use listener::Bounded;
use tokio::net::TcpListener;

/// Enough for a few scrapers, a load balancer's probes and a person.
pub const MAX_CONNECTIONS: usize = 64;

/// Longer than any answer takes and than scrapers keep an idle connection to advantage.
pub const CONNECTION_LIFETIME: Duration = Duration::from_secs(60);

/// After this, a shutdown no longer waits for answers under way.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);

/// Why there is no HTTP side.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address cannot be had.
    #[error("{address}: {source}; give another address with --http")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The server ended by itself.
    #[error("HTTP on {address}: {source}")]
    Serve {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A bound address that nobody is answered on yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds `address`; port 0 takes any free one.
    ///
    /// # Errors
    /// [`HttpError::Bind`].
    pub async fn bind(address: SocketAddr) -> Result<Server, HttpError> {
        let error = |source| HttpError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        Ok(Server { listener, address })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` is ready; then finishes what is under way, for a bounded time.
    ///
    /// # Errors
    /// [`HttpError::Serve`].
    pub async fn serve(
        self,
        router: Router,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), HttpError> {
        let (ending, mut ended) = tokio::sync::watch::channel(());
        let shutdown = async move {
            shutdown.await;
            drop(ending);
        };
        let listener = Bounded::new(self.listener, MAX_CONNECTIONS, CONNECTION_LIFETIME);
        let serve = axum::serve(listener, router).with_graceful_shutdown(shutdown).into_future();
        let patience = async {
            while ended.changed().await.is_ok() {}
            tokio::time::sleep(SHUTDOWN_PATIENCE).await;
        };
        tokio::select! {
            served = serve => served.map_err(|source| HttpError::Serve { address: self.address, source }),
            () = patience => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
