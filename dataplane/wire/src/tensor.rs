//! Tensors as they travel: element type, shape, little-endian row-major data; and the hash a receipt carries of one.
//!
//! The hash is over the bytes that travelled, so whoever holds the input or the output can recompute it without the
//! model: `SHA-256("haca tensor v1\0\0" ‖ dtype:u8 ‖ rank:u8 ‖ 0:u16 ‖ dims:u32… ‖ data)`.
//!
//! The answer to a step of a stream depends on the steps before it, so the input hash of its receipt covers them all. It is
//! SHA-256 over 80 bytes:
//!
//! | bytes | |
//! |---|---|
//! | 0..16 | `"haca step v1\0\0\0\0"` |
//! | 16..48 | the input hash of the step before; all zero before the first step after a reset |
//! | 48..80 | the hash of this step's tensor, as above |
//!
//! Whoever holds all steps since the reset can recompute it and, with the model, replay the stream.

use crate::ids::Digest;
use crate::sha256::Message;
use crate::vocabulary::Dtype;

const DOMAIN: &[u8; 16] = b"haca tensor v1\0\0";
const STEP_DOMAIN: &[u8; 16] = b"haca step v1\0\0\0\0";

/// The most dimensions a tensor on the wire may have.
pub const MAX_RANK: usize = 8;

/// A tensor that lies in someone else's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorView<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first; without a batch dimension.
    pub shape: Shape,
    /// The elements: `shape.elements() * dtype.size()` bytes.
    pub data: &'a [u8],
}

/// Why bytes are not a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// Too many dimensions.
    #[error("tensor of rank {0}; at most {MAX_RANK} are allowed")]
    Rank(usize),
    /// The product of the dimensions does not fit.
    #[error("tensor shape {0} has too many elements")]
    Elements(Shape),
    /// Shape and data do not belong together.
    #[error("tensor of shape {shape} and type {dtype} needs {expected} bytes of data, got {got}")]
    Length {
        /// The shape.
        shape: Shape,
        /// The element type.
        dtype: Dtype,
        /// Bytes the shape asks for.
        expected: usize,
        /// Bytes there are.
        got: usize,
    },
    /// Not a known element type.
    #[error("tensor element type {0} is not known; 0 is f32, 1 is i16")]
    Dtype(u8),
}

impl<'a> TensorView<'a> {
    /// A tensor whose data has the length its shape asks for.
    ///
    /// # Errors
    /// Where it has not.
    pub fn new(dtype: Dtype, shape: Shape, data: &'a [u8]) -> Result<Self, TensorError> {
        let expected = shape
            .elements()
            .and_then(|elements| elements.checked_mul(dtype.size()))
            .ok_or(TensorError::Elements(shape))?;
        if data.len() != expected {
            return Err(TensorError::Length { shape, dtype, expected, got: data.len() });
        }
        Ok(Self { dtype, shape, data })
    }

    /// The hash a receipt carries.
    pub fn hash(&self) -> Digest {
        hash(self.dtype, self.shape.dims(), self.data)
    }
}

/// The hash of the tensor with these parts; see the module's text.
///
/// # Panics
/// If there are more than [`MAX_RANK`] dimensions.
pub fn hash(dtype: Dtype, dims: &[u32], data: &[u8]) -> Digest {
    Head::new(dtype, dims).before(data).digest()
}

/// The input hash of a step with the tensor hash `step` that follows the input hash `before`; see the module's text.
pub fn step_hash(before: &Digest, step: &Digest) -> Digest {
    let mut head = [0u8; 48];
    head[..16].copy_from_slice(STEP_DOMAIN);
    head[16..].copy_from_slice(&before.0);
    Message { head: &head, body: &step.0 }.digest()
}

/// What is hashed in front of a tensor's data: the same for every tensor of one type and shape.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    bytes: [u8; 20 + 4 * MAX_RANK],
    length: usize,
}

impl Head {
    /// The head of tensors of this type and shape.
    ///
    /// # Panics
    /// If there are more than [`MAX_RANK`] dimensions.
    pub fn new(dtype: Dtype, dims: &[u32]) -> Self {
        assert!(dims.len() <= MAX_RANK, "a tensor on the wire has at most {MAX_RANK} dimensions");
        let mut bytes = [0u8; 20 + 4 * MAX_RANK];
        bytes[..16].copy_from_slice(DOMAIN);
        bytes[16] = dtype as u8;
        bytes[17] = dims.len() as u8;
        for (slot, dim) in bytes[20..].chunks_exact_mut(4).zip(dims) {
            slot.copy_from_slice(&dim.to_le_bytes());
        }
        Self { bytes, length: 20 + 4 * dims.len() }
    }

    /// What is hashed of the tensor with this data.
    pub fn before<'a>(&'a self, data: &'a [u8]) -> Message<'a> {
        Message { head: &self.bytes[..self.length], body: data }
    }
}

/// Up to [`MAX_RANK`] dimensions, without an allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    dims: [u32; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// The shape with these dimensions; `None` if there are more than [`MAX_RANK`].
    pub fn new(dims: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut shape = Self { dims: [0; MAX_RANK], rank: 0 };
        for dim in dims {
            *shape.dims.get_mut(usize::from(shape.rank))? = dim;
            shape.rank += 1;
        }
        Some(shape)
    }

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[u32] {
        &self.dims[..usize::from(self.rank)]
    }

    /// How many elements the tensor has; `None` if the number does not fit.
    pub fn elements(&self) -> Option<usize> {
        self.dims().iter().try_fold(1usize, |product, dim| product.checked_mul(*dim as usize))
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.dims().iter().enumerate() {
            write!(f, "{}{dim}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_covers_type_shape_and_data() {
        let base = hash(Dtype::F32, &[2, 1], &[1; 8]);
        assert_eq!(base, hash(Dtype::F32, &[2, 1], &[1; 8]));
        for other in [
            hash(Dtype::I16, &[2, 1], &[1; 8]),
            hash(Dtype::F32, &[1, 2], &[1; 8]),
            hash(Dtype::F32, &[2], &[1; 8]),
            hash(Dtype::F32, &[2, 1], &[2; 8]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn the_hash_of_a_step_covers_the_steps_before_it() {
        let steps = [1u8, 2, 3].map(|byte| hash(Dtype::F32, &[2], &[byte; 8]));
        let chain =
            |steps: &[Digest]| steps.iter().fold(Digest::default(), |before, step| step_hash(&before, step));
        let whole = chain(&steps);
        assert_ne!(whole, chain(&steps[1..]));
        assert_ne!(whole, chain(&[steps[1], steps[0], steps[2]]));
        let mut bytes = b"haca step v1\0\0\0\0".to_vec();
        bytes.extend_from_slice(&chain(&steps[..2]).0);
        bytes.extend_from_slice(&steps[2].0);
        assert_eq!(whole, Message { head: &[], body: &bytes }.digest());
    }

    #[test]
    fn shape_and_data_must_fit() {
        let shape = Shape::new([2, 3]).unwrap();
        assert!(TensorView::new(Dtype::I16, shape, &[0; 12]).is_ok());
        let error = TensorView::new(Dtype::F32, shape, &[0; 12]).unwrap_err();
        assert_eq!(error.to_string(), "tensor of shape [2, 3] and type f32 needs 24 bytes of data, got 12");
        assert_eq!(Shape::new([0; 9]), None);
        let vast = Shape::new([u32::MAX; 8]).unwrap();
        assert!(matches!(TensorView::new(Dtype::F32, vast, &[]), Err(TensorError::Elements(_))));
    }
}
