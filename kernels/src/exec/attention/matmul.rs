//! Products of computed matrices: the right one is brought into the order of a dense layer's weights, and the left one's
//! rows go through that layer.

use crate::exec::dense::{GROUP, PackedDense, TILE};
use crate::model::graph::{MatMul, Tensor};
use crate::model::validate::Proof;

#[derive(Debug)]
pub(crate) struct PackedMatMul {
    matmul: MatMul,
    /// The layer without its weights.
    layer: PackedDense,
}

impl PackedMatMul {
    pub(crate) fn new(
        matmul: &MatMul,
        [left, right]: [&Tensor; 2],
        output: &Tensor,
        proof: Proof,
    ) -> PackedMatMul {
        let shift = left.exponent + right.exponent - output.exponent;
        let layer = PackedDense::without_weights(matmul.inner, matmul.columns, shift, output, proof);
        PackedMatMul { matmul: matmul.clone(), layer }
    }

    fn pairs(&self) -> usize {
        self.matmul.inner.div_ceil(2)
    }

    /// Vectors of working memory: one of the right matrices.
    pub(crate) fn work_words(&self) -> usize {
        (self.layer.tiles() * self.pairs()).div_ceil(2)
    }

    /// Elements of working memory: one of the left matrices, if its columns do not lie together.
    pub(crate) fn work_halves(&self) -> usize {
        if self.matmul.left[3] == 1 { 0 } else { self.matmul.rows * 2 * self.pairs() }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.layer.memory_bytes()
    }

    /// Brings a right matrix into the order that [`super::super::dense`] describes.
    fn pack_right(&self, right: &[i16], matrix: usize, to: &mut [[i16; 2 * TILE]]) {
        let MatMul { inner, columns, .. } = self.matmul;
        let [start, by_matrix, by_row, by_column] = self.matmul.right;
        let (right, pairs) = (&right[start + matrix * by_matrix..], self.pairs());
        let mut vectors = to.iter_mut();
        for first in (0..self.layer.tiles()).step_by(GROUP) {
            for row in (0..2 * pairs).step_by(2) {
                for tile in first..self.layer.tiles().min(first + GROUP) {
                    let Some(vector) = vectors.next() else { return };
                    let column = tile * TILE;
                    let whole = column + TILE <= columns && row + 1 < inner;
                    if whole && by_column == 1 {
                        let [above, below] =
                            [row, row + 1].map(|row| &right[row * by_row + column..][..TILE]);
                        for (pair, (&a, &b)) in
                            vector.as_chunks_mut().0.iter_mut().zip(above.iter().zip(below))
                        {
                            *pair = [a, b];
                        }
                    } else if whole && by_row == 1 {
                        for (lane, pair) in vector.as_chunks_mut().0.iter_mut().enumerate() {
                            let at = row + (column + lane) * by_column;
                            *pair = [right[at], right[at + 1]];
                        }
                    } else {
                        for (lane, element) in vector.iter_mut().enumerate() {
                            let (row, column) = (row + lane % 2, column + lane / 2);
                            let within = row < inner && column < columns;
                            *element = if within { right[row * by_row + column * by_column] } else { 0 };
                        }
                    }
                }
            }
        }
    }

    /// Brings the columns of a left matrix together.
    fn pack_left(&self, left: &[i16], matrix: usize, to: &mut [i16]) {
        let [start, by_matrix, by_row, by_column] = self.matmul.left;
        let left = &left[start + matrix * by_matrix..];
        for (row, to) in to.chunks_exact_mut(2 * self.pairs()).enumerate() {
            for (column, to) in to[..self.matmul.inner].iter_mut().enumerate() {
                *to = left[row * by_row + column * by_column];
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod vectors {
    use super::PackedMatMul;
    use crate::exec::Backend;
    use crate::exec::dense::{Lanes, Output, Rows, TILE};
    use crate::exec::scratch::Scratch;
    use crate::model::plan::{Arena, Region};

    impl PackedMatMul {
        /// Computes rows `0..rows` on a backend of vectors.
        ///
        /// # Safety
        /// The processor must have the backend.
        pub(in crate::exec) unsafe fn execute(
            &self,
            backend: Backend,
            scratch: &mut Scratch,
            [left, right]: [Region; 2],
            to: Region,
            rows: usize,
        ) {
            let matmul = &self.matmul;
            let packed_left = matmul.left[3] != 1;
            for row in 0..rows {
                let starts = [left, right, to].map(|region| scratch.start(region, row));
                let (i16s, i32s, work) = scratch.parts_mut();
                let vectors = self.layer.tiles() * self.pairs();
                // SAFETY: every pattern of bits is an integer of either width.
                let (_, words, _) = unsafe { work.words.align_to_mut::<[i16; 2 * TILE]>() };
                let (words, halves) = (&mut words[..vectors], &mut work.halves[..self.work_halves()]);
                for matrix in 0..matmul.matrices {
                    self.pack_right(&i16s[starts[1]..][..right.stride], matrix, words);
                    if packed_left {
                        self.pack_left(&i16s[starts[0]..][..left.stride], matrix, halves);
                    }
                    let x = starts[0] + matmul.left[0] + matrix * matmul.left[1];
                    // The rest of a last pair may lie in what follows.
                    let x_reach = (matmul.rows - 1) * matmul.left[2] + 2 * self.pairs();
                    let y = starts[2] + matmul.output[0] + matrix * matmul.output[1];
                    let y_reach = (matmul.rows - 1) * matmul.output[2] + matmul.columns;
                    let y_len = if to.arena == Arena::I16 { i16s.len() } else { i32s.len() };
                    assert!(packed_left || x + x_reach <= i16s.len());
                    assert!(to.arena != Arena::I64 && y + y_reach <= y_len);
                    let base = i16s.as_mut_ptr();
                    // SAFETY: the places were just asserted, and the weights made. Validation has checked that no two
                    // results share a place, and the plan keeps them apart from both operands. The processor is the
                    // caller's condition.
                    unsafe {
                        let (x, x_stride) = match packed_left {
                            true => (halves.as_ptr(), 2 * self.pairs()),
                            false => (base.add(x).cast_const(), matmul.left[2]),
                        };
                        let y = match to.arena {
                            Arena::I16 => Output::I16(base.add(y)),
                            _ => Output::I32(i32s.as_mut_ptr().add(y)),
                        };
                        let rows = Rows { x, x_stride, y, y_stride: matmul.output[2], rows: matmul.rows };
                        self.layer.execute_with(backend, words.as_ptr().cast::<Lanes>(), &rows);
                    }
                }
            }
        }
    }
}
