//! Datagrams that go the same way, put together into one segmented send (GSO).
//!
//! QUIC hands out packets connection by connection, but many connections of one peer (a gateway, any client that shares
//! its socket) end at one address. A send costs the kernel some microseconds however many datagrams it carries, so
//! neighbours that go to the same place with the same mark become one. The kernel wants every datagram of a send to have
//! one length; packets of different connections differ by a few bytes (an acknowledgement more, a longer number), so
//! several sends are in the making at a time, one for each length.
//!
//! Datagrams of one connection keep their order: each joins a send no earlier than the one before it did, and sends leave
//! in the order they were opened. Nothing is padded. A datagram shorter than the others would be allowed to end a send,
//! but only one that its own connection made so does: a probe for a larger MTU must not take another connection's packet
//! down with it.
//!
//! Pure bookkeeping: the bytes are the owner's, in its slots.

/// How many of the sends in the making are looked at, the newest first. There is a handful of lengths, so those that
/// could be joined are near the end; where every datagram goes elsewhere, this bounds what the search costs.
const LOOK_BACK: usize = 8;

/// What one transmit wrote: datagrams of `segment` bytes, the last of which may be shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bytes in all.
    pub length: usize,
    /// Bytes of every datagram but the last.
    pub segment: usize,
}

impl Shape {
    /// `segment` as QUIC says it: absent if there is one datagram.
    pub fn new(length: usize, segment: Option<usize>) -> Self {
        Self { length, segment: segment.unwrap_or(length) }
    }

    /// Whether there are several datagrams, so that the kernel must be told where to cut.
    pub fn is_segmented(self) -> bool {
        self.segment < self.length
    }

    fn datagrams(self) -> usize {
        self.length.div_ceil(self.segment.max(1))
    }

    fn ends_short(self) -> bool {
        self.segment == 0 || !self.length.is_multiple_of(self.segment)
    }
}

/// A send in the making.
#[derive(Debug, Clone, Copy)]
pub struct Burst<K> {
    /// Where its bytes are.
    pub slot: u16,
    /// Which way it goes.
    pub way: K,
    /// What it holds.
    pub shape: Shape,
}

/// Where something was put, for what must not leave before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place(usize);

/// The sends in the making, in the order they will leave. `K` is all that datagrams of one send have in common: the
/// destination, the source, the mark.
#[derive(Debug)]
pub struct Bursts<K> {
    open: Vec<Burst<K>>,
    most_datagrams: usize,
    most_bytes: usize,
}

impl<K: Copy + PartialEq> Bursts<K> {
    /// Room for `slots` sends of up to `most_datagrams` and `most_bytes` each.
    pub fn new(slots: usize, most_datagrams: usize, most_bytes: usize) -> Self {
        Self { open: Vec::with_capacity(slots), most_datagrams, most_bytes }
    }

    /// The slot to append to, if there is a send at or behind `after` that can take this whole.
    pub fn join(&mut self, after: Place, way: K, shape: Shape) -> Option<(Place, u16)> {
        let first = after.0.max(self.open.len().saturating_sub(LOOK_BACK));
        let candidates = self.open.iter_mut().enumerate().skip(first).rev();
        for (index, burst) in candidates {
            if burst.shape.segment == shape.segment
                && burst.way == way
                && !burst.shape.ends_short()
                && burst.shape.datagrams() + shape.datagrams() <= self.most_datagrams
                && burst.shape.length + shape.length <= self.most_bytes
            {
                burst.shape.length += shape.length;
                return Some((Place(index), burst.slot));
            }
        }
        None
    }

    /// Starts a send with what is in `slot`.
    pub fn open(&mut self, slot: u16, way: K, shape: Shape) -> Place {
        self.open.push(Burst { slot, way, shape });
        Place(self.open.len() - 1)
    }

    /// Whether the send at `place` holds all it may.
    pub fn is_full(&self, place: Place) -> bool {
        self.open.get(place.0).is_some_and(|burst| burst.shape.datagrams() >= self.most_datagrams)
    }

    /// The sends, in the order they are to leave.
    pub fn as_slice(&self) -> &[Burst<K>] {
        &self.open
    }

