//! Products of pairings, by a Miller loop of many pairs at once that also says whether the points of G2 are in G2.
//!
//! The ate pairing of a point `Q` computes `|z| Q` on the way, with `z` the parameter of the curve. A point of the twist
//! is in G2 if and only if `ψ(Q) = z Q` (Scott, IACR ePrint 2021/1130), so with the loop done the check costs four
//! multiplications, where by itself it takes a quarter of the loop's time. blst does not give the point out; hence this
//! loop, on blst's arithmetic.
//!
//! Points are homogeneous, `x = X/Z` and `y = Y/Z`, with the doubling of Costello, Lange and Naehrig as written by Aranha
//! et al. (IACR ePrint 2010/526). The formulas have exceptions: a sum of equal or opposite points, or with the identity.
//! Each gives `Z = 0`, and so do all steps after it: a point with another `Z` in the end met none, and is `|z| Q`.
//!
//! All unsafe code here passes references to blst's functions of the field, which read and write what they refer to.

use blst::{blst_fp, blst_fp6, blst_fp12, blst_p1_affine, blst_p2_affine};
use blstrs::{G1Affine, G2Affine};
use group::prime::PrimeCurveAffine;

use super::field::{Field, Fp2, fp2};

/// `|z|`; `z` is negative.
const Z: u64 = 0xd201_0000_0001_0000;

/// `ψ(x, y) = (PSI_X · x̄, PSI_Y · ȳ)`: `1/(1 + u)^((p - 1)/3)` and `1/(1 + u)^((p - 1)/2)`, as blst has numbers.
const PSI_X: Fp2 = fp2(
    [0; 6],
    [
        0x890d_c9e4_8675_45c3,
        0x2af3_2253_3285_a5d5,
        0x5088_0866_309b_7e2c,
        0xa20d_1b8c_7e88_1024,
        0x14e4_f04f_e2db_9068,
        0x14e5_6d3f_1564_853a,
    ],
);
const PSI_Y: Fp2 = fp2(
    [
        0x3e2f_585d_a55c_9ad1,
        0x4294_213d_86c1_8183,
        0x3828_44c8_8b62_3732,
        0x92ad_2afd_1910_3e18,
        0x1d79_4e4f_ac7c_f0b9,
        0x0bd5_92fc_7d82_5ec8,
    ],
    [
        0x7bcf_a7a2_5aa3_0fda,
        0xdc17_dec1_2a92_7e7c,
        0x2f08_8dd8_6b4e_bef1,
        0xd1ca_2087_da74_d4a7,
        0x2da2_5966_96ce_bc1d,
        0x0e2b_7eed_bbfd_87d2,
    ],
);

/// Pairs that share the squarings of a loop: their points stay in the first-level cache.
const TOGETHER: usize = 32;

/// A product of pairings before its final exponentiation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product(blst_fp12);

impl Product {
    /// The product of the pairings of `left[i]` with `right[i]`. A pair with the identity contributes one.
    pub(super) fn new(left: &[G1Affine], right: &[G2Affine]) -> Product {
        Product::made(left, right).0
    }

    /// Likewise, if all of `right` are in G2.
    pub(super) fn in_group(left: &[G1Affine], right: &[G2Affine]) -> Option<Product> {
        let (product, inside) = Product::made(left, right);
        inside.then_some(product)
    }

    fn made(left: &[G1Affine], right: &[G2Affine]) -> (Product, bool) {
        assert_eq!(left.len(), right.len(), "points to pair");
        let pairs: Vec<Pair> = left
            .iter()
            .zip(right)
            .filter(|(left, right)| !bool::from(left.is_identity()) && !bool::from(right.is_identity()))
            .map(|(left, right)| Pair::new(left.as_ref(), right.as_ref()))
            .collect();
        let mut product = Product::one();
        let mut inside = true;
        for pairs in pairs.chunks(TOGETHER) {
            let (of_pairs, of_group) = miller_loop(pairs);
            product = product.times(&of_pairs);
            inside &= of_group;
        }
        (product, inside)
    }

    fn one() -> Product {
        // SAFETY: blst's constant, which lives as long as the program.
        Product(unsafe { *blst::blst_fp12_one() })
    }

    /// The product of both.
    pub(super) fn times(mut self, other: &Product) -> Product {
        let left = self.0;
        // SAFETY: see the module's text.
        unsafe { blst::blst_fp12_mul(&mut self.0, &left, &other.0) };
        self
    }

    fn square(&mut self) {
        let whole = self.0;
        // SAFETY: see the module's text.
        unsafe { blst::blst_fp12_sqr(&mut self.0, &whole) };
    }

    fn times_line(&mut self, line: &blst_fp6) {
        let whole = self.0;
        // SAFETY: see the module's text.
        unsafe { blst::blst_fp12_mul_by_xy00z0(&mut self.0, &whole, line) };
    }

    /// Whether the pairings multiply to one.
    pub(super) fn is_one(&self) -> bool {
        let mut result = blst_fp12::default();
        // SAFETY: see the module's text.
        unsafe {
            blst::blst_final_exp(&mut result, &self.0);
            blst::blst_fp12_is_one(&result)
        }
    }
}

