//! When each request starts.

use std::collections::VecDeque;
use std::time::Duration;

use super::record::Recorder;
use super::{Measured, Nanos};

/// How long a run waits, after its window closed, for answers that are still due.
const DRAIN: Duration = Duration::from_secs(5);

/// How fast requests start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// As fast as the window of lanes × depth allows.
    Maximum,
    /// At this rate over all lanes, whatever the server does. Positive and finite.
    PerSecond(f64),
}

/// One run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Plan {
    /// Independent windows; at least one.
    pub(crate) lanes: usize,
    /// Most requests in flight on a lane; at least one.
    pub(crate) depth: usize,
    pub(crate) pace: Pace,
    /// Runs before the measured window and is discarded.
    pub(crate) warm_up: Duration,
    /// The window that is measured.
    pub(crate) measured: Duration,
    /// The driver's own pauses that are longer than this (its core was taken from it) are no part of the latencies: a
    /// request that was due before it came back is left out, and counted. `None` leaves nothing out.
    pub(crate) longest_pause: Option<Duration>,
    /// Answers are timed by the kernel when their packets arrive, so that of the driver's pauses only those count that keep
    /// a request from leaving. For one lane of depth one at [`Pace::Maximum`].
    pub(crate) kernel_times: bool,
}

impl Plan {
    /// When the measured window opens.
    pub(crate) fn opens(&self) -> Nanos {
        Nanos::from(self.warm_up)
    }

    /// When the measured window closes and no further request becomes due.
    pub(crate) fn closes(&self) -> Nanos {
        Nanos::from(self.warm_up + self.measured)
    }
}

/// A request to start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Issue {
    pub(crate) lane: usize,
    /// When it was due. Its latency counts from here; hand it back with the answer.
    pub(crate) intended: Nanos,
}

/// Decides when requests start and keeps the latencies of their answers.
///
/// Owned by whoever drives the run, on one thread. Memory is bounded by lanes × depth.
#[derive(Debug)]
pub(crate) struct Generator {
    plan: Plan,
    lanes: Vec<Lane>,
    /// A lane stands here once for each request it may start now; the slot is already counted as taken.
    ready: VecDeque<usize>,
    /// Requests that have become due so far, over all lanes ([`Pace::PerSecond`] only).
    due: u64,
    /// When the driver last showed itself.
    seen: Nanos,
    recorder: Recorder,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    /// Slots of the window in use.
    taken: usize,
    /// Requests started so far: the lane's next one is request `started × lanes + lane` of the run.
    started: u64,
    /// Due, but without a slot.
    backlog: u64,
}

impl Generator {
    pub(crate) fn new(plan: Plan) -> Self {
        assert!(
            plan.lanes > 0 && plan.depth > 0,
            "a plan has at least one lane and a depth of one: {plan:?}"
        );
        let mut lanes = vec![Lane::default(); plan.lanes];
        let mut ready = VecDeque::with_capacity(plan.lanes * plan.depth);
        if plan.pace == Pace::Maximum {
            for _ in 0..plan.depth {
                ready.extend(0..plan.lanes);
            }
            lanes.iter_mut().for_each(|lane| lane.taken = plan.depth);
        }
        Self {
            plan,
            lanes,
            ready,
            due: 0,
            seen: Nanos(0),
            recorder: Recorder::new(plan.opens(), plan.closes()),
        }
    }

    /// The driver is there at `now`. It says so at the begin of each turn, and, but with times of the kernel, with every
    /// answer.
    pub(crate) fn turn(&mut self, now: Nanos) {
        if !self.plan.kernel_times {
            self.look_for_a_pause(now);
        }
        self.seen = now;
    }

    /// With times of the kernel: the requests of this turn, which began at the last [`Self::turn`], have left by `now`.
    pub(crate) fn sent(&mut self, now: Nanos) {
        self.look_for_a_pause(now);
        self.seen = now;
    }

    fn look_for_a_pause(&mut self, now: Nanos) {
        if self.plan.longest_pause.is_some_and(|longest| now.since(self.seen) > Nanos::from(longest).0) {
            self.recorder.leave_out_before(now);
        }
    }

    /// The next request to start at `now`, if there is one. Ask until it says no.
    pub(crate) fn next(&mut self, now: Nanos) -> Option<Issue> {
        match self.plan.pace {
            Pace::Maximum => {
                if now >= self.plan.closes() {
                    return None;
                }
                let lane = self.ready.pop_front()?;
                self.lanes[lane].started += 1;
                Some(Issue { lane, intended: now })
            }
            Pace::PerSecond(_) => {
                if let Some(lane) = self.ready.pop_front() {
                    return Some(self.start_scheduled(lane));
                }
                loop {
                    let intended = self.due_at(self.due);
                    if intended > now || intended >= self.plan.closes() {
                        return None;
                    }
                    let lane = (self.due % self.plan.lanes as u64) as usize;
                    self.due += 1;
                    let state = &mut self.lanes[lane];
                    if state.taken == self.plan.depth {
                        state.backlog += 1;
                        continue;
                    }
                    state.taken += 1;
                    return Some(self.start_scheduled(lane));
                }
            }
        }
    }

