//! `haca verifier`: judges the proofs of a node elsewhere, and signs what it finds.
//!
//! It believes of the node what it can check: that the checkpoint is the log's and extends every one that it has seen,
//! that the log holds the receipt and the proof, and that the model is the receipt's. It keeps models and the last
//! checkpoint; where it has come to, the node knows.

use super::counts::Counts;
use super::docketed::{Docketed, Shown};
use super::frame::Kind;
use super::link::{Link, LinkError, Node, Stop};
use super::message;
use crate::proving::docket::Ruling;
use crate::proving::judge::{Case, Judge};
use crate::proving::verifier::rule;
use crate::proving::workbench::{Models, WorkbenchError};
use haca_settle::write_whole;
use haca_verifier::{LogKey, TreeHead};
use haca_wire::ModelId;
use haca_wire::connect::Connect;
use haca_wire::event::VerifierKey;
use haca_wire::sign::Role;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// A verifier that runs apart from its node.
pub struct Verifier {
    node: Node,
    bench: Bench,
}

struct Bench {
    key: Arc<VerifierKey>,
    log: LogKey,
    judge: Option<Judge>,
    pool: Arc<rayon::ThreadPool>,
    models: Models,
    /// The last checkpoint that was checked, and where it is kept.
    head: Option<TreeHead>,
    file: PathBuf,
}

impl Verifier {
    /// A verifier with this secret, that keeps what it needs in `data`.
    ///
    /// # Errors
    /// If the node takes no services, or what was kept does not read.
    pub fn new(
        connect: Connect,
        seed: &[u8; 32],
        data: &Path,
        pool: rayon::ThreadPool,
    ) -> Result<Self, LinkError> {
        let log = LogKey::parse(&connect.log_key)
            .map_err(|error| haca_client::ClientError::LogKey(error.to_string()))?;
        let models = Models::new(data.join("models"));
        let node = Node::new(connect, Role::Verifier, seed)?;
        let file = data.join("checkpoint");
        let head = match std::fs::read_to_string(&file) {
            Ok(note) => Some(log.verify(&note).map_err(|error| LinkError::Contradiction {
                address: node.address,
                reason: format!(
                    "{}: the checkpoint that was kept is not of the log that connect.toml names ({error}); give this \
                     verifier another data directory for another log",
                    file.display()
                ),
            })?),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(source) => return Err(LinkError::Disk(WorkbenchError::Io { path: file, source })),
        };
        let (key, judge) = (Arc::new(VerifierKey::from_seed(seed)), Some(Judge::new(models.clone())));
        Ok(Self { node, bench: Bench { key, log, judge, pool: Arc::new(pool), models, head, file } })
    }

    /// What it counts.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.node.counts)
    }

    /// Judges until it is told to stop; the batch that is being judged is handed in.
    ///
    /// # Errors
    /// What trying again does not mend: also a log that contradicts itself.
    pub async fn run(self, mut stop: Stop) -> Result<(), LinkError> {
        let Self { node, mut bench } = self;
        node.serve(&mut stop, &mut bench, async |link, bench, stop| bench.serve(link, stop).await).await
    }
}

impl Bench {
    async fn serve(&mut self, link: &mut Link, stop: &mut Stop) -> Result<(), LinkError> {
        while let Some(given) = link.ask(self.checked(), stop).await? {
            let docketed = match given {
                (Kind::Judge, payload) => link.read(Docketed::decode(&payload))?,
                (other, _) => return Err(link.unexpected(other)),
            };
            let head = self.follow(link, &docketed)?;
            let begun = Instant::now();
            let rulings = self.judge(link, docketed.cases, head).await?;
            link.counts.worked(begun.elapsed());
            link.send(Kind::Rulings, &message::encode_rulings(&rulings)).await?;
            let verdicts = rulings.iter().filter(|ruling| matches!(ruling, Ruling::Verdict(_))).count();
            link.counts.results.fetch_add(verdicts as u64, Relaxed);
            link.counts.declined.fetch_add((rulings.len() - verdicts) as u64, Relaxed);
        }
        Ok(())
    }

    /// Up to what size the log was checked.
    fn checked(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.size)
    }

    /// Checks that the log has only grown, and keeps its checkpoint.
    fn follow(&mut self, link: &Link, docketed: &Docketed) -> Result<TreeHead, LinkError> {
        let address = link.address;
        let keep = |file: &Path| {
            let written = write_whole(file, docketed.checkpoint.as_bytes());
            written.map_err(|source| LinkError::Disk(WorkbenchError::Io { path: file.to_owned(), source }))
        };
        let head = docketed.head(&self.log, self.head.as_ref()).map_err(|reason| {
            let other = self.file.with_extension("other");
            // Two notes that the log signed and that cannot both be true: whoever has both can show it.
            let kept = match keep(&other) {
                Ok(()) => format!("; what it says now is in {}", other.display()),
                Err(error) => format!("; what it says now cannot be kept: {error}"),
            };
            LinkError::Contradiction { address, reason: reason + &kept }
        })?;
        if self.head.as_ref() != Some(&head) {
            keep(&self.file)?;
            self.head = Some(head.clone());
        }
        Ok(head)
    }

    async fn judge(
        &mut self,
        link: &mut Link,
        shown: Vec<Shown>,
        head: TreeHead,
    ) -> Result<Vec<Ruling>, LinkError> {
        let held = |model: &ModelId| self.judge.as_ref().is_some_and(|judge| judge.holds(model));
        let models = shown.iter().map(|shown| shown.case.leaf.model);
        let models: BTreeSet<ModelId> = models.filter(|model| !held(model)).collect();
        for model in models {
            // Of its proofs, nothing can be said; of the others, something can.
            if let Err(why) = link.fetch(&self.models, &model).await? {
                tracing::error!(%model, why, "proofs of a model cannot be judged");
            }
        }
        let mut judge = self.judge.take().expect("it is put back below");
        let (pool, key) = (Arc::clone(&self.pool), Arc::clone(&self.key));
        let judged = tokio::task::spawn_blocking(move || {
            let rulings = pool.install(|| ruled(&mut judge, &key, shown, &head));
            (judge, rulings)
        });
        let (judge, rulings) = judged.await.expect("judging does not panic");
        self.judge = Some(judge);
        rulings.map_err(LinkError::Disk)
    }
}

/// Judges what the log holds; of the rest it says that the log does not.
fn ruled(
    judge: &mut Judge,
    key: &VerifierKey,
    shown: Vec<Shown>,
    head: &TreeHead,
) -> Result<Vec<Ruling>, WorkbenchError> {
    let checked: Vec<Result<(), String>> = shown.iter().map(|shown| shown.check(head)).collect();
    let held = shown.iter().zip(&checked).filter(|(_, checked)| checked.is_ok());
    let cases: Vec<Case> = held.map(|(shown, _)| shown.case.clone()).collect();
    let judgements = judge.judge(&cases)?;
    let mut rulings = rule(key, &cases, judgements).into_iter();
    let rule = |(shown, checked): (&Shown, Result<(), String>)| match checked {
        Ok(()) => rulings.next().expect("a ruling on each case"),
        Err(why) => {
            tracing::error!(request = %shown.case.leaf.request, why, "ALARM: the node shows what does not fit its log");
            Ruling::None(why)
        }
    };
    let rulings: Vec<Ruling> = shown.iter().zip(checked).map(rule).collect();
    tracing::info!(proofs = rulings.len(), "judged");
    Ok(rulings)
}
