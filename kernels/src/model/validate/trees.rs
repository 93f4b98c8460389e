//! The proof of a tree ensemble.

use super::{LoadError, Proof, SUM_LIMIT, check_shift, range_of};
use crate::model::graph::{Element, Finish, Node, Tensor, Trees};
use crate::spec::activation::{WIDE_INPUT_EXPONENT, WIDE_OUTPUT_EXPONENT};
use crate::spec::rounding::EXPONENTS;

/// No model people trade with is deeper; bounds the work on one row.
const MAX_DEPTH: u32 = 4096;

/// Checks indices, depth and leaf sums.
pub(super) fn check(node: &Node, trees: &Trees, input: &Tensor, output: &Tensor) -> Result<Proof, LoadError> {
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
