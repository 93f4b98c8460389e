//! Whether points of both groups were multiplied alike, asked of pairings.

use blstrs::{G1Affine, G2Affine, Scalar};
use rand_core::{OsRng, RngCore};

use crate::zk::curve::Curve;
use crate::zk::multiscalar::sum_of_products;
use crate::zk::pairing::Product;

/// Whether `left.1` is to `left.0` as `right.1` is to `right.0`. None of them may be the identity.
pub(super) fn same_ratio(left: (&G1Affine, &G1Affine), right: (&G2Affine, &G2Affine)) -> bool {
    Product::new(&[*left.0, -*left.1], &[*right.1, *right.0]).is_one()
}

/// Sums of all points but the last and of all but the first, with the same coefficients. If one is to the other as `x` to
/// one, then so are each point and the one before it, but for a chance of 2^-128.
pub(super) fn successive<C: Curve>(points: &[C::Affine]) -> (C::Affine, C::Affine) {
    parallel::<C>(&points[..points.len() - 1], &points[1..])
}

/// Sums of both lists with the same coefficients, likewise.
pub(super) fn parallel<C: Curve>(one: &[C::Affine], other: &[C::Affine]) -> (C::Affine, C::Affine) {
    let coefficients: Vec<Scalar> = (0..one.len()).map(|_| coefficient()).collect();
    let sums = C::normalize(&[one, other].map(|points| sum_of_products::<C>(points, &coefficients)));
    (sums[0], sums[1])
}

/// 128 bits that nobody could foresee.
fn coefficient() -> Scalar {
    let mut bytes = [0; 32];
    OsRng.fill_bytes(&mut bytes[..16]);
    Scalar::from_bytes_le(&bytes).into_option().expect("128 bits are below the group's order")
}
