//! Constants of an ONNX graph: initializers and what is computed from them alone.

use super::ImportError;
use super::graph::is_float;
use super::onnx::{TensorProto, data_type};
use crate::spec::rounding::power_of_two;

/// More elements than this are refused before anything is allocated.
const MAX_ELEMENTS: usize = 1 << 28;

/// The number of rows of the batch, in a shape that is computed: a prime, and no float32 is a multiple of it. So products
/// with it (by whole numbers up to 8,191, where floats of 64 bits end to be exact, times powers of two) and quotients of those
/// keep it; nothing else is computed from it.
pub(crate) const BATCH: i64 = 1_099_511_627_791;

/// Whether a number was computed from the number of rows.
pub(crate) fn of_batch(value: f64) -> bool {
    value != 0.0 && value % BATCH as f64 == 0.0
}

/// A constant tensor; integers are held as floats, which is exact for every shape and axis.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Constant {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
    /// Its elements are integers: a quotient of two of them is rounded towards zero.
    pub(crate) is_integer: bool,
}

impl Constant {
    /// Reads an initializer or an attribute.
    pub(crate) fn from_proto(tensor: &TensorProto, at: &str) -> Result<Constant, ImportError> {
        let fail = |what: String| Err(ImportError::constant(at, what));
        if tensor.data_location.unwrap_or(0) != 0 || !tensor.external_data.is_empty() {
            let file = tensor.external_data.iter().find(|entry| entry.key.as_deref() == Some("location"));
            let file = file.and_then(|entry| entry.value.as_deref()).unwrap_or("another file");
            return fail(format!("its data lie outside the model ('{file}'); save the model as one file"));
        }
        let mut shape = Vec::with_capacity(tensor.dims.len().min(8));
        let mut elements = 1usize;
        for &dimension in &tensor.dims {
            let length = usize::try_from(dimension).ok();
            match length
                .and_then(|length| elements.checked_mul(length))
                .filter(|&count| count <= MAX_ELEMENTS)
            {
                Some(product) if shape.len() < 8 => elements = product,
                _ => return fail(format!("shape {:?} is negative or too large", tensor.dims)),
            }
            shape.push(dimension as usize);
        }
        let kind = tensor.data_type.unwrap_or(0);
        let raw = tensor.raw_data.as_deref();
        let listed = |of: fn(i32) -> f64| tensor.int32_data.iter().map(|&value| of(value)).collect();
        let values: Vec<f64> = match (kind, raw) {
            (data_type::FLOAT, Some(raw)) => numbers(raw, |bytes| f32::from_le_bytes(bytes).into()),
            (data_type::DOUBLE, Some(raw)) => numbers(raw, f64::from_le_bytes),
            (data_type::FLOAT16, Some(raw)) => numbers(raw, |bytes| half(u16::from_le_bytes(bytes))),
            (data_type::BFLOAT16, Some(raw)) => numbers(raw, |bytes| brain(u16::from_le_bytes(bytes))),
            (data_type::INT8, Some(raw)) => numbers(raw, |bytes| i8::from_le_bytes(bytes).into()),
            (data_type::UINT8 | data_type::BOOL, Some(raw)) => raw.iter().map(|&byte| byte.into()).collect(),
            (data_type::INT32, Some(raw)) => numbers(raw, |bytes| i32::from_le_bytes(bytes).into()),
            (data_type::INT64, Some(raw)) => numbers(raw, |bytes| i64::from_le_bytes(bytes) as f64),
            (data_type::FLOAT, None) => tensor.float_data.iter().map(|&value| value.into()).collect(),
            (data_type::DOUBLE, None) => tensor.double_data.clone(),
            // The bits of each, in an integer of its own.
            (data_type::FLOAT16, None) => listed(|bits| half(bits as u16)),
            (data_type::BFLOAT16, None) => listed(|bits| brain(bits as u16)),
            (data_type::INT8 | data_type::UINT8 | data_type::BOOL | data_type::INT32, None) => {
                listed(f64::from)
            }
            (data_type::INT64, None) => tensor.int64_data.iter().map(|&value| value as f64).collect(),
            _ => {
                return fail(format!(
                    "its element type {kind} is not one of floats of 16 to 64 bits, int8, uint8, bool, int32 and int64"
                ));
            }
        };
        if values.len() != elements {
            return fail(format!("shape {shape:?} does not hold the {} elements there are", values.len()));
        }
        // Masks hold minus infinity; who reads it sees to it that it is one.
        if let Some(value) = values.iter().find(|value| !value.is_finite() && **value != f64::NEG_INFINITY) {
            return fail(format!("it holds {value}"));
        }
        Ok(Constant { shape, values, is_integer: !is_float(kind) })
    }

    /// Of floats.
    pub(crate) fn floats(shape: Vec<usize>, values: Vec<f64>) -> Constant {
        Constant { shape, values, is_integer: false }
    }

    /// Of integers.
    pub(crate) fn integers(shape: Vec<usize>, values: Vec<f64>) -> Constant {
        Constant { shape, values, is_integer: true }
    }

    /// Whether an element was computed from the number of rows, which no row's result may depend on.
    pub(crate) fn depends_on_batch(&self) -> bool {
        self.values.iter().any(|&value| of_batch(value))
    }

