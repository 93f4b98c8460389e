//! `haca model`: one file for each of its commands.

mod compile;
mod inspect;
mod list;
pub(super) mod push;
mod run;

/// What can be done with a model.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Compile an ONNX model to fixed point
    Compile(compile::Args),
    /// Show what a compiled model is made of
    Inspect(inspect::Args),
    /// Run a compiled model on the rows of an array, with no server
    Run(run::Args),
    /// Have a running node serve a compiled model
    Push(push::Args),
    /// Show what a running node serves
    List(list::Args),
}

impl Command {
    /// Does it.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Command::Compile(args) => args.run(),
            Command::Inspect(args) => args.run(),
            Command::Run(args) => args.run(),
            Command::Push(args) => args.run(),
            Command::List(args) => args.run(),
        }
    }
}
