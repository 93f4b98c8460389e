//! What transformer encoders are made of, besides layers that others have too: products of computed matrices, softmax,
//! layer normalisation and GELU.

pub(super) mod fold;
pub(super) mod masks;
pub(super) mod normal;
pub(super) mod patterns;
pub(super) mod quantize;

use super::ImportError;
use super::array::{Array, Dimension};
use super::constant::Constant;
use super::float::{FloatConv, Operation, Value};
use super::graph::{Known, NO_OUTPUT, Reader, refuse};
use super::moves::resolve;
use super::onnx::NodeProto;
use crate::model::graph::{MatMul, Window};
use crate::spec::{layer_norm, softmax};

impl Reader {
    /// A constant matrix applied to each position of a row: a convolution whose kernel is one position.
    pub(super) fn dense_at_positions(
        &mut self,
        node: &NodeProto,
        index: usize,
        input: Value,
        weights: Constant,
        bias: Vec<f64>,
    ) -> Result<Value, ImportError> {
        let (outputs, inputs) = (weights.shape[0], weights.shape[1]);
        let mut shape = self.graph.shapes[input].clone();
        let axis = self.batch_axis(input);
        let last = shape.last().copied().filter(|_| axis != shape.len());
        let Some(last) = last.filter(|&last| last as usize == inputs) else {
            return refuse(node, format!("its matrix takes {inputs} inputs, and a row is {shape:?}"));
        };
        let window = Window::point([(self.graph.len(input) / inputs) as u32, 1], last);
        let conv = FloatConv { window, groups: 1, weights: weights.values, bias };
        shape.pop();
        shape.push(outputs as u32);
        self.step(node, index, Operation::Conv(Box::new(conv)), vec![input], shape)?;
        self.set_batch_axis(axis);
        Ok(self.graph.steps.last().expect("a step was just added").output)
    }

    /// The product of two computed values: of the matrices that their last two dimensions are.
    pub(super) fn matmul_of_values(
        &mut self,
        node: &NodeProto,
        [left, right]: [Value; 2],
    ) -> Result<(), ImportError> {
        let dimensions = [left, right].map(|value| self.dimensions(value));
        let shapes = [left, right].map(|value| self.graph.shapes[value].clone());
        let unfit = format!("rows of {:?} and {:?} do not fit each other as matrices", shapes[0], shapes[1]);
        let ([leading @ .., Some(rows), Some(inner)], [others @ .., Some(height), Some(columns)]) =
            (&dimensions[0][..], &dimensions[1][..])
        else {
            return refuse(node, unfit);
        };
        // The same leading dimensions, or one right matrix for all.
        let single = others.iter().all(|&length| length.is_none_or(|length| length == 1));
        let batch = |leading: &[Dimension]| leading.iter().rev().position(Option::is_none);
        let one_for_all = single && batch(leading) == batch(others) && others.len() <= leading.len();
        if inner != height || !(leading == others || one_for_all) {
            return refuse(node, unfit);
        }
        let [rows, inner, columns] = [rows, inner, columns].map(|&length| length as usize);
        let matrices = leading.iter().flatten().map(|&length| length as usize).product();
        let repeated = if leading == others { inner * columns } else { 0 };
        let matmul = MatMul {
            matrices,
            rows,
            inner,
            columns,
            left: [0, rows * inner, inner, 1],
            right: [0, repeated, columns, 1],
            output: [0, rows * columns, columns],
        };
        let mut shape: Vec<u32> = leading.iter().flatten().copied().collect();
        shape.extend([rows as u32, columns as u32]);
        self.step(node, 0, Operation::MatMul(matmul), vec![left, right], shape)?;
        self.set_batch_axis(self.batch_axis(left));
        Ok(())
    }

