//! Constants of an ONNX graph: initializers and what is computed from them alone.

use super::ImportError;
use super::onnx::{TensorProto, data_type};

/// More elements than this are refused before anything is allocated.
const MAX_ELEMENTS: usize = 1 << 28;

/// A constant tensor; integers are held as floats, which is exact for every shape and axis.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Constant {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
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
        let values: Vec<f64> = match (kind, raw) {
            (data_type::FLOAT, Some(raw)) => numbers(raw, |bytes| f32::from_le_bytes(bytes).into()),
            (data_type::DOUBLE, Some(raw)) => numbers(raw, f64::from_le_bytes),
            (data_type::INT32, Some(raw)) => numbers(raw, |bytes| i32::from_le_bytes(bytes).into()),
            (data_type::INT64, Some(raw)) => numbers(raw, |bytes| i64::from_le_bytes(bytes) as f64),
            (data_type::FLOAT, None) => tensor.float_data.iter().map(|&value| value.into()).collect(),
            (data_type::DOUBLE, None) => tensor.double_data.clone(),
            (data_type::INT32, None) => tensor.int32_data.iter().map(|&value| value.into()).collect(),
            (data_type::INT64, None) => tensor.int64_data.iter().map(|&value| value as f64).collect(),
            _ => return fail(format!("its element type {kind} is not float32, float64, int32 or int64")),
        };
        if values.len() != elements {
            return fail(format!("shape {shape:?} does not hold the {} elements there are", values.len()));
        }
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return fail(format!("it holds {value}"));
        }
        Ok(Constant { shape, values })
    }

    /// The matrix with rows and columns exchanged.
    pub(crate) fn transposed(&self) -> Option<Constant> {
        let [rows, columns] = self.shape[..] else { return None };
        let at = |index: usize| self.values[index % rows * columns + index / rows];
        Some(Constant { shape: vec![columns, rows], values: (0..rows * columns).map(at).collect() })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_broadcast_against_a_row_as_onnx_says() {
        let constant = Constant { shape: vec![2, 1], values: vec![1.0, 2.0] };
        assert_eq!(constant.broadcast(&[2, 3]).unwrap(), [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
        assert_eq!(constant.broadcast(&[3]), None, "it differs along the batch");
        let scalar = Constant { shape: vec![], values: vec![7.0] };
        assert_eq!(scalar.broadcast(&[2]).unwrap(), [7.0, 7.0]);
        let row = Constant { shape: vec![1, 3], values: vec![1.0, 2.0, 3.0] };
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
