//! `haca model compile`.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use haca_kernels::import::{self, Accumulator, CompileOptions, CompileReport, Compiled, RangeMethod, Stage};
use haca_kernels::{LoadError, Model};
use haca_wire::ModelId;
use serde_json::json;

use crate::cli::{output, progress, read};

/// Compiles a float ONNX model once to a fixed-point model that gives the same bits everywhere. Scales are fitted to
/// the calibration rows, which should look like the rows that will be asked.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  haca model compile mlp.onnx --calibrate rows.npy -o mlp.haca
  haca model compile lstm.onnx --calibrate rows.npy --max-error 5e-4 -o lstm.haca")]
pub(crate) struct Args {
    /// The ONNX model
    #[arg(value_name = "IN.onnx")]
    onnx: PathBuf,
    /// Rows to fit scales to: float32, of shape [rows, …]
    #[arg(long, value_name = "X.npy")]
    calibrate: PathBuf,
    /// Where to write the compiled model
    #[arg(short, long, value_name = "OUT.haca")]
    output: PathBuf,
    /// Name recorded in the model [default: the ONNX graph's]
    #[arg(long)]
    name: Option<String>,
    /// Which output of the graph to serve [default: the only float one]
    #[arg(long, value_name = "NAME")]
    serve_output: Option<String>,
    /// Let clients send and receive i16; costs accuracy at the output
    #[arg(long)]
    i16_boundary: bool,
    /// Width of the exact sums in dense layers
    #[arg(long, value_enum, default_value_t)]
    accumulator: AccumulatorWidth,
    /// How the ranges of tensors between input and output are taken from the rows
    #[arg(long, value_enum, default_value_t)]
    calibration: Ranges,
    /// Percent of the magnitudes that a range keeps with `--calibration percentile`
    #[arg(long, value_name = "PERCENT", default_value_t = 99.99, value_parser = percent)]
    percentile: f64,
    /// Largest error that is accepted, as a share of the output's range: a fifth of the rows is held back to measure it,
    /// and layers get wider sums until it is reached
    #[arg(long, value_name = "SHARE", value_parser = share)]
    max_error: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// [`RangeMethod`] as it is typed.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Ranges {
    /// From the least to the largest value
    #[default]
    MinMax,
    /// What --percentile keeps
    Percentile,
    /// Least mean square error of rounding and saturation together
    Mse,
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok().filter(|percent| *percent > 0.0 && *percent <= 100.0);
    percent.ok_or_else(|| "a number above 0, at most 100".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "a share of the output's range, above 0 and at most 1".to_owned())
}

/// [`Accumulator`] as it is typed.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum AccumulatorWidth {
    /// 32 bits, or 64 where the error would be too large
    #[default]
    Auto,
    /// 32 bits: the fastest
    Narrow,
    /// 64 bits: the most accurate
    Wide,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let onnx = read::bytes(&self.onnx)?;
        let calibration = read::array(&self.calibrate)?;
        let options = CompileOptions {
            name: self.name,
            output: self.serve_output,
            i16_boundary: self.i16_boundary,
            accumulator: match self.accumulator {
                AccumulatorWidth::Auto => Accumulator::Auto,
                AccumulatorWidth::Narrow => Accumulator::Narrow,
                AccumulatorWidth::Wide => Accumulator::Wide,
            },
            ranges: match self.calibration {
                Ranges::MinMax => RangeMethod::MinMax,
                Ranges::Percentile => RangeMethod::Percentile(self.percentile),
                Ranges::Mse => RangeMethod::MeanSquare,
            },
            max_error: self.max_error,
            ..CompileOptions::default()
        };
        let bar = progress::bar(calibration.rows() as u64, "calibrating");
        let compiled = import::compile(&onnx, &calibration, &options, &mut |progress| {
            bar.set_message(match progress.stage {
                Stage::Calibrating => "calibrating",
                Stage::Comparing => "comparing",
            });
            bar.set_length(progress.total as u64);
            bar.set_position(progress.done as u64);
        });
        bar.finish_and_clear();
        let Compiled { file, report } = compiled.map_err(|error| {
            // What is wrong is in one of two files; the compiler says which by its kind of error.
            let path = match error {
                import::ImportError::Calibration(_) => self.calibrate.display(),
                _ => self.onnx.display(),
            };
            match error {
                import::ImportError::NotOnnx(_) => {
                    anyhow!("{path}: {error}; give the file that torch.onnx.export or skl2onnx wrote")
                }
                error => anyhow::Error::new(error).context(path.to_string()),
            }
        })?;
        let id = Model::load(&file).map(|model| ModelId(model.id()));
        let id = id.map_err(|error: LoadError| anyhow::Error::new(error).context("the compiled model"))?;
        write_whole(&self.output, &file)?;
        if self.json {
            return output::print_json(&as_json(&self.output, id, file.len(), &report));
        }
        output::print(&as_text(&self.output, id, file.len(), &report))
    }
}

