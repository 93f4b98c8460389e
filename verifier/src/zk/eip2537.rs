//! Proofs as the precompiled contracts of EIP-2537 take them. `ZK.md` says what a contract does with the bytes.
//!
//! A coordinate is 64 bytes, big-endian, the top 16 zero; one of G2 is its parts `c0` and `c1`; the point at infinity is
//! all zeros; a scalar is 32 bytes, big-endian.

use blstrs::{G1Affine, G2Affine, Scalar};
use ff::Field;
use group::prime::PrimeCurveAffine;
use serde::{Deserialize, Serialize};

use super::curve::{Curve, G1};
use super::export::hexadecimal;
use super::multiscalar::sum_of_products;
use super::{Proof, Refused, VerifyingKey};

/// The inputs of the two calls, each a hexadecimal string that begins with `0x`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// Of `BLS12_G1MSM` at `0x0c`: points of the key, each with its public input, the first with the number one.
    pub g1msm: String,
    /// Of `BLS12_PAIRING_CHECK` at `0x0f`: `(-A, B)`, `(α, β)`, (the point of the first call, `γ`), `(C, δ)`.
    pub pairing: String,
}

impl Calls {
    /// The calls that check a proof.
    ///
    /// # Errors
    /// [`Refused::Inputs`] if the key takes another number of public inputs.
    pub fn new(key: &VerifyingKey, proof: &Proof, inputs: &[Scalar]) -> Result<Calls, Refused> {
        let (found, expected) = (inputs.len(), key.inputs());
        if found != expected {
            return Err(Refused::Inputs { index: 0, found, expected });
        }
        let (points, proof) = (&key.points, &proof.0);
        let inputs = [&[Scalar::ONE], inputs].concat();
        let sum = G1::normalize(&[sum_of_products::<G1>(&points.ic, &inputs)])[0];
        let terms = points.ic.iter().zip(&inputs);
        let g1msm: Vec<u8> =
            terms.flat_map(|(point, input)| [&g1(point)[..], &input.to_bytes_be()].concat()).collect();
        let pairs = [
            (-proof.a, proof.b),
            (points.alpha_g1, points.beta_g2),
            (sum, points.gamma_g2),
            (proof.c, points.delta_g2),
        ];
        let pairing: Vec<u8> =
            pairs.iter().flat_map(|(left, right)| [&g1(left)[..], &g2(right)].concat()).collect();
        Ok(Calls { g1msm: hexadecimal(&g1msm), pairing: hexadecimal(&pairing) })
    }
}

fn g1(point: &G1Affine) -> [u8; 128] {
    let mut bytes = [0; 128];
    if !bool::from(point.is_identity()) {
        place(&point.to_uncompressed(), [0, 1], &mut bytes);
    }
    bytes
}

fn g2(point: &G2Affine) -> [u8; 256] {
    let mut bytes = [0; 256];
    if !bool::from(point.is_identity()) {
        // Encodings have the part c1 first.
        place(&point.to_uncompressed(), [1, 0, 3, 2], &mut bytes);
    }
    bytes
}

