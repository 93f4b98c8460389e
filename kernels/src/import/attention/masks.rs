//! Constant masks of attention: offsets so far below the others that a softmax leaves nothing to what they are added to.
//!
//! A masked position has no share, so the softmax is one over the positions that are left: rows that have as many left are
//! brought together, and each number of them is a softmax of its own. No rule but that of softmax is needed, and a masked
//! position changes no bit of the others. What is masked is seen from the ranges of calibration: an offset alone may as well
//! bring a feature near the others.

use std::collections::{BTreeMap, HashSet};

use crate::import::ImportError;
use crate::import::calibrate::Ranges;
use crate::import::float::{FloatGraph, Operation, Pairwise, Step, Value};

/// How far below the largest of its row a position has no share: `exp(-40)` is lost beside 1 even in double precision.
const NO_SHARE: f64 = 40.0;

/// An integer holds less than so many times the magnitude that its scale was chosen for.
const HELD: f64 = 4.0;

/// Constants that are as far apart as this are taken for a mask by who reads the file: exporters write -10,000 and less.
const FAR: f64 = 9_999.0;

/// Numbers of positions left that one mask may have: each becomes a softmax.
const MOST_LENGTHS: usize = 256;

/// Splits every softmax behind a mask; says whether there was one. Inputs may be `headroom` times as large as the ranges.
pub(crate) fn split(graph: &mut FloatGraph, ranges: &Ranges, headroom: f64) -> Result<bool, ImportError> {
    let (mut found, mut place) = (false, 0);
    while place < graph.steps.len() {
        if let Some(steps) = split_one(graph, place, ranges, headroom)? {
            found = true;
            let count = steps.len();
            graph.steps.splice(place..=place, steps);
            place += count - 1;
        }
        place += 1;
    }
    Ok(found)
}

/// Refuses a softmax that constants go into as a mask's do, and that was not split: no scale holds them and the others.
pub(crate) fn refuse_others(graph: &FloatGraph, ranges: &Ranges) -> Result<(), ImportError> {
    for step in &graph.steps {
        let Operation::Softmax { scale, .. } = step.operation else { continue };
        let (low, high) = ranges.of(step.inputs[0]);
        if (high - low) * scale >= FAR && adds_far_apart(graph, step.inputs[0]) {
            let what = "what goes into it lies too far apart for one scale, as by a mask that is not read as one: add a \
                        constant mask to the scores last of all, or choose by Where, with values far below all scores";
            return Err(ImportError::Range { layer: step.name.clone(), what: what.into() });
        }
    }
    Ok(())
}

/// Whether constants far apart are part of the sum that a value is.
fn adds_far_apart(graph: &FloatGraph, value: Value) -> bool {
    let (mut pending, mut seen) = (vec![value], HashSet::new());
    while let Some(value) = pending.pop() {
        let Some(step) = graph.steps.iter().find(|step| step.output == value) else { continue };
        let added = match &step.operation {
            Operation::Affine { offset, .. } => &offset[..],
            Operation::LayerNorm { offset, .. } => return are_far_apart(offset),
            Operation::Dense { bias, .. } => return are_far_apart(bias),
            Operation::Conv(conv) => return are_far_apart(&conv.bias),
            Operation::Move { .. } | Operation::Pairwise(Pairwise::Add | Pairwise::Subtract) => &[],
            _ => continue,
        };
        if are_far_apart(added) {
            return true;
        }
        pending.extend(step.inputs.iter().filter(|&&input| seen.insert(input)));
    }
    false
}

fn are_far_apart(constants: &[f64]) -> bool {
    let least = constants.iter().copied().fold(f64::INFINITY, f64::min);
    constants.iter().any(|&constant| constant - least >= FAR)
}

/// Whether constants may be the mask of a softmax, of which the layer before should not become part.
pub(crate) fn may_be_mask(graph: &FloatGraph, step: &Step) -> bool {
    let Operation::Affine { offset, .. } = &step.operation else { return false };
    let reads = |value: Value, of: fn(&Operation) -> bool| {
        graph.steps.iter().filter(move |step| step.inputs.contains(&value) && of(&step.operation))
    };
    let softmax = |operation: &Operation| matches!(operation, Operation::Softmax { .. });
    let moves = |operation: &Operation| matches!(operation, Operation::Move { .. });
    are_far_apart(offset)
        && (reads(step.output, softmax).next().is_some()
            || reads(step.output, moves).any(|step| reads(step.output, softmax).next().is_some()))
}

/// What a softmax takes of a value, element by element: `scale · (the value's element at place) + offset`.
struct Taken {
    value: Value,
    places: Vec<usize>,
    scale: Vec<f64>,
    offset: Vec<f64>,
}