/// The product over some pairs, and whether all points of the twist are in G2.
fn miller_loop(pairs: &[Pair]) -> (Product, bool) {
    let mut points: Vec<Point> = pairs.iter().map(Point::of).collect();
    let mut product = Product::one();
    for bit in (0..Z.ilog2()).rev() {
        product.square();
        for (point, pair) in points.iter_mut().zip(pairs) {
            product.times_line(&point.double(pair));
        }
        if Z >> bit & 1 == 1 {
            for (point, pair) in points.iter_mut().zip(pairs) {
                product.times_line(&point.add(pair));
            }
        }
    }
    // SAFETY: see the module's text. `z` is negative.
    unsafe { blst::blst_fp12_conjugate(&mut product.0) };
    (product, points.iter().zip(pairs).all(|(point, pair)| point.shows_membership(pair)))
}

/// What is paired, with what lines are evaluated at.
struct Pair {
    x: Fp2,
    y: Fp2,
    /// Of the point `P` of G1: `-P.x`, `-3 P.x` and `P.y`.
    minus_x: blst_fp,
    minus_three_x: blst_fp,
    py: blst_fp,
}

impl Pair {
    fn new(left: &blst_p1_affine, right: &blst_p2_affine) -> Pair {
        let (mut minus_x, mut minus_three_x) = (blst_fp::default(), blst_fp::default());
        // SAFETY: see the module's text.
        unsafe {
            blst::blst_fp_cneg(&mut minus_x, &left.x, true);
            blst::blst_fp_mul_by_3(&mut minus_three_x, &minus_x);
        }
        Pair { x: Fp2(right.x), y: Fp2(right.y), minus_x, minus_three_x, py: left.y }
    }
}

/// A multiple of a pair's point of the twist.
#[derive(Clone, Copy)]
struct Point {
    x: Fp2,
    y: Fp2,
    z: Fp2,
}

impl Point {
    fn of(pair: &Pair) -> Point {
        Point { x: pair.x, y: pair.y, z: Fp2::one() }
    }

    /// Doubles the point. Returns the tangent at the pair's point of G1.
    fn double(&mut self, pair: &Pair) -> blst_fp6 {
        let Point { x, y, z } = *self;
        let (xx, yy, zz) = (x.square(), y.square(), z.square());
        let xy2 = x.plus(&y).square().minus(&xx).minus(&yy);
        let yz2 = y.plus(&z).square().minus(&yy).minus(&zz);
        // 3b'Z², with b' = 4(1 + u).
        let e = zz.times_one_plus_u().times_3().times_4();
        let ee3 = e.square().times_3();
        let f = e.times_3();
        let line = line(yy.minus(&e), &xx, &pair.minus_three_x, &yz2, &pair.py);
        self.x = xy2.times(&yy.minus(&f));
        self.y = yy.plus(&f).square().minus(&ee3.times_4());
        self.z = yy.times(&yz2).times_4();
        line
    }

    /// Adds the pair's point of the twist. Returns the line through both at the pair's point of G1.
    fn add(&mut self, pair: &Pair) -> blst_fp6 {
        let Point { x, y, z } = *self;
        let theta = y.minus(&pair.y.times(&z));
        let lambda = x.minus(&pair.x.times(&z));
        let square = lambda.square();
        let cube = square.times(&lambda);
        let g = x.times(&square);
        let h = cube.plus(&theta.square().times(&z)).minus(&g).minus(&g);
        let constant = theta.times(&pair.x).minus(&lambda.times(&pair.y));
        let line = line(constant, &theta, &pair.minus_x, &lambda, &pair.py);
        self.x = lambda.times(&h);
        self.y = theta.times(&g.minus(&h)).minus(&cube.times(&y));
        self.z = z.times(&cube);
        line
    }

    /// Of `|z| Q`, whether `Q` is in G2: `ψ(Q) = z Q`, and no step was an exception.
    fn shows_membership(&self, pair: &Pair) -> bool {
        let x = pair.x.conjugate().times(&PSI_X).times(&self.z);
        let y = pair.y.conjugate().times(&PSI_Y).times(&self.z);
        self.z != Fp2::default() && x == self.x && y == Fp2::default().minus(&self.y)
    }
}

