//! Tree ensembles (`SPEC.md`, section 7.5) by the path taken.
//!
//! A key of 32 bits is only ever compared with the thresholds of its feature. So each feature that is compared is first
//! replaced by its rank, the number of thresholds below its key: the thresholds on both sides of the key are looked up
//! by the rank and compared with it, which proves the rank. All nodes then compare ranks of a few bits.
//!
//! At each level of a tree, indicators say which node is reached: one of them is one, or none if the path has ended in a
//! leaf above. They choose the node's feature and threshold, and one comparison serves the level.

use std::collections::BTreeMap;

use haca_kernels::view::{Branch, Child, Outputs, Trees};

use super::builder::{Builder, Number};
use super::range::width;

pub(super) fn trees(builder: &mut Builder, ensemble: &Trees<'_>, keys: &[Number]) -> Vec<Number> {
    let branches: Vec<Branch> = ensemble.branches().collect();
    let ranks: Vec<Rank> =
        keys.iter().enumerate().map(|(feature, key)| Rank::new(builder, feature, key, &branches)).collect();
    finish(builder, ensemble, &branches, &ranks)
}

/// The outputs, from the ranks of all features.
pub(super) fn finish(
    builder: &mut Builder,
    ensemble: &Trees<'_>,
    branches: &[Branch],
    ranks: &[Rank],
) -> Vec<Number> {
    let walk = Walk { ensemble, branches, ranks };
    let mut sums: Vec<Number> = ensemble.base().iter().map(|&base| Number::constant(base.into())).collect();
    for root in ensemble.roots() {
        for (sum, share) in sums.iter_mut().zip(walk.tree(builder, root)) {
            sum.add(&share, 1);
        }
    }
    match ensemble.outputs() {
        Outputs::Sums => sums,
        Outputs::Complement(one) => vec![Number::constant(one.into()).minus(&sums[0]), sums[0].clone()],
        Outputs::Negate => vec![sums[0].times(-1), sums[0].clone()],
        Outputs::Logistic(shift) => sums.iter().map(|sum| builder.wide_sigmoid(sum, shift)).collect(),
        Outputs::LogisticPair(shift) => {
            let positive = builder.wide_sigmoid(&sums[0], shift);
            vec![Number::constant(1 << 30).minus(&positive), positive]
        }
    }
}

/// A feature's key as the number of its thresholds below it.
pub(super) struct Rank {
    /// Sorted, each once.
    pub(super) thresholds: Vec<i128>,
    pub(super) rank: Number,
}

impl Rank {
    fn new(builder: &mut Builder, feature: usize, key: &Number, branches: &[Branch]) -> Rank {
        let thresholds = thresholds(feature, branches);
        let rank = if thresholds.is_empty() { Number::constant(0) } else { prove(builder, key, &thresholds) };
        Rank { thresholds, rank }
    }

    /// Rank of one of the thresholds.
    fn of(&self, threshold: i64) -> i128 {
        self.thresholds.partition_point(|other| *other < threshold.into()) as i128
    }
}

/// What a feature is compared with: sorted, each once.
pub(super) fn thresholds(feature: usize, branches: &[Branch]) -> Vec<i128> {
    let of_feature = branches.iter().filter(|branch| branch.feature == feature);
    let mut thresholds: Vec<i128> = of_feature.map(|branch| branch.threshold.into()).collect();
    thresholds.sort_unstable();
    thresholds.dedup();
    thresholds
}

