//! From float ONNX to a fixed-point model file.
//!
//! `graph` reads the ONNX graph into a float graph without batch dimension and moves of data, `calibrate` runs it
//! in double precision on sample rows, `quantize` chooses scales and writes the fixed-point graph. Floats end here:
//! what the compiler chose is in the file, and the file alone decides what is computed.

mod array;
mod calibrate;
mod constant;
mod float;
mod fold;
mod forest;
mod graph;
mod moves;
mod onnx;
mod operators;
mod quantize;
mod recurrent;
#[cfg(test)]
mod tests;
mod trees;
mod windows;

use std::sync::Arc;

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::model::{Calibration, Dtype, Metadata, encode};
use crate::npy;
use crate::{Executor, LoadError, Model};
use calibrate::Ranges;
use float::FloatGraph;

pub use graph::SUPPORTED;

/// Larger ONNX files are refused: protobuf itself stops at 2 GiB.
const MAX_ONNX: usize = 1 << 30;

/// What share of the error 64-bit sums may leave at most, where neither width reaches [`CompileOptions::max_error`]: they
/// take about twice the time.
const WORTH: f64 = 0.5;

/// Rows executed between two reports of progress.
const BATCH: usize = 64;

/// How wide the exact sums of dense layers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accumulator {
    /// 32 bits, or 64 bits in all layers if that brings the error under [`CompileOptions::max_error`] or halves it.
    #[default]
    Auto,
    /// 32 bits: the fastest. Weights and activations are as wide as lets every sum fit.
    Narrow,
    /// 64 bits: all 16 bits of weights and activations are used.
    Wide,
}

/// What can be chosen when a model is compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct CompileOptions {
    /// Name recorded in the model; the ONNX graph's if `None`.
    pub name: Option<String>,
    /// Which graph output is served; the only float one if `None`.
    pub output: Option<String>,
    /// Whether input and output are `i16` tensors of one scale each, so that clients may send and receive `i16`.
    /// Costs accuracy at the output.
    pub i16_boundary: bool,
    /// Width of exact sums.
    pub accumulator: Accumulator,
    /// Largest error on the calibration rows, as a fraction of the output's range, that [`Accumulator::Auto`] accepts
    /// of 32-bit sums. The default leaves room below a thousandth for rows that calibration has not seen.
    pub max_error: f64,
    /// By how much the ranges seen in calibration are widened before scales are chosen: 1 is not at all.
    pub headroom: f64,
}

impl Default for CompileOptions {
    fn default() -> CompileOptions {
        CompileOptions {
            name: None,
            output: None,
            i16_boundary: false,
            accumulator: Accumulator::Auto,
            max_error: 7e-4,
            headroom: 2.0,
        }
    }
}

/// Where the compiler is, for a progress bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Rows done.
    pub done: usize,
    /// Rows to do.
    pub total: usize,
}

/// The compiler's stages in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Running the float model to find ranges.
    Calibrating,
    /// Running the compiled model to find its error.
    Comparing,
}

/// A compiled model.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The model file; its SHA-256 is the model's id.
    pub file: Vec<u8>,
    /// What was chosen and how well it fits.
    pub report: CompileReport,
}

/// The choices by layer, and the error against the float model in double precision on the calibration rows.
#[derive(Debug, Clone, PartialEq)]
pub struct CompileReport {
    /// The layers in order.
    pub layers: Vec<LayerReport>,
    /// The graph output that is served.
    pub served_output: String,
    /// Graph outputs that are not served, such as a classifier's label.
    pub dropped_outputs: Vec<String>,
    /// Calibration rows.
    pub rows: usize,
    /// Over all rows and outputs.
    pub max_error: f64,
    /// Over all rows and outputs.
    pub mean_error: f64,
    /// Largest minus smallest output of the float model.
    pub range: f64,
    /// For each element of an output row: largest error, mean error, range.
    pub outputs: Vec<OutputReport>,
}

impl CompileReport {
    /// Largest error as a fraction of the output's range; 0 if the model is exact.
    pub fn relative_error(&self) -> f64 {
        if self.max_error == 0.0 { 0.0 } else { self.max_error / self.range }
    }
}

