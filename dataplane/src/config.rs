//! The node's configuration: every limit of the data plane and the log, with the value it has if nobody sets it.

use crate::models::ModelLimits;
use crate::node::EVENT_APPENDERS;
use crate::push::MAX_PUSHES;
use crate::quic::QuicLimits;
use crate::server::ServerConfig;
use crate::transport::ring::RingLimits;
use haca_settle::LogConfig;
use haca_wire::Digest;
use haca_wire::message::session::Limits;
use haca_wire::receipt::MAX_BATCH;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// Everything that can be set. A TOML file may set any part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to listen for callers (UDP). Port 0 takes a free one.
    pub listen: SocketAddr,
    /// How many shards; 0: one on every core the process may use.
    pub shards: usize,
    /// The cores the shards are pinned to; empty: the first ones the process may use.
    pub cpus: Vec<usize>,
    /// Microseconds a shard polls after its last work before it parks. Parked, the next packet costs about 4 us more;
    /// polling, the shard takes its whole core. -1: never park.
    pub spin_us: i64,
    /// Connections of one shard at a time.
    pub max_connections: usize,
    /// Streams one caller may have open.
    pub max_streams: u32,
    /// Requests of one session that may be unanswered at a time.
    pub max_in_flight: u32,
    /// The longest frame, in bytes: bounds a request's tensor and what a caller can make a shard hold for a stream.
    pub max_frame_bytes: u32,
    /// Bytes of answers that may wait for one slow reader before its connection is closed.
    pub max_backlog_bytes: usize,
    /// Bytes a caller may send ahead on one stream.
    pub stream_window_bytes: u32,
    /// Bytes a caller may send ahead on a connection.
    pub connection_window_bytes: u32,
    /// A connection without a packet for this long ends.
    pub idle_timeout_ms: u32,
    /// Receive buffers of 66 KiB of one shard; a power of two.
    pub receive_buffers: u16,
    /// Sends of 24 KB of one shard that may be under way.
    pub send_slots: u16,
    /// The most requests that run together.
    pub max_batch: usize,
    /// Microseconds a batch may wait for company; 0: it runs as soon as the shard gets to it.
    pub max_delay_us: u64,
    /// Model names there may be.
    pub max_models: usize,
    /// Streams that one shard holds for one model, over all its callers; 0: no model takes streams.
    pub max_symbols: usize,
    /// Bytes of state that these streams may take together: of a model with large states there are fewer, and one whose
    /// single stream is larger takes whole rows only.
    pub max_state_bytes: usize,
    /// The longest model file that may be pushed.
    pub max_model_bytes: u64,
    /// Whether `vanilla` answers are signed too. Without, they are proven by the log alone.
    pub sign_vanilla: bool,
    /// Whether a development issuer stands in for a TEE, so that `tee` can be tried. Says nothing about hardware.
    pub development_tee: bool,
    /// Epoch of the policy in force; goes into every leaf.
    pub policy_epoch: u32,
    /// How long a shutdown waits for callers to take their last answers.
    pub drain_timeout_ms: u64,
    /// The settlement log.
    pub log: LogSettings,
    /// Mode `zk`.
    pub zk: ZkSettings,
}

/// What can be set of the settlement log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// `false` only to measure what the log costs: receipts then never become durable, and the node says it is not ready.
    pub enabled: bool,
    /// The log's name in its checkpoints. Fixed once the log exists.
    pub origin: String,
    /// Leaves that may wait for the log, of each shard; when they do, requests are refused as `overloaded`.
    pub queue_capacity: usize,
    /// Leaves in one commit.
    pub max_group: usize,
    /// Checkpoints are at least this far apart.
    pub checkpoint_interval_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 4433)),
            shards: 1,
            cpus: Vec::new(),
            spin_us: 50,
            max_connections: 256,
            max_streams: 256,
            max_in_flight: 4096,
            max_frame_bytes: 256 << 10,
            max_backlog_bytes: 1 << 20,
            stream_window_bytes: 512 << 10,
            connection_window_bytes: 2 << 20,
            idle_timeout_ms: 30_000,
            receive_buffers: 128,
            send_slots: 64,
            max_batch: 128,
            max_delay_us: 0,
            max_models: 64,
            max_symbols: 4096,
            max_state_bytes: 64 << 20,
            max_model_bytes: 64 << 20,
            sign_vanilla: true,
            development_tee: true,
            policy_epoch: 0,
            drain_timeout_ms: 5_000,
            log: LogSettings::default(),
            zk: ZkSettings::default(),
        }
    }
}

