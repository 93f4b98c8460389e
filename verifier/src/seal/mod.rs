//! Commitments to inputs: what the leaf of a sealed request carries, and the circuit of a sealed statement opens.
//!
//! The commitment to a row is the Poseidon sponge (`poseidon`) over the salt and the row's bytes, 28 of them as a
//! little-endian number in each element of the field; the capacity begins with `2^64` times the number of the row's float32
//! elements. The salt's lowest 253 bits count. A commitment is an element of the field, little-endian.
//!
//! It needs no model, and hides the row from all who lack the salt: to find out by guessing takes the salt's 253 bits.

pub(crate) mod poseidon;

use blstrs::Scalar;
use haca_wire::{Digest, Dtype, Salt};

/// Bytes of a row in an element of the field: seven float32.
pub(crate) const ELEMENT: usize = 28;

/// The commitment to a row (little-endian float32) with this salt.
pub fn commitment(salt: &Salt, row: &[u8]) -> Digest {
    let elements: Vec<Scalar> =
        std::iter::once(scalar(salt)).chain(row.chunks(ELEMENT).map(little_endian)).collect();
    Digest(poseidon::hash(tag(row.len() / Dtype::F32.size()), &elements).to_bytes_le())
}

/// What the capacity begins with, for a row of so many elements.
pub(crate) fn tag(elements: usize) -> Scalar {
    let mut bytes = [0; 32];
    bytes[8..16].copy_from_slice(&(elements as u64).to_le_bytes());
    Scalar::from_bytes_le(&bytes).into_option().expect("128 bits are below the group's order")
}

/// The salt as an element of the field.
pub(crate) fn scalar(salt: &Salt) -> Scalar {
    let mut bytes = salt.0;
    bytes[31] &= 0x1f;
    little_endian(&bytes)
}

/// A number below 2^253.
fn little_endian(bytes: &[u8]) -> Scalar {
    let mut number = [0; 32];
    number[..bytes.len()].copy_from_slice(bytes);
    Scalar::from_bytes_le(&number).into_option().expect("253 bits are below the group's order")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn a_commitment_opens_to_its_row_and_salt_alone(
            salt: [u8; 32], row in prop::collection::vec(any::<[u8; 4]>(), 1..20), at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let row = row.concat();
            let committed = commitment(&Salt(salt), &row);
            let mut other = row.clone();
            other[at.index(row.len())] ^= 1 << bit;
            prop_assert_ne!(commitment(&Salt(salt), &other), committed);
            // A row is not told from a longer one by its elements alone.
            prop_assert_ne!(commitment(&Salt(salt), &[&row[..], &[0; 4]].concat()), committed);
            let mut other = salt;
            let at = at.index(253);
            other[at / 8] ^= 1 << (at % 8);
            prop_assert_ne!(commitment(&Salt(other), &row), committed);
        }
    }

    #[test]
    fn commitments_stay_what_they_are() {
        let row: Vec<u8> = (0..9).flat_map(|index| (index as f32 - 0.5).to_le_bytes()).collect();
        assert_eq!(
            commitment(&Salt([0xff; 32]), &row),
            commitment(&Salt([&[0xff; 31][..], &[0x1f]].concat().try_into().unwrap()), &row)
        );
        // As another implementation of the paper computes it.
        let expected = "245a73de905f4f90a138ba9d38fe5e84ab062ef56eed67642bf05ab68fd04009";
        assert_eq!(commitment(&Salt([7; 32]), &row).to_string(), expected);
    }
}
