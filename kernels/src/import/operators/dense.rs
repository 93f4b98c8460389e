//! Products with constant matrices.

use crate::import::ImportError;
use crate::import::constant::Constant;
use crate::import::float::{Operation, Value};
use crate::import::graph::{Known, Reader, refuse};
use crate::import::onnx::NodeProto;

impl Reader {
    pub(super) fn matmul(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        if let (&Known::Value(left), &Known::Value(right)) = (self.input(node, 0)?, self.input(node, 1)?) {
            return self.matmul_of_values(node, [left, right]);
        }
        let input = self.any_value(node, 0)?;
        let Some(weights) = self.constant(node, 1)?.transposed() else {
            return refuse(node, "its second input must be a constant matrix");
        };
        let bias = vec![0.0; weights.shape[0]];
        self.dense(node, 0, input, weights, bias).map(drop)
    }

    pub(super) fn gemm(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let input = self.any_value(node, 0)?;
        if node.int("transA", 0) != 0 {
            return refuse(node, "transA would mix rows of the batch");
        }
        let matrix = self.constant(node, 1)?;
        let weights = if node.int("transB", 0) != 0 { Some(matrix.clone()) } else { matrix.transposed() };
        let Some(mut weights) = weights.filter(|weights| weights.shape.len() == 2) else {
            return refuse(node, "its second input must be a constant matrix");
        };
        let (alpha, beta) = (node.float("alpha", 1.0), node.float("beta", 1.0));
        weights.values.iter_mut().for_each(|weight| *weight *= f64::from(alpha));
        let outputs = weights.shape[0];
        let bias = match self.optional(node, 2)? {
            None => vec![0.0; outputs],
            Some(Known::Constant(bias)) => match bias.broadcast(&[outputs as u32]) {
                Some(bias) => bias.iter().map(|bias| bias * f64::from(beta)).collect(),
                None => {
                    return refuse(
                        node,
                        format!("its bias of shape {:?} is not one for each output", bias.shape),
                    );
                }
            },
            Some(Known::Value(_)) => return refuse(node, "its bias must be a constant"),
        };
        self.dense(node, 0, input, weights, bias).map(drop)
    }

    pub(super) fn dense(
        &mut self,
        node: &NodeProto,
        index: usize,
        input: Value,
        weights: Constant,
        bias: Vec<f64>,
    ) -> Result<Value, ImportError> {
        let shape = self.graph.shapes[input].clone();
        let (outputs, inputs) = (weights.shape[0], weights.shape[1]);
        if bias.iter().chain(&weights.values).any(|value| !value.is_finite()) {
            return refuse(node, "a weight is not finite");
        }
        if shape.iter().rev().skip(1).any(|&length| length != 1) {
            return self.dense_at_positions(node, index, input, weights, bias);
        }
        let axis = self.batch_axis(input);
        if self.graph.len(input) != inputs || shape.is_empty() || axis == shape.len() {
            return refuse(node, format!("its matrix takes {inputs} inputs, and a row is {shape:?}"));
        }
        let mut output = shape;
        *output.last_mut().expect("not empty") = outputs as u32;
        self.step(node, index, Operation::Dense { weights: weights.values, bias }, vec![input], output)?;
        self.set_batch_axis(axis);
        Ok(self.graph.steps.last().expect("a step was just added").output)
    }
}