/// What can be set of mode `zk`. `haca-node` has no prover and refuses the mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ZkSettings {
    /// Whether the mode is offered.
    pub enabled: bool,
    /// Answers that may wait for their proofs; when they do, requests of mode `zk` are refused as `overloaded`.
    pub max_pending: u64,
    /// Threads that prove; 0: one for each core without a shard, at least one. One more makes keys for sealed inputs ahead of
    /// their first use.
    pub prover_threads: usize,
    /// Models with larger circuits are served without the mode. Proving takes about 0.5 KB of memory a constraint.
    pub max_constraints: usize,
    /// Where to listen for provers and verifiers that run apart from the node (UDP); without, for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<SocketAddr>,
    /// `within`: the node proves, and provers that run apart help. `apart`: only these prove.
    pub prover: Place,
    /// Keys of provers that may connect. They see the rows of requests.
    pub provers: Vec<Digest>,
    /// How long a prover has for one proof, in seconds, before another gets the request too.
    pub prover_patience_s: u64,
    /// `within`: callers are given the verdicts of the node's own verifier. `apart`: those of the first in `verifiers`.
    pub verifier: Place,
    /// Keys of verifiers that may connect. They see the rows of requests, unless these are sealed.
    pub verifiers: Vec<Digest>,
    /// Proven requests whose rows are kept for verifiers that have not come to them.
    pub max_unjudged: u64,
    /// Whether to give up what follows a damaged opening in its file where it is not certain where the next one begins.
    /// `false`: nothing behind it is proven until the file is restored. What is given up counts as one opening, since
    /// nobody knows how many there were: the places in `max_pending` of the others are free when the node is started again.
    pub skip_damaged_segments: bool,
}

/// Where a service of mode `zk` runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Within the node.
    Within,
    /// In a process of its own, perhaps on another machine.
    Apart,
}

impl Default for ZkSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            max_pending: 4096,
            prover_threads: 0,
            max_constraints: 1 << 20,
            services: None,
            prover: Place::Within,
            provers: Vec::new(),
            prover_patience_s: 600,
            verifier: Place::Within,
            verifiers: Vec::new(),
            max_unjudged: 65_536,
            skip_damaged_segments: false,
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            origin: "haca-node".to_owned(),
            queue_capacity: 65_536,
            max_group: 4096,
            checkpoint_interval_ms: 100,
        }
    }
}

/// Provers, and verifiers, that may connect: of each proof the log takes a leaf for each verifier.
const MAX_SERVICES: usize = 16;

/// A setting that cannot work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{setting} = {value}: {rule}")]
pub struct ConfigError {
    setting: &'static str,
    value: String,
    rule: String,
}

/// Request ids in one `AwaitReceipts`: an answer with a path of 40 digests for each stays under a mebibyte, which every
/// client here takes.
const MAX_AWAIT_IDS: u32 = 512;

