//! Timing of several runners that take turns.

use std::time::{Duration, Instant};

/// How long a turn is: long enough that the first call, whose code and data the other has pushed out of the caches, is
/// one of many where calls are short.
const TURN: Duration = Duration::from_millis(4);
/// Calls of each runner before the clock starts.
const WARM_UP: usize = 3;

/// Something that answers batches of rows.
pub(super) trait Runner {
    /// Answers the rows, which lie one after the other.
    fn run(&mut self, rows: &[f32]) -> anyhow::Result<()>;
}

/// How long each call took.
#[derive(Debug, Default)]
pub(super) struct Timings(Vec<f64>);

impl Timings {
    /// The time below which a share `q` of the calls stayed, in µs.
    pub(super) fn quantile_us(&self, q: f64) -> f64 {
        let place = ((self.0.len() as f64 * q) as usize).min(self.0.len() - 1);
        self.0[place]
    }
}

/// Lets the runners take turns over the batches, for `seconds` in all, and at least one turn each. Their timings, in
/// their order.
pub(super) fn time(
    runners: &mut [&mut dyn Runner],
    batches: &[&[f32]],
    seconds: f64,
) -> anyhow::Result<Vec<Timings>> {
    let mut timings: Vec<Timings> = runners.iter().map(|_| Timings::default()).collect();
    for runner in runners.iter_mut() {
        batches.iter().cycle().take(WARM_UP).try_for_each(|batch| runner.run(batch))?;
    }
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut places = vec![0; runners.len()];
    loop {
        for ((runner, timings), place) in runners.iter_mut().zip(&mut timings).zip(&mut places) {
            let mut start = Instant::now();
            let turn = start + TURN;
            while start < turn {
                runner.run(batches[*place % batches.len()])?;
                *place += 1;
                let done = Instant::now();
                timings.0.push((done - start).as_secs_f64() * 1e6);
                start = done;
            }
        }
        if Instant::now() >= end {
            break;
        }
    }
    timings.iter_mut().for_each(|timings| timings.0.sort_unstable_by(f64::total_cmp));
    Ok(timings)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counter(Vec<f32>);

    impl Runner for Counter {
        fn run(&mut self, rows: &[f32]) -> anyhow::Result<()> {
            self.0.push(rows[0]);
            Ok(())
        }
    }

    #[test]
    fn every_runner_goes_through_all_batches_and_its_calls_are_timed() {
        let (mut a, mut b) = (Counter(Vec::new()), Counter(Vec::new()));
        let batches: [&[f32]; 2] = [&[1.0], &[2.0]];
        let timings = time(&mut [&mut a, &mut b], &batches, 0.0).unwrap();
        for (timings, counter) in timings.iter().zip([a, b]) {
            assert_eq!(counter.0.len(), timings.0.len() + WARM_UP);
            assert_eq!(counter.0[WARM_UP..][..2], [1.0, 2.0]);
            assert!(timings.0.is_sorted());
        }
    }

    #[test]
    fn quantiles_are_of_the_sorted_calls() {
        let timings = Timings((0..100).map(f64::from).collect());
        assert_eq!(timings.quantile_us(0.5), 50.0);
        assert_eq!(timings.quantile_us(0.99), 99.0);
        assert_eq!(timings.quantile_us(1.0), 99.0);
    }
}
