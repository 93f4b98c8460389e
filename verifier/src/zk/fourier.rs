//! Polynomials on the powers of a root of unity: what a proof needs to divide by the polynomial that is zero on all
//! constraints.
//!
//! A transform with decimation in frequency leaves its result in bit-reversed order, one with decimation in time
//! takes it so: going there and back needs no reordering. Halves are transformed one after the other down to what a
//! cache holds, on as many threads as the current rayon pool has.

use blstrs::Scalar;
use ff::{Field, PrimeField};
use rayon::prelude::*;

/// Elements below which a transform stays on its thread.
const SERIAL: usize = 1 << 11;

/// The `2^log` powers of a root of unity, and the coset of the field's generator beside them.
#[derive(Debug)]
pub(super) struct Domain {
    log: u32,
    /// Powers of the root up to its half turn.
    twiddles: Vec<Scalar>,
    inverse_twiddles: Vec<Scalar>,
    /// `g^i / size` at the bit-reversed place of `i`.
    to_coset: Vec<Scalar>,
    /// `g^-i / (size · (g^size - 1))`, likewise: back from the coset, divided by what vanishes on the domain.
    from_coset: Vec<Scalar>,
}

impl Domain {
    /// The smallest domain of at least `constraints` elements (at least 2), or `None` if the field has none so large.
    pub(super) fn new(constraints: usize) -> Option<Domain> {
        let log = constraints.max(2).checked_next_power_of_two()?.trailing_zeros();
        if log >= Scalar::S {
            return None;
        }
        let size = 1usize << log;
        let root = Domain::root(log);
        let generator = Scalar::MULTIPLICATIVE_GENERATOR;
        let inverse = |value: Scalar| value.invert().unwrap_or(Scalar::ZERO);
        let scale = inverse(Scalar::from(size as u64));
        let vanishing = inverse(generator.pow_vartime([size as u64]) - Scalar::ONE);
        Some(Domain {
            log,
            twiddles: powers(Scalar::ONE, root, size / 2),
            inverse_twiddles: powers(Scalar::ONE, inverse(root), size / 2),
            to_coset: reversed(&powers(scale, generator, size), log),
            from_coset: reversed(&powers(scale * vanishing, inverse(generator), size), log),
        })
    }

    /// The primitive root of unity of order `2^log`.
    pub(super) fn root(log: u32) -> Scalar {
        (log..Scalar::S).fold(Scalar::ROOT_OF_UNITY, |root, _| root.square())
    }

    pub(super) fn size(&self) -> usize {
        1 << self.log
    }

    /// Coefficients of `(a·b - c) / z`, where `a`, `b`, `c` are given by their values on the domain, where `a·b - c`
    /// vanishes, and `z` is zero there and nowhere else. The last, always zero, is left out.
    pub(super) fn quotient(&self, a: Vec<Scalar>, b: Vec<Scalar>, c: Vec<Scalar>) -> Vec<Scalar> {
        let [mut a, b, c] = [a, b, c].map(|mut values| {
            values.resize(self.size(), Scalar::ZERO);
            self.frequency(&mut values, &self.inverse_twiddles);
            scale(&mut values, &self.to_coset);
            self.time(&mut values, &self.twiddles);
            values
        });
        a.par_iter_mut().zip(&b).zip(&c).for_each(|((a, b), c)| *a = *a * b - c);
        self.frequency(&mut a, &self.inverse_twiddles);
        scale(&mut a, &self.from_coset);
        let mut coefficients = reversed(&a, self.log);
        coefficients.pop();
        coefficients
    }

    /// The values at `point` of the polynomials that are one at one element of the domain and zero at the others.
    /// `None` if the point is in the domain.
    pub(super) fn lagrange(&self, point: Scalar) -> Option<Vec<Scalar>> {
        let vanishing = point.pow_vartime([self.size() as u64]) - Scalar::ONE;
        let scale = vanishing * Scalar::from(self.size() as u64).invert().into_option()?;
        let roots = powers(Scalar::ONE, Domain::root(self.log), self.size());
        let mut differences: Vec<Scalar> = roots.iter().map(|root| point - root).collect();
        invert_all(&mut differences)?;
        Some(differences.iter().zip(&roots).map(|(inverse, root)| *inverse * root * scale).collect())
    }

    fn frequency(&self, values: &mut [Scalar], twiddles: &[Scalar]) {
        decimate_frequency(values, twiddles, 1);
    }

    fn time(&self, values: &mut [Scalar], twiddles: &[Scalar]) {
        decimate_time(values, twiddles, 1);
    }
}

