//! Convolutions, as dense layers whose rows are the places of the kernel.
//!
//! An image lies as `[height, width, channels]`, so what a kernel meets at a place is some runs of neighbouring elements:
//! one for each of its rows, or a single one where it is as wide as the image. The rows of a dense layer are read at any
//! stride, so no patch is copied. A padded image is first copied into working memory, with its border.

use super::dense::{PackedDense, Runs};
#[cfg(target_arch = "x86_64")]
use super::{
    Backend,
    dense::{Output, Rows},
    scratch::Scratch,
};
use crate::model::graph::{Conv, Tensor, Window};
#[cfg(target_arch = "x86_64")]
use crate::model::plan::{Arena, Region};
use crate::model::validate::Proof;

/// Places at one distance from each other, on the image and in the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    /// First element of the first place on the padded image.
    x: usize,
    /// Its place.
    first: usize,
    places: usize,
}

/// How the image is copied into its border.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Border {
    /// Elements of a row of the image, and of a padded one.
    row: usize,
    padded_row: usize,
    rows: usize,
    /// Where the image's first element lies.
    start: usize,
    /// Elements of the padded image.
    len: usize,
}

#[derive(Debug)]
pub(crate) struct PackedConv {
    /// The product of each group of channels.
    groups: Vec<PackedDense>,
    group_channels: usize,
    group_outputs: usize,
    spans: Vec<Span>,
    /// Elements between two places of a span.
    stride: usize,
    border: Option<Border>,
    /// Elements of the image that are read, counted in whole pairs.
    reach: usize,
}

