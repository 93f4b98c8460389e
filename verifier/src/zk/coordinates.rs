//! Sums of many lists of points at once, by their coordinates.
//!
//! Two points are added by their coordinates with one inversion and three multiplications. Additions that do not wait
//! for each other share an inversion, for three multiplications more each: six in all, where adding a point to a sum
//! that has no inversion yet (projective) takes ten. So every list is halved, pair by pair, until it is one point.

use super::field::Field;

/// Additions that share an inversion, which takes the time of some hundred multiplications: as many as a second-level
/// cache holds.
const SHARING: usize = 512;

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

/// The sum of each list of points. Lists follow each other: the first is of the points 0 to `ends[0] - 1`, which `point`
/// writes where it is told.
pub(super) fn sums<F: Field>(
    ends: &[usize],
    point: impl Fn(usize, &mut Coordinates<F>),
) -> Vec<Coordinates<F>> {
    let mut additions = Additions::new();
    // Where what is left of each list begins, and how many points that are.
    let mut lists = Vec::with_capacity(ends.len());
    let (mut from, mut room) = (0, 0);
    for &end in ends {
        let count = (end - from).div_ceil(2);
        lists.push((room, count));
        room += count;
        from = end;
    }
    let mut left = vec![Coordinates::default(); room];
    from = 0;
    for (&end, &(start, count)) in ends.iter().zip(&lists) {
        let pairs = (end - from) / 2;
        for pair in 0..pairs {
            let (one, other) = additions.pair(start + pair, &mut left);
            point(from + 2 * pair, one);
            point(from + 2 * pair + 1, other);
        }
        if count > pairs {
            point(end - 1, &mut left[start + pairs]);
        }
        from = end;
    }
    additions.finish(&mut left);
    let mut longer: Vec<usize> = (0..lists.len()).filter(|&list| lists[list].1 > 1).collect();
    while !longer.is_empty() {
        for &list in &longer {
            let (start, count) = lists[list];
            // Sums go where points were that are in pairs already.
            for pair in 0..count / 2 {
                let (one, other) = additions.pair(start + pair, &mut left);
                *one = left[start + 2 * pair];
                *other = left[start + 2 * pair + 1];
            }
            if count % 2 == 1 {
                left[start + count / 2] = left[start + count - 1];
            }
            lists[list].1 = count.div_ceil(2);
        }
        additions.finish(&mut left);
        longer.retain(|&list| lists[list].1 > 1);
    }
    lists
        .iter()
        .map(|&(start, count)| if count == 0 { Coordinates::default() } else { left[start] })
        .collect()
}

/// Additions that wait for an inversion.
struct Additions<F> {
    pairs: Vec<(Coordinates<F>, Coordinates<F>)>,
    /// The place of each pair's sum.
    places: Vec<usize>,
    /// What each pair divides by.
    divisors: Vec<F>,
    /// The product of what all pairs before each divide by, then the inverse of what it divides by.
    inverses: Vec<F>,
}

impl<F: Field> Additions<F> {
    fn new() -> Additions<F> {
        Additions {
            pairs: vec![Default::default(); SHARING],
            places: Vec::with_capacity(SHARING),
            divisors: vec![F::default(); SHARING],
            inverses: vec![F::one(); SHARING + 1],
        }
    }

    /// Two points whose sum is to be put at `place` of `sums`, by a later call of this function or by [`Self::finish`].
    #[inline]
    fn pair(
        &mut self,
        place: usize,
        sums: &mut [Coordinates<F>],
    ) -> (&mut Coordinates<F>, &mut Coordinates<F>) {
        if self.places.len() == SHARING {
            self.finish(sums);
        }
        let (one, other) = &mut self.pairs[self.places.len()];
        self.places.push(place);
        (one, other)
    }

    fn finish(&mut self, sums: &mut [Coordinates<F>]) {
        let count = self.places.len();
        if count == 0 {
            return;
        }
        for (index, (one, other)) in self.pairs[..count].iter().enumerate() {
            let divisor = &mut self.divisors[index];
            set_divisor(divisor, one, other);
            let [before, product] = &mut self.inverses[index..index + 2] else {
                unreachable!("a slice of two")
            };
            product.set_product(before, divisor);
        }
        let mut inverse = self.inverses[count].inverse();
        for (index, place) in self.places.drain(..).enumerate().rev() {
            self.inverses[index].multiply(&inverse);
            inverse.multiply(&self.divisors[index]);
            let (one, other) = &self.pairs[index];
            set_sum(&mut sums[place], one, other, &self.inverses[index]);
        }
        self.inverses[0] = F::one();
    }
}

/// What the slope of the line through both points is divided by; one where there is no such line, or none is needed.
#[inline]
fn set_divisor<F: Field>(divisor: &mut F, one: &Coordinates<F>, other: &Coordinates<F>) {
    if one.is_identity() || other.is_identity() {
        *divisor = F::one();
    } else if one.x != other.x {
        divisor.set_difference(&other.x, &one.x);
    } else if one.y == other.y && one.y != F::default() {
        *divisor = one.y.plus(&one.y);
    } else {
        *divisor = F::one();
    }
}

/// The sum of both points, with the inverse of their [divisor](set_divisor).
#[inline]
fn set_sum<F: Field>(sum: &mut Coordinates<F>, one: &Coordinates<F>, other: &Coordinates<F>, inverse: &F) {
    if one.is_identity() {
        *sum = *other;
        return;
    }
    if other.is_identity() {
        *sum = *one;
        return;
    }
    let mut slope = F::default();
    if one.x != other.x {
        slope.set_difference(&other.y, &one.y);
    } else if one.y == other.y && one.y != F::default() {
        let square = one.x.square();
        slope = square.plus(&square).plus(&square);
    } else {
        *sum = Coordinates::default();
        return;
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
    use blstrs::Scalar;
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
        check::<G1>(&[vec![1; 3 * SHARING], vec![-100; SHARING], vec![]]);
    }
}
