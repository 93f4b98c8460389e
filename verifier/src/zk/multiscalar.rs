//! Sums of points times scalars, by blst's Pippenger, one window a task.
//!
//! A witness is mostly bits and small integers of either sign, and Pippenger's work grows with the longest scalar. So
//! scalars are sorted by length first: zeros cost nothing, ones an addition, short ones few windows. A negative
//! integer is a long scalar; its opposite with the opposite point is short.

use blstrs::Scalar;
use group::Group;
use group::prime::PrimeCurveAffine;
use rayon::prelude::*;

use super::curve::Curve;

/// Bits of the classes of scalars; those of one bit are added without a multiplication.
const CLASSES: [usize; 4] = [1, 16, 64, 255];
/// Fewer products than this join the next longer class: a window's buckets cost as much as that many points.
const MINIMUM: usize = 64;
/// Fewer than this are multiplied one by one.
const FEW: usize = 4;
/// Top eight bytes of the group's order, as the scalars of small negative integers have them.
const TOP: [u8; 8] = 0x73ed_a753_299d_7d48_u64.to_le_bytes();

/// Points with scalars of at most `bits` bits.
struct Class<A> {
    bits: usize,
    points: Vec<A>,
    /// Little-endian, `bits` rounded up to bytes each.
    scalars: Vec<u8>,
}

impl<A> Class<A> {
    fn push(&mut self, point: A, scalar: &[u8; 32]) {
        self.points.push(point);
        self.scalars.extend_from_slice(&scalar[..self.bits.div_ceil(8)]);
    }
}

/// `Σ scalars[i] · points[i]`, on the threads of the current rayon pool.
///
/// # Panics
/// If there are not as many scalars as points.
pub(super) fn sum_of_products<C: Curve>(points: &[C::Affine], scalars: &[Scalar]) -> C::Point {
    assert_eq!(points.len(), scalars.len(), "one scalar for each point");
    classify(points, scalars)
        .iter()
        .map(|class| if class.bits == 1 { sum::<C>(&class.points) } else { pippenger::<C>(class) })
        .sum()
}

fn classify<A: Copy + std::ops::Neg<Output = A>>(points: &[A], scalars: &[Scalar]) -> Vec<Class<A>> {
    let mut classes: Vec<Class<A>> =
        CLASSES.iter().map(|&bits| Class { bits, points: Vec::new(), scalars: Vec::new() }).collect();
    for (&point, scalar) in points.iter().zip(scalars) {
        let mut bytes = scalar.to_bytes_le();
        let mut point = point;
        if bytes[24..] == TOP {
            let opposite = (-scalar).to_bytes_le();
            if length(&opposite) <= 64 {
                (point, bytes) = (-point, opposite);
            }
        }
        let length = length(&bytes);
        if length > 0 {
            let class = classes.iter_mut().find(|class| length <= class.bits);
            class.expect("the last class holds every scalar").push(point, &bytes);
        }
    }
    for index in 1..classes.len() - 1 {
        if classes[index].points.len() < MINIMUM {
            let short = std::mem::replace(
                &mut classes[index],
                Class { bits: CLASSES[index], points: Vec::new(), scalars: Vec::new() },
            );
            for (&point, scalar) in short.points.iter().zip(short.scalars.chunks_exact(short.bits / 8)) {
                let mut bytes = [0; 32];
                bytes[..scalar.len()].copy_from_slice(scalar);
                classes[index + 1].push(point, &bytes);
            }
        }
    }
    classes
}

/// Bits up to the highest that is set.
fn length(bytes: &[u8; 32]) -> usize {
    let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
    let Some(top) = bytes.len().checked_sub(zeros + 1) else { return 0 };
    8 * (top + 1) - bytes[top].leading_zeros() as usize
}

fn sum<C: Curve>(points: &[C::Affine]) -> C::Point {
    points.par_chunks(4096).map(C::sum).sum()
}

fn pippenger<C: Curve>(class: &Class<C::Affine>) -> C::Point {
    if class.points.len() < FEW {
        let scalars = class.scalars.chunks_exact(class.bits.div_ceil(8)).map(|bytes| {
            let mut padded = [0; 32];
            padded[..bytes.len()].copy_from_slice(bytes);
            Scalar::from_bytes_le(&padded).into_option().expect("they were made from scalars")
        });
        return class.points.iter().zip(scalars).map(|(point, scalar)| point.to_curve() * scalar).sum();
    }
    // The width that costs least: a window adds every point to a bucket, and each of 2^(width - 1) buckets twice.
    let cost = |width: usize| (class.bits / width + 1) * (class.points.len() + (1 << width));
    // Digits have signs: the highest is of fewer bits, to take what the one below carries.
    let widths = (2..=16).filter(|width| !class.bits.is_multiple_of(*width));
    let width = widths.min_by_key(|&width| cost(width)).expect("every class has such a width");
    let windows: Vec<C::Point> = (0..=class.bits / width)
        .into_par_iter()
        .map_init(
            || vec![0; C::scratch_words(width)],
            |scratch, window| {
                C::window(&class.points, &class.scalars, class.bits, window * width, width, scratch)
            },
        )
        .collect();
    windows
        .into_iter()
        .rev()
        .fold(C::Point::identity(), |sum, window| (0..width).fold(sum, |sum, _| sum.double()) + window)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zk::curve::{G1, G2};
    use ff::Field;
    use rand_core::OsRng;

    fn check<C: Curve>(scalars: &[Scalar]) {
        let mut point = C::Affine::generator().to_curve();
        let points: Vec<C::Point> = scalars
            .iter()
            .map(|_| {
                point = point.double() + C::Affine::generator().to_curve();
                point
            })
            .collect();
        let naive: C::Point = points.iter().zip(scalars).map(|(point, scalar)| *point * *scalar).sum();
        assert!(sum_of_products::<C>(&C::normalize(&points), scalars) == naive, "{} products", scalars.len());
    }

    #[test]
    fn every_length_and_sign_of_scalar_is_summed_as_by_hand() {
        let small = [0u64, 1, 2, 255, 65_535, 65_536, u64::MAX].map(Scalar::from);
        let mut scalars: Vec<Scalar> = small.iter().flat_map(|scalar| [*scalar, -scalar]).collect();
        scalars.extend((0..300).map(|index: u64| Scalar::from(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))));
        scalars.extend((0..200).map(|index: u64| -Scalar::from(index * 77)));
        scalars.extend((0..50).map(|_| Scalar::random(OsRng)));
        check::<G1>(&scalars);
        check::<G2>(&scalars[..120]);
        check::<G1>(&[]);
        (1..9).for_each(|count| check::<G1>(&vec![Scalar::random(OsRng); count]));
        (1..9).for_each(|count| check::<G2>(&vec![Scalar::from(0x1_0001); count]));
    }

    #[test]
    fn length_counts_bits_up_to_the_highest() {
        let of = |value: u64| length(&Scalar::from(value).to_bytes_le());
        assert_eq!([of(0), of(1), of(2), of(255), of(256)], [0, 1, 2, 8, 9]);
        assert_eq!(length(&(-Scalar::ONE).to_bytes_le()), 255);
        assert_eq!(Group::is_identity(&sum_of_products::<G1>(&[], &[])).unwrap_u8(), 1);
    }
}
