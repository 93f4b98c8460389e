//! Latencies of one run, warm-up left out.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::Nanos;

/// Longest latency told apart from longer ones. A run drains for less than this, so nothing real is clipped.
const LONGEST: Duration = Duration::from_secs(60);

/// Keeps what falls into the measured window `from..until`.
#[derive(Debug)]
pub(super) struct Recorder {
    from: Nanos,
    until: Nanos,
    latencies: Histogram<u64>,
    /// A latency and how often it came in a row, not in `latencies` yet: answers that arrive in one packet to requests
    /// that left in one packet share it, and a place in the histogram costs more to find than to compare.
    run: (u64, u64),
    answered: u64,
    unanswered: u64,
    /// Requests due before this are left out.
    left_out_before: Nanos,
    left_out: u64,
}

impl Recorder {
    pub(super) fn new(from: Nanos, until: Nanos) -> Self {
        let latencies = Histogram::new_with_bounds(1, Nanos::from(LONGEST).0, 3)
            .expect("1 ns to 60 s at three digits are valid bounds");
        Self {
            from,
            until,
            latencies,
            run: (0, 0),
            answered: 0,
            unanswered: 0,
            left_out_before: Nanos(0),
            left_out: 0,
        }
    }

    /// What was due before `now` and has no answer yet does not count: who measures was away.
    pub(super) fn leave_out_before(&mut self, now: Nanos) {
        self.left_out_before = now;
    }

    /// A request due at `intended` was answered at `now`.
    ///
    /// Its latency counts if it was due in the window; throughput counts it if its answer came in the window.
    pub(super) fn answered(&mut self, intended: Nanos, now: Nanos) {
        if self.window_holds(intended) {
            if intended < self.left_out_before {
                self.left_out += 1;
            } else {
                self.record(now.since(intended).max(1));
            }
        }
        if self.window_holds(now) {
            self.answered += 1;
        }
    }

    /// A request due at `intended` had no answer by `now`, when the run gave up.
    ///
    /// Leaving it out would hide the worst of the tail, so it counts with the time it has waited already.
    pub(super) fn unanswered(&mut self, intended: Nanos, now: Nanos) {
        if self.window_holds(intended) {
            self.record(now.since(intended).max(1));
            self.unanswered += 1;
        }
    }

    pub(super) fn finish(mut self) -> Measured {
        self.end_run();
        Measured {
            window: Duration::from_nanos(self.until.since(self.from)),
            latencies: self.latencies,
            answered: self.answered,
            unanswered: self.unanswered,
            left_out: self.left_out,
        }
    }

    fn record(&mut self, latency: u64) {
        if self.run.0 != latency {
            self.end_run();
            self.run = (latency, 0);
        }
        self.run.1 += 1;
    }

    fn end_run(&mut self) {
        let (latency, times) = self.run;
        if times > 0 {
            self.latencies.saturating_record_n(latency, times);
        }
    }

    fn window_holds(&self, at: Nanos) -> bool {
        (self.from..self.until).contains(&at)
    }
}

/// What one run measured.
#[derive(Debug)]
pub(crate) struct Measured {
    window: Duration,
    latencies: Histogram<u64>,
    answered: u64,
    unanswered: u64,
    left_out: u64,
}

impl Measured {
    /// Latency in microseconds at `quantile` (0.5 is the median); zero when nothing was measured.
    pub(crate) fn latency_us(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Answers per second within the measured window.
    pub(crate) fn per_second(&self) -> f64 {
        self.answered as f64 / self.window.as_secs_f64()
    }

    /// Requests due in the window that never got an answer.
    pub(crate) fn unanswered(&self) -> u64 {
        self.unanswered
    }

    /// The share of answered requests due in the window that has no part in the latencies, because the client was away.
    pub(crate) fn share_left_out(&self) -> f64 {
        self.left_out as f64 / (self.left_out + self.latencies.len()).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder() -> Recorder {
        Recorder::new(Nanos(1_000_000), Nanos(2_000_000))
    }

    #[test]
    fn warm_up_is_left_out() {
        let mut recorder = recorder();
        recorder.answered(Nanos(0), Nanos(900_000));
        recorder.answered(Nanos(1_000_000), Nanos(1_010_000));
        let measured = recorder.finish();
        assert_eq!(measured.latencies.len(), 1);
        assert_eq!(measured.per_second(), 1_000.0);
    }

    #[test]
    fn equal_latencies_in_a_row_count_each() {
        let mut recorder = recorder();
        for latency in [5, 5, 5, 7, 7, 5] {
            recorder.answered(Nanos(1_500_000), Nanos(1_500_000 + latency));
        }
        let latencies = recorder.finish().latencies;
        let counted = latencies.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value()));
        assert_eq!(counted.collect::<Vec<_>>(), [(5, 4), (7, 2)]);
    }

    #[test]
    fn an_answer_after_the_window_counts_as_latency_and_not_as_throughput() {
        let mut recorder = recorder();
        recorder.answered(Nanos(1_500_000), Nanos(3_500_000));
        let measured = recorder.finish();
        assert_eq!(measured.per_second(), 0.0);
        assert!((measured.latency_us(0.5) - 2_000.0).abs() < 2.0);
    }

    #[test]
    fn an_unanswered_request_shows_in_the_tail() {
        let mut recorder = recorder();
        for _ in 0..99 {
            recorder.answered(Nanos(1_500_000), Nanos(1_501_000));
        }
        recorder.unanswered(Nanos(1_500_000), Nanos(9_500_000));
        let measured = recorder.finish();
        assert_eq!(measured.unanswered(), 1);
        assert!(measured.latency_us(0.5) < 2.0);
        assert!(measured.latency_us(1.0) > 7_900.0);
    }
}
