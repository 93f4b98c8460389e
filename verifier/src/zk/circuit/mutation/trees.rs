//! Trees: the rank of a key, and the walk by ranks.

use haca_kernels::random::{Choices, Kind};
use haca_kernels::view::{Branch, Child, Outputs, Trees};

use super::super::trees::{Rank, finish, prove, thresholds};
use super::gadgets::{NONE, none, of_one};
use super::*;

#[test]
fn every_constraint_of_the_rank_of_a_key_is_needed() {
    let keys: Vec<i128> = (-8..8).collect();
    for thresholds in [&[-1][..], &[-5, 0, 2], &[-6, -2, 1, 3, 4]] {
        let gadget = |builder: &mut Builder, key: &Number| prove(builder, key, thresholds);
        assert_eq!(of_one(gadget, &keys, (-8, 7), none).redundant, NONE, "{thresholds:?}");
    }
}

/// An ensemble, whose keys are given by their ranks.
struct Forest<'a> {
    trees: Trees<'a>,
    branches: Vec<Branch>,
    thresholds: Vec<Vec<i128>>,
}

impl<'a> Forest<'a> {
    fn of(model: &'a Model) -> Forest<'a> {
        let Some(Operation::Trees(trees)) = model.nodes().next().map(|node| node.operation) else {
            unreachable!("a model of trees")
        };
        let branches: Vec<Branch> = trees.branches().collect();
        let thresholds = (0..model.input_len()).map(|feature| thresholds(feature, &branches)).collect();
        Forest { trees, branches, thresholds }
    }

    /// The sums of the leaves reached, if one branch goes the other way than it should.
    fn sums(&self, ranks: &[i128], turned: Option<usize>) -> Vec<i64> {
        let mut sums = self.trees.base().to_vec();
        for root in self.trees.roots() {
            let mut child = root;
            while let Child::Node(node) = child {
                child = self.next(ranks, node, turned == Some(node));
            }
            if let Child::Leaf(leaf) = child {
                self.trees.leaf(leaf).for_each(|(target, value)| sums[target] += value);
            }
        }
        sums
    }

    fn next(&self, ranks: &[i128], node: usize, turned: bool) -> Child {
        let branch = self.branches[node];
        let of_threshold =
            self.thresholds[branch.feature].partition_point(|other| *other < branch.threshold.into());
        if (ranks[branch.feature] <= of_threshold as i128) != turned {
            branch.when_true
        } else {
            branch.when_false
        }
    }

    fn ranks(&self, choices: &mut Choices) -> Vec<i128> {
        self.thresholds.iter().map(|of| choices.between(0, of.len() as i64).into()).collect()
    }

    /// For each branch and each way, ranks with which it goes this way and it matters; `None` if there are not. And others.
    fn rows(&self, choices: &mut Choices) -> Option<Vec<Vec<i128>>> {
        let mut rows = Vec::new();
        for node in 0..self.branches.len() {
            for way in [self.branches[node].when_true, self.branches[node].when_false] {
                rows.push((0..300).find_map(|_| {
                    let ranks = self.ranks(choices);
                    let matters = self.sums(&ranks, None) != self.sums(&ranks, Some(node));
                    (matters && self.next(&ranks, node, false) == way).then_some(ranks)
                })?);
            }
        }
        rows.extend((0..40).map(|_| self.ranks(choices)));
        Some(rows)
    }
}

#[test]
fn every_constraint_of_the_walk_is_needed() {
    let mut seen = 0;
    for seed in 0..2500 {
        let model = Model::load(&Kind::Trees.file(&mut Choices::new(seed))).unwrap();
        let forest = Forest::of(&model);
        let sums = matches!(forest.trees.outputs(), Outputs::Sums);
        if !sums || !(3..10).contains(&forest.branches.len()) {
            continue;
        }
        let Some(rows) = forest.rows(&mut Choices::new(seed)) else { continue };
        let gadget: Gadget<'_> = &|builder, x| {
            let ranks = x.iter().zip(&forest.thresholds);
            let ranks: Vec<Rank> = ranks
                .map(|(rank, thresholds)| Rank { thresholds: thresholds.clone(), rank: rank.clone() })
                .collect();
            finish(builder, &forest.trees, &forest.branches, &ranks)
        };
        let rows: Vec<&[i128]> = rows.iter().map(|row| &row[..]).collect();
        let bounds: Vec<(i128, i128)> = forest.thresholds.iter().map(|of| (0, of.len() as i128)).collect();
        let found = mutate(gadget, &rows, &bounds, none);
        assert_eq!(found.redundant, NONE, "seed {seed}");
        seen += 1;
    }
    assert_eq!(seen, 6);
}
