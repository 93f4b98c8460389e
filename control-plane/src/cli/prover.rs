//! `haca prover`.

use haca_control_plane::proving::apart::Prover;
use haca_wire::sign::Role;

use super::service;

/// Proves what a node has answered in mode zk, apart from it: takes openings from the node, one at a time, and gives proofs
/// back. The node lets it in if its settings name the prover's key (zk.provers), which is made and printed at the first
/// start, before there has to be a node. Runs until it is told to stop (SIGTERM, SIGINT), and hands in the proof that it is
/// making; a second signal ends it at once. When the node is away it waits for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  haca prover --connect connect.toml --data prover
  haca prover --connect connect.toml --data prover --threads 8
  haca up --data data --services 0.0.0.0:4434 --config node.toml      (the node it needs, with zk.provers in node.toml)")]
pub(crate) struct Args {
    #[command(flatten)]
    service: service::Args,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        self.service.run(
            Role::Prover,
            |connect, seed, data, pool| Prover::new(connect, seed, data, pool),
            Prover::counts,
            async |prover, stop| prover.run(stop).await,
        )
    }
}
