//! Wall-clock time on the hot path without asking the kernel for it: monotonic time plus an offset that is read anew
//! every second, so that a leaf's times follow the machine's clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long an offset is used.
const RENEW: Duration = Duration::from_secs(1);

/// One shard's clock.
#[derive(Debug)]
pub struct Clock {
    at: Instant,
    unix_at: u64,
}

impl Clock {
    /// A clock that is right now.
    pub fn new() -> Self {
        Self { at: Instant::now(), unix_at: unix_now() }
    }

    /// Reads the offset again if it is older than a second. To be called once in a turn.
    pub fn renew(&mut self, now: Instant) {
        if now.duration_since(self.at) >= RENEW {
            *self = Self::new();
        }
    }

    /// Nanoseconds since 1970-01-01 UTC at `now`.
    pub fn unix(&self, now: Instant) -> u64 {
        let past = self.at.saturating_duration_since(now).as_nanos() as u64;
        let ahead = now.saturating_duration_since(self.at).as_nanos() as u64;
        self.unix_at + ahead - past.min(self.unix_at)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// Nanoseconds since 1970-01-01 UTC, by the kernel.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_those_of_the_monotonic_clock() {
        let clock = Clock::new();
        let (a, b) = (clock.at + Duration::from_micros(5), clock.at - Duration::from_micros(7));
        assert_eq!(clock.unix(a) - clock.unix(b), 12_000);
    }
}
