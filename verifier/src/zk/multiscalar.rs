//! Sums of points times scalars, by Pippenger's method, one window a task, or several where there are few points.
//!
//! In each window of bits, the points go to buckets by their scalars' digits there. What a bucket holds is summed by
//! [`sums`], in six multiplications an addition; blst's own form of the method takes ten.
//!
//! A witness is mostly bits and small integers of either sign, and Pippenger's work grows with the longest scalar. So
//! scalars are sorted by length first: zeros cost nothing, ones an addition, short ones few windows. A negative
//! integer is a long scalar; its opposite with the opposite point is short.

use blstrs::Scalar;
use group::Group;
use group::prime::PrimeCurveAffine as _;
use rayon::prelude::*;

use super::coordinates::{Coordinates, sums, will_read};
use super::curve::Curve;
use super::field::Field as _;

/// Bits of the classes of scalars; those of one bit are added without a multiplication.
const CLASSES: [usize; 4] = [1, 16, 64, 255];
/// Fewer products than this join the next longer class: beside its own, their windows would cost more than they save.
const MINIMUM: usize = 64;
/// Fewer products than this cost less without buckets.
const FEW: usize = 32;
const _: () = assert!(FEW <= MINIMUM, "only the longest class has few");
/// Points that one task adds up, if there are enough: then inversions cost little beside additions.
const TASK: usize = 2048;
/// A point is fetched from memory so many before it is needed.
const AHEAD: usize = 32;
/// Top eight bytes of the group's order, as the scalars of small negative integers have them.
const TOP: [u8; 8] = 0x73ed_a753_299d_7d48_u64.to_le_bytes();

/// Points with scalars of at most `bits` bits.
struct Class<'p, A> {
    bits: usize,
    all: &'p [A],
    /// Indices of `all`; of a point whose opposite is meant, `!index`.
    points: Vec<i32>,
    /// Little-endian, `bits` rounded up to bytes each.
    scalars: Vec<u8>,
}

impl<A: Copy + std::ops::Neg<Output = A>> Class<'_, A> {
    fn new(bits: usize, all: &[A]) -> Class<'_, A> {
        Class { bits, all, points: Vec::new(), scalars: Vec::new() }
    }

    fn push(&mut self, point: i32, scalar: &[u8; 32]) {
        self.points.push(point);
        self.scalars.extend_from_slice(&scalar[..self.bits.div_ceil(8)]);
    }

    fn scalars(&self) -> impl Iterator<Item = &[u8]> {
        self.scalars.chunks_exact(self.bits.div_ceil(8))
    }

    /// Bits of the longest scalar.
    fn longest(&self) -> usize {
        self.scalars().map(length).max().unwrap_or_default()
    }

    fn unsigned(&self, point: i32) -> &A {
        &self.all[point.max(!point) as usize]
    }

    fn point(&self, point: i32) -> A {
        if point < 0 { -*self.unsigned(point) } else { *self.unsigned(point) }
    }
}

/// `Σ scalars[i] · points[i]`, on the threads of the current rayon pool.
///
/// # Panics
/// If there are not as many scalars as points, or 2^31 of them.
pub(super) fn sum_of_products<C: Curve>(points: &[C::Affine], scalars: &[Scalar]) -> C::Point {
    assert_eq!(points.len(), scalars.len(), "one scalar for each point");
    assert!(i32::try_from(points.len()).is_ok(), "fewer than 2^31 points");
    classify(points, scalars)
        .iter()
        .filter(|class| !class.points.is_empty())
        .map(|class| match class.points.len() {
            _ if class.bits == 1 => sum::<C>(class),
            ..FEW => with_shared_doublings::<C>(class),
            FEW.. => pippenger::<C>(class),
        })
        .sum()
}

fn classify<'p, A: Copy + std::ops::Neg<Output = A>>(
    points: &'p [A],
    scalars: &[Scalar],
) -> Vec<Class<'p, A>> {
    let mut classes: Vec<Class<A>> = CLASSES.iter().map(|&bits| Class::new(bits, points)).collect();
    for (mut point, scalar) in (0i32..).zip(scalars) {
        let mut bytes = scalar.to_bytes_le();
        if bytes[24..] == TOP {
            let opposite = (-scalar).to_bytes_le();
            if length(&opposite) <= 64 {
                (point, bytes) = (!point, opposite);
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
            let short = std::mem::replace(&mut classes[index], Class::new(CLASSES[index], points));
            for (&point, scalar) in short.points.iter().zip(short.scalars()) {
                let mut bytes = [0; 32];
                bytes[..scalar.len()].copy_from_slice(scalar);
                classes[index + 1].push(point, &bytes);
            }
        }
    }
    classes
}

