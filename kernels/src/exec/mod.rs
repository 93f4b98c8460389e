//! Executors: one set of semantics, several ways to compute it.
//!
//! [`scalar`] is `SPEC.md` in code and the reference; the others agree with it bit for bit. An executor belongs to one
//! thread, and owns all the memory it ever needs: a call allocates nothing. A row's bits never depend on its
//! neighbours, on the number of rows, or on its slot.

#[cfg(test)]
mod agreement;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bitvector;
mod conv;
mod dense;
#[cfg(target_arch = "x86_64")]
mod elementwise;
mod forest;
mod moves;
mod node;
#[cfg(target_arch = "x86_64")]
mod pool;
#[cfg(target_arch = "x86_64")]
mod quantize;
mod recurrent;
mod scalar;
mod scratch;
mod slide;
mod stream;

use std::sync::Arc;

use thiserror::Error;

use crate::model::graph::{Element, Tensor};
use crate::model::{Dtype, Model};
use crate::spec::rounding;
pub(crate) use node::Packed;
pub(crate) use recurrent::initial;
use scratch::Scratch;
pub(crate) use slide::states_of_zeros;
pub use stream::StreamExecutor;

/// Which code computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The portable reference.
    Scalar,
    /// 256-bit integer vectors on x86-64.
    Avx2,
    /// 512-bit integer vectors on x86-64, with the multiply-adds of VNNI.
    Avx512Vnni,
}

impl Backend {
    /// The fastest that this processor has.
    pub fn detect() -> Backend {
        Backend::available().last().unwrap_or(Backend::Scalar)
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Backend::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512Vnni => {
                Backend::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512cd")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Backend::Avx2 | Backend::Avx512Vnni => false,
        }
    }

    /// All that this processor has, the reference first and the fastest last.
    pub fn available() -> impl Iterator<Item = Backend> {
        [Backend::Scalar, Backend::Avx2, Backend::Avx512Vnni]
            .into_iter()
            .filter(|backend| backend.is_available())
    }

    /// Its name, for tables and logs.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Scalar => "scalar",
            Backend::Avx2 => "avx2",
            Backend::Avx512Vnni => "avx512-vnni",
        }
    }
}

/// Why a row was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InputError {
    /// The row has not as many bytes as the model's input.
    #[error("the row has {found} bytes; the model takes {elements} elements, {expected} bytes")]
    Length {
        /// Bytes given.
        found: usize,
        /// Bytes needed.
        expected: usize,
        /// Elements of a row.
        elements: usize,
    },
    /// An element is not a number.
    #[error("element {element} of the row is NaN; infinities are taken, NaN is not")]
    Nan {
        /// Its index in the row.
        element: usize,
    },
    /// The model has no exact `i16` form of its boundary.
    #[error("the model does not take i16 rows: send f32, or compile it with an i16 boundary")]
    Dtype,
}

/// Runs one model on batches of rows.
///
/// Stage rows into slots, execute, read the slots' outputs. Outputs stay until the next execution, staged inputs until
/// they are staged over.
#[derive(Debug)]
pub struct Executor {
    model: Arc<Model>,
    backend: Backend,
    max_rows: usize,
    scratch: Scratch,
    /// What each float of an `i16` input is multiplied by.
    input_scales: Vec<f64>,
    /// Exact outputs of all slots, row-major.
    outputs: Vec<i64>,
}

impl Executor {
    /// An executor for up to `max_rows` rows (at least one) on the fastest backend of this processor.
    pub fn new(model: Arc<Model>, max_rows: usize) -> Executor {
        Executor::with_backend(model, max_rows, Backend::detect())
    }

    /// An executor on a given backend.
    ///
    /// # Panics
    /// If `max_rows` is 0, or the processor does not have the backend.
    pub fn with_backend(model: Arc<Model>, max_rows: usize, backend: Backend) -> Executor {
        assert!(max_rows > 0, "an executor needs at least one slot");
        assert!(backend.is_available(), "this processor has no {}", backend.name());
        let scratch = Scratch::new(&model, max_rows);
        let outputs = vec![0; max_rows * model.output_len()];
        let input = model.input();
        let input_scales =
            (0..input.len()).map(|element| rounding::power_of_two(input.exponent_of(element))).collect();
        Executor { model, backend, max_rows, scratch, input_scales, outputs }
    }

