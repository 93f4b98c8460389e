//! `haca prover`: proves what a node elsewhere has answered.
//!
//! It keeps models, circuits' keys and its own key; what it was doing when it was killed, the node gives to another, or
//! again. Proofs that could not be handed in are handed in when the same requests come again.

use super::counts::Counts;
use super::frame::Kind;
use super::link::{Link, LinkError, Node, Stop};
use super::message::{self, Proven};
use crate::proving::attempt::{self, Made, Unprovable};
use crate::proving::queue::{Announced, Job};
use crate::proving::workbench::{Models, Workbench};
use haca_settle::OpeningPosition;
use haca_verifier::zk::StatementKind;
use haca_wire::connect::Connect;
use haca_wire::event::PROOF_LEN;
use haca_wire::sign::Role;
use haca_wire::{Digest, ModelId};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// A prover that runs apart from its node.
pub struct Prover {
    node: Node,
    bench: Bench,
}

struct Bench {
    workbench: Option<Workbench>,
    pool: Arc<rayon::ThreadPool>,
    models: Models,
    made: LastMade,
}

/// What is handed in of a proof: itself, and the bytes of its verification key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    proof: [u8; PROOF_LEN],
    key: Vec<u8>,
}

/// The last proofs, the newest in front, by their leaves' hashes. One that did not arrive, or came after the node had given
/// up waiting for it, need not be made again.
#[derive(Default)]
struct LastMade(VecDeque<(Digest, Kept)>);

impl LastMade {
    /// Most of each is its verification key, which has a point for every public input.
    const MAX: usize = 64;

    fn of(&self, leaf: &Digest) -> Option<&Kept> {
        self.0.iter().find(|(of, _)| of == leaf).map(|(_, kept)| kept)
    }

    fn keep(&mut self, leaf: Digest, kept: Kept) {
        self.0.truncate(Self::MAX - 1);
        self.0.push_front((leaf, kept));
    }
}

impl Prover {
    /// A prover with this secret, that keeps what it needs in `data`.
    ///
    /// # Errors
    /// If the node takes no services.
    pub fn new(
        connect: Connect,
        seed: &[u8; 32],
        data: &Path,
        pool: rayon::ThreadPool,
    ) -> Result<Self, LinkError> {
        let models = Models::new(data.join("models"));
        // The node knows what it gives out.
        let workbench = Workbench::new(models.clone(), &data.join("keys"), usize::MAX);
        let node = Node::new(connect, Role::Prover, seed)?;
        let bench =
            Bench { workbench: Some(workbench), pool: Arc::new(pool), models, made: LastMade::default() };
        Ok(Self { node, bench })
    }

    /// What it counts.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.node.counts)
    }

    /// Proves until it is told to stop; the proof that is being made is handed in.
    ///
    /// # Errors
    /// What trying again does not mend.
    pub async fn run(self, mut stop: Stop) -> Result<(), LinkError> {
        let Self { node, mut bench } = self;
        node.serve(&mut stop, &mut bench, async |link, bench, stop| bench.serve(link, stop).await).await
    }
}

impl Bench {
    async fn serve(&mut self, link: &mut Link, stop: &mut Stop) -> Result<(), LinkError> {
        while let Some(given) = link.ask(0, stop).await? {
            match given {
                (Kind::Prove, payload) => {
                    let job = link.read(message::decode_job(&payload))?;
                    self.prove(link, job).await?;
                }
                (Kind::MakeReady, payload) => {
                    let announced = link.read(message::decode_announced(&payload))?;
                    self.make_ready(link, announced).await?;
                }
                (other, _) => return Err(link.unexpected(other)),
            }
        }
        Ok(())
    }

