//! The fields of the coordinates of points of both groups, by blst's arithmetic.
//!
//! All unsafe code here passes pointers to blst's functions of the field. They read each part of their arguments before
//! they write it, so that a result may lie where an argument does, and they return reduced numbers, so that equal numbers
//! have equal words.

use blst::{blst_fp, blst_fp2};

/// A field of coordinates.
pub(super) trait Field: Copy + Default + PartialEq + Send + Sync {
    fn one() -> Self;
    fn plus(&self, other: &Self) -> Self;
    fn minus(&self, other: &Self) -> Self;
    fn times(&self, other: &Self) -> Self;
    fn square(&self) -> Self;
    /// Of a number that is not zero.
    fn inverse(&self) -> Self;

    // These write their result in place. One that is returned is copied, and the copy waits for stores under way.

    fn subtract(&mut self, other: &Self);
    fn multiply(&mut self, factor: &Self);
    fn negate_if(&mut self, condition: bool);
    fn set_difference(&mut self, one: &Self, other: &Self);
    fn set_product(&mut self, one: &Self, other: &Self);
    fn set_square(&mut self, root: &Self);
}

/// The integers modulo the curve's prime.
#[derive(Debug, Clone, Copy, Default)]
#[repr(transparent)]
pub(super) struct Fp(pub(super) blst_fp);

/// `c0 + c1 u` with `u² = -1`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(transparent)]
pub(super) struct Fp2(pub(super) blst_fp2);

impl PartialEq for Fp {
    // In place: a call to compare memory takes as long as a sum.
    #[inline]
    fn eq(&self, other: &Fp) -> bool {
        self.0.l.iter().zip(&other.0.l).fold(0, |differences, (one, other)| differences | (one ^ other)) == 0
    }
}

impl PartialEq for Fp2 {
    #[inline]
    fn eq(&self, other: &Fp2) -> bool {
        let [[one, other], [one_u, other_u]] =
            [0, 1].map(|part| [self, other].map(|number| Fp(number.0.fp[part])));
        one == other && one_u == other_u
    }
}

macro_rules! field {
    ($name:ident, $raw:ident, $one:expr, $add:ident, $sub:ident, $mul:ident, $sqr:ident, $inverse:ident,
     $cneg:ident) => {
        impl $name {
            /// What a function of blst writes.
            #[inline]
            fn by(write: impl FnOnce(*mut $raw)) -> $name {
                let mut result = std::mem::MaybeUninit::uninit();
                write(result.as_mut_ptr());
                // SAFETY: each of the functions used in this module writes the whole of its result.
                $name(unsafe { result.assume_init() })
            }
        }

        impl Field for $name {
            fn one() -> $name {
                // SAFETY: blst's constant, which lives as long as the program.
                let one = unsafe { (*blst::blst_fp12_one()).fp6[0].fp2[0] };
                $name($one(one))
            }

            #[inline]
            fn plus(&self, other: &$name) -> $name {
                // SAFETY: see the module's text, here and below.
                $name::by(|sum| unsafe { blst::$add(sum, &self.0, &other.0) })
            }

            #[inline]
            fn minus(&self, other: &$name) -> $name {
                // SAFETY: as above.
                $name::by(|difference| unsafe { blst::$sub(difference, &self.0, &other.0) })
            }

            #[inline]
            fn times(&self, other: &$name) -> $name {
                // SAFETY: as above.
                $name::by(|product| unsafe { blst::$mul(product, &self.0, &other.0) })
            }

            #[inline]
            fn square(&self) -> $name {
                // SAFETY: as above.
                $name::by(|square| unsafe { blst::$sqr(square, &self.0) })
            }

            #[inline]
            fn inverse(&self) -> $name {
                // SAFETY: as above.
                $name::by(|inverse| unsafe { blst::$inverse(inverse, &self.0) })
            }

            #[inline]
            fn subtract(&mut self, other: &$name) {
                let difference = &raw mut self.0;
                // SAFETY: as above.
                unsafe { blst::$sub(difference, difference, &other.0) };
            }

            #[inline]
            fn multiply(&mut self, factor: &$name) {
                let product = &raw mut self.0;
                // SAFETY: as above.
                unsafe { blst::$mul(product, product, &factor.0) };
            }

            #[inline]
            fn negate_if(&mut self, condition: bool) {
                let opposite = &raw mut self.0;
                // SAFETY: as above.
                unsafe { blst::$cneg(opposite, opposite, condition) };
            }

            #[inline]
            fn set_difference(&mut self, one: &$name, other: &$name) {
                // SAFETY: as above.
                unsafe { blst::$sub(&mut self.0, &one.0, &other.0) };
            }

            #[inline]
            fn set_product(&mut self, one: &$name, other: &$name) {
                // SAFETY: as above.
                unsafe { blst::$mul(&mut self.0, &one.0, &other.0) };
            }

            #[inline]
            fn set_square(&mut self, root: &$name) {
                // SAFETY: as above.
                unsafe { blst::$sqr(&mut self.0, &root.0) };
            }
        }
    };
}

field!(
    Fp,
    blst_fp,
    |one: blst_fp2| one.fp[0],
    blst_fp_add,
    blst_fp_sub,
    blst_fp_mul,
    blst_fp_sqr,
    blst_fp_eucl_inverse,
    blst_fp_cneg
);
field!(
    Fp2,
    blst_fp2,
    |one: blst_fp2| one,
    blst_fp2_add,
    blst_fp2_sub,
    blst_fp2_mul,
    blst_fp2_sqr,
    blst_fp2_eucl_inverse,
    blst_fp2_cneg
);

/// A number as blst has it.
pub(super) const fn fp2(c0: [u64; 6], c1: [u64; 6]) -> Fp2 {
    Fp2(blst_fp2 { fp: [blst_fp { l: c0 }, blst_fp { l: c1 }] })
}

impl Fp2 {
    pub(super) fn times_3(&self) -> Fp2 {
        // SAFETY: as above.
        Fp2::by(|product| unsafe { blst::blst_fp2_mul_by_3(product, &self.0) })
    }

    pub(super) fn times_4(&self) -> Fp2 {
        // SAFETY: as above.
        Fp2::by(|product| unsafe { blst::blst_fp2_lshift(product, &self.0, 2) })
    }

    pub(super) fn times_fp(&self, factor: &blst_fp) -> Fp2 {
        let mut product = Fp2::default();
        let [c0, c1] = &mut product.0.fp;
        // SAFETY: as above.
        unsafe {
            blst::blst_fp_mul(c0, &self.0.fp[0], factor);
            blst::blst_fp_mul(c1, &self.0.fp[1], factor);
        }
        product
    }

    pub(super) fn times_one_plus_u(&self) -> Fp2 {
        let [c0, c1] = &self.0.fp;
        let mut product = Fp2::default();
        let [d0, d1] = &mut product.0.fp;
        // SAFETY: as above.
        unsafe {
            blst::blst_fp_sub(d0, c0, c1);
            blst::blst_fp_add(d1, c0, c1);
        }
        product
    }

    pub(super) fn conjugate(&self) -> Fp2 {
        let mut conjugate = *self;
        // SAFETY: as above.
        unsafe { blst::blst_fp_cneg(&mut conjugate.0.fp[1], &self.0.fp[1], true) };
        conjugate
    }
}
