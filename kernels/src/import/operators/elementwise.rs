//! Arithmetic element by element.

use crate::import::ImportError;
use crate::import::float::{Operation, Value};
use crate::import::graph::{Known, Reader, refuse};
use crate::import::onnx::NodeProto;

impl Reader {
    pub(super) fn elementwise(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let operator = node.operator();
        let (left, right) = (self.input(node, 0)?.clone(), self.input(node, 1)?.clone());
        let (value, constant, constant_first) = match (left, right) {
            (Known::Value(a), Known::Value(b)) => {
                let (shape, other) = (self.graph.shapes[a].clone(), &self.graph.shapes[b]);
                if operator != "Add" || shape != *other {
                    return refuse(
                        node,
                        format!(
                            "of two computed values, {shape:?} and {other:?}; only Add of equal shapes is supported"
                        ),
                    );
                }
                return self.step(node, 0, Operation::Add, vec![a, b], shape);
            }
            (Known::Value(value), Known::Constant(constant)) => (value, constant, false),
            (Known::Constant(constant), Known::Value(value)) => (value, constant, true),
            (Known::Constant(_), Known::Constant(_)) => {
                return refuse(node, "of two constants: fold it before export");
            }
        };
        let shape = self.graph.shapes[value].clone();
        let Some(constants) = constant.broadcast(&shape) else {
            return refuse(
                node,
                format!("a constant of shape {:?} does not fit a row of {shape:?}", constant.shape),
            );
        };
        let len = constants.len();
        let negated = || constants.iter().map(|value| -value).collect::<Vec<_>>();
        let (scale, offset) = match (operator.as_str(), constant_first) {
            ("Add", _) => (vec![1.0; len], constants),
            ("Sub", false) => (vec![1.0; len], negated()),
            ("Sub", true) => (vec![-1.0; len], constants),
            ("Mul", _) => (constants, vec![0.0; len]),
            ("Div", false) => (constants.iter().map(|value| 1.0 / value).collect(), vec![0.0; len]),
            _ => return refuse(node, "a constant divided by a computed value is not supported"),
        };
        self.affine(node, value, scale, offset)
    }

    pub(super) fn scaler(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let value = self.value(node, 0)?;
        let len = self.graph.len(value);
        let widened = |values: &[f32], default: f32| match values {
            [] => Some(vec![f64::from(default); len]),
            &[one] => Some(vec![f64::from(one); len]),
            many => (many.len() == len).then(|| many.iter().map(|&value| value.into()).collect()),
        };
        let (scale, offset) = (widened(node.floats("scale"), 1.0), widened(node.floats("offset"), 0.0));
        let (Some(scale), Some(offset)) = (scale, offset) else {
            return refuse(node, format!("its scale or offset does not fit a row of {len} elements"));
        };
        let offset = offset.iter().zip(&scale).map(|(offset, scale)| -offset * scale).collect();
        self.affine(node, value, scale, offset)
    }

    fn affine(
        &mut self,
        node: &NodeProto,
        value: Value,
        scale: Vec<f64>,
        offset: Vec<f64>,
    ) -> Result<(), ImportError> {
        if scale.iter().chain(&offset).any(|value| !value.is_finite()) {
            return refuse(node, "a constant is not finite, or a divisor is 0");
        }
        let shape = self.graph.shapes[value].clone();
        self.step(node, 0, Operation::Affine { scale, offset }, vec![value], shape)
    }
}
