//! A node's numbers as Prometheus reads them (text exposition format 0.0.4). Read from atomics when asked for; nothing
//! is registered and nothing on the hot path knows of it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::proving::ProofMetrics;
use crate::proving::apart::{Counts, Served};
use haca_dataplane::Backlog;
use haca_dataplane::clock::unix_now;
use haca_dataplane::metrics::{Counter, Histogram, ShardMetrics};
use haca_settle::LogStatus;
use haca_wire::Status;
use haca_wire::sign::Role;

/// What is counted of mode `zk`.
pub struct Proofs {
    /// What the services count.
    pub metrics: Arc<ProofMetrics>,
    /// How far the provers are behind.
    pub backlog: Arc<Backlog>,
    /// Services that run apart.
    pub served: Vec<Arc<Served>>,
}

/// All metrics of a node; of mode `zk` where it is offered.
pub fn exposition(shards: &[Arc<ShardMetrics>], log: &LogStatus, proofs: Option<&Proofs>) -> String {
    let mut text = Text(String::with_capacity(8 << 10));
    text.shards(shards, "haca_datagrams_received_total", "QUIC packets received", |s| &s.datagrams_received);
    text.shards(shards, "haca_sends_total", "Sends, each of one or more packets", |s| &s.sends);
    text.shards(shards, "haca_send_errors_total", "Sends that the kernel refused", |s| &s.send_errors);
    let help = "Times a receive found no buffer; raise receive_buffers if it grows";
    text.shards(shards, "haca_receive_buffers_exhausted_total", help, |s| &s.receive_buffers_exhausted);
    text.shards(shards, "haca_parks_total", "Times the shard went to sleep", |s| &s.parks);
    text.shards(shards, "haca_connections_opened_total", "Connections established", |s| {
        &s.connections_opened
    });
    text.shards(shards, "haca_connections_closed_total", "Connections ended", |s| &s.connections_closed);
    text.shards(shards, "haca_connections_refused_total", "Connections refused", |s| &s.connections_refused);
    let help = "Connections closed because their answers were not read";
    text.shards(shards, "haca_backlog_overflows_total", help, |s| &s.backlog_overflows);
    text.shards(shards, "haca_requests_total", "Requests read", |s| &s.requests);
    text.shards(shards, "haca_answers_total", "Requests answered with a receipt", |s| &s.answers);
    text.shards(shards, "haca_batches_total", "Batches run", |s| &s.batches);
    text.head("haca_refusals_total", "counter", "Requests and calls refused, by status");
    for (shard, metrics) in shards.iter().enumerate() {
        for status in Status::ALL.iter().filter(|status| **status != Status::Ok) {
            let count = metrics.refusals[*status as usize].value();
            text.line(format_args!("haca_refusals_total{{shard=\"{shard}\",status=\"{status}\"}} {count}"));
        }
    }
    text.histogram(shards, "haca_batch_size", "Requests in a batch", 1.0, |s| &s.batch_size);
    let help = "From reading a request's packet to its signed receipt, in seconds";
    text.histogram(shards, "haca_service_time_seconds", help, 1e-9, |s| &s.service_time);
    let help = "Of one batch: execution, receipts, signature, encoding, in seconds";
    text.histogram(shards, "haca_batch_time_seconds", help, 1e-9, |s| &s.run_time);

    text.one("haca_log_size", "gauge", "Leaves that are durable", log.tree_size);
    text.one("haca_log_checkpointed", "gauge", "Leaves under a signed checkpoint", log.checkpointed);
    text.one("haca_log_queued", "gauge", "Leaves on their way to the log", log.queued);
    text.one("haca_log_commits_total", "counter", "Group commits, each with one fsync", log.commits);
    text.one("haca_log_checkpoints_total", "counter", "Checkpoints published", log.checkpoints);
    text.one("haca_log_duplicates_total", "counter", "Leaves that the log had already", log.duplicates);
    text.one(
        "haca_log_conflicts_total",
        "counter",
        "Second leaves for one request id, not logged",
        log.conflicts,
    );
    text.one("haca_log_stalled", "gauge", "1 while the log takes no commits", u64::from(log.stalled));
    let help = "1 while no checkpoint can be published";
    text.one("haca_log_checkpoint_failing", "gauge", help, u64::from(log.checkpoint_failing));
    text.one("haca_log_waiting_ids", "gauge", "Request ids whose receipts are waited for", log.waiting_ids);
    text.one("haca_log_disk_bytes", "gauge", "Bytes of the log on disk", log.disk_bytes);
    if let Some(proofs) = proofs {
        text.proofs(proofs);
    }
    text.0
}

