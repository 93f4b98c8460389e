//! What trees read where a scaler, or a choice of features, lies between them and the model's input.
//!
//! Thresholds are exact on floats as they were sent, so trees read the model's input itself. A scaler is monotone in its
//! feature: a comparison of what it makes, in float32 as runtimes compute it, is a comparison of the feature with the
//! last float for which it holds, or for which it does not.

use std::collections::HashMap;

use super::float::{Branch, Comparison, FloatGraph, Operation, Step, Value};
use crate::spec::rounding::key;

/// Elements of all steps before trees together: more would take long, and no scaler has as many.
const MAX_STEPS: usize = 1 << 18;

/// An element of the model's input, and what a scaler does to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Feature {
    pub(super) element: u32,
    scaler: Option<Scaler>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Scaler {
    offset: f32,
    scale: f32,
}

impl Scaler {
    fn apply(self, x: f32) -> f32 {
        (x - self.offset) * self.scale
    }
}

/// The features of a value, if nothing but moves and one scaler for each lies before it.
pub(super) fn features(graph: &FloatGraph, value: Value) -> Option<Vec<Feature>> {
    if value == 0 {
        return Some((0..graph.len(0) as u32).map(|element| Feature { element, scaler: None }).collect());
    }
    Walk { graph, found: HashMap::new(), left: MAX_STEPS }.features(value)
}

/// The steps before a value, each visited once.
struct Walk<'a> {
    graph: &'a FloatGraph,
    found: HashMap<Value, Vec<Feature>>,
    /// Elements that may still be looked at.
    left: usize,
}

impl Walk<'_> {
    fn features(&mut self, value: Value) -> Option<Vec<Feature>> {
        self.left = self.left.checked_sub(self.graph.len(value))?;
        if value == 0 {
            return features(self.graph, 0);
        }
        if let Some(found) = self.found.get(&value) {
            return Some(found.clone());
        }
        let step = self.graph.steps.iter().find(|step| step.output == value)?;
        let mut inputs = Vec::new();
        for &input in &step.inputs {
            inputs.extend(self.features(input)?);
        }
        let found = of_step(step, &inputs)?;
        self.found.insert(value, found.clone());
        Some(found)
    }
}

/// What a step makes of the features of its inputs.
fn of_step(step: &Step, inputs: &[Feature]) -> Option<Vec<Feature>> {
    match &step.operation {
        Operation::Move { indices, .. } => {
            indices.iter().map(|&index| inputs.get(usize::try_from(index).ok()?).copied()).collect()
        }
        Operation::Affine { scale, offset } if step.source == "Scaler" => {
            let scaled = |(feature, (&scale, &offset)): (&Feature, (&f64, &f64))| {
                // Both were float32, and their product has all its digits in float64.
                let scaler = Scaler { offset: (-offset / scale) as f32, scale: scale as f32 };
                let fits = feature.scaler.is_none() && scaler.scale != 0.0 && scaler.offset.is_finite();
                fits.then_some(Feature { scaler: Some(scaler), ..*feature })
            };
            inputs.iter().zip(scale.iter().zip(offset)).map(scaled).collect()
        }
        _ => None,
    }
}

impl Feature {
    /// The comparison and threshold on the model's input that decide as `comparison` with `threshold` does on the
    /// feature; `None` if no single one does.
    pub(super) fn unscaled(self, comparison: Comparison, threshold: f32) -> Option<(Comparison, f32)> {
        let Some(scaler) = self.scaler else { return Some((comparison, threshold)) };
        let below = match comparison {
            Comparison::LessOrEqual | Comparison::Less => true,
            Comparison::GreaterOrEqual | Comparison::Greater => false,
            Comparison::Equal | Comparison::NotEqual => return None,
        };
        // It holds up to some feature, or from the next one on.
        let up_to = below == (scaler.scale > 0.0);
        let holds = |x: f32| comparison.holds(scaler.apply(x), threshold) == up_to;
        let last = last_that(holds);
        Some(match (up_to, last) {
            (true, Some(last)) => (Comparison::LessOrEqual, last),
            (false, Some(last)) => (Comparison::Greater, last),
            // Never, and always.
            (true, None) => (Comparison::LessOrEqual, f32::NAN),
            (false, None) => (Comparison::GreaterOrEqual, f32::NEG_INFINITY),
        })
    }

    /// A branch on the feature as one on the model's input.
    pub(super) fn branch(self, branch: Branch) -> Option<Branch> {
        let (comparison, threshold) = self.unscaled(branch.comparison, branch.threshold)?;
        Some(Branch { feature: self.element, comparison, threshold, ..branch })
    }
}

/// The last float for which a property holds that holds for all floats before one for which it does.
fn last_that(holds: impl Fn(f32) -> bool) -> Option<f32> {
    if !holds(f32::NEG_INFINITY) {
        return None;
    }
    // By keys: the property holds at `low`, and not at `end`.
    let (mut low, mut end) = (i64::from(key(f32::NEG_INFINITY)), i64::from(key(f32::INFINITY)) + 1);
    while low + 1 < end {
        let middle = low.midpoint(end);
        if holds(float(middle)) {
            low = middle;
        } else {
            end = middle;
        }
    }
    Some(float(low))
}

/// The float of a key.
fn float(key: i64) -> f32 {
    let magnitude = f32::from_bits(key.unsigned_abs() as u32);
    if key < 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_float() -> impl Strategy<Value = f32> {
        let edges = [0.0, -0.0, f32::MIN_POSITIVE, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY];
        prop_oneof![any::<f32>(), prop::sample::select(edges.to_vec()), -100f32..100.0]
    }

    proptest! {
        #[test]
        fn a_threshold_before_a_scaler_decides_as_the_one_behind_it(
            offset in -1e6f32..1e6, scale in prop_oneof![-1e3f32..-1e-3, 1e-3f32..1e3],
            threshold in any_float(), xs in prop::collection::vec(any_float(), 1..40), near in -3i64..4,
        ) {
            let scaler = Scaler { offset, scale };
            let feature = Feature { element: 0, scaler: Some(scaler) };
            for comparison in
                [Comparison::LessOrEqual, Comparison::Less, Comparison::GreaterOrEqual, Comparison::Greater]
            {
                let (own, at) = feature.unscaled(comparison, threshold).unwrap();
                // Where it turns is where it may go wrong.
                let turn = if at.is_nan() { 0 } else { i64::from(key(at)) };
                let most = i64::from(key(f32::INFINITY));
                for x in xs.iter().copied().chain([float((turn + near).clamp(-most, most))]) {
                    if !x.is_nan() {
                        prop_assert_eq!(own.holds(x, at), comparison.holds(scaler.apply(x), threshold), "{} {:?}", x, own);
                    }
                }
            }
        }
    }
}
