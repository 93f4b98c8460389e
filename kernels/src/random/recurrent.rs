//! Random recurrent layers.

use super::{Choices, FULL, push, tensor};
use crate::model::graph::{Cell, Element, Graph, Operator, Recurrent};
use crate::spec::activation::one;

/// One or two recurrent layers of both kinds, with sums of both widths, of at most so many steps, features and hidden units.
pub(crate) fn recurrences_of(choices: &mut Choices, most: [i64; 3]) -> Graph {
    let mut graph = Graph { tensors: Vec::new(), nodes: Vec::new(), input: 0, output: 0 };
    let [most_steps, most_features, most_hidden] = most;
    let steps = choices.between(1, most_steps) as usize;
    let mut features = choices.between(1, most_features) as usize;
    graph.tensors.push(tensor("x", steps * features, Element::I16, 11, FULL));
    let layers = choices.between(1, 2);
    for layer in 0..layers {
        features = recurrence(choices, &mut graph, [steps, features], most_hidden, layer + 1 == layers);
    }
    graph.output = graph.tensors.len() - 1;
    graph
}

/// A layer over the last tensor, which has so many steps and features. Returns its hidden units.
pub(super) fn recurrence(
    choices: &mut Choices,
    graph: &mut Graph,
    [steps, features]: [usize; 2],
    most_hidden: i64,
    is_last: bool,
) -> usize {
    let input = graph.tensors.len() - 1;
    let cell = [Cell::Lstm, Cell::Gru][choices.below(2) as usize];
    let hidden = choices.between(1, most_hidden) as usize;
    let (rows, last_only) = (cell.gates() * hidden, is_last && choices.below(2) == 0);
    let exponent = choices.between(8, 15) as i32;
    let one = one(exponent);
    let len = hidden * if last_only { 1 } else { steps };
    let output = tensor("h", len, Element::I16, exponent, (-one, one));
    // The sums' scale, and that of the input's products: narrow sums need small weights.
    let narrow = choices.below(4) != 0;
    let mut sums: Vec<i32> = (0..rows).map(|_| choices.between(14, 27) as i32).collect();
    let weight = |choices: &mut Choices, narrow: i64| {
        let bound = if choices.below(8) == 0 { 0 } else { narrow };
        choices.between(-bound, bound) as i16
    };
    let (small, large) = if narrow { (900, 4000) } else { (32767, 32767) };
    if !narrow {
        sums.iter_mut().for_each(|sum| *sum += choices.between(0, 14) as i32);
    }
    let input_exponent = graph.tensors[input].exponent;
    let states = choices.below(3) == 0;
    let cell_exponent = choices.between(16, 26) as i32;
    let most = if cell == Cell::Gru { 1 << cell_exponent } else { 1 << 30 };
    let layer = Recurrent {
        cell,
        input_weights: (0..rows * features).map(|_| weight(choices, large)).collect(),
        input_exponents: sums.iter().map(|sum| sum - input_exponent + choices.between(0, 6) as i32).collect(),
        recurrent_weights: (0..rows * hidden).map(|_| weight(choices, small)).collect(),
        recurrent_exponents: sums.iter().map(|sum| sum - exponent).collect(),
        bias: (0..rows).map(|_| choices.between(-1 << 26, 1 << 26)).collect(),
        recurrent_bias: match cell {
            Cell::Lstm => Vec::new(),
            Cell::Gru => (0..hidden).map(|_| choices.between(-1 << 26, 1 << 26)).collect(),
        },
        cell_exponent,
        initial_hidden: match cell {
            Cell::Lstm if states => (0..hidden).map(|_| choices.between(-one, one) as i16).collect(),
            _ => Vec::new(),
        },
        initial_cell: match states {
            true => (0..hidden).map(|_| choices.between(-most, most) as i32).collect(),
            false => Vec::new(),
        },
        last_only,
    };
    graph.tensors.push(output);
    push(graph, Operator::Recurrent(layer), vec![input]);
    hidden
}

/// Gives the layers weights of all 16 bits, whose sums need more than 32 bits.
pub(crate) fn widened(graph: &mut Graph, choices: &mut Choices) {
    for node in &mut graph.nodes {
        let (input, output) = (graph.tensors[node.inputs[0]].exponent, graph.tensors[node.output].exponent);
        let Operator::Recurrent(layer) = &mut node.operator else { continue };
        let mut full = || choices.between(-32767, 32767) as i16;
        layer.input_weights.fill_with(&mut full);
        layer.recurrent_weights.fill_with(&mut full);
        for row in 0..layer.bias.len() {
            let sum = choices.between(20, 29) as i32;
            layer.recurrent_exponents[row] = sum - output;
            layer.input_exponents[row] = sum - input + choices.between(0, 9) as i32;
        }
        let bias = || choices.between(-1 << 34, 1 << 34);
        layer.recurrent_bias.fill_with(bias);
    }
}
