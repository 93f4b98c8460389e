//! Proof that a graph is well formed and that none of its sums can overflow.
//!
//! What is checked here is assumed everywhere after: indices, lengths, orders, shifts and accumulator bounds. The SIMD
//! executor's unchecked loads rest on it.

mod recurrent;

use std::ops::RangeInclusive;

use super::LoadError;
use super::graph::{Activation, Affine, Dense, Element, Finish, Graph, Node, Operator, Tensor, Trees};
use crate::spec::activation::{OUTPUT_EXPONENTS, WIDE_INPUT_EXPONENT, WIDE_OUTPUT_EXPONENT, one};
use crate::spec::rounding::{EXPONENTS, MAX_LEFT_SHIFT, MAX_RIGHT_SHIFT};

/// Bounds memory: a row of a tensor takes at most 8 MiB.
pub(crate) const MAX_ROW: usize = 1 << 20;
/// Bounds memory: all rows of one batch slot together take at most 64 MiB.
const MAX_ROWS_TOTAL: usize = 1 << 23;
/// Bounds the work of loading, part of which grows with the square.
const MAX_TENSORS: usize = 1 << 12;
const MAX_RANK: usize = 8;
/// No model people trade with is deeper; bounds the work on one row.
const MAX_DEPTH: u32 = 4096;
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
    let fail = |what: &str| Err(LoadError::invalid(&node.name, what.into()));
    let output = &graph.tensors[node.output];
    let inputs: Vec<&Tensor> = node.inputs.iter().map(|&input| &graph.tensors[input]).collect();
    match (&node.operator, &inputs[..]) {
        (Operator::Dense(dense), [input]) => check_dense(node, dense, input, output),
        (Operator::Affine(affine), [input]) => check_affine(node, affine, input, output),
        (Operator::Trees(trees), [input]) => check_trees(node, trees, input, output),
        (Operator::Recurrent(layer), [input]) => recurrent::check(node, layer, input, output),
        (Operator::Map(activation), [input]) => {
            if input.len() != output.len() || !is_narrow(input) || !is_narrow(output) {
                return fail("input and output must be of one length, i16 or i32");
            }
            if !input.exponents.is_empty() {
                return fail(
                    "an input with exponents by element can only go into Dense, Affine or Recurrent",
                );
            }
            check_activation(node, *activation, output)?;
            check_shift(node, input.exponent - activation.argument(output).0)?;
            Ok(Proof { accumulator_bits: 64, depth: 0 })
        }
        (Operator::Add, [a, b]) => {
            let lengths = a.len() == output.len() && b.len() == output.len();
            if !lengths || ![*a, *b, output].into_iter().all(is_narrow) {
                return fail("inputs and output must be of one length, i16 or i32");
            }
            if !a.exponents.is_empty() || !b.exponents.is_empty() {
                return fail(
                    "an input with exponents by element can only go into Dense, Affine or Recurrent",
                );
            }
            let exponent = a.exponent.max(b.exponent);
            if exponent - a.exponent.min(b.exponent) > MAX_LEFT_SHIFT - 2 {
                return fail("the exponents of its inputs are too far apart");
            }
            check_shift(node, exponent - output.exponent)?;
            Ok(Proof { accumulator_bits: 64, depth: 0 })
        }
        _ => fail("wrong number of inputs"),
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

/// Sigmoid and tanh make `i16` values of magnitude at most one.
fn check_activation(node: &Node, activation: Activation, output: &Tensor) -> Result<(), LoadError> {
    let fits = OUTPUT_EXPONENTS.contains(&output.exponent);
    let one = if fits { one(output.exponent) } else { 0 };
    let least = match activation {
        Activation::None => return Ok(()),
        Activation::Sigmoid => 0,
        Activation::Tanh => -one,
    };
    if fits && output.element == Element::I16 && (output.minimum, output.maximum) == (least, one) {
        return Ok(());
    }
    let what =
        format!("{activation:?} needs an i16 output at an exponent in {OUTPUT_EXPONENTS:?}, bounded by one");
    Err(LoadError::invalid(&node.name, what))
}

/// The exact interval of every output's sum, and so the width of its accumulator.
fn check_dense(node: &Node, dense: &Dense, input: &Tensor, output: &Tensor) -> Result<Proof, LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&node.name, what));
    let (inputs, outputs) = (input.len(), output.len());
    if input.element != Element::I16 || !is_narrow(output) {
        return fail("its input must be i16 and its output i16 or i32".into());
    }
    let exponents = dense.weight_exponents.len();
    if inputs.checked_mul(outputs) != Some(dense.weights.len())
        || dense.bias.len() != outputs
        || (exponents != 1 && exponents != outputs)
    {
        return fail(format!(
            "weights, biases or exponents do not fit {inputs} inputs and {outputs} outputs"
        ));
    }
    check_activation(node, dense.activation, output)?;
    let (argument_exponent, ..) = dense.activation.argument(output);
    let mut accumulator_bits = 32;
    for channel in 0..outputs {
        let shift = input.exponent + dense.weight_exponent(channel) - argument_exponent;
        check_shift(node, shift)?;
        let half = if shift > 0 { 1i128 << (shift - 1) } else { 0 };
        let bias = i128::from(dense.bias[channel]);
        let (mut low, mut high) = (bias.min(0), (bias + half).max(bias).max(0));
        for weight in channel * inputs..(channel + 1) * inputs {
            let weight = dense.weights.get(weight);
            // So a sum of two products fits 32 bits, whatever the inputs: what SIMD multiply-adds compute.
            if weight == i16::MIN {
                return fail(format!("a weight of output {channel} is -32768; -32767 is the least"));
            }
            let weight = i128::from(weight);
            let (a, b) = (weight * i128::from(input.minimum), weight * i128::from(input.maximum));
            low += a.min(b);
            high += a.max(b);
        }
        if low <= -SUM_LIMIT || high >= SUM_LIMIT {
            return fail(format!("the sum of output {channel} may exceed 62 bits"));
        }
        // A left shift is computed in 64 bits: it is rare, and 32 bits would need a proof of its own.
        if low < i128::from(i32::MIN) || high > i128::from(i32::MAX) || !(0..=30).contains(&shift) {
            accumulator_bits = 64;
        }
    }
    Ok(Proof { accumulator_bits, depth: 0 })
}

