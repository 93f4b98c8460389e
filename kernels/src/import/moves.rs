//! Operators that only move or choose data.
//!
//! What they do to a constant is done here; of a computed value they make a move, whose chain is folded into one
//! afterwards, or disappears where elements keep their order. The batch dimension may be carried anywhere; what may not
//! happen is that rows mix.

use super::ImportError;
use super::array::{Array, Dimension, merged, reshaped};
use super::constant::Constant;
use super::float::{Operation, Value};
use super::graph::{Known, MERGED, Reader, refuse};
use super::onnx::NodeProto;

impl Reader {
    /// The dimensions as ONNX has them, with the batch in its place.
    pub(super) fn dimensions(&self, value: Value) -> Vec<Dimension> {
        let mut dimensions: Vec<Dimension> = self.graph.shapes[value].iter().copied().map(Some).collect();
        if self.batch_axis(value) != MERGED {
            dimensions.insert(self.batch_axis(value), None);
        }
        dimensions
    }

    /// The elements of an input, in their order.
    fn array(&self, node: &NodeProto, known: &Known) -> Result<Array, ImportError> {
        let dimensions = match known {
            Known::Constant(constant) => constant.shape.iter().map(|&length| Some(length as u32)).collect(),
            Known::Value(value) => self.dimensions(*value),
        };
        match Array::whole(dimensions) {
            Some(array) => Ok(array),
            None => refuse(node, "its input has too many elements"),
        }
    }

    /// Makes the node's output `index` of the elements of one input.
    fn moved(
        &mut self,
        node: &NodeProto,
        index: usize,
        known: &Known,
        array: Option<Array>,
        fill: f64,
    ) -> Result<(), ImportError> {
        let Some(array) = array else {
            return refuse(node, "its result has too many elements, or does not fit its input");
        };
        match known {
            Known::Value(value) => self.moved_values(node, index, vec![*value], array, fill),
            Known::Constant(constant) => {
                let element = |&at: &i32| usize::try_from(at).map_or(fill, |at| constant.values[at]);
                let shape = array.dimensions.iter().flatten().map(|&length| length as usize).collect();
                let constant = Constant { shape, values: array.indices.iter().map(element).collect() };
                self.define(node, index, Known::Constant(constant));
                Ok(())
            }
        }
    }

    pub(super) fn moved_values(
        &mut self,
        node: &NodeProto,
        index: usize,
        values: Vec<Value>,
        array: Array,
        fill: f64,
    ) -> Result<(), ImportError> {
        let axis = array.dimensions.iter().position(Option::is_none).unwrap_or(MERGED);
        let row = array.dimensions.iter().flatten().copied().collect();
        self.step(node, index, Operation::Move { indices: array.indices, fill }, values, row)?;
        self.set_batch_axis(axis);
        Ok(())
    }

    /// The numbers of an attribute, or from a later opset on of an input.
    fn numbers(&self, node: &NodeProto, name: &str, index: usize) -> Result<Vec<i64>, ImportError> {
        match self.optional(node, index)? {
            Some(_) => Ok(self.constant(node, index)?.values.iter().map(|&value| value as i64).collect()),
            None => Ok(node.ints(name).to_vec()),
        }
    }

    pub(super) fn transpose(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let known = self.input(node, 0)?.clone();
        let array = self.array(node, &known)?;
        let (perm, rank) = (node.ints("perm"), array.dimensions.len());
        let order: Option<Vec<usize>> = match perm {
            [] => Some((0..rank).rev().collect()),
            perm => perm.iter().map(|&axis| usize::try_from(axis).ok()).collect(),
        };
        let is_permutation = |order: &Vec<usize>| {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            sorted.into_iter().eq(0..rank)
        };
        let Some(order) = order.filter(is_permutation) else {
            return refuse(node, format!("perm {perm:?} does not fit {rank} dimensions"));
        };
        self.moved(node, 0, &known, array.transposed(&order), 0.0)
    }