    /// The model it runs.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Its number of slots.
    pub fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// The code that computes.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Bytes of its own memory; the model's are shared.
    pub fn memory_bytes(&self) -> usize {
        self.scratch.memory_bytes() + self.input_scales.len() * 8 + self.outputs.len() * 8
    }

    /// Converts one row to fixed point into batch slot `slot`. `row` holds exactly [`Model::input_len`] elements of
    /// `dtype`, little-endian, at any alignment. Infinities saturate (for trees they keep their order); an `i16`
    /// beyond the bounds of the model's input saturates too.
    ///
    /// # Errors
    /// [`InputError`]; the slot's content is then undefined until it is staged again.
    ///
    /// # Panics
    /// If `slot` is not below [`Executor::max_rows`].
    pub fn stage(&mut self, slot: usize, dtype: Dtype, row: &[u8]) -> Result<(), InputError> {
        assert!(slot < self.max_rows, "slot {slot} of {}", self.max_rows);
        let model = &*self.model;
        let elements = model.input_len();
        let expected = elements * dtype.size();
        if row.len() != expected {
            return Err(InputError::Length { found: row.len(), expected, elements });
        }
        if !model.accepts(dtype) {
            return Err(InputError::Dtype);
        }
        let (tensor, region) = (model.input(), model.plan.regions[model.graph.input]);
        match (dtype, tensor.element) {
            (Dtype::I16, _) => {
                let values = row.as_chunks::<2>().0.iter().map(|&bytes| i16::from_le_bytes(bytes));
                let (minimum, maximum) = (tensor.minimum as i16, tensor.maximum as i16);
                let slots = self.scratch.i16_row_mut(region, slot);
                slots.iter_mut().zip(values).for_each(|(slot, value)| *slot = value.clamp(minimum, maximum));
                Ok(())
            }
            (Dtype::F32, Element::I16) => {
                let slots = self.scratch.i16_row_mut(region, slot);
                let row = row.as_chunks::<4>().0;
                let (slots, scales) = (&mut slots[..row.len()], &self.input_scales[..]);
                let converted = match self.backend {
                    #[cfg(target_arch = "x86_64")]
                    Backend::Avx2 | Backend::Avx512Vnni => {
                        let bounds = (tensor.minimum as i16, tensor.maximum as i16);
                        // SAFETY: `with_backend` refused this backend unless the processor has AVX2.
                        unsafe { quantize::quantize_groups(row, scales, bounds, slots) }
                    }
                    _ => 0,
                };
                convert(converted, row, slots, |index, value| {
                    rounding::quantize(value, tensor.exponent_of(index), tensor.minimum, tensor.maximum)
                        as i16
                })
            }
            (Dtype::F32, Element::Key) => {
                let slots = self.scratch.i32_row_mut(region, slot);
                convert(0, row.as_chunks().0, slots, |_, value| rounding::key(value))
            }
            (Dtype::F32, Element::I32) => {
                let slots = self.scratch.i32_row_mut(region, slot);
                convert(0, row.as_chunks().0, slots, |index, value| {
                    rounding::quantize(value, tensor.exponent_of(index), tensor.minimum, tensor.maximum)
                        as i32
                })
            }
            (Dtype::F32, Element::I64) => {
                let slots = self.scratch.i64_row_mut(region, slot);
                convert(0, row.as_chunks().0, slots, |index, value| {
                    rounding::quantize(value, tensor.exponent_of(index), tensor.minimum, tensor.maximum)
                })
            }
        }
    }

