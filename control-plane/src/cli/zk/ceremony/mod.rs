//! `haca zk ceremony`: one file for each of its commands.

mod contribute;
mod finish;
mod new;
mod verify;

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use haca_verifier::zk::ceremony::{Ceremony, Powers, Watch};
use haca_verifier::zk::{Circuit, StatementKind};
use haca_wire::ModelId;
use indicatif::ProgressBar;
use serde_json::json;

use crate::cli::{output, progress, read};

/// The steps of a ceremony, each from file to file.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Begin a phase: powers of tau for all models, or the key of one
    New(new::Args),
    /// Multiply secrets into a file
    Contribute(contribute::Args),
    /// Check a file with all contributions, and recompute from the model what it began with
    Verify(verify::Args),
    /// Close a phase with public randomness
    Finish(finish::Args),
}

impl Command {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Command::New(args) => args.run(),
            Command::Contribute(args) => args.run(),
            Command::Verify(args) => args.run(),
            Command::Finish(args) => args.run(),
        }
    }
}

/// A bar that shows the step at hand.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Bar {
        Bar(progress::bar(0, ""))
    }
}

impl Watch for Bar {
    fn begin(&self, step: &'static str, points: usize) {
        self.0.reset();
        self.0.set_length(points as u64);
        self.0.set_message(step);
    }

    fn advance(&self, points: usize) {
        self.0.inc(points as u64);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A file of either phase, checked.
fn read_file(path: &Path) -> anyhow::Result<Ceremony> {
    Ceremony::read(&read::bytes(path)?, &Bar::new()).with_context(|| path.display().to_string())
}

/// A file of phase 1, checked.
fn read_powers(path: &Path) -> anyhow::Result<Powers> {
    Powers::read(&read::bytes(path)?, &Bar::new()).with_context(|| path.display().to_string())
}

/// The circuit of a compiled model for statements of this kind.
fn read_circuit(path: &Path, statement: StatementKind) -> anyhow::Result<Circuit> {
    let model = read::model(path)?;
    Circuit::new(Arc::clone(&model), statement).with_context(|| format!("{} has no circuit", path.display()))
}

/// Refuses a name that is taken, before anything long is begun: every stage of a ceremony is worth keeping.
fn check_free(path: &Path) -> anyhow::Result<()> {
    ensure!(!path.exists(), "{}: there is such a file; give another name", path.display());
    Ok(())
}

/// Writes a file that there is not yet: all of it or none.
fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let write = || {
        // Made to be sent around: as readable as the user's other files.
        let readable = Permissions::from_mode(0o666);
        let mut file = tempfile::Builder::new().permissions(readable).tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path).map_err(|error| error.error)?;
        Ok::<_, std::io::Error>(())
    };
    write().with_context(|| path.display().to_string())
}

/// Bytes from hexadecimal digits.
fn hexadecimal(text: &str) -> anyhow::Result<Vec<u8>> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        bail!("not pairs of hexadecimal digits");
    }
    let pairs = digits.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair)?;
        ensure!(!pair.starts_with('+'), "not pairs of hexadecimal digits");
        Ok(u8::from_str_radix(pair, 16)?)
    });
    pairs.collect()
}

fn hexadecimal_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a file is, and its contributions.
fn as_text(ceremony: &Ceremony) -> String {
    let mut facts = output::table(["", ""], 2);
    match ceremony {
        Ceremony::Powers(powers) => {
            facts.add_row(["phase", "1, powers of tau"]);
            facts.add_row(["constraints", &format!("up to 2^{}", powers.log())]);
        }
        Ceremony::Phase2(phase2) => {
            facts.add_row(["phase", "2, the key of a model"]);
            facts.add_row(["model", &ModelId(phase2.model()).to_string()]);
            facts.add_row(["statement", phase2.statement().as_str()]);
            facts.add_row(["phase 1", &phase2.powers().to_string()]);
        }
    }
    facts.add_row(["state", if ceremony.is_finished() { "finished" } else { "open" }]);
    facts.add_row(["transcript", &ceremony.digest().to_string()]);
    let mut rows = output::table(["contribution", "digest", "beacon"], 3);
    for (index, record) in ceremony.records().into_iter().enumerate() {
        let beacon = record.beacon.map_or_else(String::new, |beacon| {
            format!("{}, hashed 2^{} times", hexadecimal_of(beacon.value()), beacon.log())
        });
        rows.add_row([(index + 1).to_string(), record.digest.to_string(), beacon]);
    }
    format!("{}\n\n{}", output::lines(&facts), output::lines(&rows))
}

fn as_json(ceremony: &Ceremony) -> serde_json::Value {
    let records: Vec<_> = ceremony
        .records()
        .into_iter()
        .map(|record| {
            let beacon = record.beacon.map(
                |beacon| json!({"value": hexadecimal_of(beacon.value()), "iterations_log2": beacon.log()}),
            );
            json!({"digest": record.digest.to_string(), "beacon": beacon})
        })
        .collect();
    let mut value = json!({
        "finished": ceremony.is_finished(),
        "transcript": ceremony.digest().to_string(),
        "contributions": records,
    });
    match ceremony {
        Ceremony::Powers(powers) => {
            value["phase"] = 1.into();
            value["powers"] = powers.log().into();
        }
        Ceremony::Phase2(phase2) => {
            value["phase"] = 2.into();
            value["model"] = ModelId(phase2.model()).to_string().into();
            value["statement"] = phase2.statement().as_str().into();
            value["phase_1"] = phase2.powers().to_string().into();
        }
    }
    value
}

/// Prints what a file is after a step.
fn show(ceremony: &Ceremony, json: bool) -> anyhow::Result<()> {
    if json { output::print_json(&as_json(ceremony)) } else { output::print(&as_text(ceremony)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_bytes_and_anything_else_is_refused() {
        assert_eq!(hexadecimal("0x00ff1A").unwrap(), [0, 255, 26]);
        assert_eq!(hexadecimal("").unwrap(), Vec::<u8>::new());
        for text in ["0", "0g", "+1", "é1", "0x0"] {
            assert!(hexadecimal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_that_is_there_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write_new(&path, b"one").unwrap();
        assert!(check_free(&path).is_err());
        assert!(write_new(&path, b"two").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
    }
}