/// Bits up to the highest that is set.
fn length(bytes: &[u8]) -> usize {
    let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
    let Some(top) = bytes.len().checked_sub(zeros + 1) else { return 0 };
    8 * (top + 1) - bytes[top].leading_zeros() as usize
}

fn sum<C: Curve>(class: &Class<C::Affine>) -> C::Point {
    let sum = |points: &[i32]| {
        let sums = sums(&[points.len()], |place, to| *to = *C::coordinates(&class.point(points[place])));
        C::at(&sums[0]).to_curve()
    };
    class.points.par_chunks(TASK).map(sum).sum()
}

/// Sums of few products share only doublings.
fn with_shared_doublings<C: Curve>(class: &Class<C::Affine>) -> C::Point {
    const WIDTH: usize = 4;
    const MULTIPLES: usize = 1 << (WIDTH - 1);
    let mut multiples = Vec::with_capacity(MULTIPLES * class.points.len());
    for point in class.points.iter().map(|point| class.point(*point)) {
        let mut multiple = C::Point::identity();
        multiples.extend((0..MULTIPLES).map(|_| {
            multiple += &point;
            multiple
        }));
    }
    let multiples = C::normalize(&multiples);
    (0..=class.longest() / WIDTH).rev().fold(C::Point::identity(), |sum, window| {
        let mut sum = (0..WIDTH).fold(sum, |sum, _| sum.double());
        for (scalar, multiples) in class.scalars().zip(multiples.chunks_exact(MULTIPLES)) {
            let digit = digit(scalar, window * WIDTH, WIDTH);
            if digit > 0 {
                sum += &multiples[digit as usize - 1];
            } else if digit < 0 {
                sum += &-multiples[digit.unsigned_abs() as usize - 1];
            }
        }
        sum
    })
}

fn pippenger<C: Curve>(class: &Class<C::Affine>) -> C::Point {
    // The width that costs least. Of n points a window adds up n less one for each of its 2^(width - 1) buckets, and
    // these twice: to their rows and to their columns.
    let bits = class.longest();
    let cost = |width: usize| (bits / width + 1) * (class.points.len() + (1 << (width - 1)));
    let width = (2..=16).min_by_key(|&width| cost(width)).expect("there are widths");
    let windows: Vec<usize> = (0..=bits / width).collect();
    let sums: Vec<C::Point> = windows
        .par_chunks(
            TASK.div_ceil(class.points.len()).min(windows.len().div_ceil(rayon::current_num_threads())),
        )
        .flat_map_iter(|windows| {
            let buckets = buckets::<C>(class, windows[0], windows.len(), width);
            weighted::<C>(&buckets, width)
        })
        .collect();
    sums.into_iter()
        .rev()
        .fold(C::Point::identity(), |sum, window| (0..width).fold(sum, |sum, _| sum.double()) + window)
}

/// For each of `windows` windows of `width` bits from the one numbered `first`, the sums of the points whose scalars
/// have the digit 1, 2, … there, less those with the opposite digit.
fn buckets<C: Curve>(
    class: &Class<C::Affine>,
    first: usize,
    windows: usize,
    width: usize,
) -> Vec<Coordinates<C::Field>> {
    let digits: Vec<i32> = (first..first + windows)
        .flat_map(|window| class.scalars().map(move |scalar| digit(scalar, window * width, width)))
        .collect();
    let bucket = |window: usize, digit: i32| {
        (digit.unsigned_abs() as usize).checked_sub(1).map(|bucket| (window << (width - 1)) + bucket)
    };
    // Of each digit that is not zero, the point and its bucket.
    let shares = || {
        digits.chunks_exact(class.points.len()).enumerate().flat_map(|(window, digits)| {
            class.points.iter().zip(digits).filter_map(move |(&point, &digit)| {
                Some((if digit < 0 { !point } else { point }, bucket(window, digit)?))
            })
        })
    };
    let mut ends = vec![0; windows << (width - 1)];
    shares().for_each(|(_, bucket)| ends[bucket] += 1);
    let mut total = 0;
    let mut next: Vec<usize> = Vec::with_capacity(ends.len());
    for end in &mut ends {
        next.push(total);
        total += *end;
        *end = total;
    }
    // Points in the order of their buckets.
    let mut order = vec![0; total];
    for (point, bucket) in shares() {
        order[next[bucket]] = point;
        next[bucket] += 1;
    }
    sums(&ends, |place, to| {
        // Points come from anywhere in memory.
        if let Some(&point) = order.get(place + AHEAD) {
            will_read(C::coordinates(class.unsigned(point)));
        }
        let point = order[place];
        *to = *C::coordinates(class.unsigned(point));
        to.y.negate_if(point < 0);
    })
}

