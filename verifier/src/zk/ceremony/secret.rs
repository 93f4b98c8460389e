//! Secrets of contributors, and the points multiplied by them.
//!
//! A secret is overwritten when it is dropped, and so is what it is made from. Copies that the compiler leaves in
//! registers and on the stack are not: contribute on a machine that is switched off afterwards.

use blstrs::Scalar;
use ff::Field;
use group::prime::PrimeCurveAffine;
use rand_core::{OsRng, RngCore};
use rayon::prelude::*;
use sha2::{Digest as _, Sha512};
use zeroize::{DefaultIsZeroes, Zeroizing};

use super::Watch;
use crate::zk::curve::Curve;

/// Points of one task: an inversion for all of them is small beside their multiplications.
const SHARE: usize = 128;

/// A factor that nobody else may learn. Not zero.
pub(super) struct Secret(Zeroizing<Bare>);

#[derive(Clone, Copy, Default)]
struct Bare(Scalar);

impl DefaultIsZeroes for Bare {}

impl Secret {
    /// A secret from the system's random numbers and from what the contributor adds, which alone need not be good.
    pub(super) fn draw(entropy: &[u8]) -> Secret {
        let mut random = Zeroizing::new([0; 64]);
        loop {
            OsRng.fill_bytes(&mut *random);
            let hash = Sha512::new_with_prefix(b"haca ceremony secret v1").chain_update(*random);
            let secret = Secret::from_hash(hash.chain_update(entropy));
            if !bool::from(secret.scalar().is_zero()) {
                return secret;
            }
        }
    }

    /// The factor that a hash stands for: 512 bits, reduced.
    pub(super) fn from_hash(hash: Sha512) -> Secret {
        let bytes: Zeroizing<[u8; 64]> = Zeroizing::new(hash.finalize().into());
        let shift = Scalar::from(1 << 32).square().square();
        let mut secret = Secret::new(Scalar::ZERO);
        for part in bytes.as_chunks::<8>().0.as_chunks::<2>().0 {
            let [low, high] = part.map(|bytes| Scalar::from(u64::from_le_bytes(bytes)));
            secret.0.0 = secret.0.0 * shift + high * Scalar::from(1 << 32).square() + low;
        }
        secret
    }

    pub(super) fn new(scalar: Scalar) -> Secret {
        Secret(Zeroizing::new(Bare(scalar)))
    }

    /// A factor that changes nothing.
    pub(super) fn one() -> Secret {
        Secret::new(Scalar::ONE)
    }

    pub(super) fn scalar(&self) -> &Scalar {
        &self.0.0
    }

    pub(super) fn inverse(&self) -> Secret {
        Secret::new(self.scalar().invert().into_option().expect("secrets are not zero"))
    }

    /// Multiplies the point at each index by `first · ratio^index`.
    pub(super) fn multiply<C: Curve>(
        first: &Secret,
        ratio: &Secret,
        points: &mut [C::Affine],
        watch: &impl Watch,
    ) {
        points.par_chunks_mut(SHARE).enumerate().for_each(|(share, points)| {
            let start = ratio.scalar().pow_vartime([(share * SHARE) as u64]);
            let mut factor = Secret::new(start * first.scalar());
            let products: Vec<C::Point> = points
                .iter()
                .map(|point| {
                    let product = point.to_curve() * factor.scalar();
                    factor.0.0 *= ratio.scalar();
                    product
                })
                .collect();
            points.copy_from_slice(&C::normalize(&products));
            watch.advance(points.len());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zk::curve::G1;

    #[test]
    fn points_are_multiplied_by_a_geometric_sequence() {
        let mut points = vec![blstrs::G1Affine::generator(); 300];
        let (first, ratio) = (Secret::new(Scalar::from(3)), Secret::new(Scalar::from(5)));
        Secret::multiply::<G1>(&first, &ratio, &mut points, &());
        for (index, point) in points.iter().enumerate() {
            let factor = Scalar::from(3) * Scalar::from(5).pow_vartime([index as u64]);
            assert_eq!(*point, (blstrs::G1Affine::generator() * factor).into());
        }
    }

    #[test]
    fn every_bit_of_the_hash_counts_and_draws_differ() {
        let of = |text: &str| *Secret::from_hash(Sha512::new_with_prefix(text)).scalar();
        let digest = Sha512::digest("a");
        let naive = digest.chunks(16).fold(Scalar::ZERO, |sum, part| {
            let part = u128::from_le_bytes(part.try_into().unwrap());
            let bits = (0..128)
                .rev()
                .fold(Scalar::ZERO, |sum, bit| sum.double() + Scalar::from((part >> bit) as u64 & 1));
            (0..128).fold(sum, |sum, _| sum.double()) + bits
        });
        assert_eq!(of("a"), naive);
        assert_ne!(of("a"), of("b"));
        assert_ne!(Secret::draw(b"same").scalar(), Secret::draw(b"same").scalar());
    }
}