/// Agreement of one element of the output.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct OutputReport {
    /// Largest absolute error over the rows.
    pub max_error: f64,
    /// Mean absolute error over the rows.
    pub mean_error: f64,
    /// Least value of the float model.
    pub minimum: f64,
    /// Largest value of the float model.
    pub maximum: f64,
}

/// One layer of a compiled model.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerReport {
    /// What the file says of it.
    pub layer: crate::LayerInfo,
    /// Least and largest value of the float model at its output.
    pub range: (f64, f64),
    /// Values of the calibration rows that saturated at its output, of all of them.
    pub saturations: u64,
    /// Largest absolute error at its output against the float model, all layers before it included.
    pub max_error: f64,
}

/// Why a model was not compiled.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The bytes are not an ONNX model.
    #[error("not an ONNX model: {0}")]
    NotOnnx(String),
    /// Operators that are not supported; all of them.
    #[error("unsupported operators: {}. Supported are {}", list(.0), SUPPORTED.join(", "))]
    Unsupported(Vec<UnsupportedNode>),
    /// A node uses its operator in a way that is not supported.
    #[error("node '{node}' ({operator}): {what}")]
    Node {
        /// The node.
        node: String,
        /// Its operator.
        operator: String,
        /// What is wrong or not supported.
        what: String,
    },
    /// A constant cannot be read.
    #[error("constant '{name}': {what}")]
    Constant {
        /// Name of the initializer, or of the node that holds it.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The graph as a whole is not one that is served.
    #[error("the graph: {0}")]
    Graph(String),
    /// Calibration rows of another shape, or with values that calibrate nothing.
    #[error("calibration rows: {0}")]
    Calibration(String),
    /// No scale fits the values of a layer.
    #[error("layer '{layer}': {what}")]
    Range {
        /// The layer.
        layer: String,
        /// What does not fit.
        what: String,
    },
    /// The compiled model was refused by its own loader: a layer exceeds a limit of `SPEC.md`.
    #[error("the compiled model exceeds a limit: {0}")]
    Compiled(#[from] LoadError),
}

impl ImportError {
    fn constant(name: &str, what: String) -> ImportError {
        ImportError::Constant { name: name.to_owned(), what }
    }
}

/// A node whose operator is not supported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedNode {
    /// The node's name.
    pub node: String,
    /// Its operator, with domain.
    pub operator: String,
}

