//! `haca model list`.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::output;
use crate::cli::session::Session;

/// Shows what a running node serves.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  haca model list --connect data/connect.toml")]
pub(crate) struct Args {
    /// The node's connect.toml
    #[arg(long, value_name = "DIR/connect.toml")]
    connect: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let session = Session::open(&self.connect)?;
        let models = session.call(session.client.models())?;
        let (address, node) = (session.address, session.client.welcome().node);
        drop(session);
        if self.json {
            let models: Vec<_> = (models.iter())
                .map(|model| {
                    json!({
                        "name": model.name,
                        "id": model.id,
                        "input_shape": model.input_shape.dims(),
                        "output_shape": model.output_shape.dims(),
                        "accepts_i16": model.accepts_i16,
                        "max_batch": model.max_batch,
                        "zk_refused": model.zk_refused,
                        "sealed_refused": model.sealed_refused,
                    })
                })
                .collect();
            return output::print_json(&json!({ "address": address, "node": node, "models": models }));
        }
        let mut table = output::table(["model", "id", "takes", "input", "output", "largest batch", "zk"], 3);
        for model in &models {
            table.add_row([
                model.name.clone(),
                model.id.to_string(),
                if model.accepts_i16 { "f32, i16" } else { "f32" }.to_owned(),
                model.input_shape.to_string(),
                model.output_shape.to_string(),
                model.max_batch.to_string(),
                match (&model.zk_refused, &model.sealed_refused) {
                    (None, None) => "yes",
                    (None, Some(_)) => "not sealed",
                    (Some(_), _) => "no",
                }
                .to_owned(),
            ]);
        }
        let none = if models.is_empty() { "no models; push one with `haca model push`\n" } else { "" };
        output::print(&format!("{}{none}", output::lines(&table)))
    }
}
