//! The floor's client: messages as bare datagrams, no encryption, no acknowledgement.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::bail;
use haca_dataplane::transport::bursts::Place;

use super::{Clock, Sockets};
use crate::load::{Generator, Issue, Nanos, Plan};
use crate::rpc::message::{MESSAGE, is_message, message};
use crate::rpc::ring::{MOST_SEGMENTS, UdpRing};

/// A datagram without an echo for so long is lost: loopback only drops when a socket's buffer is full.
const LOST_AFTER: Duration = Duration::from_millis(200);
/// Reads after which answers are handed out and new requests sent, so that the server is not left waiting
/// while we work through a long queue.
const RECEIVE_GROUP: usize = 4;

/// Sends what is ready on a lane as one segmented send, which is what QUIC's packets do for messages, and together with
/// what is ready on other lanes of the same socket.
pub(super) struct Client {
    ring: UdpRing,
    sockets: Sockets,
    lanes: Vec<Lane>,
    dirty: Vec<usize>,
}

/// A datagram's sequence number says its lane and the slot on it: `(round × depth + slot) × lanes + lane`.
#[derive(Default)]
struct Lane {
    in_flight: Vec<Option<Sent>>,
    free: Vec<usize>,
    rounds: Vec<u64>,
    outgoing: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Sent {
    sequence: u64,
    intended: Nanos,
    /// When the request was handed to us, which in an open loop can be long after it was due.
    started: Nanos,
}

impl Client {
    pub(super) fn new(server: SocketAddrV4, sockets: Sockets, plan: Plan) -> anyhow::Result<Self> {
        let lane = || Lane {
            in_flight: vec![None; plan.depth],
            free: (0..plan.depth).rev().collect(),
            rounds: vec![0; plan.depth],
            outgoing: Vec::with_capacity(plan.depth * MESSAGE),
        };
        Ok(Self {
            ring: UdpRing::new(sockets.open(server, plan.lanes)?, MOST_SEGMENTS)?,
            sockets,
            lanes: (0..plan.lanes).map(|_| lane()).collect(),
            dirty: Vec::with_capacity(plan.lanes),
        })
    }
}

impl super::Client for Client {
    fn receive(&mut self, _now: Instant, clock: Clock, generator: &mut Generator) -> anyhow::Result<bool> {
        self.ring.poll()?;
        for group in 0..RECEIVE_GROUP {
            let Some(received) = self.ring.receive()? else { return Ok(group > 0) };
            let now = clock.now();
            let lanes = self.lanes.len();
            for datagram in self.ring.payload(&received).chunks(received.stride) {
                let Some(sequence) = datagram.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else {
                    bail!("the echo of a datagram has only {} bytes", datagram.len());
                };
                let index = sequence as usize % lanes;
                let lane = &mut self.lanes[index];
                let slot = sequence as usize / lanes % lane.in_flight.len();
                // An echo that comes after it was given up is not an answer any more.
                if let Some(sent) = lane.in_flight[slot].take_if(|sent| sent.sequence == sequence) {
                    anyhow::ensure!(is_message(datagram, sequence), "a datagram came back changed");
                    lane.free.push(slot);
                    generator.answered(index, sent.intended, now);
                }
            }
            self.ring.recycle(received);
        }
        Ok(true)
    }

    fn start(&mut self, issue: Issue, now: Nanos) -> anyhow::Result<()> {
        let lanes = self.lanes.len();
        let lane = &mut self.lanes[issue.lane];
        let Some(slot) = lane.free.pop() else { bail!("lane {} was given more than its depth", issue.lane) };
        let of_lane = lane.rounds[slot] * lane.in_flight.len() as u64 + slot as u64;
        let sequence = of_lane * lanes as u64 + issue.lane as u64;
        lane.rounds[slot] += 1;
        lane.in_flight[slot] = Some(Sent { sequence, intended: issue.intended, started: now });
        if lane.outgoing.is_empty() {
            self.dirty.push(issue.lane);
        }
        lane.outgoing.extend_from_slice(&message(sequence));
        Ok(())
    }

    fn flush(&mut self, _now: Instant) -> anyhow::Result<bool> {
        let any = !self.dirty.is_empty();
        for index in self.dirty.drain(..) {
            let lane = &mut self.lanes[index];
            let mut after = Place::default();
            for part in lane.outgoing.chunks(MESSAGE * MOST_SEGMENTS) {
                let sent = self.ring.send(self.sockets.of(index), None, after, |buffer| {
                    buffer.extend_from_slice(part);
                    Some(MESSAGE)
                })?;
                after = sent.unwrap_or(after);
            }
            lane.outgoing.clear();
        }
        Ok(any)
    }

    fn sweep(&mut self, now: Nanos, generator: &mut Generator) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            for slot in 0..lane.in_flight.len() {
                let overdue = |sent: &mut Sent| sent.started + Nanos::from(LOST_AFTER) < now;
                if let Some(sent) = lane.in_flight[slot].take_if(overdue) {
                    lane.free.push(slot);
                    generator.lost(index, sent.intended, now);
                }
            }
        }
    }

    fn give_up(&mut self, now: Nanos, generator: &mut Generator) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            for sent in lane.in_flight.iter_mut().filter_map(Option::take) {
                generator.lost(index, sent.intended, now);
            }
        }
    }
}