    /// A request on `lane` that was due at `intended` has been answered at `now`.
    pub(crate) fn answered(&mut self, lane: usize, intended: Nanos, now: Nanos) {
        if !self.plan.kernel_times {
            self.turn(now);
        }
        self.recorder.answered(intended, now);
        self.free_slot(lane);
    }

    /// A request is given up at `now`; its slot is free again.
    pub(crate) fn lost(&mut self, lane: usize, intended: Nanos, now: Nanos) {
        self.recorder.unanswered(intended, now);
        self.free_slot(lane);
    }

    /// Whether the window has closed and nothing is left to wait for, or waiting any longer is pointless.
    pub(crate) fn is_over(&self, now: Nanos) -> bool {
        let closes = self.plan.closes();
        now >= closes && (self.outstanding() == 0 || now >= closes + Nanos::from(DRAIN))
    }

    /// Ends the run at `now`. Requests that were started and have no answer are given with [`Self::lost`]
    /// before this; those that were due and never started are counted here.
    pub(crate) fn finish(mut self, now: Nanos) -> Measured {
        if let Pace::PerSecond(_) = self.plan.pace {
            while self.due_at(self.due) < self.plan.closes() {
                let lane = (self.due % self.plan.lanes as u64) as usize;
                self.due += 1;
                self.lanes[lane].backlog += 1;
            }
            while let Some(lane) = self.ready.pop_front() {
                self.lanes[lane].backlog += 1;
            }
            for lane in 0..self.lanes.len() {
                for _ in 0..self.lanes[lane].backlog {
                    let issue = self.start_scheduled(lane);
                    self.recorder.unanswered(issue.intended, now);
                }
            }
        }
        self.recorder.finish()
    }

    /// Slots in use or promised. In a closed window, those that no longer start are not waited for.
    fn outstanding(&self) -> usize {
        let taken: usize = self.lanes.iter().map(|lane| lane.taken).sum();
        match self.plan.pace {
            Pace::Maximum => taken - self.ready.len(),
            Pace::PerSecond(_) => taken,
        }
    }

    fn free_slot(&mut self, lane: usize) {
        let state = &mut self.lanes[lane];
        assert!(state.taken > 0, "lane {lane} was answered more often than asked");
        match self.plan.pace {
            Pace::Maximum => self.ready.push_back(lane),
            Pace::PerSecond(_) if state.backlog > 0 => {
                state.backlog -= 1;
                self.ready.push_back(lane);
            }
            Pace::PerSecond(_) => state.taken -= 1,
        }
    }

    fn start_scheduled(&mut self, lane: usize) -> Issue {
        let index = self.lanes[lane].started * self.plan.lanes as u64 + lane as u64;
        self.lanes[lane].started += 1;
        Issue { lane, intended: self.due_at(index) }
    }

