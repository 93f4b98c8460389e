//! The command line: one file for each command.
//!
//! Exit codes: 0 done; 1 failed, and standard error names the file or address, the cause and the remedy; 2 usage.

mod demo;
mod infer;
mod model;
mod output;
mod progress;
mod prover;
mod read;
mod service;
mod session;
mod up;
mod verifier;
mod verify;
mod zk;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Answers inference requests over QUIC in microseconds, each with a receipt that anyone can check later.
#[derive(Debug, Parser)]
#[command(name = "haca", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  haca model compile model.onnx --calibrate rows.npy -o model.haca
  haca model run model.haca --input rows.npy -o answers.npy
  haca verify receipts/ --connect-keys data/connect.toml --strict

Exit codes: 0 done, 1 failed (standard error says what, why and what to do), 2 usage.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole main path in one process and check all of it
    Demo(demo::Args),
    /// Serve models from a data directory
    Up(up::Args),
    /// Prove what a node on another machine, or in another process, has answered
    Prover(prover::Args),
    /// Judge the proofs of a node on another machine, or in another process
    Verifier(verifier::Args),
    /// Compile, look at and run models
    #[command(subcommand)]
    Model(model::Command),
    /// Ask a running node, a request for each row of an array
    Infer(infer::Args),
    /// Check receipts offline
    Verify(verify::Args),
    /// Proofs of what a model answered
    #[command(subcommand)]
    Zk(zk::Command),
}

/// Runs the command that the arguments name.
pub(crate) fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Demo(args) => args.run(),
        Command::Up(args) => args.run(),
        Command::Prover(args) => args.run(),
        Command::Verifier(args) => args.run(),
        Command::Model(command) => command.run(),
        Command::Infer(args) => args.run(),
        Command::Verify(args) => args.run(),
        Command::Zk(command) => command.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("haca: {}", output::describe(&error));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        fn check(command: &clap::Command) {
            if command.get_subcommands().next().is_none() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example"), "haca {} has no example", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
