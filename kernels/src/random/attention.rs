//! Random layers of transformer encoders.

use super::{Choices, push, tensor};
use crate::model::graph::{Activation, Dense, Element, Graph, LayerNorm, MatMul, Operator, Softmax, Weights};
use crate::spec::activation::one;
use crate::spec::curve::gelu_least;
use crate::spec::layer_norm::NORMALIZED_EXPONENT;

/// Attention over at most so many positions, of heads and elements of a head, with a layer normalisation or GELU before and
/// after.
pub(crate) fn encoder_of(choices: &mut Choices, most: [i64; 3]) -> Graph {
    let mut graph = Graph { tensors: Vec::new(), nodes: Vec::new(), input: 0, output: 0 };
    let [positions, heads, width] = most.map(|most| choices.between(1, most) as usize);
    let model = heads * width;
    let bound = [1000, 8000, 32767][choices.below(3) as usize];
    graph.tensors.push(tensor("x", positions * model, Element::I16, 12, (-bound, bound)));
    between(choices, &mut graph, model);
    let values = graph.tensors.len() - 1;
    // Scores of all positions against all.
    let scores = MatMul {
        matrices: heads,
        rows: positions,
        inner: width,
        columns: positions,
        left: [0, width, model, 1],
        right: [0, width, 1, model],
        output: [0, positions * positions, positions],
    };
    let whole = choices.below(2) == 0;
    let (element, limit) = if whole { (Element::I32, (1 << 30) - 1) } else { (Element::I16, 32767) };
    matmul(choices, &mut graph, scores, [values, values], (element, limit));
    if choices.below(4) == 0 {
        graph.output = graph.tensors.len() - 1;
        return graph;
    }
    let exponent = choices.between(12, 15) as i32;
    let input = graph.tensors.len() - 1;
    let scores = heads * positions * positions;
    graph.tensors.push(tensor("shares", scores, Element::I16, exponent, (0, one(exponent))));
    let bits = choices.between(1, 30);
    let softmax = Softmax {
        group: positions,
        multiplier: choices.between(1, 1 << bits) as i32,
        shift: choices.below(if whole { 45 } else { 20 }) as u8,
    };
    push(&mut graph, Operator::Softmax(softmax), vec![input]);
    let shares = graph.tensors.len() - 1;
    let transposed = choices.below(4) == 0;
    let mixed = MatMul {
        matrices: heads,
        rows: positions,
        inner: positions,
        columns: width,
        left: if transposed {
            [0, positions * positions, 1, positions]
        } else {
            [0, positions * positions, positions, 1]
        },
        right: [0, width, model, 1],
        output: [0, width, model],
    };
    matmul(choices, &mut graph, mixed, [shares, values], (Element::I16, 32767));
    between(choices, &mut graph, model);
    graph.output = graph.tensors.len() - 1;
    graph
}

fn matmul(
    choices: &mut Choices,
    graph: &mut Graph,
    matmul: MatMul,
    inputs: [usize; 2],
    (element, limit): (Element, i64),
) {
    let exponents = inputs.map(|input| graph.tensors[input].exponent);
    let shift = choices.between(if element == Element::I32 { -2 } else { 0 }, 20) as i32;
    let len = matmul.matrices * matmul.rows * matmul.columns;
    let exponent = exponents[0] + exponents[1] - shift;
    graph.tensors.push(tensor("product", len, element, exponent, (-limit, limit)));
    push(graph, Operator::MatMul(matmul), inputs.to_vec());
}

/// Sometimes a layer that works on the parts of a row.
pub(super) fn between(choices: &mut Choices, graph: &mut Graph, group: usize) {
    let input = graph.tensors.len() - 1;
    let len = graph.tensors[input].len();
    match choices.below(3) {
        0 => {
            let (exponent, output) = (choices.between(0, 16) as i32, choices.between(8, 14) as i32);
            let bound = 1 << choices.between(0, exponent.into());
            let beta = 1i64 << (NORMALIZED_EXPONENT + exponent);
            graph.tensors.push(tensor("normal", len, Element::I16, output, (-32767, 32767)));
            let bits = choices.between(1, 50);
            let norm = LayerNorm {
                epsilon: choices.between(1, 1 << bits),
                multipliers: (0..group).map(|_| choices.between(-bound, bound) as i32).collect(),
                exponent,
                offsets: (0..group).map(|_| choices.between(-beta, beta)).collect(),
            };
            push(graph, Operator::LayerNorm(norm), vec![input]);
        }
        // A dense layer of large tensors takes long.
        1 if len <= 400 => {
            let exponent = choices.between(8, 13) as i32;
            let by_tanh = choices.below(2) == 0;
            let most = [32767, 4000][choices.below(2) as usize];
            let bounds = (gelu_least(exponent), most);
            graph.tensors.push(tensor("gelu", len, Element::I16, exponent, bounds));
            let activation = if by_tanh { Activation::GeluTanh } else { Activation::Gelu };
            if choices.below(3) == 0 {
                push(graph, Operator::Map(activation), vec![input]);
            } else {
                let bound = [60, 2000][choices.below(2) as usize];
                let shift = choices.between(4, 12) as i32;
                let dense = Dense {
                    weights: Weights::I16(
                        (0..len * len).map(|_| choices.between(-bound, bound) as i16).collect(),
                    ),
                    weight_exponents: vec![exponent + shift - graph.tensors[input].exponent],
                    bias: (0..len).map(|_| choices.between(-1 << 18, 1 << 18)).collect(),
                    activation,
                };
                push(graph, Operator::Dense(dense), vec![input]);
            }
        }
        _ => {}
    }
}
