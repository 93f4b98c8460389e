//! Proof that a graph is well formed and that none of its sums can overflow.
//!
//! What is checked here is assumed everywhere after: indices, lengths, orders, shifts and accumulator bounds. The SIMD
//! executor's unchecked loads rest on it.

mod affine;
mod attention;
mod dense;
mod elementwise;
mod matmul;
mod moves;
mod recurrent;
mod trees;
mod window;

use std::ops::RangeInclusive;

use super::LoadError;
use super::graph::{Activation, Element, Graph, Node, Operator, Tensor};
use crate::spec::activation::{OUTPUT_EXPONENTS, one};
use crate::spec::curve::gelu_least;
use crate::spec::rounding::{EXPONENTS, MAX_LEFT_SHIFT, MAX_RIGHT_SHIFT};

/// Bounds memory: a row of a tensor takes at most 8 MiB.
pub(crate) const MAX_ROW: usize = 1 << 20;
/// Bounds memory: all rows of one batch slot together take at most 64 MiB.
const MAX_ROWS_TOTAL: usize = 1 << 23;
/// Bounds the work of loading, part of which grows with the square.
const MAX_TENSORS: usize = 1 << 12;
const MAX_RANK: usize = 8;
/// Sums stay below this magnitude, so that rounding and finishing them cannot overflow an `i64`.
const SUM_LIMIT: i128 = 1 << 62;

/// What the proof found, for each node; executors choose their code by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proof {
    /// Width of the exact sums: 32 or 64 bits.
    pub(crate) accumulator_bits: u32,
    /// Branches on the longest way to a leaf, for trees.
    pub(crate) depth: u32,
}

/// Checks the whole graph, and returns what is proven of each node.
pub(crate) fn validate(graph: &Graph) -> Result<Vec<Proof>, LoadError> {
    if graph.tensors.len() > MAX_TENSORS || graph.nodes.len() > MAX_TENSORS {
        return Err(LoadError::invalid("model", format!("more than {MAX_TENSORS} tensors or nodes")));
    }
    for (index, tensor) in graph.tensors.iter().enumerate() {
        check_tensor(tensor, index == graph.input)?;
    }
    let total: usize = graph.tensors.iter().map(Tensor::len).sum();
    if total > MAX_ROWS_TOTAL {
        return Err(LoadError::invalid("model", format!("{total} elements in a row of all tensors")));
    }
    check_order(graph)?;
    graph.nodes.iter().map(|node| check_node(graph, node)).collect()
}

fn range_of(element: Element) -> RangeInclusive<i64> {
    match element {
        Element::I16 => i16::MIN.into()..=i16::MAX.into(),
        Element::I32 => i32::MIN.into()..=i32::MAX.into(),
        Element::I64 => -(1 << 62)..=1 << 62,
        // Infinities are the ends.
        Element::Key => -0x7f80_0000..=0x7f80_0000,
    }
}

fn check_tensor(tensor: &Tensor, is_input: bool) -> Result<(), LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&tensor.name, what));
    let len =
        tensor.shape.iter().try_fold(1usize, |product, &dimension| product.checked_mul(dimension as usize));
    if tensor.shape.len() > MAX_RANK || !len.is_some_and(|len| (1..=MAX_ROW).contains(&len)) {
        return fail(format!("shape {:?} is empty, or larger than {MAX_ROW} elements", tensor.shape));
    }
    let range = range_of(tensor.element);
    if !range.contains(&tensor.minimum) || !range.contains(&tensor.maximum) || tensor.minimum > tensor.maximum
    {
        return fail(format!(
            "bounds {}..={} are not within its element type",
            tensor.minimum, tensor.maximum
        ));
    }
    let by_element = is_input && tensor.exponents.len() == tensor.len();
    if !tensor.exponents.is_empty() && !by_element {
        return fail("exponents by element are for the model's input only, one for each element".into());
    }
    if tensor.element == Element::Key {
        let whole = *range.start() == tensor.minimum && *range.end() == tensor.maximum;
        if !is_input || !whole || tensor.exponent != 0 || !tensor.exponents.is_empty() {
            return fail(
                "keys are for the model's input only, with exponent 0 and all floats allowed".into(),
            );
        }
    }
    let exponents = tensor.exponents.iter().chain([&tensor.exponent]);
    if let Some(exponent) = exponents.into_iter().find(|exponent| !EXPONENTS.contains(exponent)) {
        return fail(format!("exponent {exponent} is not in {EXPONENTS:?}"));
    }
    Ok(())
}