fn list(nodes: &[UnsupportedNode]) -> String {
    let one = |node: &UnsupportedNode| format!("{} (node '{}')", node.operator, node.node);
    nodes.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Compiles an ONNX model, with scales fitted to the rows of `calibration` (`[rows, …]`, one row per request).
///
/// # Errors
/// [`ImportError`]: it names the node, constant or row, and what to do.
pub fn compile(
    onnx: &[u8],
    calibration: &npy::Array,
    options: &CompileOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Compiled, ImportError> {
    if onnx.len() > MAX_ONNX {
        return Err(ImportError::NotOnnx(format!("{} bytes; {MAX_ONNX} is the limit", onnx.len())));
    }
    let imported = graph::import(onnx, options.output.as_deref())?;
    calibrate::check_rows(&imported.graph, calibration)?;
    let ranges = Ranges::measure(&imported.graph, calibration, progress)?;
    let digest = Sha256::digest(onnx).into();
    let mut best: Option<Compiled> = None;
    let attempts: &[quantize::Width] = match options.accumulator {
        Accumulator::Auto => &[quantize::Width::Narrow, quantize::Width::Wide],
        Accumulator::Narrow => &[quantize::Width::Narrow],
        Accumulator::Wide => &[quantize::Width::Wide],
    };
    for &width in attempts {
        let compiled = attempt(&imported, &ranges, calibration, options, width, digest, progress)?;
        let accepted = compiled.report.relative_error() <= options.max_error;
        let is_worth = |best: &Compiled| compiled.report.max_error < best.report.max_error * WORTH;
        if accepted || best.as_ref().is_none_or(is_worth) {
            best = Some(compiled);
        }
        if accepted {
            break;
        }
    }
    Ok(best.expect("at least one width is attempted"))
}

/// Compiles at one width, and measures.
fn attempt(
    imported: &graph::Imported,
    ranges: &Ranges,
    calibration: &npy::Array,
    options: &CompileOptions,
    width: quantize::Width,
    source_digest: [u8; 32],
    progress: &mut dyn FnMut(Progress),
) -> Result<Compiled, ImportError> {
    let float = &imported.graph;
    let quantized = quantize::quantize(float, ranges, options, width)?;
    let mut metadata = Metadata {
        name: options.name.clone().unwrap_or_else(|| float.name.clone()),
        producer: float.producer.clone(),
        source_digest,
        calibration: Calibration::default(),
    };
    let model = Arc::new(Model::load(&encode(&quantized.graph, &metadata))?);
    let mut report = compare(float, &quantized, &model, calibration, progress);
    report.served_output = imported.served_output.clone();
    report.dropped_outputs = imported.dropped_outputs.clone();
    for (layer, &value) in report.layers.iter_mut().zip(&quantized.values) {
        layer.range = ranges.of(value);
    }
    metadata.calibration = Calibration {
        rows: report.rows as u32,
        max_error: report.max_error,
        mean_error: report.mean_error,
        range: report.range,
    };
    Ok(Compiled { file: encode(&quantized.graph, &metadata), report })
}

/// Runs the compiled model beside the float model.
fn compare(
    float: &FloatGraph,
    quantized: &quantize::Quantized,
    model: &Arc<Model>,
    calibration: &npy::Array,
    progress: &mut dyn FnMut(Progress),
) -> CompileReport {
    let mut executor = Executor::with_backend(Arc::clone(model), 1, crate::Backend::Scalar);
    let layer = |layer| LayerReport { layer, range: (0.0, 0.0), saturations: 0, max_error: 0.0 };
    let mut layers: Vec<LayerReport> = model.layers().map(layer).collect();
    let fresh =
        OutputReport { minimum: f64::INFINITY, maximum: f64::NEG_INFINITY, ..OutputReport::default() };
    let mut outputs = vec![fresh; model.output_len()];
    let rows = calibration.rows();
    let mut bytes = Vec::with_capacity(calibration.row_len() * 4);
    for row in 0..rows {
        if row % BATCH == 0 {
            progress(Progress { stage: Stage::Comparing, done: row, total: rows });
        }
        let values = float.run(calibration.row(row));
        bytes.clear();
        bytes.extend(calibration.row(row).iter().flat_map(|value| value.to_le_bytes()));
        executor.stage(0, Dtype::F32, &bytes).expect("rows were checked before calibration");
        executor.execute_observed(|index, tensor, produced| {
            let report = &mut layers[index];
            let exact = &values[quantized.values[index]];
            let scale = crate::spec::rounding::power_of_two(-tensor.exponent);
            for (&integer, &exact) in produced.iter().zip(exact) {
                report.max_error = report.max_error.max((integer as f64 * scale - exact).abs());
                // A value that a fused Relu or Clip bounds lies on its bound in floats too.
                let beyond =
                    |bound: i64, sign: f64| integer == bound && sign * (exact / scale - bound as f64) > 0.5;
                report.saturations += u64::from(beyond(tensor.minimum, -1.0) || beyond(tensor.maximum, 1.0));
            }
        });
        let scale = model.output_scale();
        for ((report, &integer), &exact) in
            outputs.iter_mut().zip(executor.output_fixed(0)).zip(&values[float.output])
        {
            let error = (integer as f64 * scale - exact).abs();
            report.max_error = report.max_error.max(error);
            report.mean_error += error / rows as f64;
            report.minimum = report.minimum.min(exact);
            report.maximum = report.maximum.max(exact);
        }
    }
    progress(Progress { stage: Stage::Comparing, done: rows, total: rows });
    let minimum = outputs.iter().map(|output| output.minimum).fold(f64::INFINITY, f64::min);
    let maximum = outputs.iter().map(|output| output.maximum).fold(f64::NEG_INFINITY, f64::max);
    CompileReport {
        layers,
        served_output: String::new(),
        dropped_outputs: Vec::new(),
        rows,
        max_error: outputs.iter().map(|output| output.max_error).fold(0.0, f64::max),
        mean_error: outputs.iter().map(|output| output.mean_error).sum::<f64>() / outputs.len() as f64,
        range: maximum - minimum,
        outputs,
    }
}
