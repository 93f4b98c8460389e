//! From float trees to integer keys and fixed-point leaves.
//!
//! A decision on keys is the decision on floats, for every float: all six comparisons become `key <= threshold`, some
//! with the children exchanged, equality with two of them. Leaves get the finest power-of-two scale at which the
//! largest fits 32 bits; their sums are exact.

use super::ImportError;
use super::float::{Branch, Comparison, Ensemble, Finish, Step};
use crate::model::graph::Trees;
use crate::spec::rounding::{EXPONENTS, key, power_of_two};

/// A threshold that no key reaches: the branch never holds.
const NEVER: i32 = i32::MIN;

/// Quantizes an ensemble.
pub(crate) fn quantize(step: &Step, ensemble: &Ensemble) -> Result<Trees, ImportError> {
    let fail = |what: &str| Err(ImportError::Range { layer: step.name.clone(), what: what.into() });
    let Some(exponent) = sum_exponent(ensemble) else {
        return fail("its leaves and base values differ too much in size for one scale");
    };
    let scale = power_of_two(exponent);
    let base = ensemble.base.iter().map(|base| (base * scale).round_ties_even() as i64).collect();
    let mut trees = Trees::new(base, exponent, ensemble.finish);
    for tree in &ensemble.trees {
        let first_leaf = trees.leaf_entries.len() as i32 - 1;
        let first_node = trees.features.len();
        // Where each branch starts; equality takes two nodes.
        let mut places = Vec::with_capacity(tree.branches.len());
        let mut next = first_node as i32;
        for branch in &tree.branches {
            places.push(next);
            next += nodes_of(branch);
        }
        let place = |child: i32| {
            usize::try_from(child).map_or_else(|_| !(first_leaf + !child), |child| places[child])
        };
        for branch in &tree.branches {
            push_branch(&mut trees, branch, place(branch.when_true), place(branch.when_false));
        }
        trees.roots.push(place(tree.root));
        trees.tree_nodes.push(trees.features.len() as u32);
        for leaf in &tree.leaves {
            for &(target, value) in leaf {
                trees.entry_targets.push(target);
                trees.entry_values.push((value * scale).round_ties_even() as i32);
            }
            trees.leaf_entries.push(trees.entry_values.len() as u32);
        }
    }
    Ok(trees)
}

/// The finest scale at which every leaf fits 32 bits, and base and sums leave room in 62.
fn sum_exponent(ensemble: &Ensemble) -> Option<i32> {
    let entries = ensemble.trees.iter().flat_map(|tree| &tree.leaves).flatten();
    let leaf = entries.fold(0f64, |most, (_, value)| most.max(value.abs()));
    let base = ensemble.base.iter().fold(0f64, |most, base| most.max(base.abs()));
    let most = match ensemble.finish {
        Finish::Sum | Finish::Negate => *EXPONENTS.end(),
        // 1 has to be in the scale.
        Finish::Complement => 60,
        // The sigmoid's argument has 20 bits after the point: finer would be out of reach of one shift.
        Finish::Logistic | Finish::LogisticPair => 80,
    };
    let least = if ensemble.finish == Finish::Complement { 0 } else { -10 };
    let fits = |exponent: &i32| {
        let scale = power_of_two(*exponent);
        leaf * scale < f64::from(i32::MAX) && base * scale < power_of_two(60)
    };
    (least..=most).rev().find(fits)
}

fn nodes_of(branch: &Branch) -> i32 {
    match branch.comparison {
        Comparison::Equal | Comparison::NotEqual if !branch.threshold.is_nan() => 2,
        _ => 1,
    }
}

fn push_branch(trees: &mut Trees, branch: &Branch, when_true: i32, when_false: i32) {
    if branch.threshold.is_nan() {
        // Every comparison with NaN is false, save inequality.
        match branch.comparison {
            Comparison::NotEqual => push(trees, branch, NEVER, when_false, when_true),
            _ => push(trees, branch, NEVER, when_true, when_false),
        }
        return;
    }
    // Keys are far from the ends of their type, so a key less one is a threshold too.
    let key = key(branch.threshold);
    match branch.comparison {
        Comparison::Equal => push_equal(trees, branch, key, when_true, when_false),
        Comparison::NotEqual => push_equal(trees, branch, key, when_false, when_true),
        Comparison::LessOrEqual => push(trees, branch, key, when_true, when_false),
        Comparison::Less => push(trees, branch, key - 1, when_true, when_false),
        Comparison::Greater => push(trees, branch, key, when_false, when_true),
        Comparison::GreaterOrEqual => push(trees, branch, key - 1, when_false, when_true),
    }
}

fn push(trees: &mut Trees, branch: &Branch, threshold: i32, when_true: i32, when_false: i32) {
    trees.features.push(branch.feature);
    trees.thresholds.push(threshold);
    trees.when_true.push(when_true);
    trees.when_false.push(when_false);
}

/// Equal is: at most the key, and not at most the one below.
fn push_equal(trees: &mut Trees, branch: &Branch, key: i32, equal: i32, unequal: i32) {
    let second = trees.features.len() as i32 + 1;
    push(trees, branch, key, second, unequal);
    push(trees, branch, key - 1, unequal, equal);
}
