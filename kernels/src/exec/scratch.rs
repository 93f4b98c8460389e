//! The memory of an executor: one arena for each element width, laid out by the model's plan, and what some layers
//! work in.

use super::Packed;
use super::recurrent::{PackedRecurrent, UNITS, Walk, Words};
use crate::model::Model;
use crate::model::graph::{Cell, Operator};
use crate::model::plan::{ALIGNMENT, Arena, Region};

/// Arenas for a fixed number of slots. Row `r` of a region starts at `offset * slots + r * stride`.
#[derive(Debug)]
pub(crate) struct Scratch {
    slots: usize,
    i16s: Vec<i16>,
    i32s: Vec<i32>,
    i64s: Vec<i64>,
    work: Work,
    /// The states that each slot carries from call to call, row-major.
    carried: Vec<i32>,
    carried_stride: usize,
}

/// Working memory of recurrent layers, of padded images and of trees in vectors, which run one after the other: as much
/// as the largest needs, whatever the number of slots.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) words: Vec<Words>,
    pub(super) halves: Vec<i16>,
}

impl Work {
    fn new(model: &Model) -> Work {
        let (mut words, mut halves) = (0, 0);
        for (node, packed) in model.graph.nodes.iter().zip(&model.packed) {
            if let Operator::Recurrent(layer) = &node.operator {
                // What the reference needs, and what vectors do.
                words = words.max(layer.hidden().div_ceil(UNITS));
                halves = halves.max(2 * layer.hidden());
            }
            match packed {
                Packed::Recurrent(layer) => {
                    words = words.max(layer.work_words());
                    halves = halves.max(layer.work_halves());
                }
                Packed::Conv(layer) => halves = halves.max(layer.work_halves()),
                Packed::MatMul(matmul) => {
                    words = words.max(matmul.work_words());
                    halves = halves.max(matmul.work_halves());
                }
                Packed::Softmax(softmax) => words = words.max(softmax.work_words()),
                Packed::Forest(forest) => words = words.max(forest.work_words()),
                _ => {}
            }
        }
        Work { words: vec![Words::default(); words], halves: vec![0; halves] }
    }
}

/// What a vector kernel needs to take a block of rows through a recurrent layer. Every pointer is good for all rows.
#[derive(Debug)]
pub(super) struct Block<'a> {
    pub(super) rows: usize,
    pub(super) x: *const i16,
    pub(super) x_stride: usize,
    pub(super) y: *mut i16,
    pub(super) y_stride: usize,
    /// `POSITIONS` × groups × gates vectors.
    pub(super) shares: *mut Words,
    /// `[row][group]`.
    pub(super) cells: *mut Words,
    /// Hidden states `[row][group][unit]`, and as much for the next ones.
    pub(super) before: *mut i16,
    pub(super) after: *mut i16,
    /// The layer's states that the first row's slot carries, if any, and how far the next row's are.
    pub(super) carried: Option<*mut i32>,
    pub(super) carried_stride: usize,
    scratch: std::marker::PhantomData<&'a mut Scratch>,
}

