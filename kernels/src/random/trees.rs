//! Random tree ensembles.

use super::{Choices, push, tensor};
use crate::model::graph::{Element, Finish, Graph, Operator, Trees};

/// Trees of all shapes, from single leaves to chains of so many branches, with few features so that thresholds meet inputs.
/// Small ones are compared as bits, large ones walked.
pub(crate) fn forest_of(choices: &mut Choices, largest: i64) -> Graph {
    let features = choices.between(1, 12) as usize;
    let targets = choices.between(1, 3) as usize;
    let finish = match (targets, choices.below(5)) {
        (1, 0) => Finish::Complement,
        (1, 1) => Finish::Negate,
        (1, 2) => Finish::LogisticPair,
        (_, 3) => Finish::Logistic,
        _ => Finish::Sum,
    };
    let base = (0..targets).map(|_| choices.between(-1 << 40, 1 << 40)).collect();
    let mut trees = Trees::new(base, 30, finish);
    for _ in 0..choices.between(1, 30) {
        let (start, nodes) = (trees.features.len() as i64, choices.between(0, largest));
        let mut leaf = |choices: &mut Choices| {
            for _ in 0..choices.below(3) {
                trees.entry_targets.push(choices.below(targets as u64) as u16);
                trees.entry_values.push(choices.bits() as i32);
            }
            trees.leaf_entries.push(trees.entry_values.len() as u32);
            !(trees.leaf_entries.len() as i32 - 2)
        };
        let mut child = |choices: &mut Choices, after: i64| {
            if after < start + nodes && choices.below(4) != 0 {
                choices.between(after, (after + 2).min(start + nodes - 1)) as i32
            } else {
                leaf(choices)
            }
        };
        let root = child(choices, start);
        trees.roots.push(if nodes > 0 && choices.below(8) != 0 { start as i32 } else { root });
        for node in start..start + nodes {
            trees.when_true.push(child(choices, node + 1));
            trees.when_false.push(child(choices, node + 1));
        }
        for _ in 0..nodes {
            trees.features.push(choices.below(features as u64) as u32);
            trees.thresholds.push(threshold(choices));
        }
        trees.tree_nodes.push(trees.features.len() as u32);
    }
    graph_of(trees, features)
}

/// A threshold that inputs meet, or that none or all are above.
pub(crate) fn threshold(choices: &mut Choices) -> i32 {
    let extremes = [i32::MIN, -0x7f80_0000, -1, 0, 0x7f7f_ffff, 0x7f80_0000, i32::MAX];
    match choices.below(8) {
        0 => extremes[choices.below(7) as usize],
        _ => crate::spec::rounding::key(choices.between(-8, 8) as f32),
    }
}

/// A model of these trees alone.
pub(crate) fn graph_of(trees: Trees, features: usize) -> Graph {
    let (finish, targets) = (trees.finish, trees.base.len());
    let logistic = matches!(finish, Finish::Logistic | Finish::LogisticPair);
    let bound = 1 << 62;
    let mut graph = Graph {
        tensors: vec![
            tensor("x", features, Element::Key, 0, (-0x7f80_0000, 0x7f80_0000)),
            tensor("y", finish.outputs(targets), Element::I64, 30, (-bound, bound)),
        ],
        nodes: Vec::new(),
        input: 0,
        output: 1,
    };
    assert!(!logistic || graph.tensors[1].exponent == crate::spec::activation::WIDE_OUTPUT_EXPONENT);
    push(&mut graph, Operator::Trees(trees), vec![0]);
    graph
}