    /// The input, and the length of its dimensions from `axis` on, the batch not among them.
    fn groups(&self, node: &NodeProto, axis: i64, most: usize) -> Result<(Value, usize), ImportError> {
        let value = self.any_value(node, 0)?;
        let dimensions = self.dimensions(value);
        let group = resolve(axis, dimensions.len()).and_then(|axis| {
            let lengths: Option<Vec<usize>> =
                dimensions[axis..].iter().map(|length| Some((*length)? as usize)).collect();
            Some(lengths?.into_iter().product::<usize>())
        });
        match group {
            Some(group) if group <= most => Ok((value, group)),
            Some(group) => refuse(node, format!("over {group} elements; {most} is the limit")),
            None => refuse(node, format!("axis {axis} is beyond the dimensions, or the batch follows it")),
        }
    }

    /// Over one dimension, which is made the last; until opset 12 over all from the axis on.
    pub(super) fn softmax(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let value = self.any_value(node, 0)?;
        let dimensions = self.dimensions(value);
        let rank = dimensions.len();
        let axis = node.int("axis", if self.opset < 13 { 1 } else { -1 });
        let place = resolve(axis, rank);
        if self.opset < 13 || place.is_none() || place == rank.checked_sub(1) {
            let (value, group) = self.groups(node, axis, softmax::MAX_GROUP)?;
            return self.as_input(node, value, Operation::Softmax { group, scale: 1.0 });
        }
        let place = place.unwrap_or(0);
        let Some(group) = dimensions[place].map(|length| length as usize) else {
            return refuse(node, "its axis is the batch");
        };
        if group > softmax::MAX_GROUP {
            return refuse(node, format!("over {group} elements; {} is the limit", softmax::MAX_GROUP));
        }
        let order: Vec<usize> = (0..rank).filter(|&axis| axis != place).chain([place]).collect();
        let mut back: Vec<usize> = (0..rank - 1).collect();
        back.insert(place, rank - 1);
        let turned = |dimensions, order: &[usize]| {
            Array::whole(dimensions).and_then(|array: Array| array.transposed(order))
        };
        let Some(last) = turned(dimensions, &order) else {
            return refuse(node, "its input has too many elements");
        };
        let Some(first) = turned(last.dimensions.clone(), &back) else {
            return refuse(node, "its input has too many elements");
        };
        self.moved_values(node, NO_OUTPUT, vec![value], last, 0.0)?;
        let (value, axis) = (self.last_value(), self.batch_axis(self.last_value()));
        let shape = self.graph.shapes[value].clone();
        self.step(node, NO_OUTPUT, Operation::Softmax { group, scale: 1.0 }, vec![value], shape)?;
        self.set_batch_axis(axis);
        self.moved_values(node, 0, vec![self.last_value()], first, 0.0)
    }

    pub(super) fn layer_normalization(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let (value, group) = self.groups(node, node.int("axis", -1), layer_norm::MAX_GROUP)?;
        if node.output.iter().skip(1).any(|name| !name.is_empty() && self.is_read(name)) {
            return refuse(node, "only its first output is supported");
        }
        let constants = |index: usize, default: f64| -> Result<Vec<f64>, ImportError> {
            match self.optional(node, index)? {
                None => Ok(vec![default; group]),
                Some(Known::Constant(constant)) if constant.values.len() == group => {
                    Ok(constant.values.clone())
                }
                Some(Known::Constant(constant)) if constant.values.len() == 1 => {
                    Ok(vec![constant.values[0]; group])
                }
                Some(_) => refuse(node, format!("its input {index} must be {group} constants")),
            }
        };
        let (scale, offset) = (constants(1, 1.0)?, constants(2, 0.0)?);
        let epsilon = f64::from(node.float("epsilon", 1e-5));
        if !epsilon.is_finite() || epsilon < 0.0 {
            return refuse(node, format!("its epsilon is {epsilon}"));
        }
        self.as_input(node, value, Operation::LayerNorm { epsilon, scale, offset })
    }

    /// A step whose result has the dimensions of its input.
    fn as_input(&mut self, node: &NodeProto, value: Value, operation: Operation) -> Result<(), ImportError> {
        let shape = self.graph.shapes[value].clone();
        self.step(node, 0, operation, vec![value], shape)?;
        self.set_batch_axis(self.batch_axis(value));
        Ok(())
    }
}
