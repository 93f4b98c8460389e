//! Whether many points of the curve are all in the prime-order group, for less than asking of each.
//!
//! The curve's points outside the group are told by a group whose smallest element order is 3. So if some point is outside,
//! a sum of the points with random coefficients -1, 0, 1 is outside with a chance of two thirds at least, whatever the
//! others are: 85 sums all miss it with a chance below 2^-134. Five sums are made at a time: points are first added up by
//! their five coefficients, which is one addition for each point. The five are the digits of a number from -121 to 121,
//! and opposite numbers share a bucket, to which the point or its opposite goes.

use blstrs::{G1Affine, G1Projective};
use group::Group;
use rand_core::{OsRng, RngCore};
use rayon::prelude::*;

use super::curve::{Curve, G1, sum_in_g1};

/// Sums made from one set of buckets.
const SUMS: u32 = 5;
const NUMBERS: usize = 3usize.pow(SUMS);
const LARGEST: usize = NUMBERS / 2;
/// Sets of buckets: `3^-(17 · 5) < 2^-134`.
const SETS: usize = 17;
/// For fewer points, buckets cost more than they save.
const FEW: usize = 256;

/// Whether all points are in G1. Runs on the threads of the current rayon pool.
pub(super) fn all_in_g1(points: &[G1Affine]) -> bool {
    if points.len() < FEW {
        return points.iter().all(G1::in_group);
    }
    (0..SETS).into_par_iter().all(|_| sums_are_inside(points))
}

fn sums_are_inside(points: &[G1Affine]) -> bool {
    let mut buckets = vec![G1Projective::identity(); LARGEST + 1];
    let mut numbers = Numbers { bytes: [0; 512], next: 512 };
    for point in points {
        let number = numbers.draw();
        if number >= LARGEST {
            buckets[number - LARGEST] += point;
        } else {
            buckets[LARGEST - number] += -point;
        }
    }
    // The lowest digit of `3q + d` is `d`, and the others are those of `q`. Of the number zero nothing is added up.
    while buckets.len() > 1 {
        let triples = || buckets[2..].as_chunks::<3>().0;
        let sum = triples().iter().fold(buckets[1], |sum, [minus, _, plus]| sum + plus - minus);
        if !sum_in_g1(&sum) {
            return false;
        }
        let rest = triples().iter().map(|[minus, zero, plus]| minus + zero + plus);
        buckets = std::iter::once(G1Projective::identity()).chain(rest).collect();
    }
    true
}

/// Random numbers below [`NUMBERS`].
struct Numbers {
    bytes: [u8; 512],
    next: usize,
}

impl Numbers {
    fn draw(&mut self) -> usize {
        loop {
            if self.next == self.bytes.len() {
                OsRng.fill_bytes(&mut self.bytes);
                self.next = 0;
            }
            let byte = usize::from(self.bytes[self.next]);
            self.next += 1;
            if byte < NUMBERS {
                return byte;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blstrs::Scalar;
    use ff::Field;

    /// A point of the curve that is not in the group, and one of order 3.
    fn outside() -> [G1Affine; 2] {
        let mut bytes = [0; 48];
        bytes[0] = 0x80;
        let found = (0..=255).find_map(|x| {
            bytes[47] = x;
            G1::uncompress(&bytes).filter(|point| !G1::in_group(point) && x > 0)
        });
        let mut order_3 = G1Affine::default();
        // SAFETY: reads six words, writes one coordinate. The point is (0, 2).
        unsafe { blst::blst_fp_from_uint64(&mut order_3.as_mut().y, [2u64, 0, 0, 0, 0, 0].as_ptr()) };
        [found.unwrap(), order_3]
    }

    #[test]
    fn one_point_outside_among_many_is_found_and_none_is_not() {
        let mut points: Vec<G1Affine> =
            (0..400).map(|_| G1Affine::from(G1Projective::generator() * Scalar::random(OsRng))).collect();
        assert!(all_in_g1(&points));
        assert!(all_in_g1(&points[..3]));
        for outside in outside() {
            assert!(!G1::in_group(&outside));
            let inside = std::mem::replace(&mut points[17], outside);
            assert!(!all_in_g1(&points));
            // Two that cancel in a plain sum.
            let other = std::mem::replace(&mut points[18], -outside);
            assert!(!all_in_g1(&points));
            (points[17], points[18]) = (inside, other);
        }
    }
}