    async fn prove(&mut self, link: &mut Link, job: Job) -> Result<(), LinkError> {
        let (position, hash) = (job.position, job.leaf.hash());
        let Kept { proof, key } = match self.made.of(&hash) {
            Some(kept) => kept.clone(),
            None => match self.make(link, job).await? {
                Ok(kept) => kept,
                Err(why) => return decline(link, position, &why).await,
            },
        };
        let proven = Proven { position, proof, key };
        link.send(Kind::Proven, &proven.encode()).await?;
        link.counts.results.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Makes a proof and keeps it. The inner error is what the node is told.
    async fn make(&mut self, link: &mut Link, job: Job) -> Result<Result<Kept, String>, LinkError> {
        let (request, model, hash) = (job.leaf.request, job.leaf.model, job.leaf.hash());
        if let Err(why) = self.fetch(link, &model, StatementKind::of(&job.leaf)).await? {
            tracing::error!(%request, why, "cannot be proven");
            return Ok(Err(why));
        }
        let begun = Instant::now();
        let made =
            self.blocking(move |workbench, pool| attempt::prove(workbench, pool, &job.leaf, &job.opening));
        match made.await {
            Ok(Made { proof, key_bytes, .. }) => {
                link.counts.worked(begun.elapsed());
                tracing::info!(%request, seconds = begun.elapsed().as_secs_f64(), "proven");
                let kept = Kept { proof, key: key_bytes };
                self.made.keep(hash, kept.clone());
                Ok(Ok(kept))
            }
            Err(Unprovable::Bench(error)) if error.may_pass() => Err(LinkError::Disk(error)),
            Err(reason) => {
                tracing::error!(%request, %reason, "cannot be proven");
                Ok(Err(reason.to_caller()))
            }
        }
    }

    /// Sees to it that a model can be proven: one that is in memory needs no file.
    async fn fetch(
        &mut self,
        link: &mut Link,
        model: &ModelId,
        statement: StatementKind,
    ) -> Result<Result<(), String>, LinkError> {
        let bench = self.workbench.as_ref();
        match bench.is_some_and(|bench| bench.holds(model, statement)) {
            true => Ok(Ok(())),
            false => link.fetch(&self.models, model).await,
        }
    }

    async fn make_ready(&mut self, link: &mut Link, announced: Announced) -> Result<(), LinkError> {
        let model = announced.model;
        if let Err(why) = self.fetch(link, &model, StatementKind::Open).await? {
            tracing::error!(%model, why, "cannot be proven");
            return Ok(());
        }
        self.blocking(move |workbench, pool| attempt::make_ready(workbench, pool, announced)).await;
        Ok(())
    }

    /// Computes on another thread, so that the connection is kept alive meanwhile.
    async fn blocking<T: Send + 'static>(
        &mut self,
        compute: impl FnOnce(&mut Workbench, &rayon::ThreadPool) -> T + Send + 'static,
    ) -> T {
        let mut workbench = self.workbench.take().expect("it is put back below");
        let pool = Arc::clone(&self.pool);
        let computed = tokio::task::spawn_blocking(move || {
            let computed = compute(&mut workbench, &pool);
            (workbench, computed)
        });
        let (workbench, computed) = computed.await.expect("what proves catches its panics");
        self.workbench = Some(workbench);
        computed
    }
}

/// Says that a request cannot be proven here, so that it goes to the others.
async fn decline(link: &mut Link, position: OpeningPosition, why: &str) -> Result<(), LinkError> {
    link.counts.declined.fetch_add(1, Relaxed);
    link.send(Kind::Unprovable, &message::encode_unprovable(position, why)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_proofs_are_kept_and_the_oldest_goes_first() {
        let leaf = |number: usize| Digest([number as u8; 32]);
        let mut last = LastMade::default();
        for number in 0..=LastMade::MAX {
            let kept = Kept { proof: [number as u8; PROOF_LEN], key: Vec::new() };
            last.keep(leaf(number), kept);
        }
        assert_eq!(last.of(&leaf(0)), None);
        assert!((1..=LastMade::MAX).all(|number| last.of(&leaf(number)).unwrap().proof[0] == number as u8));
    }
}
