//! `haca verifier`.

use haca_control_plane::proving::apart::Verifier;
use haca_wire::sign::Role;

use super::service;

/// Judges the proofs of a node, apart from it: takes what is there as one batch, checks that the node's log holds it,
/// checks the proofs, and signs a verdict on each, which the node appends to its log. The node lets it in if its settings
/// name the verifier's key (zk.verifiers), which is made and printed at the first start, before there has to be a node.
/// Runs until it is told to stop (SIGTERM, SIGINT), or until the node's log contradicts what it signed before: that is a
/// failure. When the node is away it waits for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  haca verifier --connect connect.toml --data verifier
  haca up --data data --services 0.0.0.0:4434 --config node.toml      (the node it needs, with zk.verifiers in node.toml)")]
pub(crate) struct Args {
    #[command(flatten)]
    service: service::Args,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        self.service.run(
            Role::Verifier,
            |connect, seed, data, pool| Verifier::new(connect, seed, data, pool),
            Verifier::counts,
            async |verifier, stop| verifier.run(stop).await,
        )
    }
}
