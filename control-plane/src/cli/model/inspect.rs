//! `haca model inspect`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use haca_kernels::{BufferInfo, Dtype, LayerInfo, Model, Stream, StreamError, StreamKind, StreamPart};
use haca_wire::{Digest, ModelId};
use serde_json::json;

use crate::cli::{output, read};

/// Shows a compiled model: its id, what it takes and gives, its error on the calibration rows, its layers, and where in
/// memory they work. The file is checked as a server checks it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  haca model inspect mlp.haca")]
pub(crate) struct Args {
    /// The compiled model
    #[arg(value_name = "OUT.haca")]
    model: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let model = read::model(&self.model)?;
        if self.json { output::print_json(&as_json(&model)) } else { output::print(&as_text(&model)) }
    }
}

fn as_text(model: &Model) -> String {
    let calibration = model.calibration();
    let types = if model.accepts(Dtype::I16) { "f32 or i16" } else { "f32" };
    let mut facts = output::table(["", ""], 2);
    facts.add_row(["name", model.name()]);
    facts.add_row(["id", &ModelId(model.id()).to_string()]);
    facts.add_row([
        "compiled from",
        &format!("{} (SHA-256 {})", model.producer(), Digest(model.source_digest())),
    ]);
    facts.add_row(["input", &format!("{types} {}", output::shape(model.input_shape()))]);
    facts.add_row(["output", &format!("{types} {}", output::shape(model.output_shape()))]);
    facts.add_row([
        "memory",
        &format!(
            "{} and {} for each row of a batch",
            output::bytes(model.memory_bytes()),
            output::bytes(model.scratch_bytes_per_row())
        ),
    ]);
    let stream = model.stream();
    facts.add_row(["streams", &streams(&stream)]);
    facts.add_row([
        "error",
        &format!(
            "against float on {} calibration rows: largest {:.3e}, mean {:.3e}, of a range of {:.4}",
            calibration.rows, calibration.max_error, calibration.mean_error, calibration.range
        ),
    ]);
    let mut layers = output::table(
        [
            "layer",
            "operator",
            "from",
            "input",
            "output",
            "weights",
            "weight scales",
            "sums",
            "output scale",
            "output range",
            "a step takes",
        ],
        5,
    );
    let parts = parts(&stream);
    for (layer, part) in model.layers().zip(parts.chain(std::iter::repeat("-"))) {
        let inputs: Vec<String> = layer.input_shapes.iter().map(|dims| output::shape(dims)).collect();
        layers.add_row([
            layer.name.clone(),
            layer.operator.to_owned(),
            layer.source.clone(),
            inputs.join(" + "),
            format!("{} {}", layer.output_element, output::shape(&layer.output_shape)),
            match layer.trees {
                Some((trees, depth)) => format!("{trees} trees, depth {depth}"),
                None if layer.weight_bits == 0 => "-".to_owned(),
                None => format!("{} × i{}", layer.parameters, layer.weight_bits),
            },
            match layer.weight_exponents {
                None => "-".to_owned(),
                Some((low, high)) if low == high => format!("2^{}", -low),
                Some((low, high)) => format!("2^{} to 2^{}", -high, -low),
            },
            format!("{} bit", layer.accumulator_bits),
            format!("2^{}", -layer.output_exponent),
            format!("{:.4} to {:.4}", layer.output_range.0, layer.output_range.1),
            part.to_owned(),
        ]);
    }
    // The facts need no header; the table library prints an empty one.
    let facts: String = output::lines(&facts).lines().skip(1).map(|line| format!("{line}\n")).collect();
    format!("{facts}\n{}\n{}", output::lines(&layers), memory_plan(model))
}