/// `first · ratio^i` for `count` of them.
fn powers(first: Scalar, ratio: Scalar, count: usize) -> Vec<Scalar> {
    std::iter::successors(Some(first), |power| Some(*power * ratio)).take(count).collect()
}

/// Inverts all by one inversion; `None` if one is zero.
fn invert_all(values: &mut [Scalar]) -> Option<()> {
    let mut product = Scalar::ONE;
    let before: Vec<Scalar> = values
        .iter()
        .map(|value| {
            let before = product;
            product *= value;
            before
        })
        .collect();
    let mut inverse = product.invert().into_option()?;
    for (value, before) in values.iter_mut().zip(before).rev() {
        let next = inverse * *value;
        *value = inverse * before;
        inverse = next;
    }
    Some(())
}

fn reversed(values: &[Scalar], log: u32) -> Vec<Scalar> {
    (0..values.len()).map(|index| values[index.reverse_bits() >> (usize::BITS - log)]).collect()
}

fn scale(values: &mut [Scalar], factors: &[Scalar]) {
    values.par_iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
}

/// Both halves, each with its part of the tree below, side by side where they are large.
fn halves(low: &mut [Scalar], high: &mut [Scalar], transform: impl Fn(&mut [Scalar]) + Sync) {
    if low.len() >= SERIAL {
        rayon::join(|| transform(low), || transform(high));
    } else {
        transform(low);
        transform(high);
    }
}

fn butterflies(
    low: &mut [Scalar],
    high: &mut [Scalar],
    twiddles: &[Scalar],
    stride: usize,
    butterfly: impl Fn(&mut Scalar, &mut Scalar, &Scalar) + Sync,
) {
    if low.len() >= SERIAL {
        let parts = low.par_chunks_mut(SERIAL).zip(high.par_chunks_mut(SERIAL)).enumerate();
        parts.for_each(|(part, (low, high))| {
            let twiddles = twiddles[part * SERIAL * stride..].iter().step_by(stride);
            low.iter_mut()
                .zip(high)
                .zip(twiddles)
                .for_each(|((low, high), twiddle)| butterfly(low, high, twiddle));
        });
    } else {
        let pairs = low.iter_mut().zip(high).zip(twiddles.iter().step_by(stride));
        pairs.for_each(|((low, high), twiddle)| butterfly(low, high, twiddle));
    }
}

fn decimate_frequency(values: &mut [Scalar], twiddles: &[Scalar], stride: usize) {
    if values.len() > 1 {
        let (low, high) = values.split_at_mut(values.len() / 2);
        butterflies(low, high, twiddles, stride, |low, high, twiddle| {
            let difference = *low - *high;
            *low += *high;
            *high = difference * twiddle;
        });
        halves(low, high, |half| decimate_frequency(half, twiddles, 2 * stride));
    }
}

fn decimate_time(values: &mut [Scalar], twiddles: &[Scalar], stride: usize) {
    if values.len() > 1 {
        let (low, high) = values.split_at_mut(values.len() / 2);
        halves(low, high, |half| decimate_time(half, twiddles, 2 * stride));
        butterflies(low, high, twiddles, stride, |low, high, twiddle| {
            let product = *high * twiddle;
            *high = *low - product;
            *low += product;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::OsRng;

    fn evaluate(coefficients: &[Scalar], at: Scalar) -> Scalar {
        coefficients.iter().rev().fold(Scalar::ZERO, |sum, coefficient| sum * at + coefficient)
    }

    #[test]
    fn the_quotient_times_what_vanishes_is_the_difference() {
        for constraints in [1, 2, 5, 1 << 13] {
            let domain = Domain::new(constraints).unwrap();
            let values = || -> Vec<Scalar> { (0..constraints).map(|_| Scalar::random(OsRng)).collect() };
            let (a, b) = (values(), values());
            let c: Vec<Scalar> = a.iter().zip(&b).map(|(a, b)| a * b).collect();
            let point = Scalar::random(OsRng);
            let lagrange = domain.lagrange(point).unwrap();
            let at = |values: &[Scalar]| values.iter().zip(&lagrange).map(|(a, b)| a * b).sum::<Scalar>();
            let vanishing = point.pow_vartime([domain.size() as u64]) - Scalar::ONE;
            let difference = at(&a) * at(&b) - at(&c);
            let quotient = domain.quotient(a, b, c);
            assert_eq!(quotient.len(), domain.size() - 1);
            assert_eq!(evaluate(&quotient, point) * vanishing, difference);
        }
    }

    #[test]
    fn domains_end_where_the_field_has_no_roots() {
        assert!(Domain::new(1 << 32).is_none());
        assert!(Domain::new(usize::MAX).is_none());
        assert!(Domain::new(4).unwrap().lagrange(Scalar::ONE).is_none());
    }
}
