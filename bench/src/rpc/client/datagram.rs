//! The floor's client: messages as bare datagrams, no encryption, no acknowledgement.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::bail;

use super::{Clock, RECEIVE_GROUP, sockets};
use crate::load::{Generator, Issue, Nanos, Plan};
use crate::rpc::message::{MESSAGE, message};
use crate::rpc::ring::UdpRing;

/// A datagram without an echo for so long is lost: loopback only drops when a socket's buffer is full.
const LOST_AFTER: Duration = Duration::from_millis(200);
/// Most datagrams the kernel segments from one send (`UDP_MAX_SEGMENTS` was 64 before Linux 6.9).
const MAX_SEGMENTS: usize = 64;

/// Sends what is ready on a lane as one segmented send, which is what QUIC's packets do for messages.
pub(super) struct Client {
    ring: UdpRing,
    lanes: Vec<Lane>,
    dirty: Vec<usize>,
}

/// A datagram's sequence number says its slot: `sequence % depth`.
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
    pub(super) fn new(server: SocketAddrV4, plan: Plan) -> anyhow::Result<Self> {
        let lane = || Lane {
            in_flight: vec![None; plan.depth],
            free: (0..plan.depth).rev().collect(),
            rounds: vec![0; plan.depth],
            outgoing: Vec::with_capacity(plan.depth * MESSAGE),
        };
        Ok(Self {
            ring: UdpRing::new(sockets(server, plan.lanes)?)?,
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
            let lane = &mut self.lanes[received.socket];
            for datagram in self.ring.payload(&received).chunks(received.stride) {
                let Some(sequence) = datagram.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else {
                    bail!("the echo of a datagram has only {} bytes", datagram.len());
                };
                let slot = sequence as usize % lane.in_flight.len();
                // An echo that comes after it was given up is not an answer any more.
                if let Some(sent) = lane.in_flight[slot].take_if(|sent| sent.sequence == sequence) {
                    anyhow::ensure!(datagram == message(sequence), "a datagram came back changed");
                    lane.free.push(slot);
                    generator.answered(received.socket, sent.intended, now);
                }
            }
            self.ring.recycle(received);
        }
        Ok(true)
    }

    fn start(&mut self, issue: Issue, now: Nanos) -> anyhow::Result<()> {
        let lane = &mut self.lanes[issue.lane];
        let Some(slot) = lane.free.pop() else { bail!("lane {} was given more than its depth", issue.lane) };
        let sequence = lane.rounds[slot] * lane.in_flight.len() as u64 + slot as u64;
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
            for part in lane.outgoing.chunks(MESSAGE * MAX_SEGMENTS) {
                let mut buffer = self.ring.buffer()?;
                buffer.extend_from_slice(part);
                self.ring.send(index, None, buffer, MESSAGE)?;
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
