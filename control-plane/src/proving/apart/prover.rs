//! `haca prover`: proves what a node elsewhere has answered.
//!
//! It keeps models, circuits' keys and its own key; what it was doing when it was killed, the node gives to another, or
//! again. A proof that could not be handed in is handed in when the same request comes again.

use super::counts::Counts;
use super::frame::Kind;
use super::link::{Link, LinkError, Node, Stop};
use super::message::{self, Proven};
use crate::proving::attempt::{self, Made, Unprovable};
use crate::proving::queue::{Announced, Job};
use crate::proving::workbench::{Models, Workbench};
use haca_settle::OpeningPosition;
use haca_wire::Digest;
use haca_wire::connect::Connect;
use haca_wire::sign::Role;
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
    /// The last proof, by its leaf's hash, in case it did not arrive.
    made: Option<(Digest, Made)>,
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
        let bench = Bench { workbench: Some(workbench), pool: Arc::new(pool), models, made: None };
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
        let (position, request, hash) = (job.position, job.leaf.request, job.leaf.hash());
        if self.made.as_ref().is_none_or(|(of, _)| *of != hash) {
            if let Err(why) = link.fetch(&self.models, &job.leaf.model).await? {
                tracing::error!(%request, why, "cannot be proven");
                return decline(link, position, &why).await;
            }
            let begun = Instant::now();
            let made = self
                .blocking(move |workbench, pool| attempt::prove(workbench, pool, &job.leaf, &job.opening));
            match made.await {
                Ok(made) => {
                    link.counts.worked(begun.elapsed());
                    tracing::info!(%request, seconds = begun.elapsed().as_secs_f64(), "proven");
                    self.made = Some((hash, made));
                }
                Err(Unprovable::Bench(error)) if error.may_pass() => return Err(LinkError::Disk(error)),
                Err(reason) => {
                    tracing::error!(%request, %reason, "cannot be proven");
                    return decline(link, position, &reason.to_caller()).await;
                }
            }
        }
        let Some((_, made)) = &self.made else { return Ok(()) };
        let proven = Proven { position, proof: made.proof, key: made.key_bytes.clone() };
        link.send(Kind::Proven, &proven.encode()).await?;
        link.counts.results.fetch_add(1, Relaxed);
        Ok(())
    }

    async fn make_ready(&mut self, link: &mut Link, announced: Announced) -> Result<(), LinkError> {
        let model = announced.model;
        if let Err(why) = link.fetch(&self.models, &model).await? {
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
