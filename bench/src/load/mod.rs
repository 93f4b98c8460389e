//! Load without coordinated omission.
//!
//! A [`Generator`] decides when each request starts and takes the answers; it is handed the time and does no
//! I/O, so whoever owns the sockets drives it: a spinning loop, or async tasks. Two paces:
//!
//! - [`Pace::PerSecond`]: an open loop. Request `k` is due at `k / rate`, whatever the server does. When a lane
//!   has no room the request waits, and its latency still counts from when it was due, so that a stall of the
//!   server shows up in every request it delayed and not in one.
//! - [`Pace::Maximum`]: a closed window of lanes × depth; each answer starts the next request at once. It
//!   measures throughput; its latencies are those of a full window.
//!
//! A lane is whatever has a window of its own: a connection, a stream, a task.

mod generator;
mod record;

pub(crate) use generator::{Generator, Issue, Pace, Plan};
pub(crate) use record::Measured;

use std::time::{Duration, Instant};

/// Nanoseconds since the start of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nanos(pub(crate) u64);

impl Nanos {
    /// The time from `start` until `now`; zero if `now` is earlier.
    pub(crate) fn between(start: Instant, now: Instant) -> Self {
        Self::from(now.saturating_duration_since(start))
    }

    fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl From<Duration> for Nanos {
    fn from(duration: Duration) -> Self {
        // A u64 of nanoseconds lasts 584 years; a run does not.
        Self(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl std::ops::Add for Nanos {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}
