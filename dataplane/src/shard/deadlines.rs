//! When each connection wants its QUIC timers looked at.
//!
//! Timers move with nearly every packet, so setting one must cost nothing: a slot per connection and one lower bound for
//! all. Only when the bound has passed are the slots scanned. A heap would be searched on every packet instead, or keep
//! an entry for every move.

use std::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    slots: Vec<Option<Instant>>,
    /// No deadline is before this; there may be none at it either.
    bound: Option<Instant>,
}

impl Deadlines {
    /// Sets or clears the deadline of one connection.
    pub(super) fn set(&mut self, connection: usize, deadline: Option<Instant>) {
        if connection >= self.slots.len() {
            self.slots.resize(connection + 1, None);
        }
        self.slots[connection] = deadline;
        if let Some(deadline) = deadline
            && self.bound.is_none_or(|bound| deadline < bound)
        {
            self.bound = Some(deadline);
        }
    }

    /// When to call [`due`](Self::due) next, at the latest.
    pub(super) fn next(&self) -> Option<Instant> {
        self.bound
    }

    /// Clears every deadline that has come and calls `fire` with its connection.
    pub(super) fn due(&mut self, now: Instant, mut fire: impl FnMut(usize)) {
        if self.bound.is_none_or(|bound| bound > now) {
            return;
        }
        let mut earliest: Option<Instant> = None;
        for (connection, slot) in self.slots.iter_mut().enumerate() {
            match *slot {
                Some(deadline) if deadline <= now => {
                    *slot = None;
                    fire(connection);
                }
                Some(deadline) => earliest = Some(earliest.map_or(deadline, |e| e.min(deadline))),
                None => {}
            }
        }
        self.bound = earliest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    proptest! {
        /// Against the obvious model: a map from connection to deadline.
        #[test]
        fn every_deadline_fires_once_and_none_early(
            steps in prop::collection::vec((0usize..6, prop::option::of(0u64..50), 0u64..8), 1..60),
        ) {
            let start = Instant::now();
            let at = |ms| start + Duration::from_millis(ms);
            let (mut deadlines, mut model, mut now) = (Deadlines::default(), [None; 6], 0);
            for (connection, deadline, pass) in steps {
                let deadline = deadline.map(|ms| at(now + ms));
                deadlines.set(connection, deadline);
                model[connection] = deadline;
                now += pass;
                prop_assert!(deadlines.next() <= model.iter().flatten().min().copied().or(deadlines.next()));
                let mut fired = Vec::new();
                deadlines.due(at(now), |connection| fired.push(connection));
                for (connection, slot) in model.iter_mut().enumerate() {
                    let due = slot.is_some_and(|deadline| deadline <= at(now));
                    prop_assert_eq!(fired.contains(&connection), due);
                    if due { *slot = None }
                }
            }
        }
    }
}
