//! From float ONNX to a fixed-point model file.
//!
//! `graph` reads the ONNX graph into a float graph without batch dimension and moves of data, `calibrate` runs it
//! in double precision on sample rows, `quantize` chooses scales and writes the fixed-point graph. Floats end here:
//! what the compiler chose is in the file, and the file alone decides what is computed.

mod array;
mod attention;
mod calibrate;
mod compare;
mod constant;
mod features;
mod float;
mod fold;
mod forest;
mod graph;
mod histogram;
mod loops;
mod moves;
mod onnx;
mod operators;
mod quantize;
mod recurrent;
mod search;
#[cfg(test)]
mod tests;
mod trees;
mod windows;

use std::sync::Arc;

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::model::{Calibration, Metadata, encode};
use crate::npy;
use crate::{LoadError, Model};
use calibrate::Ranges;
use quantize::{Width, Widths};

pub use graph::SUPPORTED;

/// Larger ONNX files are refused: protobuf itself stops at 2 GiB.
const MAX_ONNX: usize = 1 << 30;

/// Largest error on the calibration rows, as a fraction of the output's range, that [`Accumulator::Auto`] accepts of 32-bit
/// sums where no limit is given: it leaves room below a thousandth for rows that calibration has not seen.
const ACCEPTED: f64 = 7e-4;

/// What share of the error 64-bit sums may leave at most, where neither width reaches [`ACCEPTED`]: they
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

/// How the range of a tensor, between input and output, is taken from what it holds on the calibration rows. What exceeds
/// it, widened by [`CompileOptions::headroom`], saturates.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum RangeMethod {
    /// From the least to the largest.
    #[default]
    MinMax,
    /// As much as so many percent of the magnitudes need.
    Percentile(f64),
    /// As much as makes the mean square of rounding and saturation together least.
    MeanSquare,
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
    /// How ranges are taken from the calibration rows.
    pub ranges: RangeMethod,
    /// Largest error that is accepted, as a fraction of the output's range. A fifth of the calibration rows is then held
    /// back to measure it on, and widths are raised layer by layer until it is reached.
    pub max_error: Option<f64>,
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
            ranges: RangeMethod::MinMax,
            max_error: None,
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
    /// Rows that the errors are of: all calibration rows, or those held back.
    pub rows: usize,
    /// Rows held back from the choice of scales: none without [`CompileOptions::max_error`].
    pub held_back: usize,
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
    /// Correlation of the compiled model's values with the float model's; `None` if either is constant.
    pub correlation: Option<f64>,
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
    /// The limit on the error is not reached at any width.
    #[error(
        "the error on the rows held back is {reached:.1e} of the output's range, {limit:.1e} is the limit; layer \
         '{layer}' is in the way: it adds {of_range:.1e} of its own range"
    )]
    MaxError {
        /// The limit.
        limit: f64,
        /// The least that was reached.
        reached: f64,
        /// The layer that adds the most to the error.
        layer: String,
        /// How much of its own range it adds.
        of_range: f64,
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
    let mut imported = graph::import(onnx, options.output.as_deref())?;
    calibrate::check_rows(&imported.graph, calibration)?;
    let divided = options.max_error.map(|_| calibrate::divide(calibration)).transpose()?;
    let (fitted, compared) = divided.as_ref().map_or((calibration, calibration), |(a, b)| (a, b));
    let mut ranges = Ranges::measure(&imported.graph, fitted, options, progress)?;
    if attention::masks::split(&mut imported.graph, &ranges, options.headroom)? {
        fold::fold(&mut imported.graph);
        ranges = Ranges::measure(&imported.graph, fitted, options, progress)?;
    }
    attention::masks::refuse_others(&imported.graph, &ranges)?;
    let compiler = Compiler {
        ranges,
        imported,
        compared,
        held_back: divided.as_ref().map_or(0, |(_, held)| held.rows()),
        options,
        source_digest: Sha256::digest(onnx).into(),
    };
    match options.max_error {
        Some(limit) => search::under(limit, &compiler, progress),
        None => compiler.same_width(progress),
    }
}

/// Everything that compiling at any widths needs.
struct Compiler<'a> {
    imported: graph::Imported,
    ranges: Ranges,
    /// Rows to measure the error on.
    compared: &'a npy::Array,
    held_back: usize,
    options: &'a CompileOptions,
    source_digest: [u8; 32],
}

/// What came of some widths.
struct Attempt {
    compiled: Compiled,
    /// For each layer, those that make its inputs.
    producers: Vec<Vec<usize>>,
}

impl Attempt {
    fn error(&self) -> f64 {
        self.compiled.report.relative_error()
    }
}

impl Compiler<'_> {
    /// Compiles with 32-bit sums in all layers, or with 64-bit sums in all if they are worth it.
    fn same_width(&self, progress: &mut dyn FnMut(Progress)) -> Result<Compiled, ImportError> {
        let attempts: &[Width] = match self.options.accumulator {
            Accumulator::Auto => &[Width::Narrow, Width::Wide],
            Accumulator::Narrow => &[Width::Narrow],
            Accumulator::Wide => &[Width::Wide],
        };
        let mut best: Option<Compiled> = None;
        for &width in attempts {
            let compiled = self.attempt(&Widths::all(&self.imported.graph, width), progress)?.compiled;
            let accepted = compiled.report.relative_error() <= ACCEPTED;
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

    /// Compiles at these widths, and measures.
    fn attempt(&self, widths: &Widths, progress: &mut dyn FnMut(Progress)) -> Result<Attempt, ImportError> {
        let float = &self.imported.graph;
        let quantized = quantize::quantize(float, &self.ranges, self.options, widths)?;
        let mut metadata = Metadata {
            name: self.options.name.clone().unwrap_or_else(|| float.name.clone()),
            producer: float.producer.clone(),
            source_digest: self.source_digest,
            calibration: Calibration::default(),
        };
        let model = Arc::new(Model::load(&encode(&quantized.graph, &metadata))?);
        let mut report = compare::compare(float, &quantized, &model, self.compared, progress);
        report.held_back = self.held_back;
        report.served_output = self.imported.served_output.clone();
        report.dropped_outputs = self.imported.dropped_outputs.clone();
        for (layer, &value) in report.layers.iter_mut().zip(&quantized.values) {
            layer.range = self.ranges.of(value);
        }
        metadata.calibration = Calibration {
            rows: report.rows as u32,
            max_error: report.max_error,
            mean_error: report.mean_error,
            range: report.range,
        };
        let nodes = &quantized.graph.nodes;
        let producer = |&input: &usize| nodes.iter().position(|node| node.output == input);
        let producers = nodes.iter().map(|node| node.inputs.iter().filter_map(producer).collect()).collect();
        Ok(Attempt { compiled: Compiled { file: encode(&quantized.graph, &metadata), report }, producers })
    }
}
