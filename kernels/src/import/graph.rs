//! From ONNX nodes to the float graph.
//!
//! Only what the served output needs is read. The batch dimension is the first of the input, and is removed; moves of
//! data are folded into each other, and disappear where elements keep their order.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::constant::Constant;
use super::float::{FloatGraph, Operation, Step, Value};
use super::onnx::{Dimension, GraphProto, ModelProto, NodeProto, TypeProto, data_type};
use super::operators::{FOLDED, SPELLED};
use super::{ImportError, UnsupportedNode, attention, fold, loops};

/// Operators that are imported, by name; those of other domains than ONNX's own carry it.
pub const SUPPORTED: &[&str] = &[
    "Abs",
    "Add",
    "ArgMax",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "Div",
    "Dropout",
    "Expand",
    "Flatten",
    "GRU",
    "Gather",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "LSTM",
    "LayerNormalization",
    "LeakyRelu",
    "MatMul",
    "Max",
    "MaxPool",
    "Min",
    "Mul",
    "Neg",
    "PRelu",
    "Pad",
    "Pow",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Split",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Transpose",
    "Unsqueeze",
    "Where",
    "ai.onnx.ml.ArrayFeatureExtractor",
    "ai.onnx.ml.LinearClassifier",
    "ai.onnx.ml.LinearRegressor",
    "ai.onnx.ml.Normalizer",
    "ai.onnx.ml.Scaler",
    "ai.onnx.ml.TreeEnsembleClassifier",
    "ai.onnx.ml.TreeEnsembleRegressor",
    "ai.onnx.ml.ZipMap",
];

/// Opsets of ONNX's own domain whose operators mean what this importer reads.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=24;
const MAX_NODES: usize = 1 << 12;
const MAX_ROW: u64 = 1 << 20;
/// Elements in a row of all values together: what the compiled model may have, and what bounds memory here.
const MAX_ROWS_TOTAL: usize = 1 << 23;

/// A float graph, and which of the ONNX graph's outputs it computes.
#[derive(Debug)]
pub(crate) struct Imported {
    pub(crate) graph: FloatGraph,
    pub(crate) served_output: String,
    pub(crate) dropped_outputs: Vec<String>,
}

/// In the place of the batch's dimension: it is part of another one.
pub(super) const MERGED: usize = usize::MAX;

/// In the place of the output that a step makes, where a later step makes the node's.
pub(super) const NO_OUTPUT: usize = usize::MAX;

/// What a name stands for.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    Constant(Constant),
    Value(Value),
}

pub(crate) fn import(onnx: &[u8], output: Option<&str>) -> Result<Imported, ImportError> {
    let mut model = ModelProto::decode(onnx).map_err(|error| ImportError::NotOnnx(error.to_string()))?;
    if let Some(graph) = &mut model.graph {
        let nodes = count_nodes(graph);
        if nodes > MAX_NODES {
            return Err(ImportError::Graph(format!("{nodes} nodes; {MAX_NODES} is the limit")));
        }
        attention::patterns::recognise(graph);
        loops::recognise(graph);
    }
    let graph = model.graph.as_ref().ok_or_else(|| ImportError::NotOnnx("it has no graph".into()))?;
    let mut opset = *OPSETS.end();
    for import in &model.opset_import {
        let version = import.version.unwrap_or(0);
        if !matches!(import.domain.as_deref(), None | Some("" | "ai.onnx")) {
            continue;
        }
        opset = version;
        if !OPSETS.contains(&version) {
            let what = format!("opset {version} is not in {OPSETS:?}; export the model with another one");
            return Err(ImportError::Graph(what));
        }
    }
    let (served, dropped) = choose_output(graph, output)?;
    let live = live_nodes(graph, &served)?;
    loops::refuse_others(&live)?;
    let unsupported = unsupported(graph, &live);
    if !unsupported.is_empty() {
        return Err(ImportError::Unsupported(unsupported));
    }
    let producer =
        [&model.producer_name, &model.producer_version].map(|text| text.as_deref().unwrap_or_default());
    let mut reader = Reader {
        opset,
        known: HashMap::new(),
        elements: 0,
        folded: 0,
        batch_axes: Vec::new(),
        read: live.iter().flat_map(|node| node.input.iter().cloned()).chain([served.clone()]).collect(),
        graph: FloatGraph {
            name: graph.name.clone().unwrap_or_default(),
            producer: producer.join(" ").trim().to_owned(),
            shapes: Vec::new(),
            steps: Vec::new(),
            output: 0,
        },
    };
    reader.declare(graph)?;
    for node in live {
        reader.read(node)?;
    }
    let Some(Known::Value(value)) = reader.known.get(&served) else {
        return Err(ImportError::Graph(format!("output '{served}' does not depend on the input")));
    };
    let value = *value;
    reader.graph.output = value;
    if reader.batch_axis(value) != 0 {
        let what = format!("the batch is not the first dimension of output '{served}'");
        return Err(ImportError::Graph(what));
    }
    if value == 0 {
        reader.serve_input(&served);
    }
    let all_seen = attention::normal::recognise(&mut reader.graph);
    attention::normal::refuse_others(&reader.graph, all_seen)?;
    fold::fold(&mut reader.graph);
    Ok(Imported { graph: reader.graph, served_output: served, dropped_outputs: dropped })
}

