//! The linear models of `ai.onnx.ml`.

use crate::import::ImportError;
use crate::import::constant::Constant;
use crate::import::float::{Function, Operation, Value};
use crate::import::graph::{Known, Reader, refuse};
use crate::import::onnx::NodeProto;

/// Of an operator whose output is made by a later step.
const NO_OUTPUT: usize = usize::MAX;

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
        if !["NONE", "LOGISTIC"].contains(&&transform[..]) {
            return refuse(
                node,
                format!("post_transform {transform} is not supported: NONE and LOGISTIC are"),
            );
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
        let logistic = transform == "LOGISTIC";
        let scores = self.dense(node, if logistic { NO_OUTPUT } else { 1 }, value, weights, bias)?;
        if logistic {
            self.function_of(node, 1, Function::Sigmoid, scores)?;
        }
        Ok(())
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
        Ok((value, Constant { shape: vec![rows, features], values: coefficients }, intercepts))
    }

    /// Taken where it changes nothing: the sum of the magnitudes of two probabilities that complement each other is one.
    /// Anything else is a division by a computed value.
    pub(super) fn normalizer(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let value = self.value(node, 0)?;
        let norm = node.text("norm").unwrap_or("MAX".into()).into_owned();
        if norm == "L1" && self.is_complement(value) {
            self.define(node, 0, Known::Value(value));
            return Ok(());
        }
        refuse(
            node,
            format!(
                "norm {norm} divides by a computed value, which fixed point does not do exactly; only L1 of two probabilities that sum to one is supported"
            ),
        )
    }

    /// Whether a value is the sigmoids of `-s` and `s`.
    fn is_complement(&self, value: Value) -> bool {
        let step = |value: Value| self.graph.steps.iter().find(|step| step.output == value);
        let Some(sigmoid) = step(value) else { return false };
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
