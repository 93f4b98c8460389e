//! The node's end of a session with a verifier: shows it its docket under the newest checkpoint, and enters what it rules.

use super::docketed::{Docketed, Shown};
use super::frame::Kind;
use super::listener::{End, Session};
use super::message;
use crate::proving::docket::{Docket, Fault, Ruling};
use crate::proving::events::LogView;
use crate::proving::judge::Case;
use haca_settle::Checkpoint;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Serves a verifier until it is gone.
pub(super) async fn serve(mut session: Session) -> End {
    let docket = Docket::new(Arc::clone(&session.desk.registrar), session.served.key);
    let end = match work(&mut session, docket).await {
        Ok(never) => match never {},
        Err(end) => end,
    };
    let _ = session.send.finish();
    if matches!(end, End::Done) {
        let _ = tokio::time::timeout(RETRY, session.connection.closed()).await;
    }
    end
}

async fn work(session: &mut Session, mut docket: Docket) -> Result<std::convert::Infallible, End> {
    loop {
        let (kind, payload) = session.receive().await?;
        match kind {
            Kind::Ask => {
                let checked = message::decode_ask(&payload)?;
                let docketed;
                (docket, docketed) = wait(session, docket, checked).await?;
                session.send(Kind::Judge, &docketed.encode()).await?;
            }
            Kind::Rulings => {
                let rulings = message::decode_rulings(&payload)?;
                let verdicts = rulings.iter().filter(|ruling| matches!(ruling, Ruling::Verdict(_))).count();
                docket = enter(session, docket, rulings).await?;
                session.served.results.fetch_add(verdicts as u64, Relaxed);
            }
            other => return Err(End::Unexpected(other)),
        }
    }
}

/// Waits until there is something to judge, or to be told of the log.
async fn wait(session: &Session, mut docket: Docket, checked: u64) -> Result<(Docket, Docketed), End> {
    loop {
        let registrar = Arc::clone(&session.desk.registrar);
        if let Some(checkpoint) = registrar.log.handle.latest_checkpoint() {
            let shown;
            (docket, shown) = blocking(docket, {
                let checkpoint = Arc::clone(&checkpoint);
                move |docket| look(docket, &registrar.log, &checkpoint, checked)
            })
            .await?;
            if let Some(docketed) = shown {
                return Ok((docket, docketed));
            }
        }
        if session.desk.registrar.log.is_stopping() {
            return Err(End::Stopping);
        }
        tokio::select! {
            () = tokio::time::sleep(IDLE) => {}
            error = session.connection.closed() => return Err(End::Lost(error.to_string())),
        }
    }
}

fn look(
    docket: &mut Docket,
    log: &LogView,
    checkpoint: &Checkpoint,
    checked: u64,
) -> Result<Option<Docketed>, Fault> {
    let size = checkpoint.tree_size;
    let consistency = match checked {
        0 => Vec::new(),
        checked if checked < size => log.handle.consistency(checked, size)?,
        // The same, or a log that is shorter than it was: that is for the verifier to say.
        _ => Vec::new(),
    };
    let docketed = |cases| Docketed { checkpoint: checkpoint.note.clone(), consistency, cases };
    if checked > size {
        return Ok(Some(docketed(Vec::new())));
    }
    let Some(cases) = docket.next(size)? else { return Ok(None) };
    if cases.is_empty() {
        // Nothing of these is to be judged.
        docket.enter(Vec::new())?.expect("no ruling on no case");
        return Ok(None);
    }
    let show = |case: Case| -> Result<Shown, Fault> {
        let receipt_path = log.handle.inclusion(case.proof.index, size)?;
        let proof_path = log.handle.inclusion(case.index, size)?;
        Ok(Shown { case, receipt_path, proof_path })
    };
    Ok(Some(docketed(cases.into_iter().map(show).collect::<Result<_, Fault>>()?)))
}

async fn enter(session: &Session, mut docket: Docket, rulings: Vec<Ruling>) -> Result<Docket, End> {
    loop {
        let (own, entered) = blocking(docket, {
            let rulings = rulings.clone();
            move |docket| docket.enter(rulings).map(Some)
        })
        .await?;
        docket = own;
        match entered {
            Some(entered) => {
                entered?;
                return Ok(docket);
            }
            None if session.desk.registrar.log.is_stopping() => return Err(End::Stopping),
            None => {}
        }
    }
}

/// Runs what reads and writes files on another thread. `None` after a fault, which is told, and some time.
async fn blocking<T: Send + 'static>(
    mut docket: Docket,
    run: impl FnOnce(&mut Docket) -> Result<Option<T>, Fault> + Send + 'static,
) -> Result<(Docket, Option<T>), End> {
    let run = move || {
        let done = run(&mut docket);
        (docket, done)
    };
    let (docket, done) = tokio::task::spawn_blocking(run).await.map_err(|_| End::Stopping)?;
    match done {
        Ok(done) => Ok((docket, done)),
        Err(fault) => {
            if !docket.is_stopping() {
                tracing::error!(%fault, "a verifier waits; trying again");
            }
            tokio::time::sleep(RETRY).await;
            Ok((docket, None))
        }
    }
}

const IDLE: Duration = Duration::from_millis(100);
const RETRY: Duration = Duration::from_secs(1);
