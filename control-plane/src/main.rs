//! `haca`: everything a person types.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
