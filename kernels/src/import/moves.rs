//! Operators that only move or choose data.
//!
//! What they do to a constant is done here; of a computed value they make a move, whose chain is folded into one
//! afterwards, or disappears where elements keep their order. The batch dimension may be carried anywhere; what may not
//! happen is that rows mix.

use super::ImportError;
use super::array::{Array, Dimension, Padding, length_of, merged, reshaped};
use super::constant::{BATCH, Constant};
use super::float::{Operation, Value};
use super::graph::{Known, MERGED, NO_OUTPUT, Reader, refuse};
use super::onnx::NodeProto;

/// Elements of all constants that are computed, together: they are held while the graph is read.
const MAX_FOLDED: usize = 1 << 25;

/// Counts the elements of one more constant that is computed.
pub(super) fn fits_constants(folded: &mut usize, elements: usize) -> bool {
    *folded = folded.saturating_add(elements);
    *folded <= MAX_FOLDED
}

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
                if !fits_constants(&mut self.folded, array.indices.len()) {
                    return refuse(node, "the constants that are computed have too many elements in all");
                }
                let element = |&at: &i32| usize::try_from(at).map_or(fill, |at| constant.values[at]);
                let shape = array.dimensions.iter().flatten().map(|&length| length as usize).collect();
                let values = array.indices.iter().map(element).collect();
                let constant = Constant { shape, values, is_integer: constant.is_integer };
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
                // Two dimensions: those before the axis, and those from it on.
                let axis = node.int("axis", 1);
                // From either end, and the end itself.
                let Some(axis) = resolve(axis, from.len() + usize::from(axis >= 0)) else {
                    return refuse(node, "its axis is beyond the dimensions");
                };
                let first = from[..axis].iter().flatten().map(|&length| i64::from(length)).product::<i64>();
                let batch = if from[..axis].contains(&None) { BATCH } else { 1 };
                if from[axis..].contains(&None) {
                    return refuse(node, "the batch must come before its axis");
                }
                vec![first.saturating_mul(batch), -1]
            }
            _ => self.numbers(node, "shape", 1)?,
        };
        if node.int("allowzero", 0) != 0 && target.contains(&0) {
            return refuse(node, "its result has no elements");
        }
        let computed = matches!(known, Known::Value(_));
        let merged = || if computed { merged(&from, &target) } else { None };
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

    /// Constant indices along the last dimension.
    pub(super) fn array_feature_extractor(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let known = self.input(node, 0)?.clone();
        let array = self.array(node, &known)?;
        let indices = &self.constant(node, 1)?.values;
        let (axis, length) = self.axis(node, &array, -1)?;
        let chosen: Option<Vec<usize>> = indices
            .iter()
            .map(|&index| usize::try_from(index as i64).ok().filter(|&at| at < length))
            .collect();
        let Some(chosen) = chosen else {
            return refuse(node, format!("an index is beyond the {length} there are"));
        };
        let shape = [Some(chosen.len() as u32)];
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
            if chosen.is_empty() && matches!(known, Known::Value(_)) {
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
        let of = |known: &Known| match known {
            Known::Constant(constant) => Some(constant.clone()),
            Known::Value(_) => None,
        };
        let constants: Vec<Constant> = inputs.iter().filter_map(of).collect();
        let values: Vec<Value> = inputs
            .iter()
            .filter_map(|known| match known {
                Known::Value(value) => Some(*value),
                Known::Constant(_) => None,
            })
            .collect();
        // Beside a computed value, a constant is the same for all rows.
        let batch = values.first().map(|&value| self.batch_axis(value));
        let mut places = 0i32;
        let mut parts = Vec::with_capacity(inputs.len());
        for known in &inputs {
            let mut array = self.array(node, known)?;
            let mut elements = array.indices.len();
            if let (Known::Constant(_), Some(batch)) = (known, batch) {
                // Places among all constants, counted from -1 down.
                array.indices.iter_mut().for_each(|index| *index = -1 - places - *index);
                places = match i32::try_from(elements).ok().and_then(|count| count.checked_add(places)) {
                    Some(places) => places,
                    None => return refuse(node, "its constants have too many elements"),
                };
                elements = 0;
                if let Some(first @ Some(1)) = array.dimensions.get_mut(batch) {
                    *first = None;
                }
            }
            parts.push((array, elements));
        }
        let rank = parts.first().map_or(0, |(array, _)| array.dimensions.len());
        let joined = resolve(node.int("axis", 0), rank).and_then(|axis| Array::joined(&parts, axis));
        let Some(mut joined) = joined else {
            return refuse(node, "its inputs differ in other dimensions than its axis, or that is the batch");
        };
        let elements: Vec<f64> = constants.iter().flat_map(|constant| &constant.values).copied().collect();
        if values.is_empty() {
            let is_integer = constants.iter().all(|constant| constant.is_integer);
            let whole = Constant { shape: vec![elements.len()], values: elements, is_integer };
            return self.moved(node, 0, &Known::Constant(whole), Some(joined), 0.0);
        }
        let first = elements.first().copied().unwrap_or(0.0);
        if elements.iter().all(|&element| element == first) {
            joined.indices.iter_mut().for_each(|index| *index = (*index).max(-1));
            return self.moved_values(node, 0, values, joined, first);
        }
        // Zeros in the place of the constants, which are added.
        let constant = |&index: &i32| usize::try_from(-1 - index).map_or(0.0, |place| elements[place]);
        let offset: Vec<f64> = joined.indices.iter().map(constant).collect();
        joined.indices.iter_mut().for_each(|index| *index = (*index).max(-1));
        let output = self.graph.shapes.len();
        self.moved_values(node, NO_OUTPUT, values, joined, 0.0)?;
        self.affine(node, 0, output, vec![1.0; offset.len()], offset)?;
        Ok(())
    }

    pub(super) fn pad(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let known = self.input(node, 0)?.clone();
        let array = self.array(node, &known)?;
        let padding = match node.text("mode").as_deref() {
            None | Some("constant") => Padding::Constant,
            Some("edge") => Padding::Edge,
            Some("reflect") => Padding::Reflect,
            Some("wrap") => Padding::Wrap,
            Some(other) => return refuse(node, format!("its mode {other} is unknown")),
        };
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
            let pair = [pads[index], pads[index + axes.len()]];
            let cuts = pair.iter().any(|&count| count < 0);
            match place.map(|place| (place, array.dimensions[place])) {
                Some((_, None)) if pair == [0, 0] => {}
                Some((place, Some(_))) if !cuts || padding == Padding::Constant => {
                    [before[place], after[place]] = pair;
                }
                Some((_, Some(_))) => return refuse(node, "it cuts, which only its mode constant may"),
                _ => return refuse(node, "it pads the batch, or has an axis beyond the dimensions"),
            }
        }
        if !fits {
            return refuse(node, "its pads do not fit its axes, or its constant is not finite");
        }
        self.moved(node, 0, &known, array.padded(&before, &after, padding), fill)
    }

    /// To constant dimensions; the number of rows counts as one for a constant, which is the same for all.
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
                (Some(None), -1 | 1 | BATCH) => None,
                (Some(Some(own)), -1 | 1) => Some(own),
                (_, BATCH) if matches!(known, Known::Constant(_)) => Some(1),
                _ => match u32::try_from(length) {
                    Ok(length @ 1..) => Some(length),
                    _ => return refuse(node, format!("its shape {target:?} does not fit its input")),
                },
            });
        }
        let expanded = array.expanded(&to);
        self.moved(node, 0, &known, expanded, 0.0)
    }

    /// The dimensions as numbers, with [`BATCH`] for the batch: what a later Reshape takes for it.
    pub(super) fn shape(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let known = self.input(node, 0)?.clone();
        let dimensions = self.array(node, &known)?.dimensions;
        let number = |dimension: &Dimension| dimension.map_or(BATCH as f64, f64::from);
        let values: Vec<f64> = dimensions.iter().map(number).collect();
        let chosen = range(node.int("start", 0), node.int("end", i64::MAX), 1, values.len() as i64);
        let values: Vec<f64> = chosen.into_iter().map(|at| values[at]).collect();
        let constant = Constant::integers(vec![values.len()], values);
        self.define(node, 0, Known::Constant(constant));
        Ok(())
    }

    /// As many constants as a shape says; the batch counts as one, which broadcasts.
    pub(super) fn constant_of_shape(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let shape = self.constant(node, 0)?.values.clone();
        let one = match node.attribute("value").and_then(|attribute| attribute.t.as_ref()) {
            Some(tensor) => {
                let constant = Constant::from_proto(tensor, node.label())?;
                let value = constant.values.first().copied().unwrap_or(0.0);
                Constant { shape: vec![], values: vec![value], is_integer: constant.is_integer }
            }
            None => Constant::floats(vec![], vec![0.0]),
        };
        let length = |&length: &f64| if length == 0.0 { Some(0) } else { length_of(length as i64) };
        let lengths: Option<Vec<Dimension>> = shape.iter().map(|value| length(value).map(Some)).collect();
        let Some(lengths) = lengths else {
            return refuse(node, format!("its shape {shape:?} is negative or too large"));
        };
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
