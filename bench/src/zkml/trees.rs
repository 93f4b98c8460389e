//! Balanced boosted trees, as ONNX says them.

use crate::nets::Random;
use crate::onnx::{Node, Tensor, node};

const DEPTH: usize = 6;
const BRANCHES: usize = (1 << DEPTH) - 1;
const LEAVES: usize = 1 << DEPTH;

/// Complete trees in heap order: the children of branch `i` are `2i + 1`, where its feature is at most the threshold, and
/// `2i + 2`; the leaves follow the branches.
pub(super) struct Trees {
    /// Feature and threshold of each branch.
    branches: Vec<[(usize, f32); BRANCHES]>,
    leaves: Vec<[f32; LEAVES]>,
}

impl Trees {
    pub(super) fn new(random: &mut Random, count: usize, features: usize) -> Self {
        let mut branch = || ((random.unit() * features as f32) as usize, random.normal());
        let branches = (0..count).map(|_| std::array::from_fn(|_| branch())).collect();
        let leaves = (0..count).map(|_| std::array::from_fn(|_| random.normal() * 0.02)).collect();
        Self { branches, leaves }
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
}
