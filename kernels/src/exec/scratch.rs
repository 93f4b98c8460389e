//! The memory of an executor: one arena for each element width, laid out by the model's plan.

use crate::model::plan::{Arena, Plan, Region};

/// Arenas for a fixed number of slots. Row `r` of a region starts at `offset * slots + r * stride`.
#[derive(Debug)]
pub(crate) struct Scratch {
    slots: usize,
    i16s: Vec<i16>,
    i32s: Vec<i32>,
    i64s: Vec<i64>,
}

impl Scratch {
    pub(crate) fn new(plan: &Plan, slots: usize) -> Scratch {
        Scratch {
            slots,
            i16s: vec![0; plan.i16_elements * slots],
            i32s: vec![0; plan.i32_elements * slots],
            i64s: vec![0; plan.i64_elements * slots],
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.i16s.len() * 2 + self.i32s.len() * 4 + self.i64s.len() * 8
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

    /// All `i16` values and all `i32` values, for kernels that read one region and write another.
    pub(crate) fn arenas_mut(&mut self) -> (&mut [i16], &mut [i32]) {
        (&mut self.i16s, &mut self.i32s)
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