    /// Forgets all sends: they have left. What was a [`Place`] before is none any more.
    pub fn clear(&mut self) {
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const MOST_DATAGRAMS: usize = 4;
    const MOST_BYTES: usize = 5_000;

    /// Bursts whose slots hold what was put there, datagram by datagram.
    struct Sends {
        bursts: Bursts<char>,
        slots: Vec<Vec<(u32, usize)>>,
    }

    impl Sends {
        fn new() -> Self {
            Self { bursts: Bursts::new(8, MOST_DATAGRAMS, MOST_BYTES), slots: Vec::new() }
        }

        /// Puts datagrams marked `mark`, as the owner of the slots would.
        fn put(&mut self, after: Place, way: char, shape: Shape, mark: u32) -> Place {
            let (place, slot) = self.bursts.join(after, way, shape).unwrap_or_else(|| {
                self.slots.push(Vec::new());
                let slot = self.slots.len() as u16 - 1;
                (self.bursts.open(slot, way, shape), slot)
            });
            let mut left = shape.length;
            while left > 0 {
                let length = left.min(shape.segment);
                self.slots[usize::from(slot)].push((mark, length));
                left -= length;
            }
            place
        }

        fn one(&mut self, way: char, length: usize) -> Place {
            self.put(Place::default(), way, Shape::new(length, None), 0)
        }

        fn counts(&self) -> Vec<usize> {
            self.bursts.as_slice().iter().map(|burst| self.slots[usize::from(burst.slot)].len()).collect()
        }
    }

    #[test]
    fn one_length_and_one_way_is_one_send() {
        let mut sends = Sends::new();
        let places = [sends.one('a', 100), sends.one('a', 100), sends.one('a', 100)];
        assert_eq!((places[0], places[1], sends.counts()), (places[1], places[2], vec![3]));
        let shape = sends.bursts.as_slice()[0].shape;
        assert_eq!((shape, shape.is_segmented()), (Shape { length: 300, segment: 100 }, true));
    }

    #[test]
    fn another_destination_or_length_is_another_send() {
        let mut sends = Sends::new();
        for (way, length) in [('a', 100), ('b', 100), ('a', 101), ('b', 100), ('a', 99), ('a', 100)] {
            sends.one(way, length);
        }
        assert_eq!(sends.counts(), [2, 2, 1, 1]);
    }

    #[test]
    fn a_shorter_datagram_ends_its_send() {
        let mut sends = Sends::new();
        let short_tail = Shape::new(250, Some(100));
        sends.put(Place::default(), 'a', short_tail, 0);
        sends.one('a', 100);
        assert_eq!(sends.counts(), [3, 1]);
        // As the last of a longer one it is welcome.
        sends.put(Place::default(), 'a', short_tail, 0);
        assert_eq!(sends.counts(), [3, 4]);
        sends.one('a', 100);
        assert_eq!(sends.counts(), [3, 4, 1]);
    }

    #[test]
    fn a_send_takes_as_many_datagrams_and_bytes_as_it_may() {
        let mut sends = Sends::new();
        for held in 1..=MOST_DATAGRAMS {
            let place = sends.one('a', 10);
            assert_eq!(sends.bursts.is_full(place), held == MOST_DATAGRAMS);
        }
        sends.one('a', 10);
        assert_eq!(sends.counts(), [MOST_DATAGRAMS, 1]);
        for _ in 0..4 {
            sends.one('b', MOST_BYTES / 3 + 1);
        }
        assert_eq!(sends.counts(), [MOST_DATAGRAMS, 1, 2, 2]);
    }

    #[test]
    fn what_must_come_after_does_not_join_an_earlier_send() {
        let mut sends = Sends::new();
        let long = sends.one('a', 100);
        let short = sends.one('a', 50);
        let again = sends.put(short, 'a', Shape::new(100, None), 0);
        assert!(long < short && short < again);
        // Another connection need not care.
        assert_eq!(sends.one('a', 50), short);
    }

    #[test]
    fn an_empty_datagram_is_a_send_of_its_own() {
        let mut sends = Sends::new();
        sends.one('a', 0);
        sends.one('a', 0);
        assert_eq!(sends.bursts.as_slice().len(), 2);
        assert!(sends.bursts.as_slice().iter().all(|burst| !burst.shape.is_segmented()));
    }

    proptest! {
        /// Whatever is put, the kernel can cut every send the right way, and each connection's datagrams leave in order.
        #[test]
        fn every_send_can_be_cut_and_no_connection_is_reordered(
            puts in prop::collection::vec((0u32..5, 1usize..4, prop::sample::select(vec![90, 100, 1200]), 1usize..=1200), 1..80),
        ) {
            let mut sends = Sends::new();
            let mut after: BTreeMap<u32, Place> = BTreeMap::new();
            let mut put: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            for (connection, datagrams, segment, last) in puts {
                let shape = Shape { length: (datagrams - 1) * segment + last.min(segment), segment };
                let shape = if datagrams == 1 { Shape::new(shape.length, None) } else { shape };
                let way = if connection % 2 == 0 { 'a' } else { 'b' };
                let place = after.get(&connection).copied().unwrap_or_default();
                let sent = put.entry(connection).or_default();
                let mut left = shape.length;
                while left > 0 {
                    sent.push(left.min(shape.segment));
                    left -= left.min(shape.segment);
                }
                after.insert(connection, sends.put(place, way, shape, connection));
            }
            let mut left: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            for burst in sends.bursts.as_slice() {
                let datagrams = &sends.slots[usize::from(burst.slot)];
                let (last, before) = datagrams.split_last().unwrap();
                prop_assert!(before.iter().all(|(_, length)| *length == burst.shape.segment));
                prop_assert!(last.1 <= burst.shape.segment);
                prop_assert_eq!(datagrams.iter().map(|(_, length)| length).sum::<usize>(), burst.shape.length);
                prop_assert!(datagrams.len() <= MOST_DATAGRAMS && burst.shape.length <= MOST_BYTES);
                for (connection, length) in datagrams {
                    prop_assert_eq!(burst.way, if connection % 2 == 0 { 'a' } else { 'b' });
                    left.entry(*connection).or_default().push(*length);
                }
            }
            prop_assert_eq!(left, put);
        }
    }
}