/// With those in the bodies of loops.
fn count_nodes(graph: &GraphProto) -> usize {
    let bodies = |node: &NodeProto| {
        let graphs = node.attribute.iter().filter_map(|attribute| attribute.g.as_deref());
        graphs.map(count_nodes).sum::<usize>()
    };
    graph.node.iter().map(|node| 1 + bodies(node)).sum()
}

fn element_type(value: Option<&TypeProto>) -> Option<i32> {
    value?.tensor_type.as_ref()?.elem_type
}

pub(crate) fn is_float(element: i32) -> bool {
    [data_type::FLOAT, data_type::DOUBLE, data_type::FLOAT16, data_type::BFLOAT16].contains(&element)
}

/// The output that is served: the one asked for, or else the only one of floats. What a ZipMap makes counts, because it
/// only names the columns of a tensor.
fn choose_output(graph: &GraphProto, wanted: Option<&str>) -> Result<(String, Vec<String>), ImportError> {
    let names: Vec<&str> = graph.output.iter().filter_map(|output| output.name.as_deref()).collect();
    let zipped = |name: &str| {
        let makes = |node: &&NodeProto| node.output.first().is_some_and(|output| output == name);
        graph.node.iter().find(makes).is_some_and(|node| node.operator() == "ai.onnx.ml.ZipMap")
    };
    let of = |accepted: &dyn Fn(&str, i32) -> bool| -> Vec<&str> {
        let outputs = graph.output.iter();
        let named = outputs
            .filter_map(|output| Some((output.name.as_deref()?, element_type(output.r#type.as_ref()))));
        named
            .filter(|(name, element)| element.map_or(zipped(name), |element| accepted(name, element)))
            .map(|(name, _)| name)
            .collect()
    };
    let mut candidates = of(&|name, element| is_float(element) || zipped(name));
    if candidates.is_empty() {
        // An index, if there is nothing else.
        candidates = of(&|_, element| element == data_type::INT64);
    }
    let served = match (wanted, &candidates[..]) {
        (Some(wanted), _) if names.contains(&wanted) => wanted,
        (Some(wanted), _) => {
            return Err(ImportError::Graph(format!(
                "it has no output '{wanted}'; it has {}",
                names.join(", ")
            )));
        }
        (None, &[only]) => only,
        (None, []) => {
            return Err(ImportError::Graph(format!("no output is of floats: {}", names.join(", "))));
        }
        (None, several) => {
            return Err(ImportError::Graph(format!("several outputs; choose one of {}", several.join(", "))));
        }
    };
    let dropped = names.iter().filter(|&&name| name != served).map(|&name| name.to_owned()).collect();
    Ok((served.to_owned(), dropped))
}

/// The nodes whose operators are not supported: of those that serve constants alone, the ones that read computed values.
fn unsupported(graph: &GraphProto, live: &[&NodeProto]) -> Vec<UnsupportedNode> {
    let initializers = graph.initializer.iter().filter_map(|tensor| tensor.name.as_deref());
    let mut constants: HashSet<&str> = initializers.collect();
    // What is missing is said later, by its name.
    constants.insert("");
    let mut unsupported = Vec::new();
    for node in live {
        let operator = node.operator();
        let is_constant = matches!(&operator[..], "Constant" | "Shape")
            || node.input.iter().all(|name| constants.contains(name.as_str()));
        if is_constant {
            constants.extend(node.output.iter().map(String::as_str));
        }
        let folds = is_constant && FOLDED.contains(&&operator[..]);
        if !folds && !SPELLED.contains(&&operator[..]) && !SUPPORTED.contains(&&operator[..]) {
            unsupported.push(UnsupportedNode { node: node.label().into(), operator });
        }
    }
    unsupported
}

/// The nodes that the output depends on, in the file's order.
fn live_nodes<'a>(graph: &'a GraphProto, output: &str) -> Result<Vec<&'a NodeProto>, ImportError> {
    let mut producers = HashMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            if producers.insert(name.as_str(), index).is_some() {
                return Err(ImportError::Graph(format!("'{name}' is computed twice")));
            }
        }
    }
    let mut live = HashSet::new();
    let mut wanted = vec![output];
    while let Some(name) = wanted.pop() {
        if let Some(&index) = producers.get(name)
            && live.insert(index)
        {
            wanted.extend(graph.node[index].input.iter().map(String::as_str));
        }
    }
    Ok(graph
        .node
        .iter()
        .enumerate()
        .filter(|(index, _)| live.contains(index))
        .map(|(_, node)| node)
        .collect())
}

