//! The two groups of BLS12-381 by blst's own entry points, for what `blstrs` does not offer: sums of many points, one
//! window of Pippenger's method, normalisation of many points at once.
//!
//! All `unsafe` of the module `zk` that touches points is here, in [`super::pairing`] and in [`super::powers`]. `G1Affine` and the like are `repr(transparent)` over
//! blst's structures, so slices of them are slices of blst's; blst takes an array as the pointer to its first element
//! followed by a null pointer. None of these functions keeps a pointer after it returns.

use std::ptr;

use blst::{
    blst_p1, blst_p1_affine, blst_p1_affine_in_g1, blst_p1_uncompress, blst_p2, blst_p2_affine,
    blst_p2_affine_in_g2, blst_p2_uncompress,
};
use blstrs::{G1Affine, G1Projective, G2Affine, G2Projective};
use group::Group;
use group::prime::PrimeCurveAffine;

/// A group of points with a prime number of elements.
pub(super) trait Curve: Send + Sync {
    type Affine: PrimeCurveAffine<Scalar = blstrs::Scalar, Curve = Self::Point> + Default + Send + Sync;
    type Point: Group<Scalar = blstrs::Scalar> + for<'a> std::ops::AddAssign<&'a Self::Affine> + Send + Sync;
    /// Bytes of a compressed point.
    const COMPRESSED: usize;

    /// The sum of the points.
    fn sum(points: &[Self::Affine]) -> Self::Point;

    /// Words of scratch that [`Curve::window`] needs for windows of `width` bits.
    fn scratch_words(width: usize) -> usize;

    /// The share of the digit at the bits `from..from + width` of all scalars in the sum of products. Digits have
    /// signs, and the highest must be of fewer bits than `width`, to take what the one below carries. Scalars are
    /// little-endian, each of as many bytes as `bits` need. blst takes two points at least.
    fn window(
        points: &[Self::Affine],
        scalars: &[u8],
        bits: usize,
        from: usize,
        width: usize,
        scratch: &mut [u64],
    ) -> Self::Point;

    /// The affine forms of the points, by one inversion for all.
    fn normalize(points: &[Self::Point]) -> Vec<Self::Affine>;

    /// A point from its compressed form, if it is on the curve. Whether it is in the group is not checked.
    fn uncompress(bytes: &[u8]) -> Option<Self::Affine>;

    /// Whether a point of the curve is in the group.
    fn in_group(point: &Self::Affine) -> bool;

    /// Points as they lie in memory, which is the same on all 64-bit little-endian machines.
    fn raw(points: &[Self::Affine]) -> &[u8];

    /// The points that lie in these bytes, if they are aligned and whole. Any bytes are points to read: whether of the
    /// curve, the caller must know.
    fn from_raw(bytes: &[u8]) -> Option<&[Self::Affine]>;
}