/// The rank of a key, with `above < key <= up_to` looked up by it. A rank beyond the last finds an empty interval.
pub(super) fn prove(builder: &mut Builder, key: &Number, thresholds: &[i128]) -> Number {
    let most = thresholds.len() as i128;
    let value = thresholds.iter().filter(|threshold| **threshold < key.value).count() as i128;
    let rank = builder.variable(value, 0, most);
    let bits = builder.bits(&rank, 0, width(most));
    let mut above: Vec<i128> = [&[key.low - 1], thresholds].concat();
    let mut up_to: Vec<i128> = [thresholds, &[key.high]].concat();
    above.resize(1 << bits.len(), key.high);
    up_to.resize(1 << bits.len(), key.high);
    let [above, up_to] = builder.look_up(&bits, [above, up_to]);
    // Both differences lie in the key's interval, or are not negative only if the bits hold.
    let width = width(key.high - key.low + 1);
    builder.bits(&key.minus(&above), 1, width);
    builder.bits(&up_to.minus(key), 0, width);
    rank
}

struct Walk<'a> {
    ensemble: &'a Trees<'a>,
    branches: &'a [Branch],
    ranks: &'a [Rank],
}

impl Walk<'_> {
    /// What one tree adds to each sum.
    fn tree(&self, builder: &mut Builder, root: Child) -> Vec<Number> {
        let targets = self.ensemble.base().len();
        let mut shares = vec![Number::constant(0); targets];
        let mut bounds = vec![(i128::MAX, i128::MIN); targets];
        let mut level = vec![(Number::constant(1), root)];
        while !level.is_empty() {
            // Two ways may lead to one node: at most one of them is taken.
            let mut reached: BTreeMap<usize, Number> = BTreeMap::new();
            for (flag, child) in level {
                match child {
                    Child::Node(node) => {
                        let ways = reached.entry(node).or_insert_with(|| Number::constant(0));
                        *ways = ways.plus(&flag).within(0, 1);
                    }
                    Child::Leaf(leaf) => self.reach(leaf, &flag, &mut shares, &mut bounds),
                }
            }
            let nodes: Vec<(Number, &Branch)> =
                reached.into_iter().map(|(node, flag)| (flag, &self.branches[node])).collect();
            level = if nodes.is_empty() { Vec::new() } else { self.descend(builder, &nodes) };
        }
        // Exactly one leaf is reached.
        shares.into_iter().zip(bounds).map(|(share, (low, high))| share.within(low, high)).collect()
    }

    fn reach(&self, leaf: usize, flag: &Number, shares: &mut [Number], bounds: &mut [(i128, i128)]) {
        let mut values = vec![0; shares.len()];
        self.ensemble.leaf(leaf).for_each(|(target, value)| values[target] += i128::from(value));
        for ((share, (low, high)), value) in shares.iter_mut().zip(bounds).zip(values) {
            share.add(flag, value);
            (*low, *high) = ((*low).min(value), (*high).max(value));
        }
    }

    /// The children of a level's nodes with their indicators.
    fn descend(&self, builder: &mut Builder, nodes: &[(Number, &Branch)]) -> Vec<(Number, Child)> {
        let (mut low, mut high) = (-1, -1);
        let mut difference = Number::constant(-1);
        let mut features: Vec<usize> = nodes.iter().map(|(_, branch)| branch.feature).collect();
        features.sort_unstable();
        features.dedup();
        for feature in features {
            let rank = &self.ranks[feature];
            let mut chosen = Number::constant(0);
            for (flag, branch) in nodes.iter().filter(|(_, branch)| branch.feature == feature) {
                let threshold = rank.of(branch.threshold);
                chosen.add(flag, 1);
                difference.add(flag, -threshold);
                (low, high) = (low.min(-1 - threshold), high.max(rank.rank.high - 1 - threshold));
            }
            difference.add(&builder.product(&chosen.within(0, 1), &rank.rank), 1);
        }
        // One node's difference, or none: then no indicator is left for the comparison to choose by.
        let above = builder.at_least(&difference.within(low, high), 0);
        let mut children = Vec::with_capacity(2 * nodes.len());
        for (flag, branch) in nodes {
            let right = builder.product(flag, &above);
            children.push((flag.minus(&right).within(0, 1), branch.when_true));
            children.push((right.within(0, 1), branch.when_false));
        }
        children
    }
}
