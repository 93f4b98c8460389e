//! Magnitudes of a tensor over the calibration rows, and the bounds that are taken from them.

use std::collections::BTreeMap;

/// Bits of the mantissa that tell bins apart: 32 bins for each power of two.
const MANTISSA_BITS: u32 = 5;
const SHIFT: u32 = f64::MANTISSA_DIGITS - 1 - MANTISSA_BITS;
/// Bits of a tensor's elements, with which a bound's rounding is judged.
const ELEMENT_BITS: i32 = 15;
/// A bound is lowered to a 256th of the largest magnitude at most.
const HALVINGS: i32 = 8;

/// Counts by magnitude, in bins of equal ratio.
#[derive(Debug, Clone, Default)]
pub(super) struct Histogram(BTreeMap<u64, u64>);

impl Histogram {
    pub(super) fn add(&mut self, value: f64) {
        *self.0.entry(value.abs().to_bits() >> SHIFT).or_default() += 1;
    }

    fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Lower and upper end of each bin, and its count.
    fn bins(&self) -> impl Iterator<Item = (f64, f64, f64)> {
        let edge = |bin: u64| f64::from_bits(bin << SHIFT);
        self.0.iter().map(move |(&bin, &count)| (edge(bin), edge(bin + 1), count as f64))
    }

    /// A bound that the share `share` of the magnitudes keeps, and that is within a 32nd of the least such.
    pub(super) fn percentile(&self, share: f64) -> f64 {
        let wanted = share * self.total() as f64;
        let mut below = 0.0;
        for (_, upper, count) in self.bins() {
            below += count;
            if below >= wanted {
                return upper;
            }
        }
        0.0
    }

    /// The bound, of `largest` and its halves, with the least mean square of saturation and rounding together, where a
    /// tensor is `headroom` times as wide as its bound.
    pub(super) fn least_mean_square(&self, largest: f64, headroom: f64) -> f64 {
        let total = self.total() as f64;
        let error = |bound: f64| {
            let most = bound * headroom;
            let unit = most / f64::from(ELEMENT_BITS).exp2();
            let beyond = |(lower, _, count): (f64, f64, f64)| count * (lower - most).max(0.0).powi(2);
            self.bins().map(beyond).sum::<f64>() + total * unit * unit / 12.0
        };
        let bounds = (0..=HALVINGS).map(|halvings| largest / f64::from(halvings).exp2());
        bounds.min_by(|a, b| error(*a).total_cmp(&error(*b))).unwrap_or(largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = f64>) -> Histogram {
        let mut histogram = Histogram::default();
        values.into_iter().for_each(|value| histogram.add(value));
        histogram
    }

    #[test]
    fn a_percentile_leaves_the_outliers_out() {
        let histogram = of((1..=10_000).map(|i| f64::from(i) / 10_000.0).chain([-500.0]));
        let bound = histogram.percentile(0.999);
        assert!((0.999..0.999 * (1.0 + 1.0 / 16.0)).contains(&bound), "{bound}");
        assert!(histogram.percentile(1.0) >= 500.0);
        assert_eq!(Histogram::default().percentile(0.5), 0.0);
    }

    #[test]
    fn the_least_mean_square_saturates_only_what_costs_less_than_it_brings() {
        let even = of((0..1000).map(f64::from));
        assert_eq!(even.least_mean_square(999.0, 1.0), 999.0);
        // A million of small values round better at half the scale, which outweighs one slight saturation.
        let mut outlier = of([4.0]);
        *outlier.0.entry(0.5f64.to_bits() >> SHIFT).or_default() += 1 << 50;
        assert!(outlier.least_mean_square(4.0, 1.0) < 4.0);
        // With headroom even the outlier fits half the bound.
        assert_eq!(of([4.0]).least_mean_square(4.0, 2.0), 2.0);
    }
}