fn check_affine(node: &Node, affine: &Affine, input: &Tensor, output: &Tensor) -> Result<Proof, LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&node.name, what));
    let len = output.len();
    let lengths = [input.len(), affine.multipliers.len(), affine.offsets.len(), affine.shifts.len()];
    if lengths != [len; 4] || !is_narrow(input) || !is_narrow(output) {
        return fail(format!("input and constants must be of the output's length, {len}, and i16 or i32"));
    }
    for index in 0..len {
        if i32::from(affine.shifts[index]) > MAX_RIGHT_SHIFT {
            return fail(format!(
                "shift {} of element {index} is above {MAX_RIGHT_SHIFT}",
                affine.shifts[index]
            ));
        }
        let product = i128::from(affine.multipliers[index]).abs() * i128::from(input.bound());
        if product + i128::from(affine.offsets[index]).abs() >= SUM_LIMIT {
            return fail(format!("the sum of element {index} may exceed 62 bits"));
        }
    }
    Ok(Proof { accumulator_bits: 64, depth: 0 })
}

fn check_trees(node: &Node, trees: &Trees, input: &Tensor, output: &Tensor) -> Result<Proof, LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&node.name, what));
    let (nodes, targets, entries) = (trees.features.len(), trees.base.len(), trees.entry_values.len());
    if input.element != Element::Key || output.element != Element::I64 {
        return fail("its input must be keys and its output i64".into());
    }
    if [trees.thresholds.len(), trees.when_true.len(), trees.when_false.len()] != [nodes; 3]
        || trees.entry_targets.len() != entries
        || trees.tree_nodes.len() != trees.trees() + 1
    {
        return fail("its node, entry or tree vectors differ in length".into());
    }
    if !is_partition(&trees.tree_nodes, nodes) || !is_partition(&trees.leaf_entries, entries) {
        return fail("its trees or leaves do not partition the nodes or entries".into());
    }
    if nodes > i32::MAX as usize || trees.leaves() == 0 || trees.leaves() > i32::MAX as usize {
        return fail("it has no leaves, or too many nodes or leaves".into());
    }
    if targets == 0 || targets > usize::from(u16::MAX) || trees.finish.outputs(targets) != output.len() {
        return fail(format!("{targets} sums do not give {} outputs", output.len()));
    }
    if trees.finish.outputs(1) == 2 && targets != 1 {
        return fail("a finish that makes two outputs takes one sum".into());
    }
    if let Some(&feature) = trees.features.iter().find(|&&feature| feature as usize >= input.len()) {
        return fail(format!("feature {feature} is beyond the {} inputs", input.len()));
    }
    if let Some(&target) = trees.entry_targets.iter().find(|&&target| usize::from(target) >= targets) {
        return fail(format!("target {target} is beyond the {targets} targets"));
    }
    let depth = (0..trees.trees())
        .map(|tree| tree_depth(node, trees, tree))
        .try_fold(0, |most, depth| depth.map(|depth| most.max(depth)))?;
    check_leaf_sums(node, trees, output)?;
    Ok(Proof { accumulator_bits: 64, depth })
}