/// The buffers, and how large their arenas are.
fn memory_plan(model: &Model) -> String {
    let mut table = output::table(["buffer", "arena", "at", "bytes a row"], 2);
    let mut arenas: BTreeMap<&str, usize> = BTreeMap::new();
    let mut sum = 0;
    for BufferInfo { tensor, element, offset, bytes } in model.buffers() {
        table.add_row([tensor, element.to_owned(), offset.to_string(), bytes.to_string()]);
        let size = arenas.entry(element).or_default();
        *size = (*size).max(offset + bytes);
        sum += bytes;
    }
    let all: usize = arenas.values().sum();
    let arenas: Vec<String> =
        arenas.iter().map(|(element, size)| format!("{element} {}", output::bytes(*size))).collect();
    format!(
        "{}\narenas for each row of a batch: {}; {} in all, {} without reuse\n",
        output::lines(&table),
        arenas.join(", "),
        output::bytes(all),
        output::bytes(sum),
    )
}

/// What a stream of the model keeps, or why there is none.
fn streams(stream: &Result<Stream, StreamError>) -> String {
    match stream {
        Ok(stream) => format!(
            "{}; a step is {}; {} of state for each stream, and {} more for the form of one step",
            match stream.kind() {
                StreamKind::Recurrent => "of recurrent states".to_owned(),
                StreamKind::Window => format!("of a sliding window of {} steps", stream.window()),
            },
            output::shape(stream.step_shape()),
            output::bytes(stream.state_bytes()),
            output::bytes(stream.memory_bytes())
        ),
        Err(error) => format!("none: {error}"),
    }
}

/// What a step of a stream computes of each layer.
fn parts(stream: &Result<Stream, StreamError>) -> impl Iterator<Item = &'static str> {
    let parts = stream.iter().flat_map(Stream::parts);
    parts.map(|part| match part {
        StreamPart::Step => "the step",
        StreamPart::Window => "the window",
    })
}

fn as_json(model: &Model) -> serde_json::Value {
    let calibration = model.calibration();
    let stream = match &model.stream() {
        Ok(stream) => json!({
            "kind": match stream.kind() {
                StreamKind::Recurrent => "recurrent",
                StreamKind::Window => "window",
            },
            "step_shape": stream.step_shape(),
            "window": stream.window(),
            "state_bytes": stream.state_bytes(),
            "memory_bytes": stream.memory_bytes(),
            "layers": stream.parts().iter().map(|part| match part {
                StreamPart::Step => "step",
                StreamPart::Window => "window",
            }).collect::<Vec<_>>(),
        }),
        Err(error) => json!({ "refused": error.to_string() }),
    };
    json!({
        "name": model.name(),
        "id": ModelId(model.id()),
        "producer": model.producer(),
        "source_digest": Digest(model.source_digest()),
        "input_shape": model.input_shape(),
        "output_shape": model.output_shape(),
        "accepts_i16": model.accepts(Dtype::I16),
        "memory_bytes": model.memory_bytes(),
        "scratch_bytes_per_row": model.scratch_bytes_per_row(),
        "stream": stream,
        "calibration": {
            "rows": calibration.rows,
            "max_error": calibration.max_error,
            "mean_error": calibration.mean_error,
            "range": calibration.range,
        },
        "buffers": model.buffers().map(|buffer| json!({
            "tensor": buffer.tensor,
            "arena": buffer.element,
            "offset_per_row": buffer.offset,
            "bytes_per_row": buffer.bytes,
        })).collect::<Vec<_>>(),
        "layers": model.layers().map(|layer| layer_as_json(&layer)).collect::<Vec<_>>(),
    })
}

/// What a layer is, as programs read it.
pub(super) fn layer_as_json(layer: &LayerInfo) -> serde_json::Value {
    json!({
        "name": layer.name,
        "operator": layer.operator,
        "source": layer.source,
        "input_shapes": layer.input_shapes,
        "output_shape": layer.output_shape,
        "output_element": layer.output_element,
        "weight_bits": layer.weight_bits,
        "parameters": layer.parameters,
        "weight_exponents": layer.weight_exponents,
        "input_exponent": layer.input_exponent,
        "output_exponent": layer.output_exponent,
        "output_range": layer.output_range,
        "accumulator_bits": layer.accumulator_bits,
        "trees": layer.trees.map(|(count, depth)| json!({ "count": count, "depth": depth })),
    })
}
