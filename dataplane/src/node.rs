//! A whole node on one data directory: keys, log, models, shards.
//!
//! | in the data directory | |
//! |---|---|
//! | `connect.toml` | what callers and verifiers need to know; no secret |
//! | `node.key`, `log.key`, `operator.key`, `tls.key`, `tls.crt` | private keys, made at the first start |
//! | `development-issuer.key` | the root that stands in for a TEE; says nothing about hardware |
//! | `models/` | the models that are served, one file each, named after the model |
//! | `log/` | the settlement log |
//! | `verifier.key`, `zk/` | of the prover and the verifier, where the node has them |

use crate::attest::development;
use crate::background::off_cores;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::keys::{self, KeyError};
use crate::metrics::ShardMetrics;
use crate::models::Registry;
use crate::proving::Proving;
use crate::push::{KeptModelError, Pusher, RegistryThread};
use crate::server::{Server, ServerError};
use crate::session::{Inference, InferenceParts, MAX_AWAITS, MAX_PROOF_AWAITS, Message, NodeFacts};
use crate::shard::inbox::{Inbox, Letter};
use crate::sign::{BatchSigner, Signing};
use haca_settle::{Appender, CloseError, Log, LogHandle, LogKey, OpenError, OpeningPosition};
use haca_wire::connect::{Connect, ConnectError};
use haca_wire::evidence::{self, Binding};
use haca_wire::sign::{NodeKey, OperatorKey};
use haca_wire::{ALPN, Digest};
use sha2::Digest as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error("{path}: {source}")]
    Data {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The TLS certificate.
    #[error("{path}: not an X.509 certificate ({source}); remove it and tls.key to have new ones made")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: webpki::Error,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// A model that was kept.
    #[error(transparent)]
    Model(#[from] KeptModelError),
    /// The shards.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// `connect.toml`.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Why a node did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// A shard failed.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The log could not be closed.
    #[error(transparent)]
    Log(#[from] CloseError),
}

/// A running node.
pub struct Node {
    server: Server<Message>,
    registry: JoinHandle<()>,
    log: Log,
    events: Option<Appender>,
    openings: OpeningPosition,
    connect: Connect,
    cpus: Vec<usize>,
}

impl Node {
    /// Starts a node on `data` and returns once it serves. Writes `connect.toml`. Without a prover, mode `zk` is
    /// refused.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    pub fn start(data: &Path, config: &Config, proving: Option<Proving>) -> Result<Self, StartError> {
        config.check()?;
        let cpus = config.cpus()?;
        let shards = cpus.len();
        std::fs::create_dir_all(data).map_err(|source| StartError::Data { path: data.to_owned(), source })?;

        // The log first: its lock says whether the directory is ours. Only its own key is needed before that.
        let log_key = LogKey::from_seed(&config.log.origin, &*keys::seed(&data.join("log.key"))?)?;
        let log_verifier_key = log_key.verifier_key().to_owned();
        let events = if proving.is_some() { EVENT_APPENDERS } else { 0 };
        let (log, mut appenders) =
            off_cores(&cpus, || Log::open(config.log_config(data), log_key, shards + events))?;
        let events = appenders.split_off(shards).pop();
        let openings = log.handle().openings_end();

        let node_key = Arc::new(NodeKey::from_seed(&*keys::seed(&data.join("node.key"))?));
        let operator = OperatorKey::from_seed(&*keys::seed(&data.join("operator.key"))?);
        let tls = keys::tls(data)?;
        let key_pin = keys::key_pin(&tls.certificate)
            .map_err(|source| StartError::Certificate { path: data.join("tls.crt"), source })?;
        let evidence = if config.development_tee {
            let binding = Binding {
                nonce: Digest::default(),
                signing_key: node_key.node(),
                tls_key: key_pin,
                gpu_set: Digest::default(),
                policy: policy_hash(config.policy_epoch),
            };
            Some(development::issue(data, binding)?)
        } else {
            None
        };
        let evidence_bytes = evidence.map(|evidence| evidence.encode().to_vec());

        let facts = Arc::new(NodeFacts {
            node: node_key.node(),
            software: concat!("haca ", env!("CARGO_PKG_VERSION")).to_owned(),
            limits: config.limits(),
            policy_epoch: config.policy_epoch,
            signs_vanilla: config.sign_vanilla,
            evidence: evidence_bytes.clone(),
            operator: operator.public(),
            max_partial_bytes: config.connection_window_bytes as usize,
        });
        let signing = Signing {
            key: Arc::clone(&node_key),
            sign_vanilla: config.sign_vanilla,
            policy_epoch: config.policy_epoch,
            evidence: evidence_bytes.as_deref().map(evidence::digest).unwrap_or_default(),
        };

        let server_config = config.server(cpus.clone());
        let inboxes = (0..shards)
            .map(|_| Inbox::new(2 * (MAX_AWAITS + MAX_PROOF_AWAITS)).map(Arc::new))
            .collect::<io::Result<Vec<_>>>()
            .map_err(|source| StartError::Data { path: data.to_owned(), source })?;
        let metrics: Vec<_> = (0..shards).map(|_| Arc::new(ShardMetrics::default())).collect();
        let (pusher, jobs) = Pusher::new();
        let mut registry = RegistryThread {
            registry: Registry::new(
                config.models(),
                shards,
                proving.as_ref().map(|proving| Arc::clone(&proving.admit)),
            ),
            folder: data.join("models"),
            inboxes: inboxes.clone(),
        };
        // The changes wait in the shards' inboxes, so the first turn of each shard adopts them.
        registry.load_kept()?;

        let applications = (appenders.into_iter().enumerate())
            .map(|(shard, appender)| {
                let (facts, signing, pusher) = (Arc::clone(&facts), signing.clone(), pusher.clone());
                let (inbox, metrics) = (Arc::clone(&inboxes[shard]), Arc::clone(&metrics[shard]));
                let (log_handle, proving) = (log.handle(), proving.clone());
                let (max_batch, logged) = (config.max_batch, config.log.enabled);
                move || {
                    let clock = Clock::new();
                    let replies = move |message| {
                        // Places in the inbox are counted before an answer is asked for (MAX_AWAITS, MAX_PROOF_AWAITS, MAX_PUSHES).
                        if inbox.send(Letter::Application(message)).is_err() {
                            tracing::error!(shard, "an answer found the shard's inbox full");
                        }
                    };
                    Inference::new(InferenceParts {
                        facts,
                        signer: BatchSigner::new(signing, shard as u8, &clock, max_batch),
                        log: logged.then_some(appender),
                        log_handle,
                        proving,
                        pusher,
                        clock,
                        metrics,
                        replies: Arc::new(replies),
                    })
                }
            })
            .collect();
        drop(pusher);
        let server = Server::start(&server_config, &tls, ALPN, inboxes, metrics, applications)?;
        let registry = std::thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || registry.run(jobs))
            .map_err(|source| StartError::Data { path: data.to_owned(), source })?;

        let connect = Connect {
            address: server.address(),
            key_pin,
            node_key: node_key.node(),
            log_key: log_verifier_key,
            development_issuer: evidence.map(|evidence| Digest(evidence.issuer)),
            verifier_key: proving.as_ref().map(|proving| proving.verifier),
            services: proving.as_ref().and_then(|proving| proving.services),
        };
        connect.write(&data.join("connect.toml"))?;
        Ok(Self { server, registry, log, events, openings, connect, cpus })
    }

    /// What callers need to know.
    pub fn connect(&self) -> &Connect {
        &self.connect
    }

    /// The cores the shards are pinned to.
    pub fn cpus(&self) -> &[usize] {
        &self.cpus
    }

    /// The settlement log.
    pub fn log(&self) -> LogHandle {
        self.log.handle()
    }

    /// An appender of the log for those who add events of receipts, where the node was started with a prover. It is there
    /// once.
    pub fn take_event_appender(&mut self) -> Option<Appender> {
        self.events.take()
    }

    /// End of the openings that were there before this node served.
    pub fn openings_at_start(&self) -> OpeningPosition {
        self.openings
    }

    /// How many shards have stopped; none does before [`stop`](Self::stop) unless something is broken.
    pub fn stopped_shards(&self) -> Arc<AtomicUsize> {
        self.server.stopped()
    }

    /// What the shards count.
    pub fn metrics(&self) -> &[Arc<ShardMetrics>] {
        self.server.metrics()
    }

    /// Shuts down in good order: takes nothing new, answers what is there, makes every receipt durable.
    ///
    /// # Errors
    /// If a shard had failed or the log could not be closed.
    pub fn stop(self) -> Result<(), StopError> {
        self.server.drain();
        let served = self.server.join();
        // The shards held the other ends of its channel: it is done or about to be.
        let _ = self.registry.join();
        self.log.close()?;
        Ok(served?)
    }
}

/// For those who add events to the log; they share it.
pub(crate) const EVENT_APPENDERS: usize = 1;

fn policy_hash(epoch: u32) -> Digest {
    let hash = sha2::Sha256::new().chain_update(b"haca policy epoch\0").chain_update(epoch.to_le_bytes());
    Digest(hash.finalize().into())
}