    /// Whether each element but zeros was.
    pub(crate) fn is_multiple_of_batch(&self) -> bool {
        self.values.iter().all(|&value| value == 0.0 || of_batch(value))
    }

    /// What a mask adds to a score, with the least float32 for minus infinity, as others write it.
    pub(crate) fn into_mask(mut self) -> Constant {
        self.values.iter_mut().for_each(|value| *value = value.max(f64::from(f32::MIN)));
        self
    }

    /// The matrix with rows and columns exchanged.
    pub(crate) fn transposed(&self) -> Option<Constant> {
        let [rows, columns] = self.shape[..] else { return None };
        let at = |index: usize| self.values[index % rows * columns + index / rows];
        let values = (0..rows * columns).map(at).collect();
        Some(Constant { shape: vec![columns, rows], values, is_integer: self.is_integer })
    }

    /// The values by the rule of broadcasting against one row of `shape` (without batch): one value for each of its
    /// elements. `None` if the constant does not broadcast to it, or differs along the batch dimension.
    pub(crate) fn broadcast(&self, shape: &[u32]) -> Option<Vec<f64>> {
        let row: Vec<usize> = std::iter::once(1).chain(shape.iter().map(|&length| length as usize)).collect();
        if self.shape.len() > row.len() {
            return None;
        }
        let missing = row.len() - self.shape.len();
        let own: Vec<usize> = std::iter::repeat_n(1, missing).chain(self.shape.iter().copied()).collect();
        if own.iter().zip(&row).any(|(&own, &length)| own != 1 && own != length) {
            return None;
        }
        let elements: usize = row.iter().product();
        let at = |element: usize| {
            let (mut rest, mut index, mut step) = (element, 0, 1);
            for (&own, &length) in own.iter().zip(&row).rev() {
                index += if own == 1 { 0 } else { rest % length * step };
                rest /= length;
                step *= own;
            }
            self.values[index]
        };
        Some((0..elements).map(at).collect())
    }
}

fn numbers<const N: usize>(raw: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    // A last partial element makes the count wrong when it matters, because it is then counted short.
    raw.as_chunks::<N>().0.iter().map(|&bytes| read(bytes)).collect()
}

/// A float of 16 bits, by IEEE 754.
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let magnitude = match exponent {
        0 => fraction * power_of_two(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1024.0 + fraction) * power_of_two(exponent - 25),
    };
    if bits >> 15 == 0 { magnitude } else { -magnitude }
}

/// A bfloat16: the upper half of a float32.
fn brain(bits: u16) -> f64 {
    f32::from_bits(u32::from(bits) << 16).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_floats_are_read_as_they_are_defined() {
        let halves = [(0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65504.0), (0x0001, 5.960_464_477_539_063e-8)];
        halves.into_iter().for_each(|(bits, value)| assert_eq!(half(bits), value));
        assert_eq!(half(0x3555), 0.333_251_953_125);
        assert!(half(0x7c01).is_nan() && half(0xfc00) == f64::NEG_INFINITY);
        assert_eq!((brain(0x3f80), brain(0xc040)), (1.0, -3.0));
        let raw = TensorProto {
            dims: vec![2],
            data_type: Some(data_type::FLOAT16),
            raw_data: Some(vec![0x00, 0x3c, 0x00, 0xc0]),
            ..Default::default()
        };
        assert_eq!(Constant::from_proto(&raw, "w").unwrap(), Constant::floats(vec![2], vec![1.0, -2.0]));
    }

    #[test]
    fn what_is_computed_from_the_batch_is_known_for_it() {
        let of = |value: f64| Constant::floats(vec![1], vec![value]).depends_on_batch();
        assert!(of(BATCH as f64) && of(4.0 * BATCH as f64));
        for value in [0.0, 1.0, -1.0, f64::from(f32::MAX), 1e15, (1u64 << 40) as f64, i64::MAX as f64] {
            assert!(!of(value), "{value}");
        }
    }

    #[test]
    fn constants_broadcast_against_a_row_as_onnx_says() {
        let constant = Constant::floats(vec![2, 1], vec![1.0, 2.0]);
        assert_eq!(constant.broadcast(&[2, 3]).unwrap(), [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
        assert_eq!(constant.broadcast(&[3]), None, "it differs along the batch");
        let scalar = Constant::floats(vec![], vec![7.0]);
        assert_eq!(scalar.broadcast(&[2]).unwrap(), [7.0, 7.0]);
        let row = Constant::floats(vec![1, 3], vec![1.0, 2.0, 3.0]);
        assert_eq!(row.broadcast(&[3]).unwrap(), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn hostile_shapes_are_refused_before_allocation() {
        let mut tensor =
            TensorProto { dims: vec![i64::MAX, i64::MAX], data_type: Some(1), ..Default::default() };
        assert!(Constant::from_proto(&tensor, "w").is_err());
        tensor.dims = vec![-1];
        assert!(Constant::from_proto(&tensor, "w").is_err());
        tensor.dims = vec![4];
        assert!(Constant::from_proto(&tensor, "w").is_err(), "no data for four elements");
        tensor.data_location = Some(1);
        assert!(Constant::from_proto(&tensor, "w").unwrap_err().to_string().contains("outside the model"));
    }
}