/// The state of reading: what each name stands for, and the steps so far.
pub(crate) struct Reader {
    /// Version of ONNX's own operators.
    pub(super) opset: i64,
    known: HashMap<String, Known>,
    pub(crate) graph: FloatGraph,
    /// Elements in a row of all values so far.
    elements: usize,
    /// Elements of all constants that were computed.
    pub(super) folded: usize,
    /// Where the batch dimension of each value stands in ONNX's shape: a value has its row's dimensions, and this one.
    batch_axes: Vec<usize>,
    /// Names that a node reads, or that are served.
    read: HashSet<String>,
}

pub(crate) fn refuse<T>(node: &NodeProto, what: impl Into<String>) -> Result<T, ImportError> {
    Err(ImportError::Node { node: node.label().into(), operator: node.operator(), what: what.into() })
}

impl Reader {
    /// Takes initializers and the one input.
    fn declare(&mut self, graph: &GraphProto) -> Result<(), ImportError> {
        for tensor in &graph.initializer {
            let name = tensor.name.clone().unwrap_or_default();
            // Only those that are used matter, but a damaged one is a damaged file. Strings are labels: not read.
            if tensor.data_type == Some(data_type::STRING) {
                continue;
            }
            let constant = Constant::from_proto(tensor, &name)?;
            self.known.insert(name, Known::Constant(constant));
        }
        let name_of = |name: &Option<String>| name.clone().unwrap_or_default();
        let mut inputs: Vec<_> =
            graph.input.iter().filter(|input| !self.known.contains_key(&name_of(&input.name))).collect();
        if inputs.len() > 1 {
            // What the served output does not need is not asked for.
            inputs.retain(|input| self.read.contains(&name_of(&input.name)));
        }
        let [input] = inputs[..] else {
            let names: Vec<_> = inputs.iter().map(|input| name_of(&input.name)).collect();
            let mut what = format!("it has {} inputs ({}); one is served", names.len(), names.join(", "));
            if let Some(state) = initial_state(graph, &names) {
                what += &format!(
                    "; '{state}' is an initial state: export the model without it, so that it starts from zero or from \
                     constants; a stream keeps the states from step to step itself"
                );
            }
            return Err(ImportError::Graph(what));
        };
        let name = name_of(&input.name);
        let element = element_type(input.r#type.as_ref());
        if element != Some(data_type::FLOAT) {
            let what =
                format!("input '{name}' is not a tensor of float32; export the model with float32 inputs");
            return Err(ImportError::Graph(what));
        }
        let shape = input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref()?.shape.as_ref());
        let dimensions = shape.map_or(&[][..], |shape| &shape.dim);
        let [batch, row @ ..] = dimensions else {
            return Err(ImportError::Graph(format!(
                "input '{name}' has no shape; its first dimension is the batch"
            )));
        };
        // Unknown, -1, 0 and 1 all stand for a batch of any size.
        if let Some(Dimension::Value(rows @ 2..)) = batch.value {
            let what =
                format!("input '{name}' has a fixed batch of {rows} rows; export it with a dynamic or 1");
            return Err(ImportError::Graph(what));
        }
        let mut shape = Vec::new();
        for dimension in row {
            match dimension.value {
                Some(Dimension::Value(length))
                    if (1..=MAX_ROW as i64).contains(&length) && shape.len() < 8 =>
                {
                    shape.push(length as u32);
                }
                _ => {
                    let what = format!(
                        "input '{name}': all dimensions but the first must be fixed and at most {MAX_ROW}"
                    );
                    return Err(ImportError::Graph(what));
                }
            }
        }
        if !row_fits(&shape) {
            return Err(ImportError::Graph(format!(
                "input '{name}': a row of {shape:?} exceeds {MAX_ROW} elements"
            )));
        }
        self.graph.shapes.push(shape);
        self.batch_axes.push(0);
        self.known.insert(name, Known::Value(0));
        Ok(())
    }

    /// Makes the output of the input as it is.
    fn serve_input(&mut self, name: &str) {
        let (shape, len) = (self.graph.shapes[0].clone(), self.graph.len(0));
        self.graph.output = self.graph.shapes.len();
        self.graph.shapes.push(shape);
        self.batch_axes.push(0);
        self.graph.steps.push(Step {
            name: name.to_owned(),
            source: "Identity".to_owned(),
            operation: Operation::Affine { scale: vec![1.0; len], offset: vec![0.0; len] },
            inputs: vec![0],
            output: self.graph.output,
        });
    }