    /// Squeeze and Unsqueeze; the axes are an attribute, or from opset 13 an input.
    pub(super) fn change_rank(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let adds = node.op_type.as_deref() == Some("Unsqueeze");
        let known = self.input(node, 0)?.clone();
        let array = self.array(node, &known)?;
        let axes = self.numbers(node, "axes", 1)?;
        let mut dimensions = array.dimensions.clone();
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
                if dimensions.get(place) != Some(&Some(1)) {
                    return refuse(node, format!("dimension {place} is not 1, or is the batch"));
                }
                dimensions.remove(place);
            }
        }
        self.moved(node, 0, &known, array.reshaped(dimensions), 0.0)
    }

    pub(super) fn reshape(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let known = self.input(node, 0)?.clone();
        let array = self.array(node, &known)?;
        let from = array.dimensions.clone();
        let target = match node.op_type.as_deref() {
            Some("Flatten") => {
                // Two dimensions: the batch, and all the rest.
                match resolve(node.int("axis", 1), from.len() + 1) {
                    Some(axis) if from[..axis].contains(&None) => vec![0, -1],
                    _ => return refuse(node, "the batch must be its first dimension"),
                }
            }
            _ => self.numbers(node, "shape", 1)?,
        };
        if node.int("allowzero", 0) != 0 && target.contains(&0) {
            return refuse(node, "its result has no elements");
        }
        let computed = matches!(known, Known::Value(_));
        let merged = || merged(&from, &target).filter(|_| computed);
        let Some(to) = reshaped(&from, &target).filter(|to| !computed || to.contains(&None)).or_else(merged)
        else {
            let row: Vec<u32> = from.iter().flatten().copied().collect();
            let what =
                format!("a row of {row:?} cannot be reshaped to {target:?}: the batch must keep its place");
            return refuse(node, what);
        };
        self.moved(node, 0, &known, array.reshaped(to), 0.0)
    }

    /// Constant indices along one dimension.
    pub(super) fn gather(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let known = self.input(node, 0)?.clone();
        let array = self.array(node, &known)?;
        let indices = self.constant(node, 1)?;
        let (axis, length) = self.axis(node, &array, node.int("axis", 0))?;
        let chosen: Option<Vec<usize>> =
            indices.values.iter().map(|&index| resolve(index as i64, length)).collect();
        let Some(chosen) = chosen else {
            return refuse(node, format!("an index is beyond the {length} there are"));
        };
        let shape: Vec<Dimension> = indices.shape.iter().map(|&length| Some(length as u32)).collect();
        self.moved(node, 0, &known, array.taken(axis, &chosen, &shape), 0.0)
    }

    /// A dimension that is not the batch, and its length.
    fn axis(&self, node: &NodeProto, array: &Array, axis: i64) -> Result<(usize, usize), ImportError> {
        let place = resolve(axis, array.dimensions.len());
        match place.and_then(|place| Some((place, array.dimensions[place]? as usize))) {
            Some(found) => Ok(found),
            None => refuse(node, "its axis is the batch, or beyond the dimensions"),
        }
    }

    pub(super) fn slice(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let known = self.input(node, 0)?.clone();
        let mut array = self.array(node, &known)?;
        let (starts, ends) = (self.numbers(node, "starts", 1)?, self.numbers(node, "ends", 2)?);
        let (mut axes, mut steps) = (self.numbers(node, "axes", 3)?, self.numbers(node, "steps", 4)?);
        if axes.is_empty() {
            axes = (0..starts.len() as i64).collect();
        }
        if steps.is_empty() {
            steps = vec![1; starts.len()];
        }
        if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
            return refuse(node, "its starts, ends, axes and steps differ in number");
        }
        for (((&start, &end), &axis), &step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
            let place = resolve(axis, array.dimensions.len());
            if place.is_some_and(|place| array.dimensions[place].is_none())
                && (start, step) == (0, 1)
                && end >= i32::MAX.into()
            {
                // All rows of the batch.
                continue;
            }
            let (axis, length) = self.axis(node, &array, axis)?;
            let chosen = range(start, end, step, length as i64);
            if chosen.is_empty() {
                return refuse(node, format!("it chooses nothing of the {length} there are"));
            }
            let shape = [Some(chosen.len() as u32)];
            let Some(cut) = array.taken(axis, &chosen, &shape) else {
                return refuse(node, "its result has too many elements");
            };
            array = cut;
        }
        self.moved(node, 0, &known, Some(array), 0.0)
    }

    pub(super) fn split(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let known = self.input(node, 0)?.clone();
        let array = self.array(node, &known)?;
        let (axis, length) = self.axis(node, &array, node.int("axis", 0))?;
        let mut parts = self.numbers(node, "split", 1)?;
        if parts.is_empty() {
            let count = node.output.len().max(1);
            let size = length.div_ceil(count);
            parts = (0..count).map(|part| size.min(length.saturating_sub(part * size)) as i64).collect();
        }
        let fits = parts.iter().all(|&part| part > 0)
            && parts.iter().try_fold(0i64, |sum, &part| sum.checked_add(part)) == Some(length as i64);
        if !fits || parts.len() != node.output.len() {
            return refuse(node, format!("parts of {parts:?} are not the {length} there are"));
        }
        let mut start = 0;
        for (index, &part) in parts.iter().enumerate() {
            let chosen: Vec<usize> = (start..start + part as usize).collect();
            let cut = array.taken(axis, &chosen, &[Some(part as u32)]);
            self.moved(node, index, &known, cut, 0.0)?;
            start += part as usize;
        }
        Ok(())
    }

    pub(super) fn concat(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let inputs: Vec<Known> =
            (0..node.input.len()).map(|index| self.input(node, index).cloned()).collect::<Result<_, _>>()?;
        let constants = inputs.iter().filter(|known| matches!(known, Known::Constant(_))).count();
        let mut parts = Vec::with_capacity(inputs.len());
        for known in &inputs {
            let array = self.array(node, known)?;
            let elements = array.indices.len();
            parts.push((array, elements));
        }
        let rank = parts.first().map_or(0, |(array, _)| array.dimensions.len());
        let joined = resolve(node.int("axis", 0), rank).and_then(|axis| Array::joined(&parts, axis));
        let Some(joined) = joined else {
            return refuse(node, "its inputs differ in other dimensions than its axis, or that is the batch");
        };
        if constants == inputs.len() {
            let values: Vec<f64> = inputs
                .iter()
                .flat_map(|known| match known {
                    Known::Constant(constant) => &constant.values[..],
                    Known::Value(_) => &[],
                })
                .copied()
                .collect();
            let whole = Constant { shape: vec![values.len()], values };
            return self.moved(node, 0, &Known::Constant(whole), Some(joined), 0.0);
        }
        let values = inputs.iter().filter_map(|known| match known {
            Known::Value(value) => Some(*value),
            Known::Constant(_) => None,
        });
        if constants > 0 {
            return refuse(node, "of computed values and constants together; add the constants after it");
        }
        let values = values.collect();
        self.moved_values(node, 0, values, joined, 0.0)
    }

    pub(super) fn pad(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let known = self.input(node, 0)?.clone();
        let array = self.array(node, &known)?;
        if node.text("mode").is_some_and(|mode| mode != "constant") {
            return refuse(node, "only its mode constant is supported");
        }
        let pads = self.numbers(node, "pads", 1)?;
        let fill = match self.optional(node, 2)? {
            Some(_) => self.constant(node, 2)?.values.first().copied().unwrap_or(0.0),
            None => node.float("value", 0.0).into(),
        };
        let rank = array.dimensions.len();
        let axes = match self.optional(node, 3)? {
            Some(_) => self.numbers(node, "axes", 3)?,
            None => (0..rank as i64).collect(),
        };
        let (mut before, mut after) = (vec![0; rank], vec![0; rank]);
        let fits = pads.len() == 2 * axes.len() && fill.is_finite();
        for (index, &axis) in axes.iter().enumerate().filter(|_| fits) {
            let place = resolve(axis, rank);
            let pair = [pads[index], pads[index + axes.len()]].map(u32::try_from);
            match (place, pair) {
                (Some(place), [Ok(0), Ok(0)]) if array.dimensions[place].is_none() => {}
                (Some(place), [Ok(first), Ok(last)]) if array.dimensions[place].is_some() => {
                    (before[place], after[place]) = (first, last);
                }
                _ => return refuse(node, "it pads the batch, cuts, or has an axis beyond the dimensions"),
            }
        }
        if !fits {
            return refuse(node, "its pads do not fit its axes, or its constant is not finite");
        }
        self.moved(node, 0, &known, array.padded(&before, &after), fill)
    }

    /// To constant dimensions; -1, which stands for the batch in a shape, counts as one for a constant.
    pub(super) fn expand(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let known = self.input(node, 0)?.clone();
        let array = self.array(node, &known)?;
        let target = self.numbers(node, "shape", 1)?;
        let missing = target.len().saturating_sub(array.dimensions.len());
        let mut to: Vec<Dimension> = Vec::with_capacity(target.len());
        for (index, &length) in target.iter().enumerate() {
            let own = index.checked_sub(missing).map(|index| array.dimensions[index]);
            to.push(match (own, length) {
                // The longer of the two.
                (Some(None), -1..=1) => None,
                (Some(Some(own)), 1) => Some(own),
                (_, -1) if matches!(known, Known::Constant(_)) => Some(1),
                _ => match u32::try_from(length) {
                    Ok(length @ 1..) => Some(length),
                    _ => return refuse(node, format!("its shape {target:?} does not fit its input")),
                },
            });
        }
        let expanded = array.expanded(&to);
        self.moved(node, 0, &known, expanded, 0.0)
    }

    /// The dimensions as numbers, with -1 for the batch: what a later Reshape takes for it.
    pub(super) fn shape(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let known = self.input(node, 0)?.clone();
        let dimensions = self.array(node, &known)?.dimensions;
        let values: Vec<f64> = dimensions.iter().map(|dimension| dimension.map_or(-1.0, f64::from)).collect();
        let chosen = range(node.int("start", 0), node.int("end", i64::MAX), 1, values.len() as i64);
        let values: Vec<f64> = chosen.into_iter().map(|at| values[at]).collect();
        let constant = Constant { shape: vec![values.len()], values };
        self.define(node, 0, Known::Constant(constant));
        Ok(())
    }

    /// As many constants as a shape says; the batch counts as one, which broadcasts.
    pub(super) fn constant_of_shape(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let shape = self.constant(node, 0)?.values.clone();
        let value = match node.attribute("value").and_then(|attribute| attribute.t.as_ref()) {
            Some(tensor) => {
                Constant::from_proto(tensor, node.label())?.values.first().copied().unwrap_or(0.0)
            }
            None => 0.0,
        };
        let lengths: Vec<Dimension> =
            shape.iter().map(|&length| Some(if length == -1.0 { 1 } else { length as u32 })).collect();
        let one = Constant { shape: vec![], values: vec![value] };
        let one = Known::Constant(one);
        let array = self.array(node, &one)?.expanded(&lengths);
        self.moved(node, 0, &one, array, 0.0)
    }
}

/// From a place counted from either end.
pub(super) fn resolve(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}

/// The indices of a slice of `length` elements.
fn range(start: i64, end: i64, step: i64, length: i64) -> Vec<usize> {
    let from_end = |at: i64| if at < 0 { at.saturating_add(length) } else { at };
    let (start, end) = (from_end(start), from_end(end));
    match step {
        1.. => (start.clamp(0, length)..end.clamp(0, length))
            .step_by(step as usize)
            .map(|at| at as usize)
            .collect(),
        0 => Vec::new(),
        _ => {
            let (start, end) = (start.clamp(-1, length - 1), end.clamp(-1, length - 1));
            let step = usize::try_from(step.unsigned_abs()).unwrap_or(usize::MAX);
            (end + 1..=start).rev().step_by(step).map(|at| at as usize).collect()
        }
    }
}
