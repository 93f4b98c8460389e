//! Operators that only move or choose data: where the batch dimension goes, and what part of a row is read.
//!
//! A row's elements keep their order wherever the batch dimension stands, so exporters may carry it anywhere (recurrent
//! layers want it second); what may not happen is that the elements of a row change places, or that rows mix.

use super::ImportError;
use super::constant::Constant;
use super::float::{Operation, Value};
use super::graph::{Known, Reader, refuse};
use super::onnx::NodeProto;

/// A dimension of a computed value: its length, or the batch.
type Dimension = Option<u32>;

impl Reader {
    /// The dimensions as ONNX has them, with the batch in its place.
    pub(super) fn dimensions(&self, value: Value) -> Vec<Dimension> {
        let mut dimensions: Vec<Dimension> = self.graph.shapes[value].iter().copied().map(Some).collect();
        dimensions.insert(self.batch_axis(value), None);
        dimensions
    }

    /// The same elements with other dimensions.
    pub(super) fn view(
        &mut self,
        node: &NodeProto,
        value: Value,
        dimensions: &[Dimension],
    ) -> Result<(), ImportError> {
        if dimensions == self.dimensions(value) {
            self.define(node, 0, Known::Value(value));
            return Ok(());
        }
        // A value has one shape; a reshaped one is the same value under an identity step, folded away afterwards.
        let len = self.graph.len(value);
        let operation = Operation::Affine { scale: vec![1.0; len], offset: vec![0.0; len] };
        self.moved(node, operation, value, dimensions)
    }

    fn moved(
        &mut self,
        node: &NodeProto,
        operation: Operation,
        value: Value,
        dimensions: &[Dimension],
    ) -> Result<(), ImportError> {
        let axis = dimensions.iter().position(Option::is_none).expect("callers keep the batch dimension");
        let row = dimensions.iter().flatten().copied().collect();
        self.step(node, 0, operation, vec![value], row)?;
        self.set_batch_axis(axis);
        Ok(())
    }

    pub(super) fn transpose(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let perm = node.ints("perm");
        let value = match self.input(node, 0)? {
            Known::Constant(constant) => {
                return match (constant.transposed(), perm) {
                    (Some(transposed), [] | [1, 0]) => {
                        self.define(node, 0, Known::Constant(transposed));
                        Ok(())
                    }
                    _ => refuse(node, "of constants, only matrices are transposed"),
                };
            }
            &Known::Value(value) => value,
        };
        let from = self.dimensions(value);
        let order: Option<Vec<usize>> = match perm {
            [] => Some((0..from.len()).rev().collect()),
            perm => perm.iter().map(|&axis| usize::try_from(axis).ok()).collect(),
        };
        let is_permutation = |order: &Vec<usize>| {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            sorted.into_iter().eq(0..from.len())
        };
        let Some(order) = order.filter(is_permutation) else {
            return refuse(node, format!("perm {perm:?} does not fit {} dimensions", from.len()));
        };
        let moving: Vec<usize> =
            order.iter().copied().filter(|&axis| from[axis].is_some_and(|length| length != 1)).collect();
        if !moving.is_sorted() {
            return refuse(node, format!("perm {perm:?} changes the order of the elements of a row"));
        }
        let to: Vec<Dimension> = order.iter().map(|&axis| from[axis]).collect();
        self.view(node, value, &to)
    }

    /// Squeeze and Unsqueeze of computed values; the axes are an attribute, or from opset 13 an input.
    pub(super) fn change_rank(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let adds = node.op_type.as_deref() == Some("Unsqueeze");
        let value = match self.input(node, 0)? {
            Known::Constant(constant) => {
                // A vector of one, or a scalar: what axes and indices are made of.
                if constant.values.len() != 1 {
                    return refuse(node, "its input must not be a constant of several elements");
                }
                let shape = if adds { vec![1] } else { vec![] };
                let known = Known::Constant(Constant { shape, values: constant.values.clone() });
                self.define(node, 0, known);
                return Ok(());
            }
            &Known::Value(value) => value,
        };
        let axes = match self.optional(node, 1)? {
            Some(_) => self.constant(node, 1)?.values.iter().map(|&axis| axis as i64).collect(),
            None => node.ints("axes").to_vec(),
        };
        let mut dimensions = self.dimensions(value);
        let rank = dimensions.len() + if adds { axes.len() } else { 0 };
        let places: Option<Vec<usize>> = axes.iter().map(|&axis| resolve(axis, rank)).collect();
        let Some(mut places) = places.filter(|_| rank <= 9) else {
            return refuse(node, format!("axes {axes:?} do not fit {rank} dimensions"));
        };
        places.sort_unstable();
        if adds {
            places.iter().for_each(|&place| dimensions.insert(place.min(dimensions.len()), Some(1)));
        } else if places.is_empty() {
            dimensions.retain(|&dimension| dimension != Some(1));
        } else {
            for &place in places.iter().rev() {
                if dimensions[place] != Some(1) {
                    return refuse(node, format!("dimension {place} is not 1, or is the batch"));
                }
                dimensions.remove(place);
            }
        }
        self.view(node, value, &dimensions)
    }