    pub(crate) fn define(&mut self, node: &NodeProto, index: usize, known: Known) {
        if let Some(name) = node.output.get(index) {
            self.known.insert(name.clone(), known);
        }
    }

    pub(crate) fn input(&self, node: &NodeProto, index: usize) -> Result<&Known, ImportError> {
        let name = node.input.get(index).map_or("", String::as_str);
        match self.known.get(name) {
            Some(known) => Ok(known),
            None => refuse(node, format!("its input '{name}' is not computed before it")),
        }
    }

    pub(crate) fn optional(&self, node: &NodeProto, index: usize) -> Result<Option<&Known>, ImportError> {
        match node.input.get(index) {
            None => Ok(None),
            Some(name) if name.is_empty() => Ok(None),
            Some(_) => self.input(node, index).map(Some),
        }
    }

    pub(crate) fn constant(&self, node: &NodeProto, index: usize) -> Result<&Constant, ImportError> {
        match self.input(node, index)? {
            Known::Constant(constant) => Ok(constant),
            Known::Value(_) => refuse(node, format!("its input {index} must be a constant")),
        }
    }

    /// A computed value whose first dimension is the batch.
    pub(crate) fn value(&self, node: &NodeProto, index: usize) -> Result<Value, ImportError> {
        let value = self.any_value(node, index)?;
        match self.batch_axis(value) {
            0 => Ok(value),
            MERGED => {
                refuse(node, format!("the batch is part of a dimension of its input {index}, not the first"))
            }
            axis => {
                refuse(node, format!("the batch is dimension {axis} of its input {index}, not the first"))
            }
        }
    }

    /// A computed value, wherever its batch dimension stands.
    pub(crate) fn any_value(&self, node: &NodeProto, index: usize) -> Result<Value, ImportError> {
        match self.input(node, index)? {
            Known::Value(value) => Ok(*value),
            Known::Constant(_) => refuse(node, format!("its input {index} must not be a constant")),
        }
    }

    pub(crate) fn batch_axis(&self, value: Value) -> usize {
        self.batch_axes[value]
    }

    /// Says where the batch dimension of the last step's result stands.
    pub(crate) fn set_batch_axis(&mut self, axis: usize) {
        *self.batch_axes.last_mut().expect("there is the input at least") = axis;
    }

    /// Whether anything reads what has this name.
    pub(crate) fn is_read(&self, name: &str) -> bool {
        self.read.contains(name)
    }

    /// Appends a step, whose result is the node's output `index`.
    pub(crate) fn step(
        &mut self,
        node: &NodeProto,
        index: usize,
        operation: Operation,
        inputs: Vec<Value>,
        shape: Vec<u32>,
    ) -> Result<(), ImportError> {
        if !row_fits(&shape) {
            return refuse(
                node,
                format!("a row of its result, {shape:?}, is empty or exceeds {MAX_ROW} elements"),
            );
        }
        let output = self.graph.shapes.len();
        self.graph.shapes.push(shape);
        self.batch_axes.push(0);
        self.elements += self.graph.len(output);
        if self.elements > MAX_ROWS_TOTAL {
            return refuse(node, format!("the values of one row exceed {MAX_ROWS_TOTAL} elements in all"));
        }
        let (name, source) = (node.label().to_owned(), node.op_type.clone().unwrap_or_default());
        self.graph.steps.push(Step { name, source, operation, inputs, output });
        self.define(node, index, Known::Value(output));
        Ok(())
    }
}

/// Which of these inputs is the initial state of a recurrent layer.
fn initial_state<'a>(graph: &GraphProto, names: &'a [String]) -> Option<&'a String> {
    let is_recurrent = |node: &&NodeProto| matches!(node.op_type.as_deref(), Some("LSTM" | "GRU"));
    let recurrent = graph.node.iter().filter(is_recurrent);
    let mut pending: Vec<&String> = recurrent.flat_map(|node| node.input.iter().skip(5).take(2)).collect();
    let mut states = HashSet::new();
    // With several layers, each gets a part of it.
    while let Some(name) = pending.pop() {
        if states.insert(name) {
            let makes = |node: &&NodeProto| node.output.contains(name) && !is_recurrent(node);
            pending.extend(graph.node.iter().filter(makes).flat_map(|node| &node.input));
        }
    }
    names.iter().rev().find(|name| states.contains(name))
}

fn row_fits(shape: &[u32]) -> bool {
    let len = shape.iter().try_fold(1u64, |product, &length| product.checked_mul(length.into()));
    shape.len() <= 8 && len.is_some_and(|len| (1..=MAX_ROW).contains(&len))
}