/// All metrics of a service that runs apart.
pub fn service_exposition(role: Role, counts: &Counts) -> String {
    let mut text = Text(String::with_capacity(1 << 10));
    let mut one = |what: &str, kind, help, value: &AtomicU64| {
        text.one(&format!("haca_{role}_{what}"), kind, help, value.load(Relaxed));
    };
    one("connected", "gauge", "1 while the node gives work", &counts.connected);
    one("sessions_total", "counter", "Sessions with the node", &counts.sessions);
    let (results, declined) = match role {
        Role::Prover => ("Proofs handed in", "Requests that it could not prove"),
        Role::Verifier => ("Verdicts handed in", "Proofs that it could not judge"),
    };
    one("results_total", "counter", results, &counts.results);
    one("declined_total", "counter", declined, &counts.declined);
    let help = "Time spent proving or judging";
    text.seconds(
        &format!("haca_{role}_work_seconds_total"),
        "counter",
        help,
        counts.work_nanos.load(Relaxed),
    );
    text.0
}

/// Name, kind, help and value of what is counted of each service.
type OfService = (&'static str, &'static str, &'static str, fn(&Served) -> &AtomicU64);

const SESSIONS: OfService =
    ("haca_zk_service_sessions", "gauge", "Sessions of a service that runs apart", |service| {
        &service.sessions
    });
const RESULTS: OfService = (
    "haca_zk_service_results_total",
    "counter",
    "Proofs or verdicts that were taken from a service that runs apart",
    |service| &service.results,
);

struct Text(String);

impl Text {
    fn shards(
        &mut self,
        shards: &[Arc<ShardMetrics>],
        name: &str,
        help: &str,
        counter: fn(&ShardMetrics) -> &Counter,
    ) {
        self.head(name, "counter", help);
        for (shard, metrics) in shards.iter().enumerate() {
            self.line(format_args!("{name}{{shard=\"{shard}\"}} {}", counter(metrics).value()));
        }
    }

    fn histogram(
        &mut self,
        shards: &[Arc<ShardMetrics>],
        name: &str,
        help: &str,
        unit: f64,
        of: fn(&ShardMetrics) -> &Histogram,
    ) {
        self.head(name, "histogram", help);
        for (shard, metrics) in shards.iter().enumerate() {
            let histogram = of(metrics);
            let mut total = 0;
            // Every bound is always there: a bucket that appeared later would break rates over it.
            for (upper, count) in histogram.cumulative() {
                total = count;
                let upper = upper as f64 * unit;
                self.line(format_args!("{name}_bucket{{shard=\"{shard}\",le=\"{upper:e}\"}} {total}"));
            }
            self.line(format_args!("{name}_bucket{{shard=\"{shard}\",le=\"+Inf\"}} {total}"));
            self.line(format_args!("{name}_sum{{shard=\"{shard}\"}} {:e}", histogram.sum() as f64 * unit));
            self.line(format_args!("{name}_count{{shard=\"{shard}\"}} {total}"));
        }
    }

    fn proofs(&mut self, Proofs { metrics, backlog, served }: &Proofs) {
        let help = "Requests that were answered and are not proven yet";
        self.one("haca_zk_pending", "gauge", help, backlog.pending());
        let oldest = metrics.oldest.load(Relaxed);
        let age = if oldest == 0 { 0 } else { unix_now().saturating_sub(oldest) };
        let help = "How long ago the oldest request that is not proven was read";
        self.seconds("haca_zk_oldest_pending_seconds", "gauge", help, age);
        let help = "When the proof of a request that is answered now is expected";
        let delay = u64::try_from(backlog.delay().as_nanos()).unwrap_or(u64::MAX);
        self.seconds("haca_zk_expected_delay_seconds", "gauge", help, delay);
        let mut counter = |name, help, counter: &AtomicU64| {
            self.one(name, "counter", help, counter.load(Relaxed));
        };
        counter("haca_zk_proved_total", "Proofs made", &metrics.proved);
        counter("haca_zk_failed_total", "Requests that cannot be proven", &metrics.failed);
        counter("haca_zk_accepted_total", "Proofs that the verifier accepted", &metrics.accepted);
        counter("haca_zk_refused_total", "Proofs that the verifier refused: an alarm", &metrics.refused);
        let help = "Openings that were damaged on disk: their requests are not proven";
        counter("haca_zk_damaged_openings_total", help, &metrics.damaged);
        let help = "Proofs that one verifier accepted and another refused: an alarm";
        counter("haca_zk_disagreements_total", help, &metrics.disagreements);
        let help = "Proofs whose openings were gone when a verifier came to them";
        counter("haca_zk_missed_total", help, &metrics.missed);
        let help = "Proofs of provers that run apart which did not hold and were not logged: an alarm";
        counter("haca_zk_rejected_total", help, &metrics.rejected);
        for (name, kind, help, of) in [SESSIONS, RESULTS] {
            if served.is_empty() {
                break;
            }
            self.head(name, kind, help);
            for service in served {
                let (role, key, value) = (service.role, service.key, of(service).load(Relaxed));
                self.line(format_args!("{name}{{role=\"{role}\",key=\"{key}\"}} {value}"));
            }
        }
        let prove = metrics.prove_nanos.load(Relaxed);
        self.seconds("haca_zk_prove_seconds_total", "counter", "Time spent proving", prove);
        let verify = metrics.verify_nanos.load(Relaxed);
        self.seconds("haca_zk_verify_seconds_total", "counter", "Time spent checking proofs", verify);
    }

    fn seconds(&mut self, name: &str, kind: &str, help: &str, nanos: u64) {
        self.head(name, kind, help);
        self.line(format_args!("{name} {:e}", nanos as f64 * 1e-9));
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.line(format_args!("{name} {value}"));
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("a String takes any text");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_line_is_a_comment_or_a_sample() {
        let shard = ShardMetrics::default();
        shard.requests.add(3);
        shard.batch_size.record(5);
        shard.batch_size.record(70);
        let log = LogStatus {
            tree_size: 7,
            checkpointed: 7,
            queued: 0,
            commits: 1,
            checkpoints: 1,
            duplicates: 0,
            conflicts: 0,
            stalled: false,
            checkpoint_failing: false,
            error: None,
            disk_bytes: 4096,
            waiting_ids: 0,
        };
        let proofs = Proofs {
            metrics: Arc::default(),
            backlog: Arc::new(Backlog::new(4, Duration::from_secs(1))),
            served: Vec::new(),
        };
        let text = exposition(&[Arc::new(shard)], &log, Some(&proofs));
        let of_services =
            [Role::Prover, Role::Verifier].map(|role| service_exposition(role, &Counts::default()));
        for line in of_services.iter().chain([&text]).flat_map(|text| text.lines()) {
            if line.starts_with('#') {
                continue;
            }
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("haca_") && value.parse::<f64>().is_ok(), "{line}");
        }
        assert!(text.contains("haca_requests_total{shard=\"0\"} 3\n"));
        assert!(text.contains("haca_batch_size_bucket{shard=\"0\",le=\"+Inf\"} 2\n"));
        assert!(text.contains("haca_log_size 7\n"));
    }
}
