//! `haca zk ceremony contribute`.

use std::path::PathBuf;

use anyhow::Context;

use super::{Bar, check_free, read_file, show, write_new};

/// Checks a file, multiplies secrets into it and forgets them, and writes the next. Send that on, and publish the digest of
/// your contribution: whoever checks the finished file can then tell that yours is in it. One honest contributor in each
/// phase is enough.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  haca zk ceremony contribute powers-0 -o powers-1
  haca zk ceremony contribute powers-1 -o powers-2 --entropy \"$(dd if=/dev/hwrng bs=64 count=1 | base64)\"")]
pub(crate) struct Args {
    /// The file as it was after the contribution before
    file: PathBuf,
    /// Where to write the next
    #[arg(short, long, value_name = "NEXT")]
    output: PathBuf,
    /// Is mixed with the system's random numbers. Other users of the machine may see it: do not rely on it alone
    #[arg(long, value_name = "TEXT", default_value = "")]
    entropy: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        check_free(&self.output)?;
        let mut ceremony = read_file(&self.file)?;
        ceremony
            .contribute(self.entropy.as_bytes(), &Bar::new())
            .with_context(|| self.file.display().to_string())?;
        write_new(&self.output, &ceremony.to_bytes())?;
        show(&ceremony, self.json)
    }
}
