//! The arithmetic of `SPEC.md`, one function for each rule.
//!
//! These are the definitions. Executors may compute the same values another way, never other values.

pub mod activation;
pub(crate) mod coefficients;
pub mod curve;
pub(crate) mod curve_coefficients;
pub mod gate;
pub mod inverse;
pub mod layer_norm;
pub mod recurrence;
pub mod rounding;
pub mod softmax;