    /// Computes the outputs of slots `0..rows` from their staged inputs.
    ///
    /// # Panics
    /// If `rows` is above [`Executor::max_rows`].
    pub fn execute(&mut self, rows: usize) {
        assert!(rows <= self.max_rows, "{rows} rows in {} slots", self.max_rows);
        if rows == 0 {
            return;
        }
        let model = &*self.model;
        for (node, packed) in model.graph.nodes.iter().zip(&model.packed) {
            node::execute(self.backend, model, node, packed, &mut self.scratch, rows);
        }
        self.copy_outputs(rows);
    }

    /// The integers of the row staged in `slot`.
    ///
    /// # Panics
    /// If `slot` is not below [`Executor::max_rows`].
    pub fn staged(&self, slot: usize) -> Vec<i64> {
        assert!(slot < self.max_rows, "slot {slot} of {}", self.max_rows);
        let mut row = vec![0; self.model.input_len()];
        self.scratch.copy_row(self.model.plan.regions[self.model.graph.input], slot, &mut row);
        row
    }

    /// Computes slot 0, and returns the integers that each node made, in order of execution.
    pub fn trace(&mut self) -> Vec<Vec<i64>> {
        let mut made = Vec::new();
        self.execute_observed(|_, _, integers| made.push(integers.to_vec()));
        made
    }

    /// Computes slot 0, and shows each node's index, output tensor and integers as they are made.
    pub(crate) fn execute_observed(&mut self, mut observe: impl FnMut(usize, &Tensor, &[i64])) {
        let model = Arc::clone(&self.model);
        let mut produced = Vec::new();
        for (index, (node, packed)) in model.graph.nodes.iter().zip(&model.packed).enumerate() {
            node::execute(self.backend, &model, node, packed, &mut self.scratch, 1);
            let tensor = &model.graph.tensors[node.output];
            produced.resize(tensor.len(), 0);
            self.scratch.copy_row(model.plan.regions[node.output], 0, &mut produced);
            observe(index, tensor, &produced);
        }
        self.copy_outputs(1);
    }

    fn copy_outputs(&mut self, rows: usize) {
        let (len, region) = (self.model.output_len(), self.model.plan.regions[self.model.graph.output]);
        for (slot, output) in self.outputs.chunks_exact_mut(len).enumerate().take(rows) {
            self.scratch.copy_row(region, slot, output);
        }
    }

    /// The exact outputs of `slot` in the last execution: integers at [`Model::output_exponent`].
    pub fn output_fixed(&self, slot: usize) -> &[i64] {
        let len = self.model.output_len();
        &self.outputs[slot * len..(slot + 1) * len]
    }

    /// Writes the outputs of `slot` as little-endian `dtype` into `out`, which takes exactly [`Model::output_len`]
    /// elements. `F32` is the exact value rounded to the nearest float, ties to even.
    ///
    /// # Panics
    /// If `out` has another length, or the model does not accept `dtype`: [`Executor::stage`] has refused it before.
    pub fn write_output(&self, slot: usize, dtype: Dtype, out: &mut [u8]) {
        let values = self.output_fixed(slot);
        assert_eq!(out.len(), values.len() * dtype.size(), "bytes for an output row");
        assert!(self.model.accepts(dtype), "the model has no {dtype:?} output");
        let exponent = self.model.output_exponent();
        match dtype {
            Dtype::F32 => {
                for (bytes, &value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                    *bytes = rounding::to_f32(value, exponent).to_le_bytes();
                }
            }
            Dtype::I16 => {
                for (bytes, &value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                    *bytes = (value as i16).to_le_bytes();
                }
            }
        }
    }
}

/// Converts the little-endian floats of `row` from element `first` on. NaN stops it.
fn convert<T>(
    first: usize,
    row: &[[u8; 4]],
    slots: &mut [T],
    into: impl Fn(usize, f32) -> T,
) -> Result<(), InputError> {
    for (element, (slot, &bytes)) in slots.iter_mut().zip(row).enumerate().skip(first) {
        let value = f32::from_le_bytes(bytes);
        if value.is_nan() {
            return Err(InputError::Nan { element });
        }
        *slot = into(element, value);
    }
    Ok(())
}
