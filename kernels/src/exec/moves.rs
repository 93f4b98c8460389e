//! Moves of data, as copies of runs.

use super::scratch::Scratch;
use crate::model::graph::{Graph, Move, Node};
use crate::model::plan::{Arena, Plan};

/// Shorter runs are gathered element by element.
const SHORTEST_COPY: usize = 4;

/// Where some elements of the result come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// Neighbours of one input.
    Copy {
        input: u32,
        start: u32,
        to: u32,
        len: u32,
    },
    Fill {
        to: u32,
        len: u32,
    },
    /// Entries of the list of elements, for as many results.
    Gather {
        first: u32,
        to: u32,
        len: u32,
    },
}

#[derive(Debug)]
pub(crate) struct PackedMove {
    pieces: Vec<Piece>,
    /// Input and element.
    elements: Vec<(u32, u32)>,
    fill: i64,
}

impl PackedMove {
    pub(crate) fn new(elements: &Move, graph: &Graph, node: &Node) -> PackedMove {
        let starts: Vec<usize> = node
            .inputs
            .iter()
            .scan(0, |start, &input| {
                let this = *start;
                *start += graph.tensors[input].len();
                Some(this)
            })
            .collect();
        let source = |index: i32| {
            let index = usize::try_from(index).ok()?;
            let input = starts.partition_point(|&start| start <= index) - 1;
            Some((input as u32, (index - starts[input]) as u32))
        };
        let mut packed = PackedMove { pieces: Vec::new(), elements: Vec::new(), fill: elements.fill };
        let mut at = 0;
        while at < elements.indices.len() {
            let first = source(elements.indices[at]);
            let follows = |&(offset, &index): &(usize, &i32)| match (first, source(index)) {
                (None, next) => next.is_none(),
                (Some((input, start)), next) => next == Some((input, start + offset as u32)),
            };
            let len = elements.indices[at..].iter().enumerate().take_while(follows).count();
            packed.push(first, at as u32, len as u32);
            at += len;
        }
        packed
    }

    fn push(&mut self, source: Option<(u32, u32)>, to: u32, len: u32) {
        match source {
            None => self.pieces.push(Piece::Fill { to, len }),
            Some((input, start)) if len as usize >= SHORTEST_COPY => {
                self.pieces.push(Piece::Copy { input, start, to, len });
            }
            Some((input, start)) => {
                let first = self.elements.len() as u32;
                self.elements.extend((0..len).map(|offset| (input, start + offset)));
                match self.pieces.last_mut() {
                    Some(Piece::Gather { to: before, len: own, .. }) if *before + *own == to => *own += len,
                    _ => self.pieces.push(Piece::Gather { first, to, len }),
                }
            }
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.pieces.len() * size_of::<Piece>() + self.elements.len() * 8
    }

    /// Moves the elements of rows `0..rows`.
    pub(super) fn execute(&self, plan: &Plan, node: &Node, scratch: &mut Scratch, rows: usize) {
        for row in 0..rows {
            let starts =
                |scratch: &Scratch, input: u32| scratch.start(plan.regions[node.inputs[input as usize]], row);
            let to = plan.regions[node.output];
            let target = scratch.start(to, row);
            for &piece in &self.pieces {
                match piece {
                    Piece::Copy { input, start, to: at, len } => {
                        let from = starts(scratch, input) + start as usize;
                        let (range, at) = (from..from + len as usize, target + at as usize);
                        match (to.arena, scratch.parts_mut()) {
                            (Arena::I16, (values, _, _)) => values.copy_within(range, at),
                            (_, (_, values, _)) => values.copy_within(range, at),
                        }
                    }
                    Piece::Fill { to: at, len } => {
                        let range = target + at as usize..target + (at + len) as usize;
                        match (to.arena, scratch.parts_mut()) {
                            (Arena::I16, (values, _, _)) => values[range].fill(self.fill as i16),
                            (_, (_, values, _)) => values[range].fill(self.fill as i32),
                        }
                    }
                    Piece::Gather { first, to: at, len } => {
                        let elements = &self.elements[first as usize..][..len as usize];
                        for (offset, &(input, element)) in elements.iter().enumerate() {
                            let from = starts(scratch, input) + element as usize;
                            let at = target + at as usize + offset;
                            match (to.arena, scratch.parts_mut()) {
                                (Arena::I16, (values, _, _)) => values[at] = values[from],
                                (_, (_, values, _)) => values[at] = values[from],
                            }
                        }
                    }
                }
            }
        }
    }
}
