//! What a shard counts. Every number has one writer, its shard; readers see it a little late, never torn.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows. One thread writes it: a plain load and store, not an atomic addition.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning shard may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    /// Its value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Buckets of a [`Histogram`]: four to each power of two.
const BUCKETS: usize = 4 * 40;

/// A histogram of nanoseconds or of counts, with buckets no wider than a quarter of their value.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { Counter(AtomicU64::new(0)) }; BUCKETS], sum: Counter::default() }
    }
}

impl Histogram {
    /// Counts one value. Only the owning shard may call this.
    #[inline]
    pub fn record(&self, value: u64) {
        self.buckets[Self::bucket(value)].add(1);
        self.sum.add(value);
    }

    /// The sum of all values.
    pub fn sum(&self) -> u64 {
        self.sum.value()
    }

    /// For each power of two: the largest value below it, and how many values were not larger.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut total = 0;
        self.buckets.chunks(4).enumerate().map(move |(index, quarters)| {
            total += quarters.iter().map(Counter::value).sum::<u64>();
            (Self::upper_bound(4 * index + 3), total)
        })
    }

    fn bucket(value: u64) -> usize {
        if value < 4 {
            return value as usize;
        }
        let power = 63 - value.leading_zeros() as usize;
        let quarter = (value >> (power - 2)) as usize & 3;
        (4 * (power - 1) + quarter).min(BUCKETS - 1)
    }

    fn upper_bound(bucket: usize) -> u64 {
        if bucket < 4 {
            return bucket as u64;
        }
        let (power, quarter) = (bucket / 4 + 1, bucket as u64 % 4);
        ((4 + quarter + 1) << (power - 2)) - 1
    }
}

/// Everything one shard counts.
#[derive(Debug, Default)]
#[repr(align(128))] // A cache line pair of its own: no shard's counting disturbs another's.
#[allow(missing_docs)] // Where they are exported, each has a line of explanation.
pub struct ShardMetrics {
    pub datagrams_received: Counter,
    pub sends: Counter,
    pub send_errors: Counter,
    pub receive_buffers_exhausted: Counter,
    pub parks: Counter,
    pub connections_opened: Counter,
    pub connections_closed: Counter,
    pub connections_refused: Counter,
    pub backlog_overflows: Counter,
    pub requests: Counter,
    pub answers: Counter,
    pub refusals: [Counter; haca_wire::Status::ALL.len()],
    pub batches: Counter,
    pub batch_size: Histogram,
    /// From the packet being read to the answer being written, in nanoseconds.
    pub service_time: Histogram,
    /// Of one batch: execution, receipts, signature, encoding, in nanoseconds.
    pub run_time: Histogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_every_value_and_are_narrow() {
        let mut last = 0;
        for value in (0..2000).chain((11..41).flat_map(|p| [(1u64 << p) - 1, 1 << p, (1 << p) + 1])) {
            let bucket = Histogram::bucket(value);
            assert!(bucket >= last, "{value}");
            last = bucket;
            let upper = Histogram::upper_bound(bucket);
            assert!(value <= upper && upper <= value + value / 4 + 1, "{value} {upper}");
        }
        assert_eq!(Histogram::bucket(u64::MAX), BUCKETS - 1);
    }
}
