//! The largest of some numbers, its index, and the distances from it (`SPEC.md`, sections 7.10, 7.12 and 7.14).

use super::builder::{Builder, Number};

/// The least index of the largest along the middle of `[outer, length, inner]`.
pub(super) fn indices(builder: &mut Builder, x: &[Number], length: usize, inner: usize) -> Vec<Number> {
    (0..x.len() / length)
        .map(|output| {
            let first = output / inner * length * inner + output % inner;
            let elements: Vec<&Number> = (0..length).map(|index| &x[first + index * inner]).collect();
            builder.index_of_largest(&elements)
        })
        .collect()
}

impl Builder {
    /// The largest of at least one number: for each but the first, a comparison and a selection.
    pub(super) fn largest<'a>(&mut self, numbers: impl IntoIterator<Item = &'a Number>) -> Number {
        let mut numbers = numbers.into_iter();
        let mut largest = numbers.next().expect("the loader has found an element for each place").clone();
        for number in numbers {
            let keep = self.is_not_less(&largest, number);
            largest = self.larger(&keep, &largest, number);
        }
        largest
    }

    /// The least index of the largest: for each number but the first, a comparison, and before the last a selection of
    /// the number and after the first one of the index.
    fn index_of_largest(&mut self, numbers: &[&Number]) -> Number {
        let mut largest = numbers[0].clone();
        let mut index = Number::constant(0);
        for (candidate, number) in numbers.iter().enumerate().skip(1) {
            // Of two that are equal the first stays.
            let keep = self.is_not_less(&largest, number);
            index = self.select(&keep, &index, &Number::constant(candidate as i128));
            if candidate + 1 < numbers.len() {
                largest = self.larger(&keep, &largest, number);
            }
        }
        index
    }

    fn is_not_less(&mut self, a: &Number, b: &Number) -> Number {
        self.at_least(&a.minus(b), 0)
    }

    /// The larger of two of which `keep` tells whether it is `a`.
    fn larger(&mut self, keep: &Number, a: &Number, b: &Number) -> Number {
        self.select(keep, a, b).within(a.low.max(b.low), i128::MAX)
    }

    /// How far below the largest each number is. The caller must prove each of them not to be negative; that one of them
    /// is zero is proven here, by one constraint for each but the first. Both together make the largest the largest.
    pub(super) fn distances(&mut self, numbers: &[Number]) -> Vec<Number> {
        if let [_] = numbers {
            return vec![Number::constant(0)];
        }
        let most = |of: fn(&Number) -> i128| numbers.iter().map(of).max().expect("at least one number");
        let (low, high) = (most(|x| x.low), most(|x| x.high));
        if low == high {
            // A constant that no other number exceeds.
            return numbers.iter().map(|number| Number::constant(low).minus(number)).collect();
        }
        let largest = self.variable(most(|x| x.value), low, high);
        let distances: Vec<Number> = numbers.iter().map(|number| largest.minus(number)).collect();
        self.enforce_one_is_zero(&distances);
        distances
    }
}
