//! Products with constant matrices.

use crate::import::ImportError;
use crate::import::array::{Array, Dimension};
use crate::import::constant::Constant;
use crate::import::float::{Operation, Pairwise, Value};
use crate::import::graph::{Known, NO_OUTPUT, Reader, refuse};
use crate::import::onnx::NodeProto;

/// Constant matrices of one product, each of which becomes a layer.
const MAX_MATRICES: usize = 64;

impl Reader {
    pub(super) fn matmul(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        if let (&Known::Value(left), &Known::Value(right)) = (self.input(node, 0)?, self.input(node, 1)?) {
            return self.matmul_of_values(node, [left, right]);
        }
        if let (&Known::Constant(_), &Known::Value(right)) = (self.input(node, 0)?, self.input(node, 1)?) {
            return self.constant_first(node, right);
        }
        let input = self.any_value(node, 0)?;
        let constant = self.constant(node, 1)?.clone();
        match constant.shape[..] {
            [inputs] => {
                let weights = Constant::floats(vec![1, inputs], constant.values);
                let output = self.dense(node, NO_OUTPUT, input, weights, vec![0.0])?;
                self.without_last(node, output)
            }
            [_, _] => match constant.transposed() {
                Some(weights) => {
                    let bias = vec![0.0; weights.shape[0]];
                    self.dense(node, 0, input, weights, bias).map(drop)
                }
                None => refuse(node, "its second input must be a constant matrix"),
            },
            _ => self.matrix_for_each(node, input, &constant),
        }
    }

    /// A constant matrix applied to the columns of each matrix of a value: to the rows of what is turned.
    fn constant_first(&mut self, node: &NodeProto, value: Value) -> Result<(), ImportError> {
        let mut weights = self.constant(node, 0)?.clone();
        let vector = weights.shape.len() == 1;
        if vector {
            weights.shape.insert(0, 1);
        }
        let rank = self.dimensions(value).len();
        if weights.shape.len() != 2 || rank < 2 {
            return refuse(node, "its first input must be one constant matrix, and the second have rows");
        }
        let turned = self.turned(node, NO_OUTPUT, value)?;
        let bias = vec![0.0; weights.shape[0]];
        let product = self.dense(node, NO_OUTPUT, turned, weights, bias)?;
        if vector {
            return self.without_last(node, product);
        }
        self.turned(node, 0, product).map(drop)
    }

    /// A value with its last two dimensions exchanged.
    fn turned(&mut self, node: &NodeProto, index: usize, value: Value) -> Result<Value, ImportError> {
        let dimensions = self.dimensions(value);
        let mut order: Vec<usize> = (0..dimensions.len()).collect();
        let rank = order.len();
        order.swap(rank - 2, rank - 1);
        let Some(array) = Array::whole(dimensions).and_then(|array| array.transposed(&order)) else {
            return refuse(node, "its input has too many elements");
        };
        self.moved_values(node, index, vec![value], array, 0.0)?;
        Ok(self.last_value())
    }

    /// The node's output: a value without its last dimension, which is of length 1.
    fn without_last(&mut self, node: &NodeProto, value: Value) -> Result<(), ImportError> {
        let mut dimensions = self.dimensions(value);
        let array = Array::whole(dimensions.clone());
        dimensions.pop();
        let Some(array) = array.and_then(|array| array.reshaped(dimensions)) else {
            return refuse(node, "its result does not fit its input");
        };
        self.moved_values(node, 0, vec![value], array, 0.0)
    }

    /// Another constant matrix for each matrix of a value.
    fn matrix_for_each(
        &mut self,
        node: &NodeProto,
        value: Value,
        constant: &Constant,
    ) -> Result<(), ImportError> {
        let own = self.dimensions(value);
        let unfit = format!("its constant of shape {:?} does not fit rows of {own:?}", constant.shape);
        let ([leading @ .., rows @ Some(_), inner @ Some(_)], [others @ .., height, columns]) =
            (&own[..], &constant.shape[..])
        else {
            return refuse(node, unfit);
        };
        let rank = leading.len().max(others.len());
        let at = |index: usize| {
            let value = (index + leading.len()).checked_sub(rank).map_or(Some(1), |index| leading[index]);
            let other = (index + others.len()).checked_sub(rank).map_or(1, |index| others[index]);
            if value == Some(1) { Some(other as u32) } else { value }
        };
        let mut to: Vec<Dimension> = (0..rank).map(at).collect();
        let per_row = |lengths: &[Dimension]| lengths.iter().map(|length| length.unwrap_or(1)).collect();
        let shape: Vec<u32> = per_row(&to);
        let matrices: usize = shape.iter().map(|&length| length as usize).product();
        let lengths = others.iter().map(|&length| Some(length as u32)).collect();
        let to_one: Vec<Dimension> = shape.into_iter().map(Some).collect();
        let which = Array::whole(lengths).and_then(|array| array.expanded(&to_one));
        to.extend([*rows, *inner]);
        let spread = Array::whole(own.clone()).and_then(|array| array.expanded(&to));
        let (Some(which), Some(spread), true) = (which, spread, *inner == Some(*height as u32)) else {
            return refuse(node, unfit);
        };
        if !(1..=MAX_MATRICES).contains(&matrices) {
            return refuse(node, format!("of {matrices} constant matrices; {MAX_MATRICES} are the limit"));
        }
        let taken = spread.indices.len() / matrices;
        let mut products = Vec::with_capacity(matrices);
        for (matrix, &source) in which.indices.iter().enumerate() {
            let part = Array {
                dimensions: vec![None, *rows, *inner],
                indices: spread.indices[matrix * taken..][..taken].to_vec(),
            };
            self.moved_values(node, NO_OUTPUT, vec![value], part, 0.0)?;
            let part = self.last_value();
            let values = constant.values[source as usize * height * columns..][..height * columns].to_vec();
            let Some(weights) = Constant::floats(vec![*height, *columns], values).transposed() else {
                return refuse(node, unfit);
            };
            products.push(self.dense(node, NO_OUTPUT, part, weights, vec![0.0; *columns])?);
        }
        to.pop();
        to.push(Some(*columns as u32));
        let Some(joined) = Array::whole(to) else {
            return refuse(node, "its result has too many elements");
        };
        self.moved_values(node, 0, products, joined, 0.0)
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
            Some(&Known::Value(added)) => {
                let product = self.dense(node, NO_OUTPUT, input, weights, vec![0.0; outputs])?;
                let (factors, offsets) =
                    (vec![beta.into(); self.graph.len(added)], vec![0.0; self.graph.len(added)]);
                let added = self.affine(node, NO_OUTPUT, added, factors, offsets)?;
                let [product, added] = self.broadcast(node, [product, added])?;
                return self.pairwise(node, 0, Pairwise::Add, [product, added]);
            }
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
