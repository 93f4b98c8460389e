//! Where each tensor of a batch lies in an executor's scratch memory, decided once at load.
//!
//! Tensors of one element type share an arena. A region is reused as soon as its last reader has run, save that the
//! model's input keeps its region: the next batch may be staged, or the same one run again, at any time.

use super::graph::{Element, Graph};

/// Regions start, and rows are padded, to this many elements: one 256-bit vector of `i16`.
pub(crate) const ALIGNMENT: usize = 16;

/// The arena of an element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arena {
    I16,
    /// `i32` values and keys.
    I32,
    I64,
}

impl Arena {
    pub(crate) fn of(element: Element) -> Arena {
        match element {
            Element::I16 => Arena::I16,
            Element::I32 | Element::Key => Arena::I32,
            Element::I64 => Arena::I64,
        }
    }
}

/// A tensor's place. For a batch of `n` slots, row `r` starts at element `offset * n + r * stride`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) arena: Arena,
    pub(crate) offset: usize,
    pub(crate) stride: usize,
}

/// Places of all tensors, and the elements per slot of each arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) regions: Vec<Region>,
    pub(crate) i16_elements: usize,
    pub(crate) i32_elements: usize,
    pub(crate) i64_elements: usize,
}

impl Plan {
    /// Plans a validated graph: each tensor takes the first gap that fits between the tensors alive with it.
    pub(crate) fn new(graph: &Graph) -> Plan {
        let after = graph.nodes.len();
        // Alive from the node that writes it to the last that reads it.
        let mut first = vec![0; graph.tensors.len()];
        let mut last = vec![0; graph.tensors.len()];
        for (index, node) in graph.nodes.iter().enumerate() {
            first[node.output] = index;
            last[node.output] = last[node.output].max(index);
            node.inputs.iter().for_each(|&input| last[input] = index);
        }
        last[graph.input] = after;
        last[graph.output] = after;
        let order = std::iter::once(graph.input).chain(graph.nodes.iter().map(|node| node.output));
        let mut placed: Vec<usize> = Vec::new();
        let mut regions = vec![Region { arena: Arena::I16, offset: 0, stride: 0 }; graph.tensors.len()];
        let mut sizes = [0usize; 3];
        for tensor in order {
            let arena = Arena::of(graph.tensors[tensor].element);
            let stride = graph.tensors[tensor].len().next_multiple_of(ALIGNMENT);
            let mut alive: Vec<Region> = placed
                .iter()
                .filter(|&&other| regions[other].arena == arena)
                .filter(|&&other| last[other] >= first[tensor] && last[tensor] >= first[other])
                .map(|&other| regions[other])
                .collect();
            alive.sort_unstable_by_key(|region| region.offset);
            let mut offset = 0;
            for region in alive {
                if offset + stride <= region.offset {
                    break;
                }
                offset = offset.max(region.offset + region.stride);
            }
            regions[tensor] = Region { arena, offset, stride };
            let size = &mut sizes[arena as usize];
            *size = (*size).max(offset + stride);
            placed.push(tensor);
        }
        Plan { regions, i16_elements: sizes[0], i32_elements: sizes[1], i64_elements: sizes[2] }
    }

    /// Bytes of scratch for each batch slot.
    pub(crate) fn bytes_per_slot(&self) -> usize {
        self.i16_elements * 2 + self.i32_elements * 4 + self.i64_elements * 8
    }
}
