//! Sums of many lists of points at once, by their coordinates.
//!
//! Two points are added by their coordinates with one inversion and three multiplications. Additions that do not wait
//! for each other share an inversion, for three multiplications more each: six in all, where adding a point to a sum
//! that has no inversion yet (projective) takes ten. So every list is halved, pair by pair, until it is one point.

use super::field::Field;

/// Additions that share an inversion, which takes the time of some hundred multiplications: so many that what waits,
/// 148 KiB in G1 and 292 KiB in G2, stays in a second-level cache.
const SHARING: usize = 512;
/// Points of the lists that are halved together. What is left of them after the first time, 48 bytes a point in G1 and 96
/// in G2, is read and written again and again.
const TOGETHER: usize = 1 << 13;

/// A point by its coordinates; both are zero of the identity, which has none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C)]
pub(super) struct Coordinates<F> {
    pub(super) x: F,
    pub(super) y: F,
}

impl<F: Field> Coordinates<F> {
    fn is_identity(&self) -> bool {
        *self == Self::default()
    }
}

/// Tells the processor that the point will be read soon; where there is no such instruction, nothing.
#[inline]
pub(super) fn will_read<F>(point: &Coordinates<F>) {
    #[cfg(target_arch = "x86_64")]
    for byte in (0..size_of::<Coordinates<F>>()).step_by(64).chain([size_of::<Coordinates<F>>() - 1]) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the byte is of the point.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(point).cast::<i8>().add(byte)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = point;
}

/// The sum of each list of points. Lists follow each other: the first is of the points 0 to `ends[0] - 1`. `point` writes
/// a point where it is told; it is called once for each, in order.
pub(super) fn sums<F: Field>(
    ends: &[usize],
    point: impl Fn(usize, &mut Coordinates<F>),
) -> Vec<Coordinates<F>> {
    let mut sums = Vec::with_capacity(ends.len());
    let mut additions = Additions::new(ends.last().map_or(0, |points| SHARING.min(points / 2)));
    let mut left = Vec::new();
    let mut from = 0;
    while sums.len() < ends.len() {
        let ends = &ends[sums.len()..];
        let count = ends.partition_point(|end| end - from <= TOGETHER).max(1);
        halve(from, &ends[..count], &point, &mut left, &mut additions, &mut sums);
        from = ends[count - 1];
    }
    sums
}

/// [`sums`] of some lists, the first of which begins with the point `from`. In `left` is what there is left of them.
fn halve<F: Field>(
    mut from: usize,
    ends: &[usize],
    point: impl Fn(usize, &mut Coordinates<F>),
    left: &mut Vec<Coordinates<F>>,
    additions: &mut Additions<F>,
    sums: &mut Vec<Coordinates<F>>,
) {
    // Where what is left of each list begins, and how many points that are.
    let mut lists = Vec::with_capacity(ends.len());
    let (mut before, mut room) = (from, 0);
    for &end in ends {
        let count = (end - before).div_ceil(2);
        lists.push((room, count));
        room += count;
        before = end;
    }
    left.clear();
    left.resize(room, Coordinates::default());
    for (&end, &(start, count)) in ends.iter().zip(&lists) {
        let pairs = (end - from) / 2;
        for pair in 0..pairs {
            let (one, other) = additions.add_into(start + pair, left);
            point(from + 2 * pair, one);
            point(from + 2 * pair + 1, other);
        }
        if count > pairs {
            point(end - 1, &mut left[start + pairs]);
        }
        from = end;
    }
    additions.finish(left);
    let mut longer: Vec<usize> = (0..lists.len()).filter(|&list| lists[list].1 > 1).collect();
    while !longer.is_empty() {
        for &list in &longer {
            let (start, count) = lists[list];
            // Sums go where points were that are in pairs already.
            for pair in 0..count / 2 {
                let (one, other) = additions.add_into(start + pair, left);
                *one = left[start + 2 * pair];
                *other = left[start + 2 * pair + 1];
            }
            if count % 2 == 1 {
                left[start + count / 2] = left[start + count - 1];
            }
            lists[list].1 = count.div_ceil(2);
        }
        additions.finish(left);
        longer.retain(|&list| lists[list].1 > 1);
    }
    sums.extend(
        lists.iter().map(|&(start, count)| if count == 0 { Coordinates::default() } else { left[start] }),
    );
}

/// Additions that wait for an inversion.
struct Additions<F> {
    /// What to add; the first of them wait.
    pairs: Vec<(Coordinates<F>, Coordinates<F>)>,
    /// Of each that waits, the place of the sum and its line.
    waiting: Vec<(usize, Line)>,
    /// What each pair divides by.
    divisors: Vec<F>,
    /// The product of what all pairs before each divide by, then the inverse of what it divides by.
    inverses: Vec<F>,
}

/// The line on which the sum of two points lies.
#[derive(Clone, Copy)]
enum Line {
    /// Through both.
    Chord,
    /// Through one, which is the other as well.
    Tangent,
    /// None is needed: the points are opposite, or one is the identity.
    None,
}

impl<F: Field> Additions<F> {
    /// Room for so many that wait.
    fn new(most: usize) -> Additions<F> {
        Additions {
            pairs: vec![Default::default(); most],
            waiting: Vec::with_capacity(most),
            divisors: vec![F::default(); most],
            inverses: vec![F::one(); most + 1],
        }
    }

