//! The way through a recurrent layer's rows, steps and groups: the same whichever instructions compute.

use super::super::scratch::{Block, Scratch};
use super::{BLOCK, POSITIONS, PackedRecurrent, UNITS, Walk};
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
    walk: Walk,
    scratch: &mut Scratch,
    from: Region,
    to: Region,
    rows: usize,
) {
    assert!(from.arena == Arena::I16 && to.arena == Arena::I16);
    for first in (0..rows).step_by(BLOCK) {
        let block = scratch.block(layer, walk, from, to, first, (rows - first).min(BLOCK));
        // SAFETY: the instructions are this function's own condition.
        unsafe {
            match layer.cell {
                Cell::Lstm => take::<I, 4>(layer, walk.steps, block),
                Cell::Gru => take::<I, 3>(layer, walk.steps, block),
            }
        }
    }
}

/// Computes up to [`BLOCK`] rows: the products with the inputs of some steps, then these steps, and so on.
///
/// # Safety
/// As [`execute`]; `G` is the number of gates.
unsafe fn take<I: Instructions, const G: usize>(layer: &PackedRecurrent, steps: usize, at: Block<'_>) {
    let (groups, hidden) = (layer.groups(), layer.hidden);
    let (mut before, mut after) = (at.before, at.after);
    let chunk = POSITIONS / at.rows;
    let mut forward = true;
    for first in (0..steps).step_by(chunk) {
        let count = chunk.min(steps - first);
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
            if !layer.last_only || first + step + 1 == steps {
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
    if let Some(carried) = at.carried {
        let (hidden, padded) = (layer.hidden, groups * UNITS);
        for row in 0..at.rows {
            // SAFETY: a slot has a hidden state of an LSTM and a cell for each unit, and so have `before` and `cells`.
            unsafe {
                let (state, cell) = (before.add(row * padded), at.cells.cast::<i32>().add(row * padded));
                let mut to = carried.add(row * at.carried_stride);
                if layer.cell == Cell::Lstm {
                    (0..hidden).for_each(|unit| *to.add(unit) = i32::from(*state.add(unit)));
                    to = to.add(hidden);
                }
                to.copy_from_nonoverlapping(cell.cast_const(), hidden);
            }
        }
    }
}
