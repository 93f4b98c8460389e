//! `haca up`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use figment::Figment;
use figment::providers::{Format as _, Serialized, Toml};
use haca_control_plane::http::{self, Health, Proofs, exposition};
use haca_control_plane::proving::{self, Services};
use haca_dataplane::{Config, Node};
use haca_settle::LogHandle;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::output;

/// Serves models from one data directory until it is told to stop (SIGTERM, SIGINT). Keys, log and connect.toml are made
/// at the first start.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  haca up --data data
  haca up --data data --listen 0.0.0.0:4433 --http 127.0.0.1:9100 --shards 4
  haca up --data data --config node.toml      (haca up --print-config shows every setting)
  haca up --data data --services 0.0.0.0:4434 --config node.toml
                                              (for haca prover and haca verifier, whose keys zk.provers and zk.verifiers
                                              name)")]
pub(crate) struct Args {
    /// The data directory; made if it is not there
    #[arg(long, value_name = "DIR", required_unless_present = "print_config")]
    data: Option<PathBuf>,
    /// Where to listen for callers (UDP) [default: 127.0.0.1:4433]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where to listen for provers and verifiers that run apart from the node (UDP) [default: nowhere]
    #[arg(long, value_name = "ADDR")]
    services: Option<SocketAddr>,
    /// Where to answer /healthz, /readyz and /metrics
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9100")]
    http: SocketAddr,
    /// Shards, each pinned to a core of its own; 0: one on every core [default: 1]
    #[arg(long, value_name = "N")]
    shards: Option<usize>,
    /// Settings in TOML; the options here go before them
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print every setting with the value it would have, as TOML, and exit
    #[arg(long)]
    print_config: bool,
    /// Print what is served as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let config = self.settings()?;
        if self.print_config {
            return output::print(&toml::to_string(&config).context("the settings as TOML")?);
        }
        let data = self.data.clone().context("--data DIR is missing")?;
        output::log_to_stderr();
        // One thread is enough for signals and HTTP; the shards have their own.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.serve(&data, config))
    }

    /// Defaults, then the file, then the command line.
    fn settings(&self) -> anyhow::Result<Config> {
        let mut figment = Figment::from(Serialized::defaults(Config::default()));
        if let Some(path) = &self.config {
            // A file that is not there would count as empty.
            std::fs::metadata(path).with_context(|| format!("{}: no such configuration", path.display()))?;
            figment = figment.merge(Toml::file_exact(path));
        }
        if let Some(listen) = self.listen {
            figment = figment.merge(("listen", listen));
        }
        if let Some(services) = self.services {
            figment = figment.merge(("zk.services", services));
        }
        if let Some(shards) = self.shards {
            figment = figment.merge(("shards", shards));
        }
        let config: Config = figment.extract().map_err(|error| anyhow::anyhow!("configuration: {error}"))?;
        config.check().context("configuration")?;
        Ok(config)
    }

    async fn serve(self, data: &Path, config: Config) -> anyhow::Result<()> {
        // Before anything is started: a signal that comes early must not be lost.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let http = http::Server::bind(self.http).await?;
        let http_address = http.local_addr();
        // Without the log nothing says what is to be proven.
        let services =
            (config.zk.enabled && config.log.enabled).then(|| Services::open(data, &config)).transpose()?;
        let mut node = Node::start(data, &config, services.as_ref().map(Services::proving))?;
        let proving = services.map(|services| services.start(&mut node)).transpose()?;

        let draining = Arc::new(AtomicBool::new(false));
        let health = health(&node, proving.as_ref(), &draining, config.log.enabled);
        let (stop_http, http_stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(http.serve(http::router(health), async {
            let _ = http_stopped.await;
        }));

        output::print(&if self.json {
            format!("{}\n", announcement(&node, data, http_address, &config))
        } else {
            greeting(&node, data, http_address, &config)
        })?;
        let stopped_shards = node.stopped_shards();
        let broken = async {
            // Once a second is often enough to notice that a node has to be replaced.
            while stopped_shards.load(Ordering::Acquire) == 0 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = broken => tracing::error!("a shard has stopped: the node goes down"),
        }
        draining.store(true, Ordering::Relaxed);
        tracing::info!("draining: taking nothing new, answering what is there, flushing the log");
        // Health goes on answering while the node drains; the drain blocks, so it has a thread to itself.
        let stopped = tokio::task::spawn_blocking(move || {
            // What is not proven yet is when the node is back.
            if let Some(proving) = proving {
                proving.stop();
            }
            node.stop()
        })
        .await;
        let _ = stop_http.send(());
        let _ = serving.await;
        stopped.context("the thread that drains the node")??;
        tracing::info!("drained");
        Ok(())
    }
}