/// Each tensor but the input has exactly one producer, before all its uses; the output has one.
fn check_order(graph: &Graph) -> Result<(), LoadError> {
    let mut ready = vec![false; graph.tensors.len()];
    let Some(input) = ready.get_mut(graph.input) else {
        return Err(LoadError::invalid("model", "its input is not one of its tensors".into()));
    };
    *input = true;
    for node in &graph.nodes {
        if !node.inputs.iter().all(|&input| ready.get(input) == Some(&true)) {
            return Err(LoadError::invalid(&node.name, "an input is computed later or never".into()));
        }
        match ready.get_mut(node.output) {
            Some(ready) if !*ready => *ready = true,
            _ => return Err(LoadError::invalid(&node.name, "its output is absent or computed twice".into())),
        }
    }
    if graph.output == graph.input || !ready.iter().all(|&ready| ready) || graph.output >= ready.len() {
        return Err(LoadError::invalid("model", "a tensor, or the output, is computed by no node".into()));
    }
    Ok(())
}

fn check_node(graph: &Graph, node: &Node) -> Result<Proof, LoadError> {
    let output = &graph.tensors[node.output];
    let inputs: Vec<&Tensor> = node.inputs.iter().map(|&input| &graph.tensors[input]).collect();
    match (&node.operator, &inputs[..]) {
        (Operator::Dense(dense), [input]) => dense::check(node, dense, input, output),
        (Operator::Affine(affine), [input]) => affine::check(node, affine, input, output),
        (Operator::Add { .. }, [a, b]) => elementwise::add(node, [a, b], output),
        (Operator::Multiply, [a, b]) => elementwise::multiply(node, [a, b], output),
        (Operator::Map(activation), [input]) => elementwise::map(node, *activation, input, output),
        (Operator::Trees(trees), [input]) => trees::check(node, trees, input, output),
        (Operator::Recurrent(layer), [input]) => recurrent::check(node, layer, input, output),
        (Operator::Move(elements), [_, ..]) => moves::check(node, elements, &inputs, output),
        (Operator::Conv(conv), [input]) => window::conv(node, conv, input, output),
        (Operator::Pool(pool), [input]) => window::pool(node, pool, input, output),
        (&Operator::ArgMax { length, inner }, [input]) => {
            elementwise::arg_max(node, length, inner, input, output)
        }
        (Operator::MatMul(matmul), [left, right]) => {
            matmul::check(graph, node, matmul, [left, right], output)
        }
        (Operator::Softmax(softmax), [input]) => attention::softmax(node, softmax, input, output),
        (Operator::LayerNorm(norm), [input]) => attention::layer_norm(node, norm, input, output),
        (Operator::Slide, [input]) => elementwise::slide(node, input, output),
        _ => Err(LoadError::invalid(&node.name, "wrong number of inputs".into())),
    }
}

fn is_narrow(tensor: &Tensor) -> bool {
    matches!(tensor.element, Element::I16 | Element::I32)
}

fn check_shift(node: &Node, shift: i32) -> Result<(), LoadError> {
    if (-MAX_LEFT_SHIFT..=MAX_RIGHT_SHIFT).contains(&shift) {
        return Ok(());
    }
    Err(LoadError::invalid(
        &node.name,
        format!("a shift by {shift} is not in -{MAX_LEFT_SHIFT}..={MAX_RIGHT_SHIFT}"),
    ))
}

/// Sigmoid and tanh make `i16` values of magnitude at most one; a leaky one keeps `i16` bounds around zero.
fn check_activation(node: &Node, activation: Activation, output: &Tensor) -> Result<(), LoadError> {
    let fits = OUTPUT_EXPONENTS.contains(&output.exponent);
    let one = if fits { one(output.exponent) } else { 0 };
    let (least, one) = match activation {
        Activation::None => return Ok(()),
        Activation::Leaky(slope) => {
            let around = output.minimum <= 0 && 0 <= output.maximum;
            if slope >= 0 && output.element == Element::I16 && around {
                return Ok(());
            }
            let what = "a leaky activation needs a slope from 0 and an i16 output whose bounds contain 0";
            return Err(LoadError::invalid(&node.name, what.into()));
        }
        Activation::Sigmoid => (0, one),
        Activation::Tanh => (-one, one),
        Activation::Gelu | Activation::GeluTanh => {
            let least = if fits { gelu_least(output.exponent) } else { 0 };
            if fits && output.element == Element::I16 && output.minimum == least && output.maximum >= 0 {
                return Ok(());
            }
            let what = format!(
                "{activation:?} needs an i16 output at an exponent in {OUTPUT_EXPONENTS:?}, bounded by {least} below"
            );
            return Err(LoadError::invalid(&node.name, what));
        }
    };
    if fits && output.element == Element::I16 && (output.minimum, output.maximum) == (least, one) {
        return Ok(());
    }
    let what =
        format!("{activation:?} needs an i16 output at an exponent in {OUTPUT_EXPONENTS:?}, bounded by one");
    Err(LoadError::invalid(&node.name, what))
}
