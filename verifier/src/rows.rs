//! The rows of an array, findable by the hash that a receipt carries of one.

use std::path::{Path, PathBuf};

use haca_wire::tensor::{self, Shape};
use haca_wire::{Digest, Dtype};

/// The rows of a float32 array, each a tensor of the same shape.
#[derive(Debug)]
pub struct Rows {
    name: PathBuf,
    /// Little-endian, row-major.
    data: Vec<u8>,
    row_bytes: usize,
    /// Sorted, so that equal rows stand together in their order.
    hashes: Vec<(Digest, usize)>,
}

/// Why an array cannot be read as rows of this shape.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// More dimensions than travel on the wire.
    #[error("{name}: its rows have {rank} dimensions; a tensor on the wire has at most {max}", name = name.display(), max = tensor::MAX_RANK)]
    Rank {
        /// The array.
        name: PathBuf,
        /// Dimensions of a row.
        rank: usize,
    },
    /// The elements do not divide into rows of this shape.
    #[error("{name}: {elements} elements are not {rows} rows of shape {shape}", name = name.display())]
    Length {
        /// The array.
        name: PathBuf,
        /// Elements there are.
        elements: usize,
        /// Rows the array is said to have.
        rows: usize,
        /// Shape of a row.
        shape: Shape,
    },
}

impl Rows {
    /// Hashes every one of the `rows` rows of shape `dims`. `name` is what reports call the array: its path.
    ///
    /// # Errors
    /// If a row has too many dimensions, or `data` has not `rows` times the elements of one.
    pub fn new(name: &Path, dims: &[u32], rows: usize, data: &[f32]) -> Result<Rows, RowsError> {
        let shape = Shape::new(dims.iter().copied())
            .ok_or_else(|| RowsError::Rank { name: name.to_owned(), rank: dims.len() })?;
        let row_len = shape.elements().filter(|row_len| row_len.checked_mul(rows) == Some(data.len()));
        let row_len = row_len.ok_or_else(|| RowsError::Length {
            name: name.to_owned(),
            elements: data.len(),
            rows,
            shape,
        })?;
        let data: Vec<u8> = data.iter().flat_map(|element| element.to_le_bytes()).collect();
        let row_bytes = row_len * Dtype::F32.size();
        let row = |index: usize| &data[index * row_bytes..][..row_bytes];
        let mut hashes: Vec<_> =
            (0..rows).map(|index| (tensor::hash(Dtype::F32, dims, row(index)), index)).collect();
        hashes.sort_unstable();
        Ok(Rows { name: name.to_owned(), data, row_bytes, hashes })
    }

    /// The rows as the steps of a stream in their order, the first after a reset: each is found by the input hash of its
    /// receipt, which covers the steps before it.
    pub fn into_steps(mut self) -> Rows {
        let mut before = Digest::default();
        self.hashes.sort_unstable_by_key(|(_, index)| *index);
        for (hash, _) in &mut self.hashes {
            *hash = tensor::step_hash(&before, hash);
            before = *hash;
        }
        self.hashes.sort_unstable();
        self
    }

    /// What reports call the array.
    pub fn name(&self) -> std::path::Display<'_> {
        self.name.display()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The rows with this hash, in ascending order. More than one where rows are equal.
    pub fn find(&self, hash: &Digest) -> impl Iterator<Item = usize> + Clone {
        let start = self.hashes.partition_point(|(other, _)| other < hash);
        self.hashes[start..].iter().take_while(move |(other, _)| other == hash).map(|(_, index)| *index)
    }

    /// The little-endian bytes of row `index`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, index: usize) -> &[u8] {
        assert!(index < self.len(), "row {index} of {}", self.len());
        &self.data[index * self.row_bytes..][..self.row_bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_hash_and_equal_rows_all_are() {
        let rows = Rows::new(Path::new("x.npy"), &[2], 3, &[1.0, 2.0, 3.0, 4.0, 1.0, 2.0]).unwrap();
        let hash = |index: usize| tensor::hash(Dtype::F32, &[2], rows.row(index));
        assert_eq!(rows.find(&hash(0)).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(rows.find(&hash(1)).collect::<Vec<_>>(), [1]);
        assert_eq!(rows.find(&Digest([0; 32])).count(), 0);
        assert_eq!(rows.row(1), [3.0f32.to_le_bytes(), 4.0f32.to_le_bytes()].concat());
    }

    #[test]
    fn a_step_is_found_by_the_hash_of_all_steps_up_to_it() {
        let rows = Rows::new(Path::new("x.npy"), &[1], 3, &[1.0, 2.0, 1.0]).unwrap().into_steps();
        let mut before = Digest::default();
        for index in 0..3 {
            before = tensor::step_hash(&before, &tensor::hash(Dtype::F32, &[1], rows.row(index)));
            assert_eq!(rows.find(&before).collect::<Vec<_>>(), [index]);
        }
    }

    #[test]
    fn an_array_of_another_shape_is_refused() {
        assert!(matches!(Rows::new(Path::new("x"), &[2], 2, &[0.0; 3]), Err(RowsError::Length { .. })));
        assert!(matches!(Rows::new(Path::new("x"), &[1; 9], 1, &[0.0]), Err(RowsError::Rank { .. })));
        assert!(matches!(Rows::new(Path::new("x"), &[u32::MAX; 8], 9, &[]), Err(RowsError::Length { .. })));
    }

    #[test]
    fn scalar_rows_and_empty_arrays_are_fine() {
        let rows = Rows::new(Path::new("x"), &[], 2, &[1.0, 2.0]).unwrap();
        assert_eq!(rows.row(1), 2.0f32.to_le_bytes());
        assert!(Rows::new(Path::new("x"), &[4], 0, &[]).unwrap().is_empty());
    }
}
