//! The two groups of BLS12-381 by blst's own entry points, for what `blstrs` does not offer: points by their coordinates,
//! normalisation of many points at once, points as they lie in memory.
//!
//! All `unsafe` of the module `zk` that touches points is here, in [`super::pairing`] and in [`super::powers`]; that of
//! numbers is in [`super::field`]. `G1Affine` and the like are `repr(transparent)` over blst's structures, so slices of them
//! are slices of blst's; blst takes an array as the pointer to its first element followed by a null pointer. None of these
//! functions keeps a pointer after it returns.

use std::ptr;

use blst::{
    blst_p1, blst_p1_affine, blst_p1_affine_in_g1, blst_p1_uncompress, blst_p2, blst_p2_affine,
    blst_p2_affine_in_g2, blst_p2_uncompress,
};
use blstrs::{G1Affine, G1Projective, G2Affine, G2Projective};
use group::Group;
use group::prime::PrimeCurveAffine;

use super::coordinates::Coordinates;
use super::field::{Field, Fp, Fp2};

/// A group of points with a prime number of elements.
pub(super) trait Curve: Send + Sync {
    type Affine: PrimeCurveAffine<Scalar = blstrs::Scalar, Curve = Self::Point> + Default + Send + Sync;
    type Point: Group<Scalar = blstrs::Scalar> + for<'a> std::ops::AddAssign<&'a Self::Affine> + Send + Sync;
    /// What its points' coordinates are.
    type Field: Field;
    /// Bytes of a compressed point.
    const COMPRESSED: usize;

    /// The coordinates of a point.
    fn coordinates(point: &Self::Affine) -> &Coordinates<Self::Field>;

    /// The point at these coordinates. Whether it is of the curve, the caller must know.
    fn at(coordinates: &Coordinates<Self::Field>) -> Self::Affine;

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
    ($name:ident, $affine:ident, $point:ident, $field:ident, $raw_affine:ident, $raw_point:ident,
     $compressed:literal, $normalize:ident, $uncompress:ident, $in_group:ident) => {
        #[derive(Debug, Clone, Copy)]
        pub(super) struct $name;

        impl Curve for $name {
            type Affine = $affine;
            type Point = $point;
            type Field = $field;
            const COMPRESSED: usize = $compressed;

            fn coordinates(point: &$affine) -> &Coordinates<$field> {
                // SAFETY: both are two numbers of blst, x and y, one after the other, as is asserted below.
                unsafe { &*ptr::from_ref::<$raw_affine>(point.as_ref()).cast() }
            }

            fn at(coordinates: &Coordinates<$field>) -> $affine {
                let mut point = $affine::identity();
                *point.as_mut() = $raw_affine { x: coordinates.x.0, y: coordinates.y.0 };
                point
            }

            fn normalize(points: &[$point]) -> Vec<$affine> {
                let mut affine = vec![$affine::identity(); points.len()];
                if !points.is_empty() {
                    let list = [points.as_ptr().cast::<$raw_point>(), ptr::null()];
                    // SAFETY: the list names `points.len()` points that follow each other, see the module's text; there is room
                    // for as many affine points.
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
    Fp,
    blst_p1_affine,
    blst_p1,
    48,
    blst_p1s_to_affine,
    blst_p1_uncompress,
    blst_p1_affine_in_g1
);
curve!(
    G2,
    G2Affine,
    G2Projective,
    Fp2,
    blst_p2_affine,
    blst_p2,
    96,
    blst_p2s_to_affine,
    blst_p2_uncompress,
    blst_p2_affine_in_g2
);

// What `coordinates` rests on.
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<blst_p1_affine>() == size_of::<Coordinates<Fp>>());
    assert!(align_of::<blst_p1_affine>() == align_of::<Coordinates<Fp>>());
    assert!(offset_of!(blst_p1_affine, y) == offset_of!(Coordinates<Fp>, y));
    assert!(size_of::<blst_p2_affine>() == size_of::<Coordinates<Fp2>>());
    assert!(align_of::<blst_p2_affine>() == align_of::<Coordinates<Fp2>>());
    assert!(offset_of!(blst_p2_affine, y) == offset_of!(Coordinates<Fp2>, y));
};

// What `raw` and `from_raw` rest on: no padding.
const _: () = assert!(size_of::<G1Affine>() == 96 && size_of::<G2Affine>() == 192);

/// Whether a point of the curve is in the group.
pub(super) fn sum_in_g1(point: &G1Projective) -> bool {
    // SAFETY: reads one point.
    unsafe { blst::blst_p1_in_g1(point.as_ref()) }
}