    /// Where to write two points whose sum is to be put at `place` of `sums`. It is there after [`Self::finish`], not
    /// before a later call of this function.
    #[inline]
    fn add_into(
        &mut self,
        place: usize,
        sums: &mut [Coordinates<F>],
    ) -> (&mut Coordinates<F>, &mut Coordinates<F>) {
        if self.waiting.len() == self.pairs.len() {
            self.finish(sums);
        }
        let (one, other) = &mut self.pairs[self.waiting.len()];
        self.waiting.push((place, Line::None));
        (one, other)
    }

    fn finish(&mut self, sums: &mut [Coordinates<F>]) {
        let count = self.waiting.len();
        if count == 0 {
            return;
        }
        for (index, ((_, line), (one, other))) in self.waiting.iter_mut().zip(&self.pairs).enumerate() {
            let divisor = &mut self.divisors[index];
            *line = set_divisor(divisor, one, other);
            let [before, product] = &mut self.inverses[index..index + 2] else {
                unreachable!("a slice of two")
            };
            product.set_product(before, divisor);
        }
        let mut inverse = self.inverses[count].inverse();
        for (index, (place, line)) in self.waiting.drain(..).enumerate().rev() {
            self.inverses[index].multiply(&inverse);
            inverse.multiply(&self.divisors[index]);
            let (one, other) = &self.pairs[index];
            set_sum(&mut sums[place], one, other, line, &self.inverses[index]);
        }
        self.inverses[0] = F::one();
    }
}

/// The line of both points, and what its slope is divided by, which is not zero.
#[inline]
fn set_divisor<F: Field>(divisor: &mut F, one: &Coordinates<F>, other: &Coordinates<F>) -> Line {
    let line = if one.is_identity() || other.is_identity() {
        Line::None
    } else if one.x != other.x {
        Line::Chord
    } else if one.y == other.y && one.y != F::default() {
        Line::Tangent
    } else {
        Line::None
    };
    match line {
        Line::Chord => divisor.set_difference(&other.x, &one.x),
        Line::Tangent => *divisor = one.y.plus(&one.y),
        Line::None => *divisor = F::one(),
    }
    line
}

/// The sum of both points, by their line and the inverse of what its slope is divided by.
#[inline]
fn set_sum<F: Field>(
    sum: &mut Coordinates<F>,
    one: &Coordinates<F>,
    other: &Coordinates<F>,
    line: Line,
    inverse: &F,
) {
    let mut slope = F::default();
    match line {
        Line::Chord => slope.set_difference(&other.y, &one.y),
        Line::Tangent => {
            let square = one.x.square();
            slope = square.plus(&square).plus(&square);
        }
        Line::None => {
            *sum = match (one.is_identity(), other.is_identity()) {
                (true, _) => *other,
                (_, true) => *one,
                _ => Coordinates::default(),
            };
            return;
        }
    }
    slope.multiply(inverse);
    sum.x.set_square(&slope);
    sum.x.subtract(&one.x);
    sum.x.subtract(&other.x);
    sum.y.set_difference(&one.x, &sum.x);
    sum.y.multiply(&slope);
    sum.y.subtract(&one.y);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zk::curve::{Curve, G1, G2};
    use crate::zk::field::Fp;
    use blstrs::{G1Affine, Scalar};
    use group::prime::PrimeCurveAffine as _;
    use proptest::prelude::*;

    /// Lists of small multiples of the generator, of either sign: many are equal, opposite or the identity.
    fn check<C: Curve>(lists: &[Vec<i8>]) {
        let point = |factor: i8| {
            let scalar = Scalar::from(u64::from(factor.unsigned_abs()));
            C::Affine::generator() * if factor < 0 { -scalar } else { scalar }
        };
        let all: Vec<C::Point> = lists.iter().flatten().map(|factor| point(*factor)).collect();
        let all = C::normalize(&all);
        let ends: Vec<usize> = lists
            .iter()
            .scan(0, |end, list| {
                *end += list.len();
                Some(*end)
            })
            .collect();
        let found = sums(&ends, |index, point| *point = *C::coordinates(&all[index]));
        assert_eq!(found.len(), lists.len());
        for (found, list) in found.iter().zip(lists) {
            let expected: C::Point = list.iter().map(|factor| point(*factor)).sum();
            assert!(C::at(found).to_curve() == expected, "{list:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn lists_are_summed_as_one_by_one(
            lists in prop::collection::vec(prop::collection::vec(-3i8..=3, 0..20), 0..60),
        ) {
            check::<G1>(&lists);
            check::<G2>(&lists[..lists.len() / 4]);
        }
    }

    #[test]
    fn points_without_a_slope_are_added() {
        check::<G1>(&[
            vec![],
            vec![0],
            vec![1, -1],
            vec![1, 1],
            vec![0, 5],
            vec![5, 0],
            vec![0, 0],
            vec![1, -1, 7],
        ]);
        check::<G1>(&[
            vec![1; 3 * SHARING],
            vec![],
            vec![-100; SHARING],
            vec![2; TOGETHER + 1],
            vec![3],
            vec![],
        ]);
        check::<G1>(&[]);
        check::<G2>(&[vec![], vec![]]);
    }

    #[test]
    fn points_outside_the_group_are_added() {
        let small = G1::at(&Coordinates { x: Fp::default(), y: Fp::one().plus(&Fp::one()) });
        assert!(bool::from(small.is_on_curve()) && !G1::in_group(&small), "(0, 2) is of order 3");
        let all = [small, small, small, -small, -small, small, G1Affine::identity()];
        let found = sums(&[2, 4, 7], |index, point| *point = *G1::coordinates(&all[index]));
        let found: Vec<_> = found.iter().map(G1::at).collect();
        assert_eq!(found, [-small, G1Affine::identity(), G1Affine::identity()]);
    }
}