/// Writes the file whole or not at all: a reader never sees half a model.
fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    std::fs::write(&draft, bytes)
        .and_then(|()| std::fs::rename(&draft, path))
        .inspect_err(|_| drop(std::fs::remove_file(&draft)))
        .with_context(|| format!("{}: the compiled model cannot be written there", path.display()))
}

fn as_text(path: &Path, id: ModelId, bytes: usize, report: &CompileReport) -> String {
    let mut table = output::table(
        [
            "layer",
            "operator",
            "from",
            "output",
            "weights",
            "sums",
            "scale",
            "range",
            "saturated",
            "largest error",
        ],
        4,
    );
    for layer in &report.layers {
        let info = &layer.layer;
        table.add_row([
            info.name.clone(),
            info.operator.to_owned(),
            info.source.clone(),
            format!("{} {}", info.output_element, output::shape(&info.output_shape)),
            if info.weight_bits == 0 {
                "-".to_owned()
            } else {
                format!("{} × i{}", info.parameters, info.weight_bits)
            },
            format!("{} bit", info.accumulator_bits),
            format!("2^{}", -info.output_exponent),
            format!("{:.4} to {:.4}", layer.range.0, layer.range.1),
            layer.saturations.to_string(),
            format!("{:.3e}", layer.max_error),
        ]);
    }
    let mut text = format!("{}  {}\nid  {id}\n\n", path.display(), output::bytes(bytes));
    text += &output::lines(&table);
    text += &outputs(report);
    text += &format!(
        "\nerror against float on {} {} rows: largest {:.3e}, mean {:.3e}; {:.4} % of the output's range of {:.4}\n",
        report.rows,
        if report.held_back > 0 { "held-back" } else { "calibration" },
        report.max_error,
        report.mean_error,
        100.0 * report.relative_error(),
        report.range,
    );
    if !report.dropped_outputs.is_empty() {
        let dropped = report.dropped_outputs.join(", ");
        text += &format!("served is the output {}; not served: {dropped}\n", report.served_output);
    }
    text
}

/// Elements of the output that the text shows; JSON has all.
const SHOWN: usize = 16;

/// Agreement with the float model by element of the output.
fn outputs(report: &CompileReport) -> String {
    let mut table = output::table(["output", "range", "largest error", "mean error", "correlation"], 1);
    for (index, element) in report.outputs.iter().enumerate().take(SHOWN) {
        table.add_row([
            format!("{index}"),
            format!("{:.4} to {:.4}", element.minimum, element.maximum),
            format!("{:.3e}", element.max_error),
            format!("{:.3e}", element.mean_error),
            element.correlation.map_or("-".to_owned(), |correlation| format!("{correlation:.9}")),
        ]);
    }
    let rest = report.outputs.len().saturating_sub(SHOWN);
    let more = if rest > 0 { format!("and {rest} more, in the JSON\n") } else { String::new() };
    format!("\n{}{more}", output::lines(&table))
}

fn as_json(path: &Path, id: ModelId, bytes: usize, report: &CompileReport) -> serde_json::Value {
    let layers: Vec<_> = (report.layers.iter())
        .map(|layer| {
            let mut value = super::inspect::layer_as_json(&layer.layer);
            value["range"] = json!(layer.range);
            value["saturations"] = json!(layer.saturations);
            value["max_error"] = json!(layer.max_error);
            value
        })
        .collect();
    json!({
        "file": path,
        "id": id,
        "bytes": bytes,
        "served_output": report.served_output,
        "dropped_outputs": report.dropped_outputs,
        "outputs": report.outputs.iter().map(|element| json!({
            "minimum": element.minimum,
            "maximum": element.maximum,
            "max_error": element.max_error,
            "mean_error": element.mean_error,
            "correlation": element.correlation,
        })).collect::<Vec<_>>(),
        "calibration": {
            "rows": report.rows,
            "held_back": report.held_back,
            "max_error": report.max_error,
            "mean_error": report.mean_error,
            "range": report.range,
            "relative_error": report.relative_error(),
        },
        "layers": layers,
    })
}
