//! The operators of ONNX's own domain, and the scaler, one by one.

mod dense;
mod elementwise;

use super::ImportError;
use super::constant::Constant;
use super::float::{Function, Operation};
use super::graph::{Known, Reader, is_float, refuse};
use super::onnx::NodeProto;
use super::trees;

impl Reader {
    /// Reads one node, whose inputs are read already.
    pub(crate) fn read(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        match node.operator().as_str() {
            "Constant" => {
                let known = Known::Constant(constant_node(node)?);
                self.define(node, 0, known);
                Ok(())
            }
            "Identity" | "Dropout" | "ai.onnx.ml.ZipMap" => {
                let known = self.input(node, 0)?.clone();
                self.define(node, 0, known);
                Ok(())
            }
            "Cast" => {
                let known = self.input(node, 0)?.clone();
                let to = node.int("to", 0);
                if matches!(known, Known::Value(_)) && !i32::try_from(to).is_ok_and(is_float) {
                    return refuse(node, format!("a cast to element type {to} is not one between floats"));
                }
                self.define(node, 0, known);
                Ok(())
            }
            "Transpose" => self.transpose(node),
            "Squeeze" | "Unsqueeze" => self.change_rank(node),
            "Gather" => self.gather(node),
            "Slice" => self.slice(node),
            "LSTM" | "GRU" => self.recurrent(node),
            "Reshape" | "Flatten" => self.reshape(node),
            "MatMul" => self.matmul(node),
            "Gemm" => self.gemm(node),
            "Add" | "Sub" | "Mul" | "Div" => self.elementwise(node),
            "Relu" => self.function(node, Function::Relu),
            "Sigmoid" => self.function(node, Function::Sigmoid),
            "Tanh" => self.function(node, Function::Tanh),
            "ai.onnx.ml.Scaler" => self.scaler(node),
            _ => trees::read(self, node),
        }
    }

    fn function(&mut self, node: &NodeProto, function: Function) -> Result<(), ImportError> {
        let input = self.any_value(node, 0)?;
        let shape = self.graph.shapes[input].clone();
        self.step(node, 0, Operation::Function(function), vec![input], shape)?;
        self.set_batch_axis(self.batch_axis(input));
        Ok(())
    }

    /// Changes the shape of a row; the batch must stay the first dimension.
    fn reshape(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let target = match node.operator().as_str() {
            "Reshape" => {
                Some(self.constant(node, 1)?.values.iter().map(|&value| value as i64).collect::<Vec<_>>())
            }
            _ => None,
        };
        let (shape, len) = match self.input(node, 0)? {
            Known::Constant(constant) => {
                // The number of elements is what matters of a constant's shape, and its broadcasting: only the forms
                // that leave that alone are taken.
                let Some(target) = target else { return refuse(node, "its input must not be a constant") };
                let shape: Option<Vec<usize>> =
                    target.iter().map(|&length| usize::try_from(length).ok()).collect();
                return match shape {
                    Some(shape) if shape.iter().product::<usize>() == constant.values.len() => {
                        let constant = Constant { shape, values: constant.values.clone() };
                        self.define(node, 0, Known::Constant(constant));
                        Ok(())
                    }
                    _ => refuse(node, format!("the constant does not have the shape {target:?}")),
                };
            }
            &Known::Value(value) => (self.graph.shapes[value].clone(), self.graph.len(value)),
        };
        let value = self.value(node, 0)?;
        let reshaped = match node.operator().as_str() {
            "Reshape" => reshaped_row(&shape, len, &target.unwrap_or_default()),
            _ if node.int("axis", 1) == 1 => Some(vec![len as u32]),
            _ => None,
        };
        let Some(reshaped) = reshaped else {
            return refuse(
                node,
                format!("a row of {shape:?} cannot be reshaped so: the batch must stay the first dimension"),
            );
        };
        let dimensions: Vec<Option<u32>> =
            std::iter::once(None).chain(reshaped.into_iter().map(Some)).collect();
        self.view(node, value, &dimensions)
    }
}

/// The row's shape after a Reshape to `target`, which speaks of the whole batch.
fn reshaped_row(shape: &[u32], len: usize, target: &[i64]) -> Option<Vec<u32>> {
    let row = match target {
        // All elements of the batch in one dimension: each row is one element.
        [-1] => return (len == 1).then(Vec::new),
        [-1..=1, row @ ..] if row.len() <= 8 => row,
        _ => return None,
    };
    let mut reshaped: Vec<u32> = Vec::with_capacity(row.len());
    let mut unknown = None;
    for (index, &length) in row.iter().enumerate() {
        reshaped.push(match length {
            0 => *shape.get(index)?,
            -1 if unknown.is_none() && target[0] != -1 => {
                unknown = Some(index);
                1
            }
            length => u32::try_from(length).ok().filter(|&length| length > 0)?,
        });
    }
    let product =
        reshaped.iter().try_fold(1usize, |product, &length| product.checked_mul(length as usize))?;
    if let Some(index) = unknown {
        reshaped[index] = u32::try_from(len / product).ok()?;
        return (len.is_multiple_of(product) && len >= product).then_some(reshaped);
    }
    (product == len).then_some(reshaped)
}

fn constant_node(node: &NodeProto) -> Result<Constant, ImportError> {
    let float = |name: &str| node.attribute(name).and_then(|attribute| attribute.f);
    if let Some(tensor) = node.attribute("value").and_then(|attribute| attribute.t.as_ref()) {
        return Constant::from_proto(tensor, node.label());
    }
    let listed = |values: Vec<f64>| Constant { shape: vec![values.len()], values };
    if let Some(value) = float("value_float") {
        return Ok(Constant { shape: vec![], values: vec![value.into()] });
    }
    if let Some(value) = node.attribute("value_int").and_then(|attribute| attribute.i) {
        return Ok(Constant { shape: vec![], values: vec![value as f64] });
    }
    if let Some(attribute) = node.attribute("value_floats") {
        return Ok(listed(attribute.floats.iter().map(|&value| value.into()).collect()));
    }
    if let Some(attribute) = node.attribute("value_ints") {
        return Ok(listed(attribute.ints.iter().map(|&value| value as f64).collect()));
    }
    refuse(node, "it holds neither a tensor nor numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_stays_the_first_dimension_of_a_reshape() {
        assert_eq!(reshaped_row(&[6], 6, &[-1, 2, 3]), Some(vec![2, 3]));
        assert_eq!(reshaped_row(&[2, 3], 6, &[0, -1]), Some(vec![6]));
        assert_eq!(reshaped_row(&[2, 3], 6, &[1, 0, 3]), Some(vec![2, 3]));
        assert_eq!(reshaped_row(&[1], 1, &[-1]), Some(vec![]));
        assert_eq!(reshaped_row(&[6], 6, &[-1]), None);
        assert_eq!(reshaped_row(&[6], 6, &[2, 3]), None);
        assert_eq!(reshaped_row(&[6], 6, &[-1, -1]), None);
        assert_eq!(reshaped_row(&[6], 6, &[0, i64::MAX, i64::MAX]), None);
    }
}