impl Scratch {
    pub(crate) fn new(model: &Model, slots: usize) -> Scratch {
        let plan = &model.plan;
        Scratch {
            slots,
            // A convolution may read the rest of a last pair.
            i16s: vec![0; plan.i16_elements * slots + ALIGNMENT],
            i32s: vec![0; plan.i32_elements * slots],
            i64s: vec![0; plan.i64_elements * slots],
            work: Work::new(model),
            carried: vec![0; model.carried_len * slots],
            carried_stride: model.carried_len,
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.i16s.len() * 2
            + self.i32s.len() * 4
            + self.i64s.len() * 8
            + self.work.words.len() * size_of::<Words>()
            + self.work.halves.len() * 2
            + self.carried.len() * 4
    }

    /// Start of a row in its arena.
    pub(crate) fn start(&self, region: Region, row: usize) -> usize {
        region.offset * self.slots + row * region.stride
    }

    pub(crate) fn i16_row_mut(&mut self, region: Region, row: usize) -> &mut [i16] {
        debug_assert_eq!(region.arena, Arena::I16);
        let start = self.start(region, row);
        &mut self.i16s[start..start + region.stride]
    }

    pub(crate) fn i32_row_mut(&mut self, region: Region, row: usize) -> &mut [i32] {
        debug_assert_eq!(region.arena, Arena::I32);
        let start = self.start(region, row);
        &mut self.i32s[start..start + region.stride]
    }

    pub(crate) fn i64_row_mut(&mut self, region: Region, row: usize) -> &mut [i64] {
        debug_assert_eq!(region.arena, Arena::I64);
        let start = self.start(region, row);
        &mut self.i64s[start..start + region.stride]
    }

    pub(crate) fn i16_row(&self, region: Region, row: usize) -> &[i16] {
        debug_assert_eq!(region.arena, Arena::I16);
        let start = self.start(region, row);
        &self.i16s[start..start + region.stride]
    }

    pub(crate) fn i32_row(&self, region: Region, row: usize) -> &[i32] {
        debug_assert_eq!(region.arena, Arena::I32);
        let start = self.start(region, row);
        &self.i32s[start..start + region.stride]
    }

    /// The states that a slot carries.
    pub(super) fn carried(&self, row: usize) -> &[i32] {
        &self.carried[row * self.carried_stride..][..self.carried_stride]
    }

    /// As [`Scratch::carried`].
    pub(super) fn carried_mut(&mut self, row: usize) -> &mut [i32] {
        &mut self.carried[row * self.carried_stride..][..self.carried_stride]
    }

    /// All `i16` values, the working memory, and the states that a slot carries.
    pub(super) fn recurrent_parts(&mut self, row: usize) -> (&mut [i16], &mut Work, &mut [i32]) {
        let carried = &mut self.carried[row * self.carried_stride..][..self.carried_stride];
        (&mut self.i16s, &mut self.work, carried)
    }

    /// All `i16` values, all `i32` values, and the states that a slot carries.
    pub(super) fn carried_parts(&mut self, row: usize) -> (&mut [i16], &mut [i32], &mut [i32]) {
        let carried = &mut self.carried[row * self.carried_stride..][..self.carried_stride];
        (&mut self.i16s, &mut self.i32s, carried)
    }

    /// All `i16` values, all `i32` values, and the working memory.
    pub(super) fn parts_mut(&mut self) -> (&mut [i16], &mut [i32], &mut Work) {
        (&mut self.i16s, &mut self.i32s, &mut self.work)
    }

    /// A block of `rows` rows of a recurrent layer from row `first` on, with the states before the first step.
    pub(super) fn block(
        &mut self,
        layer: &PackedRecurrent,
        walk: Walk,
        from: Region,
        to: Region,
        first: usize,
        rows: usize,
    ) -> Block<'_> {
        let (x, y) = (self.start(from, first), self.start(to, first));
        let (states, hidden) = (layer.groups() * UNITS, layer.hidden);
        assert!(x + rows * from.stride <= self.i16s.len() && y + rows * to.stride <= self.i16s.len());
        // A pair of features beyond the last lies in the row's padding: rows are padded to a whole vector.
        assert!((walk.steps * layer.features).next_multiple_of(2) <= from.stride);
        assert!(hidden * if layer.last_only { 1 } else { walk.steps } <= to.stride);
        let (words, halves) = (&mut self.work.words[..layer.work_words()], &mut self.work.halves[..]);
        let halves = &mut halves[..layer.work_halves()];
        let (cells, shares) = words.split_at_mut(rows * layer.groups());
        let (before, after) = halves.split_at_mut(rows * states);
        let stride = self.carried_stride;
        for row in 0..rows {
            let before = &mut before[row * states..][..states];
            let cells = &mut Words::flat(cells)[row * states..][..states];
            before.copy_from_slice(&layer.initial_hidden);
            cells.copy_from_slice(&layer.initial_cell);
            let Some(start) = walk.carried else { continue };
            let carried = &self.carried[(first + row) * stride + start..];
            let (before, cells) = (&mut before[..hidden], &mut cells[..hidden]);
            match layer.cell {
                Cell::Lstm => {
                    before.iter_mut().zip(carried).for_each(|(to, &state)| *to = state as i16);
                    cells.copy_from_slice(&carried[hidden..2 * hidden]);
                }
                Cell::Gru => {
                    cells.copy_from_slice(&carried[..hidden]);
                    before.iter_mut().zip(cells).for_each(|(to, &mut cell)| *to = layer.states.narrow(cell));
                }
            }
        }
        let carried = walk.carried.map(|start| {
            let words = hidden * if layer.cell == Cell::Lstm { 2 } else { 1 };
            assert!(start + words <= stride && (first + rows) * stride <= self.carried.len());
            // SAFETY: asserted to lie within the states.
            unsafe { self.carried.as_mut_ptr().add(first * stride + start) }
        });
        let base = self.i16s.as_mut_ptr();
        Block {
            rows,
            // SAFETY: asserted above to lie in the arena.
            x: unsafe { base.add(x).cast_const() },
            x_stride: from.stride,
            // SAFETY: as above.
            y: unsafe { base.add(y) },
            y_stride: to.stride,
            shares: shares.as_mut_ptr(),
            cells: cells.as_mut_ptr(),
            before: before.as_mut_ptr(),
            after: after.as_mut_ptr(),
            carried,
            carried_stride: stride,
            scratch: std::marker::PhantomData,
        }
    }

    pub(crate) fn get(&self, region: Region, row: usize, element: usize) -> i64 {
        debug_assert!(element < region.stride);
        let index = self.start(region, row) + element;
        match region.arena {
            Arena::I16 => self.i16s[index].into(),
            Arena::I32 => self.i32s[index].into(),
            Arena::I64 => self.i64s[index],
        }
    }

    /// Stores a value that the graph's proof says fits the region's element type.
    pub(crate) fn set(&mut self, region: Region, row: usize, element: usize, value: i64) {
        debug_assert!(element < region.stride);
        let index = self.start(region, row) + element;
        match region.arena {
            Arena::I16 => self.i16s[index] = value as i16,
            Arena::I32 => self.i32s[index] = value as i32,
            Arena::I64 => self.i64s[index] = value,
        }
    }

    /// Copies the first elements of a row, as many as `into` takes.
    pub(crate) fn copy_row(&self, region: Region, row: usize, into: &mut [i64]) {
        let start = self.start(region, row);
        let range = start..start + into.len();
        match region.arena {
            Arena::I16 => into.iter_mut().zip(&self.i16s[range]).for_each(|(to, &from)| *to = from.into()),
            Arena::I32 => into.iter_mut().zip(&self.i32s[range]).for_each(|(to, &from)| *to = from.into()),
            Arena::I64 => into.copy_from_slice(&self.i64s[range]),
        }
    }
}
