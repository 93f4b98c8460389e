//! `haca zk`: one file for each of its commands.

mod inspect;

/// What can be done about proofs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show what a proof of a compiled model costs
    Inspect(inspect::Args),
}

impl Command {
    /// Does it.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Command::Inspect(args) => args.run(),
        }
    }
}