impl Config {
    /// Says whether the settings can work together.
    ///
    /// # Errors
    /// The first that cannot, with the rule it breaks.
    pub fn check(&self) -> Result<(), ConfigError> {
        let rule = |setting, value: &dyn ToString, holds: bool, rule: &str| {
            let error = || ConfigError { setting, value: value.to_string(), rule: rule.to_owned() };
            holds.then_some(()).ok_or_else(error)
        };
        let batch = format!("must be 1 to {MAX_BATCH}");
        rule("max_batch", &self.max_batch, (1..=MAX_BATCH as usize).contains(&self.max_batch), &batch)?;
        rule("shards", &self.shards, self.shards <= 256, "must be at most 256, or 0 for one on every core")?;
        rule("max_connections", &self.max_connections, self.max_connections > 0, "must be at least 1")?;
        rule("max_streams", &self.max_streams, self.max_streams > 0, "must be at least 1")?;
        rule("max_in_flight", &self.max_in_flight, self.max_in_flight > 0, "must be at least 1")?;
        rule("max_models", &self.max_models, (1..=512).contains(&self.max_models), "must be 1 to 512")?;
        let symbols = self.max_symbols <= 1 << 20;
        rule("max_symbols", &self.max_symbols, symbols, "must be at most 1048576")?;
        let states = self.max_state_bytes <= 1 << 36;
        rule("max_state_bytes", &self.max_state_bytes, states, "must be at most 68719476736")?;
        let slots = (1..=4096).contains(&self.send_slots);
        rule("send_slots", &self.send_slots, slots, "must be 1 to 4096")?;
        rule("idle_timeout_ms", &self.idle_timeout_ms, self.idle_timeout_ms > 0, "must be at least 1")?;
        let window =
            self.connection_window_bytes >= self.max_frame_bytes && self.stream_window_bytes >= 16 << 10;
        let least = "must be at least max_frame_bytes (and stream_window_bytes at least 16384)";
        rule("connection_window_bytes", &self.connection_window_bytes, window, least)?;
        let buffers = self.receive_buffers.is_power_of_two() && self.receive_buffers <= 1 << 12;
        rule("receive_buffers", &self.receive_buffers, buffers, "must be a power of two up to 4096")?;
        let frame = (16 << 10..=16 << 20).contains(&self.max_frame_bytes);
        rule("max_frame_bytes", &self.max_frame_bytes, frame, "must be 16384 to 16777216")?;
        let room = self.log.queue_capacity >= self.max_batch;
        rule("log.queue_capacity", &self.log.queue_capacity, room, "must be at least max_batch")?;
        rule("zk.max_pending", &self.zk.max_pending, self.zk.max_pending > 0, "must be at least 1")?;
        let patience = (1..=1 << 20).contains(&self.zk.prover_patience_s);
        rule("zk.prover_patience_s", &self.zk.prover_patience_s, patience, "must be 1 to 1048576")?;
        for (setting, place, keys) in [
            ("zk.provers", self.zk.prover, &self.zk.provers),
            ("zk.verifiers", self.zk.verifier, &self.zk.verifiers),
        ] {
            let text = format!("{} keys", keys.len());
            rule(setting, &text, keys.len() <= MAX_SERVICES, "at most 16 may connect")?;
            let is_used = keys.is_empty() || self.zk.services.is_some();
            rule(setting, &text, is_used, "nobody can connect without zk.services, an address to listen on")?;
            let somebody = place == Place::Within || !keys.is_empty();
            rule(setting, &text, somebody, "somebody must do it: name a key, or set the service to within")?;
        }
        rule("spin_us", &self.spin_us, self.spin_us >= -1, "must be microseconds, or -1 to never park")
    }

    /// The cores to pin shards to.
    ///
    /// # Errors
    /// If more shards are asked for than there are cores to pin them to.
    pub fn cpus(&self) -> Result<Vec<usize>, ConfigError> {
        if !self.cpus.is_empty() {
            let fits = self.shards == 0 || self.shards == self.cpus.len();
            let error = || ConfigError {
                setting: "shards",
                value: self.shards.to_string(),
                rule: format!("cpus names {} cores: leave shards out or make them equal", self.cpus.len()),
            };
            return fits.then(|| self.cpus.clone()).ok_or_else(error);
        }
        let mut cpus = allowed_cpus();
        if self.shards > cpus.len() {
            return Err(ConfigError {
                setting: "shards",
                value: self.shards.to_string(),
                rule: format!(
                    "the process may use {} cores, and each shard wants one of its own",
                    cpus.len()
                ),
            });
        }
        if self.shards > 0 {
            cpus.truncate(self.shards);
        }
        Ok(cpus)
    }

