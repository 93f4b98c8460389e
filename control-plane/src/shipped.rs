//! The models that ship with the tool, in the tool: what `haca demo` runs on. `bench/models/README.md` says where they
//! come from.

use haca_kernels::npy::{self, Array, NpyError};

/// One shipped model.
#[derive(Debug)]
pub struct Shipped {
    /// Its name.
    pub name: &'static str,
    /// The ONNX file.
    pub onnx: &'static [u8],
    calibration: &'static [u8],
    input: &'static [u8],
    reference: &'static [u8],
}

macro_rules! shipped {
    ($name:literal) => {
        Shipped {
            name: $name,
            onnx: include_bytes!(concat!("../../bench/models/", $name, ".onnx")),
            calibration: include_bytes!(concat!("../../bench/models/", $name, "_calibration.npy")),
            input: include_bytes!(concat!("../../bench/models/", $name, "_input.npy")),
            reference: include_bytes!(concat!("../../bench/models/", $name, "_reference.npy")),
        }
    };
}

/// A multilayer perceptron and a gradient-boosted ensemble.
pub const SHIPPED: &[Shipped] = &[shipped!("mlp"), shipped!("gbt")];

impl Shipped {
    /// Rows to calibrate on.
    ///
    /// # Errors
    /// If the file in the tool is damaged.
    pub fn calibration(&self) -> Result<Array, NpyError> {
        npy::parse(self.calibration)
    }

    /// Rows to ask about.
    ///
    /// # Errors
    /// If the file in the tool is damaged.
    pub fn input(&self) -> Result<Array, NpyError> {
        npy::parse(self.input)
    }

    /// ONNX Runtime's answers.
    ///
    /// # Errors
    /// If the file in the tool is damaged.
    pub fn reference(&self) -> Result<Array, NpyError> {
        npy::parse(self.reference)
    }
}
