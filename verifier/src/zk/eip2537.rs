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

    use group::Curve as _;
    use rand_core::OsRng;

    use super::*;
    use crate::zk::pairing::Product;
    use crate::zk::reference::chain;
    use crate::zk::{Prover, StatementKind, setup};

    fn bytes(text: &str) -> Vec<u8> {
        let digits = text.strip_prefix("0x").unwrap();
        (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect()
    }

    /// The numbers of a point as EIP-2537 has them, without what pads them.
    fn numbers(bytes: &[u8]) -> Vec<&[u8]> {
        let (numbers, []) = bytes.as_chunks::<64>() else { panic!("{} bytes", bytes.len()) };
        numbers
            .iter()
            .map(|number| {
                assert_eq!(number[..16], [0; 16]);
                &number[16..]
            })
            .collect()
    }

    fn read_g1(bytes: &[u8]) -> G1Affine {
        let point = numbers(bytes).concat().try_into().unwrap();
        G1Affine::from_uncompressed(&point).into_option().unwrap()
    }

    fn read_g2(bytes: &[u8]) -> G2Affine {
        let [x0, x1, y0, y1] = numbers(bytes)[..] else { panic!("four numbers") };
        let point = [x1, x0, y1, y0].concat().try_into().unwrap();
        G2Affine::from_uncompressed(&point).into_option().unwrap()
    }

    /// What the first precompile gives.
    fn g1msm(input: &[u8]) -> G1Affine {
        let (terms, []) = input.as_chunks::<160>() else { panic!("{} bytes", input.len()) };
        let product = |term: &[u8; 160]| {
            let scalar = term[128..].try_into().unwrap();
            read_g1(&term[..128]) * Scalar::from_bytes_be(&scalar).unwrap()
        };
        terms.iter().map(product).sum::<blstrs::G1Projective>().to_affine()
    }

    /// What the second precompile says.
    fn pairing(input: &[u8]) -> bool {
        let (pairs, []) = input.as_chunks::<384>() else { panic!("{} bytes", input.len()) };
        let (left, right): (Vec<_>, Vec<_>) =
            pairs.iter().map(|pair| (read_g1(&pair[..128]), read_g2(&pair[128..]))).unzip();
        Product::new(&left, &right).is_one()
    }

    #[test]
    fn the_calls_accept_the_proof_and_no_other_proof_or_input() {
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
        assert_eq!(g1msm(&first), read_g1(&second[768..896]));
        assert!(pairing(&second));

        let mut other = proof.clone();
        other.0.c = key.points.alpha_g1;
        assert!(!pairing(&made(&other, &assignment[1..4]).1));
        let mut swapped = assignment[1..4].to_vec();
        swapped.swap(0, 1);
        let (first, second) = made(&proof, &swapped);
        assert_eq!(g1msm(&first), read_g1(&second[768..896]));
        assert!(!pairing(&second));
        let refused = Calls::new(key, &proof, &assignment[1..3]).err();
        assert_eq!(refused, Some(Refused::Inputs { index: 0, found: 2, expected: 3 }));
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
