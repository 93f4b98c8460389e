//! From ONNX nodes to the float graph.
//!
//! Only what the served output needs is read. The batch dimension is the first of the input, and is removed; reshapes,
//! casts between floats and identities move no data and disappear.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::constant::Constant;
use super::float::{FloatGraph, Function, Operation, Step, Value};
use super::onnx::{Dimension, GraphProto, ModelProto, NodeProto, TypeProto, data_type};
use super::{ImportError, UnsupportedNode, fold, trees};

/// Operators that are imported, by name; those of other domains than ONNX's own carry it.
pub const SUPPORTED: &[&str] = &[
    "Add",
    "Cast",
    "Constant",
    "Div",
    "Dropout",
    "Flatten",
    "Gemm",
    "Identity",
    "MatMul",
    "Mul",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Squeeze",
    "Sub",
    "Tanh",
    "Transpose",
    "Unsqueeze",
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

/// What a name stands for.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    Constant(Constant),
    Value(Value),
}

pub(crate) fn import(onnx: &[u8], output: Option<&str>) -> Result<Imported, ImportError> {
    let model = ModelProto::decode(onnx).map_err(|error| ImportError::NotOnnx(error.to_string()))?;
    let graph = model.graph.as_ref().ok_or_else(|| ImportError::NotOnnx("it has no graph".into()))?;
    for opset in &model.opset_import {
        let version = opset.version.unwrap_or(0);
        if matches!(opset.domain.as_deref(), None | Some("" | "ai.onnx")) && !OPSETS.contains(&version) {
            let what = format!("opset {version} is not in {OPSETS:?}; export the model with another one");
            return Err(ImportError::Graph(what));
        }
    }
    if graph.node.len() > MAX_NODES {
        return Err(ImportError::Graph(format!("{} nodes; {MAX_NODES} is the limit", graph.node.len())));
    }
    let (served, dropped) = choose_output(graph, output)?;
    let live = live_nodes(graph, &served)?;
    let unsupported: Vec<UnsupportedNode> = live
        .iter()
        .filter(|node| !SUPPORTED.contains(&node.operator().as_str()))
        .map(|node| UnsupportedNode { node: node.label().into(), operator: node.operator() })
        .collect();
    if !unsupported.is_empty() {
        return Err(ImportError::Unsupported(unsupported));
    }
    let producer =
        [&model.producer_name, &model.producer_version].map(|text| text.as_deref().unwrap_or_default());
    let mut reader = Reader {
        known: HashMap::new(),
        elements: 0,
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
    reader.graph.output = *value;
    if reader.graph.output == 0 {
        return Err(ImportError::Graph(format!("output '{served}' is the input itself")));
    }
    fold::fold(&mut reader.graph);
    Ok(Imported { graph: reader.graph, served_output: served, dropped_outputs: dropped })
}

fn element_type(value: Option<&TypeProto>) -> Option<i32> {
    value?.tensor_type.as_ref()?.elem_type
}

fn is_float(element: i32) -> bool {
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
    let candidates: Vec<&str> = graph
        .output
        .iter()
        .filter_map(|output| Some((output.name.as_deref()?, element_type(output.r#type.as_ref()))))
        .filter(|(name, element)| element.is_some_and(is_float) || zipped(name))
        .map(|(name, _)| name)
        .collect();
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
    known: HashMap<String, Known>,
    pub(crate) graph: FloatGraph,
    /// Elements in a row of all values so far.
    elements: usize,
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
            if tensor.data_type == Some(8) {
                continue;
            }
            let constant = Constant::from_proto(tensor, &name)?;
            self.known.insert(name, Known::Constant(constant));
        }
        let name_of = |name: &Option<String>| name.clone().unwrap_or_default();
        let inputs: Vec<_> =
            graph.input.iter().filter(|input| !self.known.contains_key(&name_of(&input.name))).collect();
        let [input] = inputs[..] else {
            let names: Vec<_> = inputs.iter().map(|input| name_of(&input.name)).collect();
            let what = format!("it has {} inputs ({}); one is served", names.len(), names.join(", "));
            return Err(ImportError::Graph(what));
        };
        let name = name_of(&input.name);
        if element_type(input.r#type.as_ref()) != Some(data_type::FLOAT) {
            return Err(ImportError::Graph(format!("input '{name}' is not a tensor of float32")));
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
        self.known.insert(name, Known::Value(0));
        Ok(())
    }

    fn define(&mut self, node: &NodeProto, index: usize, known: Known) {
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

    fn optional(&self, node: &NodeProto, index: usize) -> Result<Option<&Known>, ImportError> {
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

    pub(crate) fn value(&self, node: &NodeProto, index: usize) -> Result<Value, ImportError> {
        match self.input(node, index)? {
            Known::Value(value) => Ok(*value),
            Known::Constant(_) => refuse(node, format!("its input {index} must not be a constant")),
        }
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
        self.elements += self.graph.len(output);
        if self.elements > MAX_ROWS_TOTAL {
            return refuse(node, format!("the values of one row exceed {MAX_ROWS_TOTAL} elements in all"));
        }
        let (name, source) = (node.label().to_owned(), node.op_type.clone().unwrap_or_default());
        self.graph.steps.push(Step { name, source, operation, inputs, output });
        self.define(node, index, Known::Value(output));
        Ok(())
    }

    fn read(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        match node.operator().as_str() {
            "Constant" => {
                let known = Known::Constant(constant_node(node)?);
                self.define(node, 0, known);
                Ok(())
            }
            "Identity" | "Dropout" | "ai.onnx.ml.ZipMap" => {
                let known = self.input(node, 0)?.clone();
                self.define(node, 0, known);
                Ok(())
            }
            "Cast" => {
                let known = self.input(node, 0)?.clone();
                let to = node.int("to", 0);
                if matches!(known, Known::Value(_)) && !i32::try_from(to).is_ok_and(is_float) {
                    return refuse(node, format!("a cast to element type {to} is not one between floats"));
                }
                self.define(node, 0, known);
                Ok(())
            }
            "Transpose" => {
                let transposed = self.constant(node, 0)?.transposed();
                match (transposed, node.ints("perm")) {
                    (Some(transposed), [] | [1, 0]) => {
                        self.define(node, 0, Known::Constant(transposed));
                        Ok(())
                    }
                    _ => refuse(node, "only constant matrices are transposed"),
                }
            }
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.reshape(node),
            "MatMul" => self.matmul(node),
            "Gemm" => self.gemm(node),
            "Add" | "Sub" | "Mul" | "Div" => self.elementwise(node),
            "Relu" => self.function(node, Function::Relu),
            "Sigmoid" => self.function(node, Function::Sigmoid),
            "Tanh" => self.function(node, Function::Tanh),
            "ai.onnx.ml.Scaler" => self.scaler(node),
            _ => trees::read(self, node),
        }
    }

    fn function(&mut self, node: &NodeProto, function: Function) -> Result<(), ImportError> {
        let input = self.value(node, 0)?;
        let shape = self.graph.shapes[input].clone();
        self.step(node, 0, Operation::Function(function), vec![input], shape)
    }

    /// Changes the shape of a row; the batch must stay the first dimension.
    fn reshape(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let target = match node.operator().as_str() {
            "Reshape" => {
                Some(self.constant(node, 1)?.values.iter().map(|&value| value as i64).collect::<Vec<_>>())
            }
            _ => None,
        };
        let (shape, len) = match self.input(node, 0)? {
            Known::Constant(constant) => {
                // The number of elements is what matters of a constant's shape, and its broadcasting: only the forms
                // that leave that alone are taken.
                let Some(target) = target else { return refuse(node, "its input must not be a constant") };
                let shape: Option<Vec<usize>> =
                    target.iter().map(|&length| usize::try_from(length).ok()).collect();
                return match shape {
                    Some(shape) if shape.iter().product::<usize>() == constant.values.len() => {
                        let constant = Constant { shape, values: constant.values.clone() };
                        self.define(node, 0, Known::Constant(constant));
                        Ok(())
                    }
                    _ => refuse(node, format!("the constant does not have the shape {target:?}")),
                };
            }
            &Known::Value(value) => (self.graph.shapes[value].clone(), self.graph.len(value)),
        };
        let value = self.value(node, 0)?;
        let reshaped = match node.operator().as_str() {
            "Reshape" => reshaped_row(&shape, len, &target.unwrap_or_default()),
            "Flatten" if node.int("axis", 1) == 1 => Some(vec![len as u32]),
            "Flatten" => None,
            "Squeeze" => Some(shape.iter().copied().filter(|&length| length != 1).collect()),
            // Where the new dimensions stand does not move data, as long as the batch stays first.
            _ => Some(shape.clone()),
        };
        let Some(reshaped) = reshaped else {
            return refuse(
                node,
                format!("a row of {shape:?} cannot be reshaped so: the batch must stay the first dimension"),
            );
        };
        if reshaped == shape {
            self.define(node, 0, Known::Value(value));
            return Ok(());
        }
        // A value has one shape; a reshaped one is the same value under an identity step, folded away afterwards.
        let len = self.graph.len(value);
        let operation = Operation::Affine { scale: vec![1.0; len], offset: vec![0.0; len] };
        self.step(node, 0, operation, vec![value], reshaped)
    }

    fn matmul(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let input = self.value(node, 0)?;
        let Some(weights) = self.constant(node, 1)?.transposed() else {
            return refuse(node, "its second input must be a constant matrix");
        };
        let bias = vec![0.0; weights.shape[0]];
        self.dense(node, input, weights, bias)
    }

    fn gemm(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let input = self.value(node, 0)?;
        if node.int("transA", 0) != 0 {
            return refuse(node, "transA would mix rows of the batch");
        }
        let matrix = self.constant(node, 1)?;
        let weights = if node.int("transB", 0) != 0 { Some(matrix.clone()) } else { matrix.transposed() };
        let Some(mut weights) = weights.filter(|weights| weights.shape.len() == 2) else {
            return refuse(node, "its second input must be a constant matrix");
        };
        let (alpha, beta) = (node.float("alpha", 1.0), node.float("beta", 1.0));
        weights.values.iter_mut().for_each(|weight| *weight *= f64::from(alpha));
        let outputs = weights.shape[0];
        let bias = match self.optional(node, 2)? {
            None => vec![0.0; outputs],
            Some(Known::Constant(bias)) => match bias.broadcast(&[outputs as u32]) {
                Some(bias) => bias.iter().map(|bias| bias * f64::from(beta)).collect(),
                None => {
                    return refuse(
                        node,
                        format!("its bias of shape {:?} is not one for each output", bias.shape),
                    );
                }
            },
            Some(Known::Value(_)) => return refuse(node, "its bias must be a constant"),
        };
        self.dense(node, input, weights, bias)
    }

    fn dense(
        &mut self,
        node: &NodeProto,
        input: Value,
        weights: Constant,
        bias: Vec<f64>,
    ) -> Result<(), ImportError> {
        let shape = self.graph.shapes[input].clone();
        let (outputs, inputs) = (weights.shape[0], weights.shape[1]);
        if shape.iter().rev().skip(1).any(|&length| length != 1) {
            return refuse(
                node,
                format!(
                    "its input is {shape:?} a row: products over several positions are not supported yet"
                ),
            );
        }
        if self.graph.len(input) != inputs || shape.is_empty() {
            return refuse(node, format!("its matrix takes {inputs} inputs, and a row is {shape:?}"));
        }
        let mut output = shape;
        *output.last_mut().expect("not empty") = outputs as u32;
        if bias.iter().chain(&weights.values).any(|value| !value.is_finite()) {
            return refuse(node, "a weight is not finite");
        }
        self.step(node, 0, Operation::Dense { weights: weights.values, bias }, vec![input], output)
    }

    fn elementwise(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let operator = node.operator();
        let (left, right) = (self.input(node, 0)?.clone(), self.input(node, 1)?.clone());
        let (value, constant, constant_first) = match (left, right) {
            (Known::Value(a), Known::Value(b)) => {
                let (shape, other) = (self.graph.shapes[a].clone(), &self.graph.shapes[b]);
                if operator != "Add" || shape != *other {
                    return refuse(
                        node,
                        format!(
                            "of two computed values, {shape:?} and {other:?}; only Add of equal shapes is supported"
                        ),
                    );
                }
                return self.step(node, 0, Operation::Add, vec![a, b], shape);
            }
            (Known::Value(value), Known::Constant(constant)) => (value, constant, false),
            (Known::Constant(constant), Known::Value(value)) => (value, constant, true),
            (Known::Constant(_), Known::Constant(_)) => {
                return refuse(node, "of two constants: fold it before export");
            }
        };
        let shape = self.graph.shapes[value].clone();
        let Some(constants) = constant.broadcast(&shape) else {
            return refuse(
                node,
                format!("a constant of shape {:?} does not fit a row of {shape:?}", constant.shape),
            );
        };
        let len = constants.len();
        let negated = || constants.iter().map(|value| -value).collect::<Vec<_>>();
        let (scale, offset) = match (operator.as_str(), constant_first) {
            ("Add", _) => (vec![1.0; len], constants),
            ("Sub", false) => (vec![1.0; len], negated()),
            ("Sub", true) => (vec![-1.0; len], constants),
            ("Mul", _) => (constants, vec![0.0; len]),
            ("Div", false) => (constants.iter().map(|value| 1.0 / value).collect(), vec![0.0; len]),
            _ => return refuse(node, "a constant divided by a computed value is not supported"),
        };
        self.affine(node, value, scale, offset)
    }

    fn scaler(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let value = self.value(node, 0)?;
        let len = self.graph.len(value);
        let widened = |values: &[f32], default: f32| match values {
            [] => Some(vec![f64::from(default); len]),
            &[one] => Some(vec![f64::from(one); len]),
            many => (many.len() == len).then(|| many.iter().map(|&value| value.into()).collect()),
        };
        let (scale, offset) = (widened(node.floats("scale"), 1.0), widened(node.floats("offset"), 0.0));
        let (Some(scale), Some(offset)) = (scale, offset) else {
            return refuse(node, format!("its scale or offset does not fit a row of {len} elements"));
        };
        let offset = offset.iter().zip(&scale).map(|(offset, scale)| -offset * scale).collect();
        self.affine(node, value, scale, offset)
    }

    fn affine(
        &mut self,
        node: &NodeProto,
        value: Value,
        scale: Vec<f64>,
        offset: Vec<f64>,
    ) -> Result<(), ImportError> {
        if scale.iter().chain(&offset).any(|value| !value.is_finite()) {
            return refuse(node, "a constant is not finite, or a divisor is 0");
        }
        let shape = self.graph.shapes[value].clone();
        self.step(node, 0, Operation::Affine { scale, offset }, vec![value], shape)
    }
}

fn row_fits(shape: &[u32]) -> bool {
    let len = shape.iter().try_fold(1u64, |product, &length| product.checked_mul(length.into()));
    shape.len() <= 8 && len.is_some_and(|len| (1..=MAX_ROW).contains(&len))
}

/// The row's shape after a Reshape to `target`, which speaks of the whole batch.
fn reshaped_row(shape: &[u32], len: usize, target: &[i64]) -> Option<Vec<u32>> {
    let row = match target {
        // All elements of the batch in one dimension: each row is one element.
        [-1] => return (len == 1).then(Vec::new),
        [-1..=1, row @ ..] if row.len() <= 8 => row,
        _ => return None,
    };
    let mut reshaped: Vec<u32> = Vec::with_capacity(row.len());
    let mut unknown = None;
    for (index, &length) in row.iter().enumerate() {
        reshaped.push(match length {
            0 => *shape.get(index)?,
            -1 if unknown.is_none() && target[0] != -1 => {
                unknown = Some(index);
                1
            }
            length => u32::try_from(length).ok().filter(|&length| length > 0)?,
        });
    }
    let product =
        reshaped.iter().try_fold(1usize, |product, &length| product.checked_mul(length as usize))?;
    if let Some(index) = unknown {
        reshaped[index] = u32::try_from(len / product).ok()?;
        return (len.is_multiple_of(product) && len >= product).then_some(reshaped);
    }
    (product == len).then_some(reshaped)
}

fn constant_node(node: &NodeProto) -> Result<Constant, ImportError> {
    let float = |name: &str| node.attribute(name).and_then(|attribute| attribute.f);
    if let Some(tensor) = node.attribute("value").and_then(|attribute| attribute.t.as_ref()) {
        return Constant::from_proto(tensor, node.label());
    }
    let listed = |values: Vec<f64>| Constant { shape: vec![values.len()], values };
    if let Some(value) = float("value_float") {
        return Ok(Constant { shape: vec![], values: vec![value.into()] });
    }
    if let Some(value) = node.attribute("value_int").and_then(|attribute| attribute.i) {
        return Ok(Constant { shape: vec![], values: vec![value as f64] });
    }
    if let Some(attribute) = node.attribute("value_floats") {
        return Ok(listed(attribute.floats.iter().map(|&value| value.into()).collect()));
    }
    if let Some(attribute) = node.attribute("value_ints") {
        return Ok(listed(attribute.ints.iter().map(|&value| value as f64).collect()));
    }
    refuse(node, "it holds neither a tensor nor numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_stays_the_first_dimension_of_a_reshape() {
        assert_eq!(reshaped_row(&[6], 6, &[-1, 2, 3]), Some(vec![2, 3]));
        assert_eq!(reshaped_row(&[2, 3], 6, &[0, -1]), Some(vec![6]));
        assert_eq!(reshaped_row(&[2, 3], 6, &[1, 0, 3]), Some(vec![2, 3]));
        assert_eq!(reshaped_row(&[1], 1, &[-1]), Some(vec![]));
        assert_eq!(reshaped_row(&[6], 6, &[-1]), None);
        assert_eq!(reshaped_row(&[6], 6, &[2, 3]), None);
        assert_eq!(reshaped_row(&[6], 6, &[-1, -1]), None);
        assert_eq!(reshaped_row(&[6], 6, &[0, i64::MAX, i64::MAX]), None);
    }
}
