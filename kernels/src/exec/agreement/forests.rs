//! Wide forests of trees that are taken without walking: several groups of trees, more features than a window, and a
//! feature with more thresholds than a byte can count.

use std::sync::Arc;

use proptest::prelude::*;

use super::agree_in;
use crate::exec::Backend;
use crate::model::graph::{Finish, Graph, Trees};
use crate::model::{Metadata, Model, encode};
use crate::random::{Choices, graph_of, row, threshold};
use crate::spec::rounding::key;

/// Rows of the largest batch: blocks of one and of two vectors, and all numbers of single rows.
const ROWS: usize = 9;

/// Trees of at most 31 branches on one target, of which one feature has hundreds of different thresholds.
fn wide_forest(choices: &mut Choices) -> Graph {
    let features = choices.between(40, 70) as usize;
    let mut trees = Trees::new(vec![choices.between(-1 << 40, 1 << 40)], 30, Finish::Sum);
    for tree in 0..choices.between(33, 100) {
        let nodes = if tree % 8 == 0 { choices.between(0, 23) } else { choices.between(24, 31) } as usize;
        grow(&mut trees, choices, nodes);
    }
    let nodes = trees.tree_nodes[trees.trees()] as usize;
    let (divided, most) = (choices.below(features as u64) as u32, (nodes * 2 / 3).min(1000));
    let thresholds = choices.between(300, most as i64) as usize;
    // Different ones for numbers below a prime, from -8 to 8, the whole ones among them.
    let different = |number: usize| key(((number * 389 % 1009) as f32 - 504.0) / 63.0);
    for node in 0..nodes {
        let number = node * thresholds / nodes;
        let (feature, threshold) = match number < (node + 1) * thresholds / nodes {
            true => (divided, different(number)),
            false => (choices.below(features as u64) as u32, threshold(choices)),
        };
        trees.features.push(feature);
        trees.thresholds.push(threshold);
    }
    graph_of(trees, features)
}

/// Adds a tree of any shape with so many branches, still without features and thresholds.
fn grow(trees: &mut Trees, choices: &mut Choices, nodes: usize) {
    let start = trees.when_true.len();
    let mut leaf = |choices: &mut Choices| {
        trees.entry_targets.push(0);
        trees.entry_values.push(choices.bits() as i32);
        trees.leaf_entries.push(trees.entry_values.len() as u32);
        !(trees.leaf_entries.len() as i32 - 2)
    };
    let mut child = |choices: &mut Choices, first: usize, branches: usize| match branches {
        0 => leaf(choices),
        _ => first as i32,
    };
    trees.roots.push(child(choices, start, nodes));
    // Branches of the subtree from each branch on; those of `when_true` follow it, then those of `when_false`.
    let mut sizes = vec![nodes; nodes + 1];
    for node in 0..nodes {
        let (first, rest) = (node + 1, sizes[node] - 1);
        let held = choices.below(rest as u64 + 1) as usize;
        trees.when_true.push(child(choices, start + first, held));
        trees.when_false.push(child(choices, start + first + held, rest - held));
        for (first, branches) in [(first, held), (first + held, rest - held)] {
            if branches > 0 {
                sizes[first] = branches;
            }
        }
    }
    trees.tree_nodes.push((start + nodes) as u32);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn executors_agree_on_wide_forests_in_blocks_and_row_by_row(seed: u64) {
        let mut choices = Choices(seed);
        let model = Arc::new(Model::load(&encode(&wide_forest(&mut choices), &Metadata::default())).unwrap());
        // Branches are read: no tree is walked.
        prop_assert!(cfg!(not(target_arch = "x86_64")) || model.work(Backend::Avx2).bytes > 0);
        let rows: Vec<Vec<u8>> =
            (0..ROWS).map(|at| row(&mut choices, model.input_len(), at % 2 == 0)).collect();
        agree_in(&model, &rows, &mut choices, 1..=ROWS)?;
    }
}
