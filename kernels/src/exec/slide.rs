//! Windows of streams: the columns before the newest are carried from step to step.

use super::scalar;
use super::scratch::Scratch;
use crate::model::Model;
use crate::model::graph::{Node, Operator};
use crate::model::plan::Arena;
use crate::spec::rounding;

/// Puts the carried columns before the newest one, and carries all but the oldest to the next step.
pub(super) fn execute(model: &Model, node: &Node, scratch: &mut Scratch, row: usize) {
    let slide = Slide::new(model, node, scratch, row);
    match (model.plan.regions[node.output].arena, scratch.carried_parts(row)) {
        (Arena::I16, (values, _, carried)) => slide.push(values, halves_mut(&mut carried[slide.start..])),
        (_, (_, values, carried)) => slide.push(values, &mut carried[slide.start..]),
    }
}

/// The states of a stream all of whose steps were zeros: what is carried then is one column many times over.
pub(crate) fn states_of_zeros(form: &Model) -> Vec<i32> {
    let mut scratch = Scratch::new(form, 1);
    let (input, region) = (form.input(), form.plan.regions[form.graph.input]);
    for element in 0..input.len() {
        let zero = rounding::quantize(0.0, input.exponent_of(element), input.minimum, input.maximum);
        scratch.set(region, 0, element, zero);
    }
    // No window is of a layer that takes whole ones: those come last.
    let is_slide = |node: &Node| matches!(node.operator, Operator::Slide);
    let last = form.graph.nodes.iter().rposition(is_slide).map_or(0, |last| last + 1);
    for node in &form.graph.nodes[..last] {
        if !is_slide(node) {
            scalar::execute(form, node, &mut scratch, 1);
            continue;
        }
        let slide = Slide::new(form, node, &scratch, 0);
        match (form.plan.regions[node.output].arena, scratch.carried_parts(0)) {
            (Arena::I16, (values, _, carried)) => {
                slide.repeat(values, halves_mut(&mut carried[slide.start..]))
            }
            (_, (_, values, carried)) => slide.repeat(values, &mut carried[slide.start..]),
        }
    }
    scratch.carried(0).to_vec()
}

/// Where a window's elements lie.
struct Slide {
    /// The newest column.
    x: usize,
    /// The window.
    y: usize,
    /// Elements of a column.
    column: usize,
    /// Elements of the columns that are carried.
    kept: usize,
    /// Their first word among the states.
    start: usize,
}

impl Slide {
    fn new(model: &Model, node: &Node, scratch: &Scratch, row: usize) -> Slide {
        let [column, len] = [node.inputs[0], node.output].map(|tensor| model.graph.tensors[tensor].len());
        let [x, y] =
            [node.inputs[0], node.output].map(|tensor| scratch.start(model.plan.regions[tensor], row));
        let start =
            model.carried[node.output].expect("the form of a stream says where each window is carried");
        Slide { x, y, column, kept: len - column, start }
    }

    /// The window of what is carried and the newest column.
    fn push<T: Copy>(&self, values: &mut [T], carried: &mut [T]) {
        let &Slide { x, y, column, kept, .. } = self;
        let carried = &mut carried[..kept];
        values[y..][..kept].copy_from_slice(carried);
        values.copy_within(x..x + column, y + kept);
        carried.copy_from_slice(&values[y + column..][..kept]);
    }

    /// The window, and what is carried, of the newest column alone.
    fn repeat<T: Copy>(&self, values: &mut [T], carried: &mut [T]) {
        let &Slide { x, y, column, kept, .. } = self;
        (0..=kept).step_by(column).for_each(|at| values.copy_within(x..x + column, y + at));
        carried[..kept].copy_from_slice(&values[y..][..kept]);
    }
}

/// The values of words, two in each.
pub(super) fn halves(words: &[i32]) -> &[i16] {
    // SAFETY: a word has the size of two values, no smaller alignment, and no bits that a value may not have.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 2) }
}

/// As [`halves`].
pub(super) fn halves_mut(words: &mut [i32]) -> &mut [i16] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len() * 2) }
}
