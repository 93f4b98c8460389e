//! The models of this comparison: the shapes are those that trading firms publish figures for, and weights and rows are
//! made from seeds; the limit-order-book net is the trained one of `bench/models/`, with its own rows.

use clap::ValueEnum;
use haca_kernels::npy;

use super::onnx::{self, Node, Tensor, floats, integers, node};

/// A model that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Case {
    /// Multilayer perceptron 64-256-256-1, ReLU.
    Mlp,
    /// 250 boosted trees of 31 leaves on 60 features.
    #[value(name = "gbt_a")]
    GbtA,
    /// 1,000 boosted trees of 31 leaves on 125 features.
    #[value(name = "gbt_b")]
    GbtB,
    /// 4,000 boosted trees of 31 leaves on 1,000 features.
    #[value(name = "gbt_c")]
    GbtC,
    /// A window of 50 × 100 through two LSTM layers of 100 units.
    #[value(name = "lstm_a")]
    LstmA,
    /// The newest step of a stream of `lstm_a`, against the peer's whole window.
    #[value(name = "lstm_a step", alias = "lstm_a_step")]
    LstmAStep,
    /// A window of 100 × 250 through three LSTM layers of 200 units.
    #[value(name = "lstm_b")]
    LstmB,
    /// The shipped encoder: a window of 32 × 8 through two layers of width 32. Its weights are trained.
    Transformer,
    /// Convolutions over 40 updates of 10 levels on both sides of a limit order book, and an LSTM: `bench/models/`.
    Orderbook,
}

const ORDERBOOK: &[u8] = include_bytes!("../../models/orderbook.onnx");
const ORDERBOOK_CALIBRATION: &[u8] = include_bytes!("../../models/orderbook_calibration.npy");
const ORDERBOOK_ROWS: &[u8] = include_bytes!("../../models/orderbook_input.npy");

impl Case {
    /// Its name in tables, in JSON and on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::GbtA => "gbt_a",
            Self::GbtB => "gbt_b",
            Self::GbtC => "gbt_c",
            Self::LstmA => "lstm_a",
            Self::LstmAStep => "lstm_a step",
            Self::LstmB => "lstm_b",
            Self::Transformer => "transformer",
            Self::Orderbook => "orderbook",
        }
    }

    /// Whether ours takes the newest step alone, of a stream that has taken the others.
    pub(super) fn is_step(self) -> bool {
        self == Self::LstmAStep
    }

    /// Shape of an input row.
    pub(super) fn row(self) -> &'static [usize] {
        match self {
            Self::Mlp => &[64],
            Self::GbtA => &[60],
            Self::GbtB => &[125],
            Self::GbtC => &[1000],
            Self::LstmA | Self::LstmAStep => &[50, 100],
            Self::LstmB => &[100, 250],
            Self::Transformer => &[32, 8],
            Self::Orderbook => &[1, 40, 40],
        }
    }

    /// Rows that the compiler fits scales to: few where its float model takes long.
    pub(super) fn calibration_rows(self) -> usize {
        match self {
            Self::Mlp | Self::GbtA | Self::GbtB | Self::GbtC | Self::Transformer => 64,
            Self::LstmA | Self::LstmAStep => 16,
            Self::LstmB => 4,
            Self::Orderbook => 40,
        }
    }

    /// The model's ONNX file, with one float as answer for each row.
    pub(super) fn onnx(self) -> Vec<u8> {
        let mut random = Random(self as u64 + 1);
        let (nodes, constants) = match self {
            Self::Mlp => perceptron(&mut random, &[64, 256, 256, 1]),
            Self::GbtA => (vec![trees(&mut random, 250, 60)], vec![]),
            Self::GbtB => (vec![trees(&mut random, 1000, 125)], vec![]),
            Self::GbtC => (vec![trees(&mut random, 4000, 1000)], vec![]),
            Self::LstmA | Self::LstmAStep => lstm(&mut random, 100, 100, 2),
            Self::LstmB => lstm(&mut random, 250, 200, 3),
            Self::Transformer => return include_bytes!("../../models/transformer.onnx").to_vec(),
            Self::Orderbook => return ORDERBOOK.to_vec(),
        };
        onnx::model(self.name(), self.row(), nodes, constants)
    }

    /// Rows to fit scales to.
    pub(super) fn calibration(self) -> Vec<f32> {
        match self {
            Self::Orderbook => shipped(ORDERBOOK_CALIBRATION),
            _ => self.rows(1, self.calibration_rows()),
        }
    }

    /// Rows to ask it about.
    pub(super) fn rows(self, seed: u64, rows: usize) -> Vec<f32> {
        if self == Self::Orderbook {
            let len = rows * self.row().iter().product::<usize>();
            return shipped(ORDERBOOK_ROWS).into_iter().cycle().take(len).collect();
        }
        let mut random = Random(seed << 32 | self as u64);
        (0..rows * self.row().iter().product::<usize>()).map(|_| random.normal()).collect()
    }
}

fn shipped(npy: &[u8]) -> Vec<f32> {
    npy::parse(npy).expect("the shipped rows are committed as npy files").data
}

/// Numbers from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Mean 0, standard deviation 1, between -3.5 and 3.5: a sum of uniform numbers.
    fn normal(&mut self) -> f32 {
        ((0..12).map(|_| self.unit()).sum::<f32>() - 6.0).clamp(-3.5, 3.5)
    }

    /// `count` weights between -`bound` and `bound`.
    fn weights(&mut self, count: usize, bound: f32) -> Vec<f32> {
        (0..count).map(|_| (2.0 * self.unit() - 1.0) * bound).collect()
    }
}

fn perceptron(random: &mut Random, widths: &[usize]) -> (Vec<Node>, Vec<Tensor>) {
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
fn trees(random: &mut Random, count: usize, features: usize) -> Node {
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
fn lstm(random: &mut Random, inputs: usize, hidden: usize, layers: usize) -> (Vec<Node>, Vec<Tensor>) {
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