impl Taken {
    /// From what lies behind moves, scales and offsets.
    fn by(graph: &FloatGraph, softmax: &Step) -> Taken {
        let value = softmax.inputs[0];
        let len = graph.len(value);
        let mut taken =
            Taken { value, places: (0..len).collect(), scale: vec![1.0; len], offset: vec![0.0; len] };
        while let Some(step) = graph.steps.iter().find(|step| step.output == taken.value) {
            match (&step.operation, &step.inputs[..]) {
                (Operation::Move { indices, .. }, [from]) => {
                    let places = taken.places.iter().map(|&at| usize::try_from(indices[at]).ok());
                    let Some(places) = places.collect() else { break };
                    (taken.value, taken.places) = (*from, places);
                }
                (Operation::Affine { scale, offset }, [from]) => {
                    taken.value = *from;
                    let own = taken.scale.iter_mut().zip(&mut taken.offset);
                    for (&at, (own_scale, own_offset)) in taken.places.iter().zip(own) {
                        *own_offset += *own_scale * offset[at];
                        *own_scale *= scale[at];
                    }
                }
                _ => break,
            }
        }
        taken
    }

    /// The elements that have no share, whatever the value is between `-bound` and `bound`.
    fn masked(&self, group: usize, bound: f64, softmax_scale: f64) -> Vec<bool> {
        let rows = self.scale.chunks_exact(group).zip(self.offset.chunks_exact(group));
        let of_row = |(scale, offset): (&[f64], &[f64])| {
            let reach = || scale.iter().zip(offset).map(|(scale, &offset)| (offset, scale.abs() * bound));
            let least = reach().map(|(offset, by)| offset - by).fold(f64::NEG_INFINITY, f64::max);
            reach().map(|(offset, by)| offset + by <= least - NO_SHARE / softmax_scale).collect::<Vec<bool>>()
        };
        rows.flat_map(of_row).collect()
    }
}

/// The steps that stand in the place of one softmax.
fn split_one(
    graph: &mut FloatGraph,
    place: usize,
    ranges: &Ranges,
    headroom: f64,
) -> Result<Option<Vec<Step>>, ImportError> {
    let softmax = graph.steps[place].clone();
    let Operation::Softmax { group, scale: own } = softmax.operation else { return Ok(None) };
    let taken = Taken::by(graph, &softmax);
    let (low, high) = ranges.of(taken.value);
    let masked = taken.masked(group, HELD * headroom * low.abs().max(high.abs()), own);
    if !masked.contains(&true) {
        return Ok(None);
    }
    let mut rows: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let (mut scale, mut offset) = (vec![0.0; masked.len()], vec![0.0; masked.len()]);
    for from in (0..masked.len()).step_by(group) {
        let left: Vec<usize> = (from..from + group).filter(|&at| !masked[at]).collect();
        // What all of a row have changes no share, as where a row is masked as a whole.
        let all = left.iter().map(|&at| taken.offset[at]).fold(f64::NEG_INFINITY, f64::max);
        left.iter().for_each(|&at| (scale[at], offset[at]) = (taken.scale[at], taken.offset[at] - all));
        rows.entry(left.len()).or_default().extend(left);
    }
    if rows.len() > MOST_LENGTHS {
        let what = format!(
            "its mask leaves {} different numbers of positions; {MOST_LENGTHS} are the limit",
            rows.len()
        );
        return Err(ImportError::Range { layer: softmax.name, what });
    }
    let mut steps = Vec::with_capacity(2 * rows.len() + 3);
    let (mut parts, mut joined, mut start) = (Vec::with_capacity(rows.len()), vec![-1; masked.len()], 0);
    let mut push = |graph: &mut FloatGraph, operation, inputs, shape| {
        graph.shapes.push(shape);
        let output = graph.shapes.len() - 1;
        steps.push(Step { operation, inputs, output, ..softmax.clone() });
        output
    };
    let whole = graph.shapes[softmax.output].clone();
    let as_indices = |places: &[usize]| places.iter().map(|&at| at as i32).collect::<Vec<i32>>();
    let mut kept = (0..masked.len()).filter(|&at| !masked[at]);
    let first = kept.next().unwrap_or(0);
    let alike = kept.all(|at| (scale[at], offset[at]) == (scale[first], offset[first]));
    let (source, places, factor) = if alike && scale[first] > 0.0 {
        (taken.value, taken.places, scale[first])
    } else {
        let moved = Operation::Move { indices: as_indices(&taken.places), fill: 0.0 };
        let moved = push(graph, moved, vec![taken.value], whole.clone());
        let affine = push(graph, Operation::Affine { scale, offset }, vec![moved], whole.clone());
        (affine, (0..masked.len()).collect(), 1.0)
    };
    for (length, elements) in rows {
        let shape = vec![(elements.len() / length) as u32, length as u32];
        elements.iter().enumerate().for_each(|(at, &element)| joined[element] = start + at as i32);
        start += elements.len() as i32;
        let from: Vec<usize> = elements.iter().map(|&element| places[element]).collect();
        let moved = Operation::Move { indices: as_indices(&from), fill: 0.0 };
        let moved = push(graph, moved, vec![source], shape.clone());
        let shares = Operation::Softmax { group: length, scale: own * factor };
        parts.push(push(graph, shares, vec![moved], shape));
    }
    push(graph, Operation::Move { indices: joined, fill: 0.0 }, parts, whole);
    if let Some(last) = steps.last_mut() {
        last.output = softmax.output;
    }
    Ok(Some(steps))
}
