//! The way through a recurrent layer's rows, steps and groups: the same whichever instructions compute.

use super::super::scratch::{Block, Scratch};
use super::{BLOCK, POSITIONS, PackedRecurrent, UNITS};
use crate::model::graph::Cell;
use crate::model::plan::{Arena, Region};

/// Vector instructions that compute a recurrent layer. `G` is the layer's number of gates.
///
/// # Safety
/// Each call needs a processor that has the instructions, and a [`Block`] of this layer.
pub(in super::super) trait Instructions {
    /// Computes the inputs' shares of the gates' arguments for `steps` steps from step `first`.
    ///
    /// # Safety
    /// As the trait's; there are so many steps, and shares for them.
    unsafe fn project<const G: usize>(layer: &PackedRecurrent, at: &Block<'_>, first: usize, steps: usize);

    /// Takes one group of all rows through a step, whose shares are there.
    ///
    /// # Safety
    /// As the trait's; `before` and `after` hold the hidden states of all rows.
    unsafe fn advance<const G: usize>(
        layer: &PackedRecurrent,
        at: &Block<'_>,
        group: usize,
        step: usize,
        before: *mut i16,
        after: *mut i16,
    );
}

/// Computes rows `0..rows`.
///
/// # Safety
/// The processor must have the instructions `I`.
pub(in super::super) unsafe fn execute<I: Instructions>(
    layer: &PackedRecurrent,
    scratch: &mut Scratch,
    from: Region,
    to: Region,
    rows: usize,
) {
    assert!(from.arena == Arena::I16 && to.arena == Arena::I16);
    for first in (0..rows).step_by(BLOCK) {
        let count = (rows - first).min(BLOCK);
        let (x, y) = (scratch.start(from, first), scratch.start(to, first));
        // SAFETY: the instructions are this function's own condition.
        unsafe {
            match layer.cell {
                Cell::Lstm => block::<I, 4>(layer, scratch.block(layer, x, from, y, to, count)),
                Cell::Gru => block::<I, 3>(layer, scratch.block(layer, x, from, y, to, count)),
            }
        }
    }
}

/// Computes up to [`BLOCK`] rows: the products with the inputs of some steps, then these steps, and so on.
///
/// # Safety
/// As [`execute`]; `G` is the number of gates.
unsafe fn block<I: Instructions, const G: usize>(layer: &PackedRecurrent, at: Block<'_>) {
    let (groups, hidden) = (layer.groups(), layer.hidden);
    let (mut before, mut after) = (at.before, at.after);
    let chunk = POSITIONS / at.rows;
    let mut forward = true;
    for first in (0..layer.steps).step_by(chunk) {
        let count = chunk.min(layer.steps - first);
        // SAFETY: `Block` holds so many rows, steps and shares.
        unsafe { I::project::<G>(layer, &at, first, count) };
        for step in 0..count {
            for index in 0..groups {
                let group = if forward { index } else { groups - 1 - index };
                // SAFETY: as above; `group` is one of the layer's.
                unsafe { I::advance::<G>(layer, &at, group, step, before, after) };
            }
            forward = !forward;
            (before, after) = (after, before);
            if !layer.last_only || first + step + 1 == layer.steps {
                let place = if layer.last_only { 0 } else { (first + step) * hidden };
                for row in 0..at.rows {
                    // SAFETY: an output row holds a state for each step, or one.
                    unsafe {
                        let state = before.add(row * groups * UNITS).cast_const();
                        at.y.add(row * at.y_stride + place).copy_from_nonoverlapping(state, hidden);
                    }
                }
            }
        }
    }
}
