//! The verifier within the node: judges what its docket has, signs a verdict on each.
//!
//! Owns one thread of low priority, and a pool of its own for the arithmetic.

use super::ProofMetrics;
use super::docket::{Docket, Fault, Ruling};
use super::events::LogView;
use super::judge::{Case, Judge, Judgement};
use crossbeam_channel::RecvTimeoutError;
use haca_dataplane::clock::unix_now;
use haca_wire::event::VerifierKey;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

pub(super) struct VerifierThread {
    pub(super) docket: Docket,
    pub(super) judge: Judge,
    pub(super) key: VerifierKey,
    pub(super) pool: rayon::ThreadPool,
    pub(super) log: LogView,
    pub(super) metrics: Arc<ProofMetrics>,
    /// Told that there is a new record.
    pub(super) recorded: crossbeam_channel::Receiver<()>,
}

impl VerifierThread {
    pub(super) fn run(mut self) {
        while !self.log.is_stopping() {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => {
                    if let Err(RecvTimeoutError::Disconnected) = self.recorded.recv_timeout(IDLE) {
                        self.log.sleep(IDLE);
                    }
                }
                Err(fault) => {
                    if !self.log.is_stopping() {
                        tracing::error!(%fault, "no proofs are checked now; trying again");
                    }
                    self.log.sleep(RETRY);
                }
            }
        }
    }

    /// Checks what there is as one batch. `false` if there is nothing.
    fn turn(&mut self) -> Result<bool, Fault> {
        let Some(cases) = self.docket.next(u64::MAX)? else { return Ok(false) };
        let begun = Instant::now();
        let judgements = self.pool.install(|| self.judge.judge(&cases))?;
        self.metrics.verify_nanos.fetch_add(begun.elapsed().as_nanos() as u64, Relaxed);
        let rulings = rule(&self.key, &cases, judgements);
        self.docket.enter(rulings)?.expect("these are its own verdicts on its own cases");
        Ok(true)
    }
}

/// Signs what was found.
pub(crate) fn rule(key: &VerifierKey, cases: &[Case], judgements: Vec<Judgement>) -> Vec<Ruling> {
    let rule = |(case, judgement): (&Case, Judgement)| {
        let accepted = match judgement {
            Judgement::Holds => true,
            Judgement::Refused(why) => {
                tracing::error!(request = %case.leaf.request, key = %case.proof.key, why, "ALARM: a proof does not hold");
                false
            }
            Judgement::Impossible(why) => return Ruling::None(why),
        };
        Ruling::Verdict(Box::new(key.verdict(&case.proof, case.index, accepted, unix_now())))
    };
    cases.iter().zip(judgements).map(rule).collect()
}

const IDLE: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_secs(1);
