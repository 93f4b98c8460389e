//! Folding around products of computed matrices: they read their operands, and leave their result, in any order that
//! distances can say; and softmax takes a scale.

use crate::import::float::{FloatGraph, Operation, Step};
use crate::import::fold::{permutation, use_counts};
use crate::model::graph::MatMul;

/// One change, if there is one to make.
pub(crate) fn fold(graph: &mut FloatGraph) -> bool {
    scale_softmax(graph) || scale_behind(graph) || read_in_place(graph) || write_in_place(graph)
}

/// The one factor of an affine step without offset.
fn factor(step: &Step) -> Option<f64> {
    let Operation::Affine { scale, offset } = &step.operation else { return None };
    let first = scale[0];
    let uniform = scale.iter().all(|&scale| scale == first) && offset.iter().all(|&offset| offset == 0.0);
    uniform.then_some(first)
}

/// The step that makes the input `side` of step `index`, if nothing else reads it.
fn own_maker(graph: &FloatGraph, index: usize, side: usize) -> Option<usize> {
    let value = graph.steps[index].inputs[side];
    let maker = graph.steps.iter().position(|step| step.output == value)?;
    (use_counts(graph)[value] == 1).then_some(maker)
}

fn scale_softmax(graph: &mut FloatGraph) -> bool {
    for index in 0..graph.steps.len() {
        let Operation::Softmax { scale, group } = graph.steps[index].operation else { continue };
        let Some(maker) = own_maker(graph, index, 0).filter(|&maker| graph.steps[maker].inputs[0] != 0)
        else {
            continue;
        };
        let Some(factor) = factor(&graph.steps[maker]).filter(|&factor| factor > 0.0) else { continue };
        let affine = graph.steps.remove(maker);
        let step = &mut graph.steps[index - 1];
        step.operation = Operation::Softmax { scale: scale * factor, group };
        step.inputs = affine.inputs;
        step.source = format!("{}+{}", affine.source, step.source);
        return true;
    }
    false
}

/// A scale of an operand is a scale of the product.
fn scale_behind(graph: &mut FloatGraph) -> bool {
    for index in 0..graph.steps.len() {
        if !matches!(graph.steps[index].operation, Operation::MatMul(_)) {
            continue;
        }
        for side in 0..2 {
            let Some(maker) = own_maker(graph, index, side) else { continue };
            let Some(factor) = factor(&graph.steps[maker]) else { continue };
            let mut affine = graph.steps.remove(maker);
            let step = &mut graph.steps[index - 1];
            step.inputs[side] = affine.inputs[0];
            // The value between takes the operand's old place; the scaled product keeps its own.
            let between = std::mem::replace(&mut affine.output, step.output);
            step.output = between;
            affine.inputs = vec![between];
            let shape = graph.shapes[affine.output].clone();
            let len = graph.len(affine.output);
            graph.shapes[between] = shape;
            affine.operation = Operation::Affine { scale: vec![factor; len], offset: vec![0.0; len] };
            graph.steps.insert(index, affine);
            return true;
        }
    }
    false
}

/// First place and distances of `counts` elements along each dimension, if `place` is made of such.
fn distances<const N: usize>(
    counts: [usize; N],
    place: impl Fn([usize; N]) -> Option<usize>,
) -> Option<Vec<usize>> {
    let first = place([0; N])?;
    let mut found = vec![first];
    for (axis, &count) in counts.iter().enumerate() {
        let mut at = [0; N];
        at[axis] = 1;
        // Of a single element any distance will do: columns then count as lying together.
        let single = usize::from(axis + 1 == N);
        found.push(if count > 1 { place(at)?.checked_sub(first)? } else { single });
    }
    let mut at = [0; N];
    loop {
        let expected = first + at.iter().zip(&found[1..]).map(|(at, distance)| at * distance).sum::<usize>();
        if place(at) != Some(expected) {
            return None;
        }
        let Some(axis) = (0..N).rev().find(|&axis| at[axis] + 1 < counts[axis]) else { return Some(found) };
        at[axis] += 1;
        at[axis + 1..].fill(0);
    }
}

fn operand(matmul: &MatMul, side: usize) -> ([usize; 3], [usize; 4]) {
    match side {
        0 => ([matmul.matrices, matmul.rows, matmul.inner], matmul.left),
        _ => ([matmul.matrices, matmul.inner, matmul.columns], matmul.right),
    }
}

/// A move before a product becomes distances within what it moves.
fn read_in_place(graph: &mut FloatGraph) -> bool {
    for index in 0..graph.steps.len() {
        let Operation::MatMul(matmul) = graph.steps[index].operation.clone() else { continue };
        for side in 0..2 {
            let value = graph.steps[index].inputs[side];
            let Some(mover) = graph.steps.iter().find(|step| step.output == value) else { continue };
            let (Operation::Move { indices, .. }, [from]) = (&mover.operation, &mover.inputs[..]) else {
                continue;
            };
            let (counts, [first, a, b, c]) = operand(&matmul, side);
            let place = |[i, j, k]: [usize; 3]| {
                indices.get(first + i * a + j * b + k * c).and_then(|&at| usize::try_from(at).ok())
            };
            let Some(found) = distances(counts, place) else { continue };
            let (from, source) = (*from, mover.source.clone());
            let step = &mut graph.steps[index];
            step.inputs[side] = from;
            step.source = format!("{source}+{}", step.source);
            let Operation::MatMul(matmul) = &mut step.operation else { continue };
            let place = if side == 0 { &mut matmul.left } else { &mut matmul.right };
            place.copy_from_slice(&found);
            return true;
        }
    }
    false
}

/// A permutation of a product's result becomes distances within it.
fn write_in_place(graph: &mut FloatGraph) -> bool {
    for index in 0..graph.steps.len() {
        let Some(maker) = own_maker(graph, index, 0) else { continue };
        let Some(order) = permutation(graph, &graph.steps[index]) else { continue };
        let Operation::MatMul(matmul) = &graph.steps[maker].operation else { continue };
        let mut places = vec![0; order.len()];
        order.iter().enumerate().for_each(|(to, &from)| places[from as usize] = to);
        let counts = [matmul.matrices, matmul.rows, matmul.columns];
        let [first, a, b] = matmul.output;
        let place = |[i, j, k]: [usize; 3]| places.get(first + i * a + j * b + k).copied();
        let Some(found) = distances(counts, place).filter(|found| found[3] == 1) else { continue };
        let mover = graph.steps.remove(index);
        let step = &mut graph.steps[maker];
        let Operation::MatMul(matmul) = &mut step.operation else { continue };
        matmul.output.copy_from_slice(&found[..3]);
        step.output = mover.output;
        step.source = format!("{}+{}", step.source, mover.source);
        return true;
    }
    false
}
