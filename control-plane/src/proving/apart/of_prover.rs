//! The node's end of a session with a prover.
//!
//! A proof is checked before it is logged: the log has one place for the proof of a receipt. What comes from a prover that
//! lies is not taken, what it had goes to another, and it is shut out. It can still refuse to prove; then others are
//! asked, and a request that all of them decline is given up. One that is silent about a request for too long is sent away.

use super::frame::Kind;
use super::listener::{End, Session, refuse};
use super::message::{self, Proven, Refusal, Unread};
use crate::proving::attempt::Made;
use crate::proving::judge::{Case, Judge, Judgement};
use crate::proving::queue::{Job, Task};
use crate::proving::workers::Worker;
use haca_settle::OpeningPosition;
use haca_wire::Digest;
use haca_wire::event::{ProofEvent, proof_id};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Serves a prover until it is gone.
pub(super) async fn serve(mut session: Session) -> End {
    let worker = session.desk.workers.join(false);
    let mut judge = Some(Judge::new(session.desk.models.clone()));
    let end = work(&mut session, &worker, &mut judge).await;
    // Others get what it had before it is told anything.
    drop(worker);
    match end {
        Err(End::Overdue(limit)) => {
            let why = format!("no proof came in {limit:?}, twice zk.prover_patience_s");
            refuse(&mut session.send, &session.connection, Refusal { may_pass: true, why }).await;
            End::Overdue(limit)
        }
        Err(End::Refused(refusal)) => refuse(&mut session.send, &session.connection, refusal).await,
        Err(end) => {
            let _ = session.send.finish();
            if matches!(end, End::Done) {
                let _ = tokio::time::timeout(PATIENCE, session.connection.closed()).await;
            }
            end
        }
        Ok(never) => match never {},
    }
}

async fn work(
    session: &mut Session,
    worker: &Worker,
    judge: &mut Option<Judge>,
) -> Result<std::convert::Infallible, End> {
    let mut has: Option<(Arc<Job>, Instant)> = None;
    loop {
        let (kind, payload) = match &has {
            // After its patience another has the request too, and who is first counts. Who is not heard of after as long
            // again is stuck, or was never going to prove it.
            Some((_, since)) => {
                let limit = 2 * session.desk.patience;
                let until = tokio::time::Instant::from_std(*since + limit);
                let received = tokio::time::timeout_at(until, session.receive()).await;
                received.map_err(|_| End::Overdue(limit))??
            }
            None => session.receive().await?,
        };
        let is_busy = has.is_some();
        let mut of = |position: OpeningPosition| {
            has.take_if(|(job, _)| job.position == position).ok_or(Unread("nobody asked for it"))
        };
        match kind {
            // Else it could give a job back, be given it again, and so keep it from all others for ever.
            Kind::Ask if is_busy => return Err(End::Unexpected(kind)),
            Kind::Ask => {
                message::decode_ask(&payload)?;
                let task = tokio::select! {
                    task = worker.ask() => task.map_err(|_| End::Stopping)?,
                    error = session.connection.closed() => return Err(End::Lost(error.to_string())),
                };
                match task {
                    Task::Prove(job) => {
                        session.send(Kind::Prove, &message::encode_job(&job)).await?;
                        has = Some((job, Instant::now()));
                    }
                    Task::MakeReady(announced) => {
                        session.send(Kind::MakeReady, &message::encode_announced(announced)).await?;
                    }
                }
            }
            Kind::Proven => {
                let proven = Proven::decode(&payload)?;
                let (job, since) = of(proven.position)?;
                take(session, worker, judge, &job, proven, since.elapsed()).await?;
            }
            Kind::Unprovable => {
                let (position, why) = message::decode_unprovable(&payload)?;
                let (job, _) = of(position)?;
                let (request, prover) = (job.leaf.request, session.served.key);
                tracing::error!(%request, %prover, why, "a prover says that it cannot be proven");
                worker.cannot_be_proven(position, format!("the prover {prover} says: {why}"));
            }
            other => return Err(End::Unexpected(other)),
        }
    }
}

/// Checks a proof, and hands it in if it holds.
async fn take(
    session: &mut Session,
    worker: &Worker,
    judge: &mut Option<Judge>,
    job: &Arc<Job>,
    proven: Proven,
    took: Duration,
) -> Result<(), End> {
    let key = Digest(Sha256::digest(&proven.key).into());
    let id = proof_id(&job.leaf.hash());
    let proof = ProofEvent { id, index: job.index, time: 0, key, proof: proven.proof };
    let (leaf, opening) = (job.leaf, job.opening.clone());
    let case = Case { leaf, proof, index: 0, opening, key: Arc::from(&proven.key[..]) };
    let judgement = loop {
        let (desk, case) = (Arc::clone(&session.desk), case.clone());
        let mut own = judge.take().expect("it is put back below");
        let judged = tokio::task::spawn_blocking(move || {
            let judged = desk.pool.install(|| own.judge(std::slice::from_ref(&case)));
            let output = own.output(&case);
            (own, judged.map(|mut judgements| (judgements.pop(), output)))
        });
        let (own, judged) = match judged.await {
            Ok(judged) => judged,
            Err(error) if error.is_panic() => {
                // To another the request may be possible; to be handed the same proof again helps nobody.
                let (request, prover) = (job.leaf.request, session.served.key);
                tracing::error!(%request, %prover, "ALARM: checking a proof panicked; it is not taken");
                *judge = Some(Judge::new(session.desk.models.clone()));
                worker
                    .cannot_be_proven(job.position, "the node panicked when it checked the proof".to_owned());
                return Ok(());
            }
            Err(_) => return Err(End::Stopping),
        };
        *judge = Some(own);
        match judged {
            Ok(judged) => break judged,
            Err(error) => {
                tracing::error!(request = %job.leaf.request, %error, "a proof is not checked yet; trying again");
                tokio::time::sleep(PATIENCE).await;
            }
        }
    };
    match judgement {
        (Some(Judgement::Holds), Some(output)) => {
            session.served.results.fetch_add(1, Relaxed);
            let made = Made { proof: proven.proof, key, key_bytes: proven.key, output };
            worker.proven(job.position, made, took);
            Ok(())
        }
        (Some(Judgement::Refused(why)), _) => {
            session.desk.metrics.rejected.fetch_add(1, Relaxed);
            session.desk.admission.bar(session.served.key);
            let request = job.leaf.request;
            let why = format!("its proof of request {request} is not taken ({why}); it is shut out");
            Err(End::Refused(Refusal { may_pass: false, why }))
        }
        (Some(Judgement::Impossible(why)), _) => {
            worker.cannot_be_proven(job.position, why);
            Ok(())
        }
        (Some(Judgement::Holds) | None, _) => {
            unreachable!("one judgement of one case; what holds has an output")
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(1);
