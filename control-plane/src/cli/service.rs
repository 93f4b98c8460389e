//! What `haca prover` and `haca verifier` have in common.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::Context;
use haca_control_plane::http::{self, Health, service_exposition};
use haca_control_plane::proving::apart::{Counts, LinkError, Stop};
use haca_dataplane::background;
use haca_dataplane::keys::{self, Seed};
use haca_wire::connect::Connect;
use haca_wire::sign::{Role, ServiceKey};
use rayon::ThreadPool;
use tokio::signal::unix::{SignalKind, signal};

use super::{output, read};

#[derive(Debug, clap::Args)]
#[group(id = "service")]
pub(crate) struct Args {
    /// The connect.toml of the node
    #[arg(long, value_name = "FILE")]
    connect: PathBuf,
    /// Where the node takes services, if that is not where its connect.toml says (a node that listens on 0.0.0.0 cannot say)
    #[arg(long, value_name = "ADDR")]
    node: Option<SocketAddr>,
    /// Where to answer /healthz, /readyz and /metrics [default: nowhere]
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Where to keep the service's key and what it fetches; made if it is not there
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Threads that prove or verify; 0: one for each core (a prover has one more, for keys that it makes ahead)
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

impl Args {
    /// Makes the service and runs it until SIGTERM or SIGINT; a second signal ends it at once.
    pub(crate) fn run<S>(
        self,
        role: Role,
        make: impl FnOnce(Connect, &Seed, &Path, ThreadPool) -> Result<S, LinkError>,
        counts: impl FnOnce(&S) -> Arc<Counts>,
        run: impl AsyncFnOnce(S, Stop) -> Result<(), LinkError>,
    ) -> anyhow::Result<()> {
        output::log_to_stderr();
        std::fs::create_dir_all(&self.data).with_context(|| self.data.display().to_string())?;
        let seed = keys::seed(&self.data.join(format!("{role}.key")))?;
        // Before the node is looked for: the node must know the key before it gives its address.
        let key = ServiceKey::from_seed(&seed).public();
        output::print(&format!("{role} {key}\nthe node must name it: zk.{role}s = [\"{key}\"]\n"))?;
        let mut connect = read::connect(&self.connect)?;
        connect.services = self.node.or(connect.services);
        background::yield_cores(&[]);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads)
            .thread_name(move |index| format!("{role}-{index}"))
            .build()?;
        let service = make(connect, &seed, &self.data, pool)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let health = health(role, counts(&service));
        let done = runtime.block_on(async {
            let (tell, stop) = Stop::new();
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            if let Some(address) = self.http {
                let server = http::Server::bind(address).await?;
                output::print(&format!("health and metrics on http://{}\n", server.local_addr()))?;
                // It ends with the process.
                tokio::spawn(server.serve(http::router(health), std::future::pending()));
            }
            let signals = async {
                for _ in 0..2 {
                    tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                    }
                    tracing::info!("finishing what is under way");
                    let _ = tell.send(true);
                }
            };
            tokio::select! {
                done = run(service, stop) => anyhow::Ok(done?),
                () = signals => anyhow::Ok(()),
            }
        });
        // What is being computed after a second signal is of no use to anybody.
        runtime.shutdown_background();
        done
    }
}

/// Ready is who has a session with the node.
fn health(role: Role, counts: Arc<Counts>) -> Health {
    let counted = Arc::clone(&counts);
    Health {
        ready: Box::new(move || match counts.connected.load(Relaxed) {
            0 => Err("the node gives no work; see the log".to_owned()),
            _ => Ok(()),
        }),
        warning: Box::new(|| None),
        metrics: Box::new(move || service_exposition(role, &counted)),
    }
}
