//! What opens a leaf of mode `zk`: the tensors behind its hashes, as a prover and a verifier need them.
//!
//! | bytes | |
//! |---|---|
//! | 4 for each element of the input | the row as it travelled: little-endian `f32`, row-major |
//! | 8 for each element of the output | its integers, little-endian `i64`, row-major, before they became floats |
//! | 32, of a leaf with a sealed input | the salt of its commitment |
//!
//! How many elements there are, the leaf's model says.

use crate::seal::Salt;

/// An opening, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The row's bytes.
    pub input: Vec<u8>,
    /// The output's integers.
    pub output: Vec<i64>,
    /// What the commitment of a sealed input opens with.
    pub salt: Option<Salt>,
}

/// Bytes of an opening of so many elements, without a salt.
pub const fn len(input: usize, output: usize) -> usize {
    4 * input + 8 * output
}

/// Appends the part that holds the output's integers.
pub fn push_output(integers: &[i64], out: &mut Vec<u8>) {
    integers.iter().for_each(|integer| out.extend_from_slice(&integer.to_le_bytes()));
}

impl Opening {
    /// Reads the opening of a row of so many elements, of a leaf whose input is sealed or not; `None` if it has another
    /// length.
    pub fn decode(bytes: &[u8], input: usize, output: usize, sealed: bool) -> Option<Opening> {
        let (bytes, salt) = match sealed {
            true => bytes.split_last_chunk().map(|(bytes, salt)| (bytes, Some(Salt(*salt))))?,
            false => (bytes, None),
        };
        if bytes.len() != len(input, output) {
            return None;
        }
        let (row, integers) = bytes.split_at(4 * input);
        let integers = integers.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
        Some(Opening { input: row.to_vec(), output: integers.collect(), salt })
    }

    /// The opening's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.input.clone();
        push_output(&self.output, &mut bytes);
        bytes.extend(self.salt.iter().flat_map(|salt| salt.0));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn openings_round_trip_and_another_length_is_none(
            row in prop::collection::vec(any::<[u8; 4]>(), 0..9),
            output in prop::collection::vec(any::<i64>(), 0..9),
            salt: Option<[u8; Salt::LEN]>,
            cut in 1usize..200,
        ) {
            let (inputs, outputs, sealed) = (row.len(), output.len(), salt.is_some());
            let opening = Opening { input: row.concat(), output, salt: salt.map(Salt) };
            let bytes = opening.encode();
            prop_assert_eq!(bytes.len(), len(inputs, outputs) + if sealed { Salt::LEN } else { 0 });
            prop_assert_eq!(Opening::decode(&bytes, inputs, outputs, sealed), Some(opening));
            prop_assert_eq!(Opening::decode(&bytes, inputs, outputs, !sealed), None);
            prop_assert_eq!(Opening::decode(&bytes, inputs + 1, outputs, sealed), None);
            let cut = &bytes[..bytes.len().saturating_sub(cut)];
            prop_assert!(cut.len() == bytes.len() || Opening::decode(cut, inputs, outputs, sealed).is_none());
        }
    }
}