    /// An upper bound of what the node's buffers and queues take, part by part, in bytes. Models come on top.
    pub fn memory(&self, shards: usize) -> Vec<(&'static str, u64)> {
        let connections = (shards * self.max_connections) as u64;
        let events = if self.zk.enabled { EVENT_APPENDERS } else { 0 };
        let windows = u64::from(self.connection_window_bytes);
        vec![
            ("receive and send buffers", (shards * self.ring().memory_bytes()) as u64),
            ("received bytes not yet read, if every caller fills its window", connections * windows),
            ("incomplete frames, if every caller leaves as many open as it may", connections * windows),
            ("answers not yet acknowledged, if every caller stops reading", connections * windows),
            ("answers waiting for flow control", connections * self.max_backlog_bytes as u64),
            ("model files arriving", MAX_PUSHES as u64 * self.max_model_bytes),
            (
                "states of streams, if callers begin as many as they may of every model",
                // Superseded models may be as many again.
                (shards * 2 * self.max_models) as u64 * self.max_state_bytes as u64,
            ),
            ("settlement log", self.log_config(Path::new("")).memory_bytes(shards + events)),
        ]
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_frame_bytes: self.max_frame_bytes,
            max_in_flight: self.max_in_flight,
            max_await_ids: MAX_AWAIT_IDS.min((self.max_frame_bytes - 1024) / 16),
            max_model_bytes: self.max_model_bytes,
            idle_timeout_ms: self.idle_timeout_ms,
        }
    }

    pub(crate) fn log_config(&self, data: &Path) -> LogConfig {
        let mut log = LogConfig::new(data.join("log"), self.log.origin.clone());
        log.queue_capacity = self.log.queue_capacity;
        log.max_group = self.log.max_group;
        log.checkpoint_interval = Duration::from_millis(self.log.checkpoint_interval_ms);
        log
    }

    pub(crate) fn models(&self) -> ModelLimits {
        ModelLimits {
            max_models: self.max_models,
            max_batch: self.max_batch,
            max_delay: Duration::from_micros(self.max_delay_us),
            max_symbols: self.max_symbols,
            max_state_bytes: self.max_state_bytes,
        }
    }

    pub(crate) fn server(&self, cpus: Vec<usize>) -> ServerConfig {
        ServerConfig {
            listen: self.listen,
            cpus,
            spin: u64::try_from(self.spin_us).ok().map(Duration::from_micros),
            quic: QuicLimits {
                max_streams: self.max_streams,
                stream_window: self.stream_window_bytes,
                connection_window: self.connection_window_bytes,
                idle_timeout: Duration::from_millis(self.idle_timeout_ms.into()),
            },
            max_connections: self.max_connections,
            max_backlog: self.max_backlog_bytes,
            ring: self.ring(),
            drain_timeout: Duration::from_millis(self.drain_timeout_ms),
        }
    }

    fn ring(&self) -> RingLimits {
        RingLimits { receive_buffers: self.receive_buffers, send_slots: self.send_slots }
    }
}

/// The cores this process may run on.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    // SAFETY: all-zero bytes are an empty set, and the kernel writes at most its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return vec![0];
        }
        set
    };
    // SAFETY: `cpu` is below CPU_SETSIZE.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work_and_bad_settings_are_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let bad = Config { max_batch: 2000, ..Config::default() };
        assert_eq!(bad.check().unwrap_err().to_string(), "max_batch = 2000: must be 1 to 1024");
        assert!(toml::from_str::<Config>("max_batches = 3").is_err());
        for (zk, named) in [
            (ZkSettings { prover: Place::Apart, ..ZkSettings::default() }, "zk.provers"),
            (ZkSettings { verifiers: vec![Digest([1; 32])], ..ZkSettings::default() }, "zk.verifiers"),
        ] {
            let error = Config { zk, ..Config::default() }.check().unwrap_err();
            assert!(error.to_string().starts_with(named), "{error}");
        }
        assert_eq!(toml::from_str::<Config>("[log]\nmax_group = 3").unwrap().log.max_group, 3);
    }
}
