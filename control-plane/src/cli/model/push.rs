//! `haca model push`.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use haca_wire::Digest;
use haca_wire::sign::OperatorKey;
use serde_json::json;

use crate::cli::session::Session;
use crate::cli::{output, progress, read};

/// Has a running node serve a compiled model, at once and without dropping a connection. A model that had the name
/// loses it. Needs the operator's key: the file operator.key beside connect.toml.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  haca model push mlp.haca --name mlp --connect data/connect.toml")]
pub(crate) struct Args {
    /// The compiled model
    #[arg(value_name = "OUT.haca")]
    model: PathBuf,
    /// The name to serve it under
    #[arg(long)]
    name: String,
    /// The node's connect.toml
    #[arg(long, value_name = "DIR/connect.toml")]
    connect: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let file = read::bytes(&self.model)?;
        let operator = operator_key(&self.connect.with_file_name("operator.key"))?;
        let session = Session::open(&self.connect)?;
        let bar = progress::bar(file.len() as u64, "pushing");
        let pushed = session.client.push_model(&self.name, &file, &operator, |sent| bar.set_position(sent));
        let pushed = session.call(pushed);
        bar.finish_and_clear();
        let entry = pushed.with_context(|| self.model.display().to_string())?;
        let address = session.address;
        drop(session);
        if self.json {
            return output::print_json(&json!({
                "address": address,
                "name": entry.name,
                "id": entry.id,
                "zk_refused": entry.zk_refused,
                "sealed_refused": entry.sealed_refused,
            }));
        }
        let zk = match (&entry.zk_refused, &entry.sealed_refused) {
            (Some(why), _) => format!("not in mode zk: {why}\n"),
            (None, Some(why)) => format!("in mode zk not with sealed inputs: {why}\n"),
            (None, None) => String::new(),
        };
        output::print(&format!(
            "{address} serves {} ({}) as {}\n{zk}",
            self.model.display(),
            entry.id,
            entry.name
        ))
    }
}

/// The key with which the operator permits a push. What the file holds is never shown.
pub(crate) fn operator_key(path: &Path) -> anyhow::Result<OperatorKey> {
    let remedy = "`haca up` writes the operator's key into its data directory, beside connect.toml; only who can \
                  read it may push models";
    let text = std::fs::read_to_string(path).with_context(|| format!("{}: {remedy}", path.display()))?;
    let seed: Digest = (text.trim().parse()).map_err(|_| {
        anyhow!("{}: not an operator's key, which is 64 hexadecimal digits; {remedy}", path.display())
    })?;
    Ok(OperatorKey::from_seed(&seed.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_key_is_refused_without_being_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("operator.key");
        let absent = format!("{:#}", operator_key(&path).err().unwrap());
        assert!(absent.contains("operator.key") && absent.contains("No such file"), "{absent}");
        std::fs::write(&path, "5ec2e7\n").unwrap();
        let short = format!("{:#}", operator_key(&path).err().unwrap());
        assert!(short.contains("64 hexadecimal digits") && !short.contains("5ec2e7"), "{short}");
        std::fs::write(&path, format!("{}\n", "07".repeat(32))).unwrap();
        assert_eq!(operator_key(&path).unwrap().public(), OperatorKey::from_seed(&[7; 32]).public());
    }
}