fn health(node: &Node, proving: Option<&proving::Running>, draining: &Arc<AtomicBool>, logs: bool) -> Health {
    let (log, draining): (LogHandle, _) = (node.log(), Arc::clone(draining));
    let stopped_shards = node.stopped_shards();
    let (metrics, log_for_metrics) = (node.metrics().to_vec(), node.log());
    let proofs = proving.map(|proving| Proofs {
        metrics: proving.metrics(),
        backlog: proving.backlog(),
        served: proving.served().to_vec(),
    });
    let broken = proving.map(proving::Running::broken);
    let disagreeing = proving.map(proving::Running::metrics);
    Health {
        ready: Box::new(move || {
            if draining.load(Ordering::Relaxed) {
                return Err("the node is draining".to_owned());
            }
            if !logs {
                return Err("the settlement log is switched off; no receipt becomes durable".to_owned());
            }
            let stopped = stopped_shards.load(Ordering::Acquire);
            if stopped > 0 {
                return Err(format!("{stopped} shards have stopped"));
            }
            if let Some(service) = broken.as_ref().and_then(|broken| broken()) {
                return Err(format!(
                    "the {service} of mode zk has stopped; see the node's log, and restart the node"
                ));
            }
            let status = log.status();
            if status.stalled {
                let error = status.error.as_deref().unwrap_or("see the node's log").to_owned();
                return Err(format!("the settlement log takes no entries: {error}"));
            }
            Ok(())
        }),
        warning: Box::new(move || {
            let count = disagreeing.as_ref()?.disagreements.load(Ordering::Relaxed);
            (count > 0).then(|| format!("verifiers disagree on {count} proofs; see the node's log"))
        }),
        metrics: Box::new(move || exposition(&metrics, &log_for_metrics.status(), proofs.as_ref())),
    }
}

fn greeting(node: &Node, data: &Path, http: SocketAddr, config: &Config) -> String {
    let connect = node.connect();
    let mut text = format!(
        "haca {} serves on {} (QUIC), health and metrics on http://{http}\n\
         connect   {}\n\
         node key  {}\n\
         shards    {} on cores {:?}; polls {} after its last work, then parks\n\
         limits    {} connections a shard, {} requests in flight a session, batches of up to {}, frames of up to {}\n",
        env!("CARGO_PKG_VERSION"),
        connect.address,
        data.join("connect.toml").display(),
        connect.node_key,
        node.cpus().len(),
        node.cpus(),
        match config.spin_us {
            -1 => "for ever".to_owned(),
            us => format!("{us} µs"),
        },
        config.max_connections,
        config.max_in_flight,
        config.max_batch,
        output::bytes(config.max_frame_bytes as usize),
    );
    if config.development_tee {
        text += "tee       development issuer: proves nothing about hardware\n";
    }
    text += &match config.zk.enabled && config.log.enabled {
        true => format!("zk        up to {} answers wait for their proofs\n", config.zk.max_pending),
        false => "zk        switched off\n".to_owned(),
    };
    if let Some(services) = connect.services {
        let (provers, verifiers) = (config.zk.provers.len(), config.zk.verifiers.len());
        text += &format!("services  on {services} (QUIC), for {provers} provers and {verifiers} verifiers\n");
    }
    text += "memory    at most, models aside:\n";
    let parts = config.memory(node.cpus().len());
    for (part, bytes) in &parts {
        text += &format!("  {:>12}  {part}\n", output::bytes(*bytes as usize));
    }
    let sum: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
    text + &format!("  {:>12}  in all\n", output::bytes(sum as usize))
}

fn announcement(node: &Node, data: &Path, http: SocketAddr, config: &Config) -> serde_json::Value {
    let connect = node.connect();
    let memory: serde_json::Map<_, _> = config
        .memory(node.cpus().len())
        .into_iter()
        .map(|(part, bytes)| (part.to_owned(), bytes.into()))
        .collect();
    json!({
        "address": connect.address,
        "services": connect.services,
        "http": http,
        "connect": data.join("connect.toml"),
        "node_key": connect.node_key,
        "cpus": node.cpus(),
        "development_tee": config.development_tee,
        "memory_bytes": memory,
    })
}