impl PackedConv {
    pub(crate) fn new(conv: &Conv, input: &Tensor, output: &Tensor, proof: Proof) -> PackedConv {
        let window = &conv.window;
        let channels = window.channels as usize;
        let (group_channels, group_outputs) = (channels / conv.groups, conv.product.bias.len() / conv.groups);
        let width = (window.before[1] + window.image[1] + window.after[1]) as usize;
        let runs = runs(window, width * channels, group_channels);
        let group = |group: usize| {
            let outputs = group * group_outputs..(group + 1) * group_outputs;
            PackedDense::of_runs(&conv.product, outputs, &runs, input, output, proof)
        };
        let (spans, stride) = spans(window, width * channels);
        let last = spans.last().expect("a window has a place");
        let reach = last.x + (last.places - 1) * stride + (conv.groups - 1) * group_channels + runs.reach();
        let border = (window.before != [0; 2] || window.after != [0; 2]).then(|| Border {
            row: window.image[1] as usize * channels,
            padded_row: width * channels,
            rows: window.image[0] as usize,
            start: (window.before[0] as usize * width + window.before[1] as usize) * channels,
            len: (window.before[0] + window.image[0] + window.after[0]) as usize * width * channels,
        });
        PackedConv {
            groups: (0..conv.groups).map(group).collect(),
            group_channels,
            group_outputs,
            spans,
            stride,
            border,
            reach,
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.groups.iter().map(PackedDense::memory_bytes).sum::<usize>()
            + self.spans.len() * size_of::<Span>()
    }

    /// Elements of working memory: the padded image, and the rest of a last pair.
    pub(crate) fn work_halves(&self) -> usize {
        self.border.map_or(0, |border| border.len + 1)
    }

    /// Computes rows `0..rows`.
    ///
    /// # Safety
    /// The processor must have the backend, which is one of vectors.
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn execute(
        &self,
        backend: Backend,
        scratch: &mut Scratch,
        from: Region,
        to: Region,
        rows: usize,
    ) {
        let outputs = self.groups.len() * self.group_outputs;
        let places = self.spans.last().map_or(0, |span| span.first + span.places);
        assert!(from.arena == Arena::I16 && to.arena != Arena::I64 && places * outputs <= to.stride);
        let (x_start, y_start) = (scratch.start(from, 0), scratch.start(to, 0));
        let (i16s, i32s, work) = scratch.parts_mut();
        let output_len = if to.arena == Arena::I16 { i16s.len() } else { i32s.len() };
        assert!(y_start + rows * to.stride <= output_len);
        // Places of different rows are rows of one product, if each row has one place.
        let merged = places == 1 && self.border.is_none();
        let (turns, rows_at_once, x_stride) =
            if merged { (1, rows, from.stride) } else { (rows, 1, self.stride) };
        let y_stride = if merged { to.stride } else { outputs };
        for row in 0..turns {
            let start = x_start + row * from.stride;
            let x = match self.border {
                Some(border) => {
                    let padded = &mut work.halves[..border.len + 1];
                    assert!(self.reach <= padded.len());
                    border.copy(&i16s[start..][..border.rows * border.row], padded);
                    padded.as_ptr()
                }
                None => {
                    // The last pair may end beyond its row: the arena has room after the last one.
                    let end = start + (rows_at_once - 1) * from.stride + self.reach;
                    assert!(end <= i16s.len());
                    // SAFETY: just asserted.
                    unsafe { i16s.as_ptr().add(start) }
                }
            };
            // SAFETY: asserted above.
            let y = unsafe {
                match to.arena {
                    Arena::I16 => Output::I16(i16s.as_mut_ptr().add(y_start + row * to.stride)),
                    _ => Output::I32(i32s.as_mut_ptr().add(y_start + row * to.stride)),
                }
            };
            for span in &self.spans {
                for (index, group) in self.groups.iter().enumerate() {
                    // SAFETY: `reach` covers the last pair of all groups at all places, and a row has room for the
                    // outputs of all places; the processor is the caller's condition.
                    unsafe {
                        let rows = Rows {
                            x: x.add(span.x + index * self.group_channels),
                            x_stride,
                            y: y.add(span.first * outputs + index * self.group_outputs),
                            y_stride,
                            rows: span.places * rows_at_once,
                        };
                        group.execute(backend, &rows);
                    }
                }
            }
        }
    }
}

impl Border {
    /// Copies an image to its place, and clears what lies around it.
    #[cfg(target_arch = "x86_64")]
    fn copy(&self, image: &[i16], padded: &mut [i16]) {
        let mut done = 0;
        for (index, row) in image.chunks_exact(self.row).enumerate() {
            let at = self.start + index * self.padded_row;
            padded[done..at].fill(0);
            padded[at..at + self.row].copy_from_slice(row);
            done = at + self.row;
        }
        padded[done..].fill(0);
    }
}

/// What the kernel meets at a place, in runs as long as they can be.
fn runs(window: &Window, row: usize, group_channels: usize) -> Runs {
    let [height, width] = window.kernel.map(|length| length as usize);
    let [down, across] = window.dilations.map(|distance| distance as usize);
    let channels = window.channels as usize;
    let mut starts = Vec::with_capacity(height * width);
    for i in 0..height {
        starts.extend((0..width).map(|j| i * down * row + j * across * channels));
    }
    // Where all neighbours touch, or all within each row, they are one run.
    for merged in [height * width, width] {
        let len = merged * group_channels;
        let touch = |run: &[usize]| run.windows(2).all(|pair| pair[1] == pair[0] + group_channels);
        if starts.chunks_exact(merged).all(touch) {
            return Runs { starts: starts.into_iter().step_by(merged).collect(), len };
        }
    }
    Runs { starts, len: group_channels }
}

/// The places, in spans as long as they can be, and the distance between two on the image.
fn spans(window: &Window, row: usize) -> (Vec<Span>, usize) {
    let [rows, columns] = window.places();
    let [down, across] = [window.strides[0] as usize * row, (window.strides[1] * window.channels) as usize];
    if columns == 1 {
        return (vec![Span { x: 0, first: 0, places: rows }], down);
    }
    if rows == 1 || down == columns * across {
        return (vec![Span { x: 0, first: 0, places: rows * columns }], across);
    }
    let span = |index: usize| Span { x: index * down, first: index * columns, places: columns };
    ((0..rows).map(span).collect(), across)
}
