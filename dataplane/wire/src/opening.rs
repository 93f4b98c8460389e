//! What opens a leaf of mode `zk`: the tensors behind its hashes, as a prover and a verifier need them.
//!
//! | bytes | |
//! |---|---|
//! | 4 for each element of the input | the row as it travelled: little-endian `f32`, row-major |
//! | 8 for each element of the output | its integers, little-endian `i64`, row-major, before they became floats |
//!
//! How many elements there are, the leaf's model says.

/// An opening, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The row's bytes.
    pub input: Vec<u8>,
    /// The output's integers.
    pub output: Vec<i64>,
}

/// Bytes of an opening of so many elements.
pub const fn len(input: usize, output: usize) -> usize {
    4 * input + 8 * output
}

/// Appends the part that holds the output's integers.
pub fn push_output(integers: &[i64], out: &mut Vec<u8>) {
    integers.iter().for_each(|integer| out.extend_from_slice(&integer.to_le_bytes()));
}

impl Opening {
    /// Reads the opening of a row of so many elements; `None` if it has another length.
    pub fn decode(bytes: &[u8], input: usize, output: usize) -> Option<Opening> {
        if bytes.len() != len(input, output) {
            return None;
        }
        let (row, integers) = bytes.split_at(4 * input);
        let integers = integers.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
        Some(Opening { input: row.to_vec(), output: integers.collect() })
    }

    /// The opening's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.input.clone();
        push_output(&self.output, &mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_round_trip_and_another_length_is_none() {
        let opening = Opening { input: vec![1, 2, 3, 4], output: vec![-1, i64::MIN] };
        let bytes = opening.encode();
        assert_eq!(bytes.len(), len(1, 2));
        assert_eq!(Opening::decode(&bytes, 1, 2), Some(opening));
        assert_eq!(Opening::decode(&bytes, 2, 1), None);
        assert_eq!(
            Opening::decode(&bytes, 3, 1),
            Some(Opening { input: bytes[..12].to_vec(), output: vec![i64::MIN] })
        );
    }
}
