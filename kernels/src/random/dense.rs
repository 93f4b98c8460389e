//! Random stacks of dense layers.

use super::{Choices, FULL, push, tensor};
use crate::model::graph::{Activation, Affine, Dense, Element, Graph, Operator, Weights};
use crate::spec::activation::one;

/// A stack of dense layers with every activation, weight width and accumulator width, with an affine layer and a
/// residual sum between.
pub(crate) fn stack(choices: &mut Choices) -> Graph {
    let mut graph = Graph { tensors: Vec::new(), nodes: Vec::new(), input: 0, output: 0 };
    let len = choices.between(1, 70) as usize;
    graph.tensors.push(tensor("x", len, Element::I16, 12, FULL));
    let layers = choices.between(1, 4);
    for layer in 0..layers {
        let last = layer + 1 == layers;
        let input = graph.tensors.len() - 1;
        let (inputs, exponent) = (graph.tensors[input].len(), graph.tensors[input].exponent);
        let outputs = choices.between(1, 90) as usize;
        let activation = [Activation::None, Activation::Sigmoid, Activation::Tanh][choices.below(3) as usize];
        let mut output = match (activation, choices.below(4)) {
            (Activation::Sigmoid, narrower) => {
                let exponent = 15 - 2 * narrower as i32;
                tensor("s", outputs, Element::I16, exponent, (0, one(exponent)))
            }
            (Activation::Tanh, narrower) => {
                let exponent = 15 - narrower as i32;
                tensor("t", outputs, Element::I16, exponent, (-one(exponent), one(exponent)))
            }
            (_, 0) => tensor("relu", outputs, Element::I16, 11, (0, 8191)),
            (_, 1) => tensor("narrow", outputs, Element::I16, 9, (-2047, 1000)),
            _ => tensor("y", outputs, Element::I16, 12, FULL),
        };
        if last && activation == Activation::None {
            let limit = i64::from(i32::MAX);
            output = tensor("out", outputs, Element::I32, choices.between(10, 16) as i32, (-limit, limit));
        }
        // Small weights keep sums in 32 bits, large ones do not.
        let bound = [100, 2000, 32767][choices.below(3) as usize];
        let mut weight = || choices.between(-bound, bound);
        let weights = if bound == 100 {
            Weights::I8((0..inputs * outputs).map(|_| weight() as i8).collect())
        } else {
            Weights::I16((0..inputs * outputs).map(|_| weight() as i16).collect())
        };
        let (argument, ..) = activation.argument(&output);
        let count = if choices.below(2) == 0 { 1 } else { outputs };
        let shift = if output.element == Element::I32 { (-2, 12) } else { (0, 22) };
        let mut weight_exponent = || choices.between(shift.0, shift.1) as i32 + argument - exponent;
        let weight_exponents = (0..count).map(|_| weight_exponent()).collect();
        let bias = (0..outputs).map(|_| choices.between(-1 << 24, 1 << 24)).collect();
        graph.tensors.push(output);
        let dense = Dense { weights, weight_exponents, bias, activation };
        push(&mut graph, Operator::Dense(dense), vec![input]);
        if !last {
            between(choices, &mut graph);
        }
    }
    graph.output = graph.tensors.len() - 1;
    graph
}

/// Sometimes an elementwise layer after a dense one.
fn between(choices: &mut Choices, graph: &mut Graph) {
    let input = graph.tensors.len() - 1;
    let len = graph.tensors[input].len();
    let exponent = graph.tensors[input].exponent;
    match choices.below(4) {
        0 => {
            graph.tensors.push(tensor("affine", len, Element::I16, 12, FULL));
            let affine = Affine {
                multipliers: (0..len).map(|_| choices.bits() as i32 >> 8).collect(),
                offsets: (0..len).map(|_| choices.between(-1 << 30, 1 << 30)).collect(),
                shifts: (0..len).map(|_| choices.below(40) as u8).collect(),
            };
            push(graph, Operator::Affine(affine), vec![input]);
        }
        1 => {
            graph.tensors.push(tensor("sum", len, Element::I16, exponent - 1, FULL));
            push(graph, Operator::Add { subtract: false }, vec![input, input]);
        }
        2 => {
            graph.tensors.push(tensor("map", len, Element::I16, 15, (-32767, 32767)));
            push(graph, Operator::Map(Activation::Tanh), vec![input]);
        }
        _ => {}
    }
}