/// The digit at the bits `from..from + width` of a little-endian number, from `-2^(width - 1)` to `2^(width - 1)`: a
/// digit whose highest bit is set is negative, and the one above it takes one more.
fn digit(number: &[u8], from: usize, width: usize) -> i32 {
    let below = from.saturating_sub(1);
    let mut word = [0; 4];
    let bytes = number.get(below / 8..).unwrap_or_default();
    let count = bytes.len().min(4);
    word[..count].copy_from_slice(&bytes[..count]);
    let bits = u32::from_le_bytes(word) >> (below % 8);
    // With the bit below the digit, which says whether the digit there was negative.
    let bits = (if from == 0 { bits << 1 } else { bits }) & ((2 << width) - 1);
    let digit = bits.div_ceil(2) as i32;
    if bits >> width == 1 { digit - (1 << width) } else { digit }
}

/// Of each window's `2^(width - 1)` buckets, `Σ (i + 1) · bucket[i]`. With `i = columns · row + column`, that is
/// `columns · Σ row · (its sum) + Σ (column + 1) · (its sum)`.
fn weighted<C: Curve>(buckets: &[Coordinates<C::Field>], width: usize) -> Vec<C::Point> {
    let (log_rows, log_columns) = ((width - 1) / 2, (width - 1).div_ceil(2));
    let (rows, columns) = (1 << log_rows, 1 << log_columns);
    let ends =
        |length: usize| -> Vec<usize> { (1..=buckets.len() / length).map(|list| list * length).collect() };
    let of_rows = sums(&ends(columns), |place, to| *to = buckets[place]);
    let of_columns = sums(&ends(rows), |place, to| {
        let (window, within) = (place >> (width - 1), place & (rows * columns - 1));
        *to = buckets[(window << (width - 1)) + (within % rows) * columns + within / rows];
    });
    of_rows
        .chunks_exact(rows)
        .zip(of_columns.chunks_exact(columns))
        .map(|(rows, columns)| {
            let above = (0..log_columns).fold(running::<C>(&rows[1..]), |sum, _| sum.double());
            above + running::<C>(columns)
        })
        .collect()
}

/// `Σ (i + 1) · points[i]`
fn running<C: Curve>(points: &[Coordinates<C::Field>]) -> C::Point {
    let (mut above, mut sum) = (C::Point::identity(), C::Point::identity());
    for point in points.iter().rev() {
        above += &C::at(point);
        sum += above;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zk::curve::{G1, G2};
    use blstrs::G1Affine;
    use ff::Field;
    use proptest::prelude::*;
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
        for count in [1, 2, 3, 8, FEW - 1, FEW, FEW + 1] {
            check::<G1>(&vec![Scalar::random(OsRng); count]);
            check::<G1>(&(0..count).map(|_| Scalar::random(OsRng)).collect::<Vec<_>>());
            check::<G2>(&vec![-Scalar::from(0x1_0001); count]);
        }
    }

    #[test]
    fn buckets_may_hold_equal_opposite_and_identity_points() {
        let point = |index: i64| G1Affine::generator() * Scalar::from((index % 3) as u64);
        for count in [40, 500, 3 * TASK as i64] {
            let points: Vec<_> = (0..count).map(point).collect();
            let scalar =
                |index: i64| Scalar::from(1 << 40) * Scalar::from((index % 5) as u64) - Scalar::from(7);
            let scalars: Vec<Scalar> = (0..count).map(scalar).collect();
            let naive: Scalar =
                (0..count).map(|index| Scalar::from((index % 3) as u64) * scalar(index)).sum();
            let found = sum_of_products::<G1>(&G1::normalize(&points), &scalars);
            assert!(found == G1Affine::generator() * naive, "{count} products");
        }
    }

    proptest! {
        #[test]
        fn digits_add_up_to_the_number(bytes: [u8; 8], width in 2..=16usize) {
            let number = i128::from(u64::from_le_bytes(bytes));
            let digits = (0..=64 / width).map(|place| (place * width, digit(&bytes, place * width, width)));
            let found: i128 = digits.clone().map(|(from, digit)| i128::from(digit) << from).sum();
            prop_assert_eq!(found, number);
            prop_assert!(digits.map(|(_, digit)| digit.unsigned_abs()).all(|digit| digit <= 1 << (width - 1)));
        }
    }

    #[test]
    fn length_counts_bits_up_to_the_highest() {
        let of = |value: u64| length(&Scalar::from(value).to_bytes_le());
        assert_eq!([of(0), of(1), of(2), of(255), of(256)], [0, 1, 2, 8, 9]);
        assert_eq!(length(&(-Scalar::ONE).to_bytes_le()), 255);
        assert_eq!(Group::is_identity(&sum_of_products::<G1>(&[], &[])).unwrap_u8(), 1);
    }
}
