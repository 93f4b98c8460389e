//! Constant masks of attention: offsets far below the others, before a softmax.
//!
//! A masked position has no share, so the softmax is one over the positions that are left: rows that have as many left are
//! brought together, and each number of them is a softmax of its own. No rule but that of softmax is needed, and a masked
//! position changes no bit of the others.

use std::collections::BTreeMap;

use crate::import::ImportError;
use crate::import::float::{FloatGraph, Operation, Step};
use crate::import::fold::use_counts;

/// How far below the largest offset of its row a masked position lies at least: exporters write anything from this to the least
/// float32, and no share of such a position can be told from none.
const FAR: f64 = 9_999.0;

/// Numbers of positions left that one mask may have: each becomes a softmax.
const MOST_LENGTHS: usize = 256;

/// Splits every softmax behind a mask; says whether there was one.
pub(crate) fn split(graph: &mut FloatGraph) -> Result<bool, ImportError> {
    let (mut found, mut place) = (false, 0);
    while place < graph.steps.len() {
        if let Some(steps) = split_one(graph, place)? {
            found = true;
            let count = steps.len();
            graph.steps.splice(place..=place, steps);
            place += count - 1;
        }
        place += 1;
    }
    Ok(found)
}

/// The steps that stand in the place of one softmax.
fn split_one(graph: &mut FloatGraph, place: usize) -> Result<Option<Vec<Step>>, ImportError> {
    let softmax = graph.steps[place].clone();
    let Operation::Softmax { group, scale: own } = softmax.operation else { return Ok(None) };
    let Some(mask) = graph.steps.iter().position(|step| step.output == softmax.inputs[0]) else {
        return Ok(None);
    };
    let Operation::Affine { scale, offset } = &graph.steps[mask].operation else { return Ok(None) };
    let masked: Vec<bool> = offset
        .chunks_exact(group)
        .flat_map(|row| {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.iter().map(move |&offset| offset <= largest - FAR)
        })
        .collect();
    if !masked.contains(&true) || use_counts(graph)[softmax.inputs[0]] != 1 {
        return Ok(None);
    }
    let left = |from: usize| (from..from + group).filter(|&at| !masked[at]).collect::<Vec<usize>>();
    let mut rows: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for from in (0..masked.len()).step_by(group) {
        let left = left(from);
        rows.entry(left.len()).or_default().extend(left);
    }

    if rows.len() > MOST_LENGTHS {
        let what = format!(
            "its mask leaves {} different numbers of positions; {MOST_LENGTHS} are the limit",
            rows.len()
        );
        return Err(ImportError::Range { layer: softmax.name, what });
    }
    let kept = || (0..masked.len()).filter(|&at| !masked[at]);
    // The largest of a row stays.
    let first = kept().next().unwrap_or(0);
    let alike = kept().all(|at| (scale[at], offset[at]) == (scale[first], offset[first]));
    let (source, factor) = if alike && scale[first] > 0.0 {
        // An offset of all changes no share.
        (graph.steps[mask].inputs[0], scale[first])
    } else {
        let only = |values: &[f64]| {
            values.iter().zip(&masked).map(|(&value, &masked)| if masked { 0.0 } else { value }).collect()
        };
        let (scale, offset) = (only(scale), only(offset));
        graph.steps[mask].operation = Operation::Affine { scale, offset };
        (softmax.inputs[0], 1.0)
    };
    let mut steps = Vec::with_capacity(2 * rows.len() + 1);
    let (mut parts, mut joined, mut start) = (Vec::with_capacity(rows.len()), vec![-1; masked.len()], 0);
    let mut push = |graph: &mut FloatGraph, operation, inputs, shape| {
        graph.shapes.push(shape);
        let output = graph.shapes.len() - 1;
        steps.push(Step { operation, inputs, output, ..softmax.clone() });
        output
    };
    for (length, elements) in rows {
        let shape = vec![(elements.len() / length) as u32, length as u32];
        elements.iter().enumerate().for_each(|(at, &element)| joined[element] = start + at as i32);
        start += elements.len() as i32;
        let indices = elements.iter().map(|&element| element as i32).collect();
        let moved = push(graph, Operation::Move { indices, fill: 0.0 }, vec![source], shape.clone());
        let shares = Operation::Softmax { group: length, scale: own * factor };
        parts.push(push(graph, shares, vec![moved], shape));
    }
    let shape = graph.shapes[softmax.output].clone();
    push(graph, Operation::Move { indices: joined, fill: 0.0 }, parts, shape);
    if let Some(last) = steps.last_mut() {
        last.output = softmax.output;
    }
    Ok(Some(steps))
}
