//! `haca zk`: one file for each of its commands.

mod ceremony;
mod export;
mod inspect;

/// What can be done about proofs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write a receipt's proof for other tools
    Export(export::Args),
    /// Show what a proof of a compiled model costs
    Inspect(inspect::Args),
    /// Make the key of a model with many parties, none of whom need be trusted alone
    #[command(subcommand)]
    Ceremony(ceremony::Command),
}

impl Command {
    /// Does it.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Command::Export(args) => args.run(),
            Command::Inspect(args) => args.run(),
            Command::Ceremony(command) => command.run(),
        }
    }
}
