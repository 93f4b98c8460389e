//! What a transformer's encoder needs besides dense layers, in vectors. [`super::scalar`] has the reference.

#[cfg(target_arch = "x86_64")]
pub(super) mod curve;
pub(super) mod layer_norm;
pub(super) mod matmul;
pub(super) mod softmax;
