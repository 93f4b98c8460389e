//! Fixed-point models: import, calibration, exact execution.
//!
//! A model is compiled once from float ONNX ([`import::compile`]) to a file of fixed-point integers, loaded and
//! checked once ([`Model::load`]), and then executed by any number of [`Executor`]s. `SPEC.md` beside this crate is
//! the normative text of the arithmetic; every executor computes exactly its bits, at any batch size and position.
//!
//! Floats appear in two places only: conversion at the boundary ([`Executor::stage`], [`Executor::write_output`]),
//! and the importer, whose choices are recorded in the file.

mod exec;
pub mod import;
mod model;
pub mod npy;
#[cfg(any(test, feature = "random"))]
pub mod random;
pub mod spec;

pub use exec::{Backend, Executor, InputError, StreamExecutor};
pub use model::{
    BufferInfo, Calibration, Dtype, LayerInfo, LoadError, Model, Stream, StreamError, StreamKind, StreamPart,
    Work, view,
};