    /// One index of one dimension, constant.
    pub(super) fn gather(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let value = self.any_value(node, 0)?;
        let index = self.constant(node, 1)?;
        let (keeps, index) = match (&index.values[..], index.shape.len()) {
            (&[index], rank @ 0..=1) => (rank == 1, index as i64),
            _ => return refuse(node, "its indices must be one constant"),
        };
        let mut dimensions = self.dimensions(value);
        let place = resolve(node.int("axis", 0), dimensions.len());
        let Some((place, length)) = place.and_then(|place| Some((place, dimensions[place]?))) else {
            return refuse(node, "its axis is the batch, or beyond the dimensions");
        };
        let Some(index) = resolve(index, length as usize) else {
            return refuse(node, format!("index {index} is beyond the {length} there are"));
        };
        let operation = part(&dimensions, place, index, 1);
        if keeps {
            dimensions[place] = Some(1);
        } else {
            dimensions.remove(place);
        }
        self.choose(node, operation, value, &dimensions)
    }

    /// A range of one dimension, with steps of 1.
    pub(super) fn slice(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let value = self.any_value(node, 0)?;
        let list = |reader: &Reader, name: &str, index: usize| -> Result<Vec<i64>, ImportError> {
            match reader.optional(node, index)? {
                Some(_) => Ok(reader.constant(node, index)?.values.iter().map(|&x| x as i64).collect()),
                None => Ok(node.ints(name).to_vec()),
            }
        };
        let (starts, ends) = (list(self, "starts", 1)?, list(self, "ends", 2)?);
        let (axes, steps) = (list(self, "axes", 3)?, list(self, "steps", 4)?);
        let mut dimensions = self.dimensions(value);
        let ([start], [end], [] | [1]) = (&starts[..], &ends[..], &steps[..]) else {
            return refuse(node, "only slices of one dimension with steps of 1 are supported");
        };
        let place = resolve(axes.first().copied().unwrap_or(0), dimensions.len());
        let Some((place, length)) = place.and_then(|place| Some((place, dimensions[place]?))) else {
            return refuse(node, "its axis is the batch, or beyond the dimensions");
        };
        let clamped = |at: i64| {
            let at = if at < 0 { at.saturating_add(length.into()) } else { at };
            at.clamp(0, length.into()) as usize
        };
        let (start, end) = (clamped(*start), clamped(*end));
        if start >= end {
            return refuse(node, format!("it chooses nothing of the {length} there are"));
        }
        let operation = part(&dimensions, place, start, end - start);
        dimensions[place] = Some((end - start) as u32);
        self.choose(node, operation, value, &dimensions)
    }

    fn choose(
        &mut self,
        node: &NodeProto,
        operation: Option<Operation>,
        value: Value,
        dimensions: &[Dimension],
    ) -> Result<(), ImportError> {
        match operation {
            Some(operation) => self.moved(node, operation, value, dimensions),
            None => refuse(node, "what it chooses does not lie together in a row"),
        }
    }
}

/// From a place counted from either end.
fn resolve(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}

/// The part of a row that `count` indices of dimension `place` are, if they lie together.
fn part(dimensions: &[Dimension], place: usize, first: usize, count: usize) -> Option<Operation> {
    let product =
        |dimensions: &[Dimension]| dimensions.iter().flatten().map(|&l| l as usize).product::<usize>();
    let inner = product(&dimensions[place + 1..]);
    (product(&dimensions[..place]) == 1)
        .then_some(Operation::Part { start: first * inner, len: count * inner })
}