/// Starts at 0, never falls, ends at `end`.
fn is_partition(starts: &[u32], end: usize) -> bool {
    starts.first() == Some(&0)
        && starts.is_sorted()
        && starts.last().is_some_and(|&last| last as usize == end)
}

/// Branches on the longest way from the root. Children come after their parent, so the tree cannot cycle.
fn tree_depth(node: &Node, trees: &Trees, tree: usize) -> Result<u32, LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&node.name, what));
    let (start, end) = (trees.tree_nodes[tree] as usize, trees.tree_nodes[tree + 1] as usize);
    let mut depths = vec![0u32; end - start];
    let depth_of = |child: i32, after: usize, depths: &[u32]| match usize::try_from(child) {
        Ok(child) if (after..end).contains(&child) => Some(depths[child - start]),
        Ok(_) => None,
        Err(_) => ((!child as usize) < trees.leaves()).then_some(0),
    };
    for index in (start..end).rev() {
        let children = [trees.when_true[index], trees.when_false[index]];
        let [Some(a), Some(b)] = children.map(|child| depth_of(child, index + 1, &depths)) else {
            return fail(format!("a child of node {index} is not a later node of its tree, nor a leaf"));
        };
        depths[index - start] = 1 + a.max(b);
    }
    match depth_of(trees.roots[tree], start, &depths) {
        Some(depth) if depth <= MAX_DEPTH => Ok(depth),
        Some(depth) => fail(format!("tree {tree} is {depth} deep; {MAX_DEPTH} is the limit")),
        None => fail(format!("the root of tree {tree} is not one of its nodes")),
    }
}

/// Each tree adds at most its largest entry for a target, so the sum of the largest bounds every sum.
fn check_leaf_sums(node: &Node, trees: &Trees, output: &Tensor) -> Result<(), LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&node.name, what));
    let base = trees.base.iter().map(|base| i128::from(*base).abs()).max().unwrap_or(0);
    let mut per_leaf = 0i128;
    for leaf in trees.leaf_entries.windows(2) {
        let entries = &trees.entry_values[leaf[0] as usize..leaf[1] as usize];
        per_leaf = per_leaf.max(entries.iter().map(|value| i128::from(*value).abs()).sum());
    }
    if base + per_leaf * trees.trees() as i128 >= SUM_LIMIT {
        return fail("its leaf sums may exceed 62 bits".into());
    }
    let exponent = match trees.finish {
        Finish::Sum | Finish::Negate => trees.sum_exponent,
        Finish::Complement => {
            if !(0..=61).contains(&trees.sum_exponent) {
                return fail(format!("1 - s cannot be computed at exponent {}", trees.sum_exponent));
            }
            trees.sum_exponent
        }
        Finish::Logistic | Finish::LogisticPair => {
            check_shift(node, trees.sum_exponent - WIDE_INPUT_EXPONENT)?;
            WIDE_OUTPUT_EXPONENT
        }
    };
    if output.exponent != exponent || !EXPONENTS.contains(&trees.sum_exponent) {
        return fail(format!("its output must be at exponent {exponent}, and is at {}", output.exponent));
    }
    let whole = range_of(Element::I64);
    if (output.minimum, output.maximum) != (*whole.start(), *whole.end()) {
        return fail("an output of 64 bits is not bounded".into());
    }
    Ok(())
}
