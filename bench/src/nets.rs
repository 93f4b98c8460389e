//! Random models for comparisons of speed, as ONNX: their weights are of the size that training leaves.

use crate::onnx::{Node, Tensor, floats, integers, node};

/// Numbers from a seed (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Mean 0, standard deviation 1, between -3.5 and 3.5: a sum of uniform numbers.
    pub(crate) fn normal(&mut self) -> f32 {
        ((0..12).map(|_| self.unit()).sum::<f32>() - 6.0).clamp(-3.5, 3.5)
    }

    /// `count` weights between -`bound` and `bound`.
    pub(crate) fn weights(&mut self, count: usize, bound: f32) -> Vec<f32> {
        (0..count).map(|_| (2.0 * self.unit() - 1.0) * bound).collect()
    }
}

pub(crate) fn perceptron(random: &mut Random, widths: &[usize]) -> (Vec<Node>, Vec<Tensor>) {
    let (mut nodes, mut constants, mut from) = (Vec::new(), Vec::new(), "x".to_owned());
    for (layer, pair) in widths.windows(2).enumerate() {
        let (inputs, outputs) = (pair[0], pair[1]);
        let (weight, bias, sum) = (format!("w{layer}"), format!("b{layer}"), format!("s{layer}"));
        let bound = (6.0 / inputs as f32).sqrt();
        constants.push(floats(&weight, &[inputs, outputs], &random.weights(inputs * outputs, bound)));
        constants.push(floats(&bias, &[outputs], &random.weights(outputs, 0.1)));
        let last = layer + 2 == widths.len();
        let to = if last { "y" } else { &sum };
        nodes.push(node("Gemm", &[&from, &weight, &bias], &[to]));
        if !last {
            from = format!("h{layer}");
            nodes.push(node("Relu", &[&sum], &[&from]));
        }
    }
    (nodes, constants)
}

const LEAVES: usize = 31;

/// The lists of a `TreeEnsembleRegressor`, a tree at a time.
#[derive(Default)]
struct Lists {
    trees: Vec<i64>,
    ids: Vec<i64>,
    features: Vec<i64>,
    thresholds: Vec<f32>,
    modes: Vec<&'static str>,
    when_true: Vec<i64>,
    when_false: Vec<i64>,
    leaf_trees: Vec<i64>,
    leaf_ids: Vec<i64>,
    leaf_values: Vec<f32>,
}

/// Boosted trees as LightGBM grows them: leaf by leaf, so they are not balanced. Every threshold lies within what the
/// branches above leave of its feature, so every leaf can be reached.
pub(crate) fn trees(random: &mut Random, count: usize, features: usize) -> Node {
    let mut lists = Lists::default();
    for tree in 0..count {
        grow(random, &mut lists, tree as i64, features);
    }
    let zeros = vec![0; lists.leaf_ids.len()];
    node("ai.onnx.ml.TreeEnsembleRegressor", &["x"], &["y"])
        .int("n_targets", 1)
        .ints("nodes_treeids", lists.trees)
        .ints("nodes_nodeids", lists.ids)
        .ints("nodes_featureids", lists.features)
        .floats("nodes_values", lists.thresholds)
        .strings("nodes_modes", &lists.modes)
        .ints("nodes_truenodeids", lists.when_true)
        .ints("nodes_falsenodeids", lists.when_false)
        .ints("target_treeids", lists.leaf_trees)
        .ints("target_nodeids", lists.leaf_ids)
        .ints("target_ids", zeros)
        .floats("target_weights", lists.leaf_values)
}

fn grow(random: &mut Random, lists: &mut Lists, tree: i64, features: usize) {
    let first = lists.ids.len();
    // Each open leaf with the range of every feature that leads to it.
    let mut leaves = vec![(0, vec![(-2.5f32, 2.5f32); features])];
    let mut nodes = 1;
    push_node(lists, tree, 0);
    while leaves.len() < LEAVES {
        let (id, mut below) = leaves.swap_remove(random.below(leaves.len()));
        let feature = random.below(features);
        let (low, high) = below[feature];
        let threshold = low + (high - low) * (0.2 + 0.6 * random.unit());
        let mut above = below.clone();
        below[feature].1 = threshold;
        above[feature].0 = threshold;
        let place = first + id;
        lists.features[place] = feature as i64;
        lists.thresholds[place] = threshold;
        lists.modes[place] = "BRANCH_LEQ";
        (lists.when_true[place], lists.when_false[place]) = (nodes as i64, nodes as i64 + 1);
        for side in [below, above] {
            push_node(lists, tree, nodes as i64);
            leaves.push((nodes, side));
            nodes += 1;
        }
    }
    for (id, _) in leaves {
        lists.leaf_trees.push(tree);
        lists.leaf_ids.push(id as i64);
        lists.leaf_values.push(random.normal() * 0.02);
    }
}

fn push_node(lists: &mut Lists, tree: i64, id: i64) {
    lists.trees.push(tree);
    lists.ids.push(id);
    lists.features.push(0);
    lists.thresholds.push(0.0);
    lists.modes.push("LEAF");
    lists.when_true.push(0);
    lists.when_false.push(0);
}

/// LSTM layers and a linear one on the last step, as PyTorch exports them with `batch_first`.
pub(crate) fn lstm(
    random: &mut Random,
    inputs: usize,
    hidden: usize,
    layers: usize,
) -> (Vec<Node>, Vec<Tensor>) {
    let mut nodes = vec![node("Transpose", &["x"], &["t0"]).ints("perm", vec![1, 0, 2])];
    let mut constants = vec![integers("one", &[1], &[1]), integers("last", &[], &[-1])];
    let bound = 1.0 / (hidden as f32).sqrt();
    for layer in 0..layers {
        let width = if layer == 0 { inputs } else { hidden };
        let name = |what: &str| format!("{what}{layer}");
        let (w, r, b, y, from) = (name("w"), name("r"), name("b"), name("y"), name("t"));
        let to = format!("t{}", layer + 1);
        constants.push(floats(&w, &[1, 4 * hidden, width], &random.weights(4 * hidden * width, bound)));
        constants.push(floats(&r, &[1, 4 * hidden, hidden], &random.weights(4 * hidden * hidden, bound)));
        constants.push(floats(&b, &[1, 8 * hidden], &random.weights(8 * hidden, bound)));
        nodes.push(node("LSTM", &[&from, &w, &r, &b], &[&y]).int("hidden_size", hidden as i64));
        nodes.push(node("Squeeze", &[&y, "one"], &[&to]));
    }
    nodes.push(node("Transpose", &[&format!("t{layers}")], &["steps"]).ints("perm", vec![1, 0, 2]));
    nodes.push(node("Gather", &["steps", "last"], &["step"]).int("axis", 1));
    constants.push(floats("head", &[1, hidden], &random.weights(hidden, bound)));
    constants.push(floats("offset", &[1], &[0.1]));
    nodes.push(node("Gemm", &["step", "head", "offset"], &["y"]).int("transB", 1));
    (nodes, constants)
}