/// `constant + a·s·v + b·t·v·w`, as blst takes a line.
fn line(constant: Fp2, a: &Fp2, s: &blst_fp, b: &Fp2, t: &blst_fp) -> blst_fp6 {
    blst_fp6 { fp2: [constant.0, a.times_fp(s).0, b.times_fp(t).0] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zk::curve::{Curve as _, G2};
    use blstrs::{G1Projective, G2Projective, Scalar};
    use ff::Field as _;
    use group::{Curve as _, Group};
    use rand_core::OsRng;

    #[test]
    fn pairings_multiply_as_exponents_add() {
        let (g1, g2) = (G1Affine::generator(), G2Affine::generator());
        let left = (g1 * Scalar::from(6)).to_affine();
        let right = (g2 * Scalar::from(6)).to_affine();
        let negated = -g1;
        let pairs = Product::new(&[left, negated, G1Affine::identity()], &[g2, right, g2]);
        assert!(pairs.is_one());
        assert!(!Product::new(&[left, negated], &[g2, g2]).is_one());
        assert!(Product::new(&[], &[]).is_one());
        assert!(Product::new(&[left], &[g2]).times(&Product::new(&[negated], &[right])).is_one());
    }

    #[test]
    fn products_are_those_of_blst() {
        let left: Vec<G1Affine> =
            (0..70).map(|_| (G1Projective::generator() * Scalar::random(OsRng)).to_affine()).collect();
        let right: Vec<G2Affine> =
            (0..70).map(|_| (G2Projective::generator() * Scalar::random(OsRng)).to_affine()).collect();
        for count in [1, 2, TOGETHER, 70] {
            let mut expected = blst_fp12::default();
            let mut factor = blst_fp12::default();
            for (index, (left, right)) in left.iter().zip(&right).take(count).enumerate() {
                // SAFETY: see the module's text.
                unsafe {
                    blst::blst_miller_loop(&mut factor, right.as_ref(), left.as_ref());
                    let whole = expected;
                    if index == 0 {
                        expected = factor;
                    } else {
                        blst::blst_fp12_mul(&mut expected, &whole, &factor);
                    }
                }
            }
            let made = Product::in_group(&left[..count], &right[..count]).unwrap();
            let [expected, made] = [expected, made.0].map(|product| {
                let mut result = blst_fp12::default();
                // SAFETY: see the module's text.
                unsafe { blst::blst_final_exp(&mut result, &product) };
                result
            });
            assert!(expected == made, "{count} pairs");
        }
    }

    fn times(point: &G2Affine, factor: &[u8]) -> G2Affine {
        let mut product = G2Projective::identity();
        for bit in factor.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)) {
            product = product.double();
            if bit == 1 {
                product += point;
            }
        }
        product.to_affine()
    }

    /// Points of the twist by small coordinates, and what is left of them without their part in the group.
    fn outside() -> impl Iterator<Item = [G2Affine; 2]> {
        let mut order = (-Scalar::ONE).to_bytes_be();
        order[31] += 1;
        (0..=255).filter_map(move |x| {
            let mut bytes = [0; 96];
            (bytes[0], bytes[95]) = (0x80, x);
            G2::uncompress(&bytes).map(|point| [point, times(&point, &order)])
        })
    }

    fn check(point: G2Affine) {
        let (left, inside) = (G1Affine::generator(), G2Affine::generator());
        let expected = G2::in_group(&point);
        assert_eq!(Product::in_group(&[left], &[point]).is_some(), expected);
        assert_eq!(Product::in_group(&[left; 3], &[inside, point, inside]).is_some(), expected);
    }

    #[test]
    fn points_outside_the_group_are_found() {
        let mut seen = 0;
        for [point, small] in outside() {
            let inside = (G2Affine::generator() * Scalar::random(OsRng)).to_affine();
            [point, small, (G2Projective::from(small) + inside).to_affine(), inside]
                .into_iter()
                .for_each(check);
            assert!(!G2::in_group(&small));
            seen += 1;
        }
        assert!(seen > 100, "half of all coordinates are of points");
    }

    /// Of order 13: the loop adds the point to twelve times itself.
    #[test]
    fn a_point_that_meets_an_exception_is_found() {
        // The twist's points are 169 times this times the group's order.
        const REST: [u8; 63] = [
            0x08, 0xd5, 0xfc, 0x75, 0x22, 0xf6, 0xc4, 0xd5, 0xa3, 0xc5, 0x66, 0x35, 0x41, 0xd6, 0x8b, 0x60,
            0xa5, 0xf9, 0xbd, 0xc2, 0x50, 0x55, 0x5d, 0x81, 0xbe, 0x2a, 0x9b, 0x0c, 0x64, 0x83, 0x04, 0x5a,
            0x5b, 0x21, 0x3d, 0xcb, 0x71, 0x08, 0x59, 0x45, 0xe0, 0xae, 0xf2, 0x9c, 0x5e, 0x86, 0x29, 0xed,
            0xf4, 0x04, 0x6d, 0xb8, 0x00, 0xa8, 0x37, 0x33, 0x36, 0xb3, 0x15, 0x09, 0x41, 0xcf, 0xdd,
        ];
        let mut seen = 0;
        for [_, small] in outside().take(20) {
            let mut point = times(&small, &REST);
            let again = times(&point, &[13]);
            if !bool::from(again.is_identity()) {
                point = again;
            }
            if !bool::from(point.is_identity()) {
                assert!(bool::from(times(&point, &[13]).is_identity()));
                let (_, inside) = miller_loop(&[Pair::new(G1Affine::generator().as_ref(), point.as_ref())]);
                assert!(!inside);
                check(point);
                seen += 1;
            }
        }
        assert!(seen > 0);
    }
}
