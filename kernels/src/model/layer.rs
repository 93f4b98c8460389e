//! What a model's layers are, for people.

use super::Model;
use super::graph::{Cell, Conv, Element, Node, Operator, Reduction};
use super::validate::Proof;
use crate::spec::rounding::power_of_two;

/// One node of a model, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerInfo {
    /// Name from the source graph.
    pub name: String,
    /// Fixed-point operator: `dense`, `affine`, `add`, `subtract`, `multiply`, `map`, `trees`, `lstm`, `gru`, `move`, `conv`,
    /// `max_pool`, `sum_pool`, `arg_max`, `matmul`, `softmax` or `layer_norm`.
    pub operator: &'static str,
    /// Operators of the source graph that became this layer.
    pub source: String,
    /// Shape of each input, without the batch dimension.
    pub input_shapes: Vec<Vec<u32>>,
    /// Shape of the output, without the batch dimension.
    pub output_shape: Vec<u32>,
    /// Bits of a stored weight (of a leaf, for trees); 0 if it has none.
    pub weight_bits: u32,
    /// Weights, biases and other constants; for trees, nodes and leaf entries.
    pub parameters: usize,
    /// Least and largest exponent of the weights by channel; of the leaf sum, for trees.
    pub weight_exponents: Option<(i32, i32)>,
    /// Exponent of the first input: value = integer · 2^-exponent.
    pub input_exponent: i32,
    /// Exponent of the output.
    pub output_exponent: i32,
    /// Element type of the output: `i16`, `i32` or `i64`.
    pub output_element: &'static str,
    /// Values to which the output saturates, as floats.
    pub output_range: (f64, f64),
    /// Proven width of the exact sums in bits.
    pub accumulator_bits: u32,
    /// Trees and the branches on the longest way to a leaf, for trees.
    pub trees: Option<(usize, u32)>,
}

impl Model {
    /// What is shown of a node.
    pub(super) fn layer(&self, node: &Node, proof: Proof) -> LayerInfo {
        let input = &self.graph.tensors[node.inputs[0]];
        let output = &self.graph.tensors[node.output];
        let (operator, weight_bits, parameters) = match &node.operator {
            Operator::Dense(dense) => ("dense", dense.weights.bits(), dense.weights.len() + dense.bias.len()),
            Operator::Affine(affine) => ("affine", 32, affine.multipliers.len() + affine.offsets.len()),
            Operator::Add { subtract: false } => ("add", 0, 0),
            Operator::Add { subtract: true } => ("subtract", 0, 0),
            Operator::Multiply => ("multiply", 0, 0),
            Operator::Map(_) => ("map", 0, 0),
            Operator::Trees(trees) => ("trees", 32, trees.features.len() + trees.entry_values.len()),
            Operator::Move(_) => ("move", 0, 0),
            Operator::Conv(Conv { product, .. }) => {
                ("conv", product.weights.bits(), product.weights.len() + product.bias.len())
            }
            Operator::Pool(pool) => match pool.reduction {
                Reduction::Max => ("max_pool", 0, 0),
                Reduction::Sum => ("sum_pool", 32, 1),
            },
            Operator::ArgMax { .. } => ("arg_max", 0, 0),
            Operator::Recurrent(layer) => {
                let weights = layer.input_weights.len() + layer.recurrent_weights.len();
                let name = if layer.cell == Cell::Lstm { "lstm" } else { "gru" };
                (name, 16, weights + layer.bias.len() + layer.recurrent_bias.len())
            }
            Operator::MatMul(_) => ("matmul", 0, 0),
            Operator::Softmax(_) => ("softmax", 0, 0),
            Operator::LayerNorm(norm) => ("layer_norm", 32, norm.multipliers.len() + norm.offsets.len()),
            Operator::Slide => unreachable!("the form of a stream is not shown"),
        };
        let weight_exponents = match &node.operator {
            Operator::Dense(dense) | Operator::Conv(Conv { product: dense, .. }) => {
                dense.weight_exponents.iter().copied().min().zip(dense.weight_exponents.iter().copied().max())
            }
            Operator::Trees(trees) => Some((trees.sum_exponent, trees.sum_exponent)),
            Operator::Recurrent(layer) => {
                let exponents = || layer.input_exponents.iter().chain(&layer.recurrent_exponents).copied();
                exponents().min().zip(exponents().max())
            }
            Operator::LayerNorm(norm) => Some((norm.exponent, norm.exponent)),
            _ => None,
        };
        let scale = power_of_two(-output.exponent);
        LayerInfo {
            name: node.name.clone(),
            operator,
            source: node.source.clone(),
            input_shapes: node.inputs.iter().map(|&input| self.graph.tensors[input].shape.clone()).collect(),
            output_shape: output.shape.clone(),
            weight_bits,
            parameters,
            weight_exponents,
            input_exponent: input.exponent,
            output_exponent: output.exponent,
            output_element: match output.element {
                Element::I16 => "i16",
                Element::I32 | Element::Key => "i32",
                Element::I64 => "i64",
            },
            output_range: (output.minimum as f64 * scale, output.maximum as f64 * scale),
            accumulator_bits: proof.accumulator_bits,
            trees: match &node.operator {
                Operator::Trees(trees) => Some((trees.trees(), proof.depth)),
                _ => None,
            },
        }
    }
}