    /// When request `index` of the run is due. Computed from the index, so that rounding does not add up.
    fn due_at(&self, index: u64) -> Nanos {
        match self.plan.pace {
            Pace::Maximum => Nanos(0),
            Pace::PerSecond(rate) => Nanos((index as f64 * 1e9 / rate) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(lanes: usize, depth: usize, pace: Pace) -> Plan {
        let measured = Duration::from_millis(1);
        Plan {
            lanes,
            depth,
            pace,
            warm_up: Duration::ZERO,
            measured,
            longest_pause: None,
            kernel_times: false,
        }
    }

    fn ask_all(generator: &mut Generator, now: Nanos) -> Vec<Issue> {
        std::iter::from_fn(|| generator.next(now)).collect()
    }

    #[test]
    fn maximum_pace_fills_the_window_and_then_follows_the_answers() {
        let mut generator = Generator::new(plan(2, 3, Pace::Maximum));
        assert_eq!(ask_all(&mut generator, Nanos(0)).len(), 6);
        generator.answered(1, Nanos(0), Nanos(10));
        assert_eq!(ask_all(&mut generator, Nanos(10)), [Issue { lane: 1, intended: Nanos(10) }]);
    }

    #[test]
    fn a_stall_delays_every_request_that_was_due_in_it() {
        // 100 requests in 1 ms, one at a time; the first answer takes the whole millisecond.
        let mut generator = Generator::new(plan(1, 1, Pace::PerSecond(100_000.0)));
        let first = ask_all(&mut generator, Nanos(0));
        assert_eq!(first, [Issue { lane: 0, intended: Nanos(0) }]);
        assert_eq!(ask_all(&mut generator, Nanos(1_000_000)), []);
        generator.answered(0, Nanos(0), Nanos(1_000_000));
        let mut answered = 1;
        while let Some(issue) = generator.next(Nanos(1_000_000)) {
            generator.answered(issue.lane, issue.intended, Nanos(1_000_000));
            answered += 1;
        }
        assert_eq!(answered, 100);
        let measured = generator.finish(Nanos(1_000_000));
        // Half of them waited half a millisecond or more, though each answer after the stall took no time.
        assert!((measured.latency_us(0.5) - 500.0).abs() < 15.0, "{}", measured.latency_us(0.5));
    }

    #[test]
    fn what_was_due_in_a_pause_of_the_driver_is_left_out_on_request() {
        let pace = Pace::PerSecond(100_000.0);
        let longest_pause = Some(Duration::from_micros(50));
        let mut generator = Generator::new(Plan { longest_pause, ..plan(1, 100, pace) });
        let mut answer_all = |from: u64, to: u64, step: usize| {
            for now in (from..to).step_by(step) {
                generator.turn(Nanos(now));
                for issue in ask_all(&mut generator, Nanos(now)) {
                    generator.answered(issue.lane, issue.intended, Nanos(now + 2_000));
                }
            }
        };
        answer_all(0, 300_000, 5_000);
        // Away for 200 us, in which 20 requests become due.
        answer_all(500_000, 1_000_000, 5_000);
        let measured = generator.finish(Nanos(1_000_000));
        assert!(measured.latency_us(1.0) < 10.0, "{}", measured.latency_us(1.0));
        assert_eq!(measured.share_left_out(), 0.2);
    }

    #[test]
    fn with_times_of_the_kernel_only_what_a_pause_kept_from_leaving_is_left_out() {
        let longest_pause = Some(Duration::from_micros(50));
        let mut generator =
            Generator::new(Plan { longest_pause, kernel_times: true, ..plan(1, 1, Pace::Maximum) });
        let mut ask = |at: u64, left: u64, answered: u64| {
            generator.turn(Nanos(at));
            let [issue] = ask_all(&mut generator, Nanos(at))[..] else { panic!("one is due") };
            generator.sent(Nanos(left));
            generator.answered(issue.lane, issue.intended, Nanos(answered));
        };
        ask(0, 5_000, 20_000);
        // Away while it waits for the answer, and then between the two packets.
        ask(200_000, 205_000, 220_000);
        ask(300_000, 400_000, 415_000);
        ask(420_000, 425_000, 440_000);
        let measured = generator.finish(Nanos(1_000_000));
        assert!(measured.latency_us(1.0) < 21.0, "{}", measured.latency_us(1.0));
        assert_eq!(measured.share_left_out(), 0.25);
    }

    #[test]
    fn requests_that_never_started_are_counted() {
        let mut generator = Generator::new(plan(2, 1, Pace::PerSecond(10_000.0)));
        let started = ask_all(&mut generator, Nanos(1_000_000));
        assert_eq!(started.len(), 2);
        for issue in started {
            generator.lost(issue.lane, issue.intended, Nanos(2_000_000));
        }
        assert_eq!(generator.finish(Nanos(2_000_000)).unanswered(), 10);
    }

    #[test]
    fn a_closed_window_ends_once_its_answers_are_in() {
        let mut generator = Generator::new(plan(1, 2, Pace::Maximum));
        assert_eq!(ask_all(&mut generator, Nanos(0)).len(), 2);
        let closed = Nanos(1_000_000);
        generator.answered(0, Nanos(0), closed);
        assert_eq!(generator.next(closed), None);
        assert!(!generator.is_over(closed));
        generator.answered(0, Nanos(0), closed);
        assert!(generator.is_over(closed));
    }

    proptest! {
        /// Whatever the answers' order and delay, each scheduled request starts exactly once, never before it
        /// is due, and no lane exceeds its depth.
        #[test]
        fn open_loop_starts_each_request_once(
            lanes in 1usize..5,
            depth in 1usize..4,
            answers in proptest::collection::vec(any::<prop::sample::Index>(), 200),
        ) {
            let rate = 100_000.0;
            let mut generator = Generator::new(plan(lanes, depth, Pace::PerSecond(rate)));
            let (mut flying, mut seen): (Vec<Issue>, Vec<u64>) = (Vec::new(), Vec::new());
            for (step, pick) in answers.iter().enumerate() {
                let now = Nanos(step as u64 * 7_000);
                while let Some(issue) = generator.next(now) {
                    prop_assert!(issue.intended <= now);
                    seen.push(issue.intended.0);
                    flying.push(issue);
                }
                for lane in 0..lanes {
                    prop_assert!(flying.iter().filter(|issue| issue.lane == lane).count() <= depth);
                }
                if !flying.is_empty() {
                    let issue = flying.swap_remove(pick.index(flying.len()));
                    generator.answered(issue.lane, issue.intended, now);
                }
            }
            seen.sort_unstable();
            prop_assert!(seen.iter().all(|intended| intended % 10_000 == 0 && *intended < 1_000_000));
            let started = seen.len();
            seen.dedup();
            prop_assert_eq!(seen.len(), started);
        }
    }
}