/// Puts the numbers of 48 bytes at these places of `from` one after the other, each into 64 bytes.
fn place<const N: usize>(from: &[u8], order: [usize; N], to: &mut [u8]) {
    for (number, to) in order.into_iter().zip(to.as_chunks_mut::<64>().0) {
        to[16..].copy_from_slice(&from[48 * number..48 * (number + 1)]);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand_core::OsRng;
    use revm_precompile::{Precompiles, u64_to_address};

    use super::*;
    use crate::zk::reference::chain;
    use crate::zk::{Prover, StatementKind, setup};

    const G1MSM: u64 = 0x0c;
    const PAIRING: u64 = 0x0f;

    fn bytes(text: &str) -> Vec<u8> {
        let digits = text.strip_prefix("0x").unwrap();
        (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect()
    }

    /// What an EVM's precompiled contract gives, and the gas that it takes; `None` if it fails.
    fn call(address: u64, input: &[u8]) -> Option<(Vec<u8>, u64)> {
        let contract = Precompiles::osaka().get(&u64_to_address(address)).unwrap();
        let output = contract.execute(input, 1_000_000, 0).unwrap();
        output.status.is_success().then(|| (output.bytes.to_vec(), output.gas_used))
    }

    fn gives(address: u64, input: &[u8]) -> Option<Vec<u8>> {
        call(address, input).map(|(output, _)| output)
    }

    fn word(value: u8) -> Vec<u8> {
        [&[0; 31][..], &[value]].concat()
    }

    /// A point of the first curve that is not in the group.
    fn outside_g1() -> [u8; 128] {
        let mut compressed = [0; 48];
        compressed[0] = 0x80;
        let point = (1..=255).find_map(|x| {
            compressed[47] = x;
            let point = G1Affine::from_compressed_unchecked(&compressed).into_option()?;
            (!bool::from(point.is_torsion_free())).then_some(point)
        });
        g1(&point.unwrap())
    }

    /// A point of the second curve that is not in the group.
    fn outside_g2() -> [u8; 256] {
        let mut compressed = [0; 96];
        compressed[0] = 0x80;
        let point = (1..=255).find_map(|x| {
            compressed[95] = x;
            let point = G2Affine::from_compressed_unchecked(&compressed).into_option()?;
            (!bool::from(point.is_torsion_free())).then_some(point)
        });
        g2(&point.unwrap())
    }

    #[test]
    fn the_calls_have_an_evm_accept_the_proof_and_no_other_proof_or_input() {
        let (system, assignment) = chain(30, 3, 5);
        let key = setup::development(&system, [0; 32], StatementKind::Open, &mut OsRng).unwrap();
        let prover = Prover::new(Arc::new(system), key).unwrap();
        let proof = prover.prove(&assignment, &mut OsRng).unwrap();
        let key = prover.verifying_key();
        let made = |proof: &Proof, inputs: &[Scalar]| {
            let calls = Calls::new(key, proof, inputs).unwrap();
            (bytes(&calls.g1msm), bytes(&calls.pairing))
        };
        let (first, second) = made(&proof, &assignment[1..4]);
        assert_eq!((first.len(), second.len()), (160 * 4, 384 * 4));
        assert_eq!(first[128..160], Scalar::ONE.to_bytes_be());
        // The gas is what ZK.md says.
        assert_eq!(call(G1MSM, &first), Some((second[768..896].to_vec(), 38_256)));
        assert_eq!(call(PAIRING, &second), Some((word(1), 168_100)));

        let mut other = proof.clone();
        other.0.c = key.points.alpha_g1;
        assert_eq!(gives(PAIRING, &made(&other, &assignment[1..4]).1), Some(word(0)));
        let mut swapped = assignment[1..4].to_vec();
        swapped.swap(0, 1);
        let (changed, paired) = made(&proof, &swapped);
        assert_eq!(gives(G1MSM, &changed).as_deref(), Some(&paired[768..896]));
        assert_eq!(gives(PAIRING, &paired), Some(word(0)));
        let refused = Calls::new(key, &proof, &assignment[1..3]).err();
        assert_eq!(refused, Some(Refused::Inputs { index: 0, found: 2, expected: 3 }));

        let (of_g1, of_g2) = (outside_g1(), outside_g2());
        let replaced: [(u64, &[u8], usize, &[u8]); 7] = [
            (G1MSM, &first, 0, &of_g1),
            (G1MSM, &first, 480, &of_g1),
            (PAIRING, &second, 0, &of_g1),
            (PAIRING, &second, 768, &of_g1),
            (PAIRING, &second, 1152, &of_g1),
            (PAIRING, &second, 128, &of_g2),
            (PAIRING, &second, 1280, &of_g2),
        ];
        for (address, input, at, outside) in replaced {
            let mut changed = input.to_vec();
            let end = at + outside.len();
            changed[at..end].copy_from_slice(outside);
            assert_eq!(gives(address, &changed), None, "a point outside the group, at {at}");
            changed[end - 1] ^= 1;
            assert_eq!(gives(address, &changed), None, "a point outside the curve, at {at}");
        }
        assert_eq!(gives(PAIRING, &second[1..]), None);
    }

    /// The generators, from the table of the curve's specification (draft-irtf-cfrg-pairing-friendly-curves, 4.2.1).
    #[test]
    fn coordinates_stand_in_the_order_of_the_specification() {
        let point = g1(&G1Affine::generator());
        assert_eq!(point[16..24], [0x17, 0xf1, 0xd3, 0xa7, 0x31, 0x97, 0xd7, 0x94]);
        assert_eq!(point[80..88], [0x08, 0xb3, 0xf4, 0x81, 0xe3, 0xaa, 0xa0, 0xf1]);
        let point = g2(&G2Affine::generator());
        assert_eq!(point[16..24], [0x02, 0x4a, 0xa2, 0xb2, 0xf0, 0x8f, 0x0a, 0x91]);
        assert_eq!(point[80..88], [0x13, 0xe0, 0x2b, 0x60, 0x52, 0x71, 0x9f, 0x60]);
        assert_eq!((g1(&G1Affine::identity()), g2(&G2Affine::identity())), ([0; 128], [0; 256]));
    }
}
