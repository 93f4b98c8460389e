//! `haca zk ceremony finish`.

use std::path::PathBuf;

use anyhow::Context;
use haca_verifier::zk::ceremony::Beacon;

use super::{Bar, check_free, hexadecimal, read_file, show, write_new};

/// Checks a file and closes its phase with a contribution whose secrets are computed from a public value. Announce before the
/// last contribution which value it will be, and let it be one that nobody can know then, as the hash of a block that is
/// still to come.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  haca zk ceremony finish powers-3 --beacon 5f1c…9e --iterations-log2 24 -o powers-finished")]
pub(crate) struct Args {
    /// The file as it was after the last contribution
    file: PathBuf,
    /// The public value: 16 to 64 bytes
    #[arg(long, value_name = "HEX")]
    beacon: String,
    /// Binary logarithm of the number of times the value is hashed
    #[arg(long, value_name = "N", default_value_t = 20)]
    iterations_log2: u8,
    /// Where to write the finished file
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        check_free(&self.output)?;
        let value = hexadecimal(&self.beacon).context("--beacon")?;
        let beacon = Beacon::new(&value, self.iterations_log2)?;
        let mut ceremony = read_file(&self.file)?;
        ceremony.finish(beacon, &Bar::new()).with_context(|| self.file.display().to_string())?;
        write_new(&self.output, &ceremony.to_bytes())?;
        show(&ceremony, self.json)
    }
}
