//! The linear models of `ai.onnx.ml`.

use crate::import::ImportError;
use crate::import::constant::Constant;
use crate::import::float::{Function, Operation, Value};
use crate::import::graph::{Known, NO_OUTPUT, Reader, refuse};
use crate::import::onnx::NodeProto;
use crate::spec::{layer_norm, softmax};

impl Reader {
    pub(super) fn linear_regressor(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        if node.text("post_transform").is_some_and(|transform| transform != "NONE") {
            return refuse(node, "its post_transform must be NONE");
        }
        let targets = usize::try_from(node.int("targets", 1)).unwrap_or(0);
        let scores = self.scores(node, targets)?;
        self.dense(node, 0, scores.0, scores.1, scores.2)?;
        Ok(())
    }

    /// Its scores, which are the second output; with one row of coefficients for two classes, those of both.
    pub(super) fn linear_classifier(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        if node.output.first().is_some_and(|label| !label.is_empty() && self.is_read(label)) {
            return refuse(node, "its label is an output that is not supported: the scores are");
        }
        let integers = node.ints("classlabels_ints").len();
        let strings = node.attribute("classlabels_strings").map_or(0, |labels| labels.strings.len());
        let classes = integers.max(strings);
        let rows = node.floats("intercepts").len().max(1);
        let transform = node.text("post_transform").unwrap_or("NONE".into()).into_owned();
        if !["NONE", "LOGISTIC", "SOFTMAX"].contains(&&transform[..]) {
            return refuse(
                node,
                format!("post_transform {transform} is not supported: NONE, LOGISTIC and SOFTMAX are"),
            );
        }
        if transform == "SOFTMAX" && rows == 1 {
            return refuse(node, "SOFTMAX of one score is not supported: export scores of both classes");
        }
        let (value, mut weights, mut bias) = self.scores(node, rows)?;
        if rows == 1 && classes == 2 {
            // The other class has the complement: of a probability, or of the score itself.
            let sign = -1.0;
            let mirrored: Vec<f64> = weights.values.iter().map(|weight| weight * sign).collect();
            let offset = if transform == "NONE" { 1.0 } else { 0.0 };
            weights.values = [mirrored, weights.values].concat();
            weights.shape[0] = 2;
            bias = vec![offset - bias[0], bias[0]];
        }
        let output = if transform == "NONE" { 1 } else { NO_OUTPUT };
        let scores = self.dense(node, output, value, weights, bias)?;
        match &transform[..] {
            "LOGISTIC" => self.function_of(node, 1, Function::Sigmoid, scores).map(drop),
            "SOFTMAX" => self.shares(node, 1, scores),
            _ => Ok(()),
        }
    }

    /// The node's output: softmax over all elements of a row.
    pub(in crate::import) fn shares(
        &mut self,
        node: &NodeProto,
        output: usize,
        scores: Value,
    ) -> Result<(), ImportError> {
        let shape = self.graph.shapes[scores].clone();
        let group = self.graph.len(scores);
        if group > softmax::MAX_GROUP {
            return refuse(node, format!("SOFTMAX over {group} scores; {} is the limit", softmax::MAX_GROUP));
        }
        self.step(node, output, Operation::Softmax { group, scale: 1.0 }, vec![scores], shape)
    }

    /// The input, coefficients `[rows, features]` and intercepts of a linear model.
    fn scores(&self, node: &NodeProto, rows: usize) -> Result<(Value, Constant, Vec<f64>), ImportError> {
        let value = self.value(node, 0)?;
        let widened = |name: &str| node.floats(name).iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let (coefficients, mut intercepts) = (widened("coefficients"), widened("intercepts"));
        if intercepts.is_empty() {
            intercepts = vec![0.0; rows];
        }
        let features = self.graph.len(value);
        if rows == 0 || rows.checked_mul(features) != Some(coefficients.len()) || intercepts.len() != rows {
            let what = format!("{} coefficients are not {rows} rows of {features}", coefficients.len());
            return refuse(node, what);
        }
        Ok((value, Constant::floats(vec![rows, features], coefficients), intercepts))
    }

    /// L1 is taken where it changes nothing: the magnitudes of probabilities that complement each other, or come from a
    /// softmax, add up to one. L2 is layer normalisation of a row beside its negative, whose mean is zero. Anything else
    /// is a division by a computed value.
    pub(super) fn normalizer(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let value = self.value(node, 0)?;
        let norm = node.text("norm").unwrap_or("MAX".into()).into_owned();
        if norm == "L1" && self.is_complement(value) {
            self.define(node, 0, Known::Value(value));
            return Ok(());
        }
        let len = self.graph.len(value);
        if norm == "L2" && 2 * len <= layer_norm::MAX_GROUP {
            return self.unit_length(node, value);
        }
        refuse(
            node,
            format!(
                "norm {norm} of {len} elements divides by a computed value, for which fixed point has no rule; supported are L1 of probabilities that sum to one, and L2 of up to {} elements",
                layer_norm::MAX_GROUP / 2
            ),
        )
    }

    fn unit_length(&mut self, node: &NodeProto, value: Value) -> Result<(), ImportError> {
        let (shape, len) = (self.graph.shapes[value].clone(), self.graph.len(value));
        let negative = self.affine(node, NO_OUTPUT, value, vec![-1.0; len], vec![0.0; len])?;
        let both = 0..2 * len as i32;
        let beside = Operation::Move { indices: both.collect(), fill: 0.0 };
        let beside = self.inner(node, beside, vec![value, negative], vec![2, len as u32])?;
        let norm = Operation::LayerNorm {
            // A row of zeros stays one.
            epsilon: f64::MIN_POSITIVE,
            scale: vec![1.0 / (len as f64).sqrt(); 2 * len],
            offset: vec![0.0; 2 * len],
        };
        let normalized = self.inner(node, norm, vec![beside], vec![2, len as u32])?;
        let first = Operation::Move { indices: (0..len as i32).collect(), fill: 0.0 };
        self.step(node, 0, first, vec![normalized], shape)
    }

    /// Whether a value is the sigmoids of `-s` and `s`, or the shares of a softmax over the whole row.
    fn is_complement(&self, value: Value) -> bool {
        let step = |value: Value| self.graph.steps.iter().find(|step| step.output == value);
        let Some(sigmoid) = step(value) else { return false };
        if matches!(sigmoid.operation, Operation::Softmax { group, .. } if group == self.graph.len(value)) {
            return true;
        }
        if sigmoid.operation != Operation::Function(Function::Sigmoid) {
            return false;
        }
        match step(sigmoid.inputs[0]).map(|step| &step.operation) {
            Some(Operation::Dense { weights, bias }) if bias.len() == 2 => {
                let (first, second) = weights.split_at(weights.len() / 2);
                bias[0] == -bias[1] && first.iter().zip(second).all(|(a, b)| *a == -*b)
            }
            _ => false,
        }
    }
}
