//! `haca zk ceremony verify`.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use haca_verifier::zk::ProvingKey;
use haca_verifier::zk::cache::KeyCache;
use haca_verifier::zk::ceremony::{Ceremony, Phase2};

use super::{Bar, as_json, as_text, check_free, read_circuit, read_file, read_powers, write_new};
use crate::cli::output;

/// Checks every contribution of a file, and that its points follow from them. With the model and the file of phase 1 it
/// recomputes the points that phase 2 began with: then the key is the model's. Without, it says so.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  haca zk ceremony verify powers-2
  haca zk ceremony verify mlp-finished --model mlp.haca --powers powers-finished --key mlp.vk --keys data/keys")]
pub(crate) struct Args {
    /// The file, at any stage
    file: PathBuf,
    /// The compiled model, for phase 2
    #[arg(long, value_name = "MODEL.haca", requires = "powers")]
    model: Option<PathBuf>,
    /// The finished file of phase 1, for phase 2
    #[arg(long, value_name = "FILE", requires = "model")]
    powers: Option<PathBuf>,
    /// Where to write the finished verification key
    #[arg(long, value_name = "OUT", requires = "model")]
    key: Option<PathBuf>,
    /// The folder of proving keys to keep the finished key in
    #[arg(long, value_name = "FOLDER", requires = "model")]
    keys: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if let Some(path) = &self.key {
            check_free(path)?;
        }
        let ceremony = read_file(&self.file)?;
        let key = match (&self.model, &self.powers) {
            (Some(model), Some(powers)) => {
                let Ceremony::Phase2(phase2) = &ceremony else {
                    bail!("{}: it is of phase 1, which no model belongs to", self.file.display());
                };
                check_model(phase2, model, powers).with_context(|| self.file.display().to_string())?;
                if phase2.is_finished() { Some(phase2.key()?) } else { None }
            }
            _ => None,
        };
        if let Some(key) = &key {
            self.keep(key)?;
        } else {
            let wanted = self.key.is_some() || self.keys.is_some();
            ensure!(!wanted, "{}: the ceremony is not finished, so there is no key", self.file.display());
        }
        self.show(&ceremony, key.as_ref())
    }

    fn keep(&self, key: &ProvingKey) -> anyhow::Result<()> {
        if let Some(path) = &self.key {
            write_new(path, &key.verifying_key().to_bytes())?;
        }
        if let Some(folder) = &self.keys {
            KeyCache::new(folder).keep(key)?;
        }
        Ok(())
    }

    fn show(&self, ceremony: &Ceremony, key: Option<&ProvingKey>) -> anyhow::Result<()> {
        let checked_model = self.model.is_some();
        let id = key.map(|key| key.verifying_key().id().to_string());
        if self.json {
            let mut value = as_json(ceremony);
            value["model_checked"] = checked_model.into();
            value["key"] = id.into();
            return output::print_json(&value);
        }
        let verdict = match (ceremony, id) {
            (Ceremony::Powers(_), _) => {
                "every contribution holds, and the powers follow from them".to_owned()
            }
            (Ceremony::Phase2(_), Some(id)) => format!("everything holds from the model to the key {id}"),
            (Ceremony::Phase2(_), None) if checked_model => {
                "every contribution holds, and the points that it began with are the model's".to_owned()
            }
            (Ceremony::Phase2(_), None) => {
                "every contribution holds; that it began with the model's points was not \
                                            checked: give --model and --powers"
                    .to_owned()
            }
        };
        output::print(&format!("{}\n{verdict}\n", as_text(ceremony)))
    }
}

fn check_model(phase2: &Phase2, model: &std::path::Path, powers: &std::path::Path) -> anyhow::Result<()> {
    let circuit = read_circuit(model, phase2.statement())?;
    let powers = read_powers(powers)?;
    let (system, model) = (circuit.system(), circuit.model().id());
    phase2.check_initial(system, model, circuit.statement(), &powers, &Bar::new())?;
    Ok(())
}
