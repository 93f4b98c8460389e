//! Balanced boosted trees, as ONNX says them and as a peer without a tree operator takes them.

use crate::nets::Random;
use crate::onnx::{Node, Tensor, floats, node};

const DEPTH: usize = 6;
const BRANCHES: usize = (1 << DEPTH) - 1;
const LEAVES: usize = 1 << DEPTH;

/// Complete trees in heap order: the children of branch `i` are `2i + 1`, where its feature is at most the threshold, and
/// `2i + 2`; the leaves follow the branches.
pub(super) struct Trees {
    features: usize,
    /// Feature and threshold of each branch.
    branches: Vec<[(usize, f32); BRANCHES]>,
    leaves: Vec<[f32; LEAVES]>,
}

impl Trees {
    pub(super) fn new(random: &mut Random, count: usize, features: usize) -> Self {
        let mut branch = || ((random.unit() * features as f32) as usize, random.normal());
        let branches = (0..count).map(|_| std::array::from_fn(|_| branch())).collect();
        let leaves = (0..count).map(|_| std::array::from_fn(|_| random.normal() * 0.02)).collect();
        Self { features, branches, leaves }
    }

    /// One `TreeEnsembleRegressor`.
    pub(super) fn ensemble(&self) -> (Vec<Node>, Vec<Tensor>) {
        let trees = self.branches.len();
        let nodes = BRANCHES + LEAVES;
        let each = |of: &dyn Fn(usize, usize) -> i64| -> Vec<i64> {
            (0..trees)
                .flat_map(|tree| (0..nodes).map(move |at| (tree, at)))
                .map(|(tree, at)| of(tree, at))
                .collect()
        };
        let inner = |at: usize, child: usize| if at < BRANCHES { (2 * at + child) as i64 } else { 0 };
        let modes: Vec<&str> =
            (0..trees * nodes).map(|at| if at % nodes < BRANCHES { "BRANCH_LEQ" } else { "LEAF" }).collect();
        let thresholds = self
            .branches
            .iter()
            .flat_map(|branches| branches.iter().map(|(_, threshold)| *threshold).chain([0.0; LEAVES]));
        let leaf_ids = (0..trees * LEAVES).map(|at| (BRANCHES + at % LEAVES) as i64).collect();
        let ensemble = node("ai.onnx.ml.TreeEnsembleRegressor", &["x"], &["y"])
            .int("n_targets", 1)
            .ints("nodes_treeids", each(&|tree, _| tree as i64))
            .ints("nodes_nodeids", each(&|_, at| at as i64))
            .ints(
                "nodes_featureids",
                each(&|tree, at| self.branches[tree].get(at).map_or(0, |branch| branch.0 as i64)),
            )
            .floats("nodes_values", thresholds.collect())
            .strings("nodes_modes", &modes)
            .ints("nodes_truenodeids", each(&|_, at| inner(at, 1)))
            .ints("nodes_falsenodeids", each(&|_, at| inner(at, 2)))
            .ints("target_treeids", (0..trees * LEAVES).map(|at| (at / LEAVES) as i64).collect())
            .ints("target_nodeids", leaf_ids)
            .ints("target_ids", vec![0; trees * LEAVES])
            .floats("target_weights", self.leaves.as_flattened().to_vec());
        (vec![ensemble], Vec::new())
    }

    /// The same sums by products of matrices: which branches hold, how many of them lead to each leaf, and the leaf that
    /// all that lead to it agree on.
    pub(super) fn products(&self) -> (Vec<Node>, Vec<Tensor>) {
        let trees = self.branches.len();
        let (width, leaves) = (trees * BRANCHES, trees * LEAVES);
        let mut picks = vec![0.0; self.features * width];
        let mut leads = vec![0.0; width * leaves];
        let mut held = vec![0.0; leaves];
        for (tree, branches) in self.branches.iter().enumerate() {
            for (branch, (feature, _)) in branches.iter().enumerate() {
                picks[feature * width + tree * BRANCHES + branch] = 1.0;
            }
            for leaf in 0..LEAVES {
                let mut at = BRANCHES + leaf;
                while at > 0 {
                    let (parent, holds) = ((at - 1) / 2, at % 2 == 1);
                    let place = (tree * BRANCHES + parent) * leaves + tree * LEAVES + leaf;
                    leads[place] = if holds { 1.0 } else { -1.0 };
                    held[tree * LEAVES + leaf] += f32::from(u8::from(holds));
                    at = parent;
                }
            }
        }
        let thresholds: Vec<f32> =
            self.branches.as_flattened().iter().map(|(_, threshold)| *threshold).collect();
        let constants = vec![
            floats("picks", &[self.features, width], &picks),
            floats("thresholds", &[1, width], &thresholds),
            floats("leads", &[width, leaves], &leads),
            floats("held", &[1, leaves], &held),
            floats("values", &[leaves, 1], self.leaves.as_flattened()),
        ];
        let to_float = |from: &str, to: &str| node("Cast", &[from], &[to]).int("to", 1);
        let nodes = vec![
            node("MatMul", &["x", "picks"], &["picked"]),
            node("LessOrEqual", &["picked", "thresholds"], &["holds"]),
            to_float("holds", "holding"),
            node("MatMul", &["holding", "leads"], &["led"]),
            node("Equal", &["led", "held"], &["reached"]),
            to_float("reached", "reaching"),
            node("MatMul", &["reaching", "values"], &["y"]),
        ];
        (nodes, constants)
    }
}