macro_rules! curve {
    ($name:ident, $affine:ident, $point:ident, $raw_affine:ident, $raw_point:ident, $compressed:literal,
     $sum:ident, $scratch:ident, $window:ident, $normalize:ident, $uncompress:ident, $in_group:ident) => {
        #[derive(Debug, Clone, Copy)]
        pub(super) struct $name;

        impl Curve for $name {
            type Affine = $affine;
            type Point = $point;
            const COMPRESSED: usize = $compressed;

            fn sum(points: &[$affine]) -> $point {
                let mut sum = $point::identity();
                if !points.is_empty() {
                    let list = [points.as_ptr().cast::<$raw_affine>(), ptr::null()];
                    // SAFETY: the list names `points.len()` points that follow each other; see the module's text.
                    unsafe { blst::$sum(sum.as_mut(), list.as_ptr(), points.len()) };
                }
                sum
            }

            fn scratch_words(width: usize) -> usize {
                // SAFETY: a pure function of its argument.
                (unsafe { blst::$scratch(0) } / 8) << (width - 1)
            }

            fn window(
                points: &[$affine],
                scalars: &[u8],
                bits: usize,
                from: usize,
                width: usize,
                scratch: &mut [u64],
            ) -> $point {
                assert_eq!(scalars.len(), points.len() * bits.div_ceil(8), "bytes of scalars");
                assert!(
                    from < bits && scratch.len() >= Self::scratch_words(width),
                    "a window with its scratch"
                );
                assert!(points.len() >= 2, "two points at least");
                let mut sum = $point::identity();
                let list = [points.as_ptr().cast::<$raw_affine>(), ptr::null()];
                let bytes = [scalars.as_ptr(), ptr::null()];
                // SAFETY: as in `sum`; that scalars and scratch are long enough is asserted above.
                unsafe {
                    blst::$window(
                        sum.as_mut(),
                        list.as_ptr(),
                        points.len(),
                        bytes.as_ptr(),
                        bits,
                        scratch.as_mut_ptr(),
                        from,
                        width,
                    );
                }
                sum
            }

            fn normalize(points: &[$point]) -> Vec<$affine> {
                let mut affine = vec![$affine::identity(); points.len()];
                if !points.is_empty() {
                    let list = [points.as_ptr().cast::<$raw_point>(), ptr::null()];
                    // SAFETY: as in `sum`; there is room for as many affine points.
                    unsafe {
                        blst::$normalize(
                            affine.as_mut_ptr().cast::<$raw_affine>(),
                            list.as_ptr(),
                            points.len(),
                        );
                    }
                }
                affine
            }

            fn uncompress(bytes: &[u8]) -> Option<$affine> {
                assert_eq!(bytes.len(), $compressed, "bytes of a compressed point");
                let mut point = $affine::identity();
                // SAFETY: blst reads exactly the bytes whose number is asserted above.
                let status = unsafe { $uncompress(point.as_mut(), bytes.as_ptr()) };
                (status == blst::BLST_ERROR::BLST_SUCCESS).then_some(point)
            }

            fn in_group(point: &$affine) -> bool {
                // SAFETY: reads one point.
                unsafe { $in_group(point.as_ref()) }
            }

            fn raw(points: &[$affine]) -> &[u8] {
                // SAFETY: a point is an array of words without padding, and any byte may be read as one.
                unsafe { points.align_to::<u8>().1 }
            }

            fn from_raw(bytes: &[u8]) -> Option<&[$affine]> {
                // SAFETY: a point is an array of words, of which every value is one.
                let (before, points, after) = unsafe { bytes.align_to::<$affine>() };
                (before.is_empty() && after.is_empty()).then_some(points)
            }
        }
    };
}

curve!(
    G1,
    G1Affine,
    G1Projective,
    blst_p1_affine,
    blst_p1,
    48,
    blst_p1s_add,
    blst_p1s_mult_pippenger_scratch_sizeof,
    blst_p1s_tile_pippenger,
    blst_p1s_to_affine,
    blst_p1_uncompress,
    blst_p1_affine_in_g1
);
curve!(
    G2,
    G2Affine,
    G2Projective,
    blst_p2_affine,
    blst_p2,
    96,
    blst_p2s_add,
    blst_p2s_mult_pippenger_scratch_sizeof,
    blst_p2s_tile_pippenger,
    blst_p2s_to_affine,
    blst_p2_uncompress,
    blst_p2_affine_in_g2
);

// What `raw` and `from_raw` rest on: no padding.
const _: () = assert!(size_of::<G1Affine>() == 96 && size_of::<G2Affine>() == 192);

/// Whether a point of the curve is in the group.
pub(super) fn sum_in_g1(point: &G1Projective) -> bool {
    // SAFETY: reads one point.
    unsafe { blst::blst_p1_in_g1(point.as_ref()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blstrs::Scalar;

    #[test]
    fn sums_take_equal_opposite_and_identity_points() {
        let g = G1Affine::generator();
        assert_eq!(G1::sum(&[g, g, g]), g * Scalar::from(3));
        assert_eq!(G1::sum(&[g, -g]), G1Projective::identity());
        assert_eq!(G1::sum(&[G1Affine::identity(), g]), G1Projective::from(g));
        assert_eq!(G1::sum(&[]), G1Projective::identity());
    }
}
