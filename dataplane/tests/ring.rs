//! The ring alone, over real sockets: what shares a send arrives as what it was.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails there.

use glommio::LocalExecutorBuilder;
use haca_dataplane::transport::Outgoing;
use haca_dataplane::transport::bursts::Place;
use haca_dataplane::transport::ring::{MAX_SEGMENTS, Ring, RingLimits};
use haca_dataplane::transport::socket::bind_group;
use std::collections::BTreeMap;
use std::io::PipeWriter;
use std::net::SocketAddr;

const LIMITS: RingLimits = RingLimits { receive_buffers: 32, send_slots: 8 };

/// A ring on a free port of loopback, and what it received: datagrams in their order, and in how many reads.
struct Node {
    ring: Ring,
    address: SocketAddr,
    datagrams: Vec<Vec<u8>>,
    reads: usize,
    /// Nobody writes to the ring's inbox, but it must stay open.
    _inbox: PipeWriter,
}

impl Node {
    /// To be called on an executor: the ring parks there.
    fn new() -> Self {
        let socket = bind_group("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let address = socket.local_addr().unwrap();
        let (inbox, bell) = std::io::pipe().unwrap();
        let ring = Ring::new(socket, inbox.into(), LIMITS).unwrap();
        Self { ring, address, datagrams: Vec::new(), reads: 0, _inbox: bell }
    }

    fn listen(&mut self) {
        self.ring
            .turn(|datagram| {
                self.reads += 1;
                self.datagrams.extend(datagram.payload.chunks(datagram.stride).map(<[u8]>::to_vec));
            })
            .unwrap();
    }
}

fn on_an_executor(test: impl Future<Output = ()>) {
    LocalExecutorBuilder::default().io_memory(1 << 20).make().unwrap().run(test);
}

fn to(destination: SocketAddr) -> Option<Outgoing> {
    Some(Outgoing { destination, source_ip: None, ecn: None, segment: None })
}

#[test]
fn datagrams_of_one_length_and_way_travel_together() {
    on_an_executor(async {
        let (mut sender, mut here, mut there) = (Node::new(), Node::new(), Node::new());
        for number in 0..MAX_SEGMENTS as u8 {
            for destination in [here.address, there.address] {
                let sent = sender.ring.send(Place::default(), |buffer| {
                    buffer.extend([number; 700]);
                    to(destination)
                });
                assert!(sent.is_some());
            }
        }
        sender.ring.submit().unwrap();
        while here.datagrams.len() + there.datagrams.len() < 2 * MAX_SEGMENTS {
            here.listen();
            there.listen();
        }
        for heard in [&here, &there] {
            let expected: Vec<_> = (0..MAX_SEGMENTS as u8).map(|number| vec![number; 700]).collect();
            assert_eq!((&heard.datagrams, heard.reads), (&expected, 1));
        }
        for node in [sender, here, there] {
            node.ring.close().await.unwrap();
        }
    });
}

#[test]
fn every_datagram_arrives_once_and_each_connections_in_order() {
    on_an_executor(async {
        let (mut sender, mut here, mut there) = (Node::new(), Node::new(), Node::new());
        // Five connections to two places, lengths that collide and lengths that do not, more than there are slots.
        let lengths = [64, 1200, 1200, 333, 64, 1452, 1200];
        let mut sent = 0;
        let mut after = BTreeMap::new();
        while sent < 600u32 || here.datagrams.len() + there.datagrams.len() < 600 {
            while sender.ring.can_send() && sent < 600 {
                let connection = sent % 5;
                let place = after.get(&connection).copied().unwrap_or_default();
                let place = sender.ring.send(place, |buffer| {
                    buffer.extend(sent.to_le_bytes());
                    buffer.resize(lengths[sent as usize % lengths.len()], connection as u8);
                    to(if connection < 3 { here.address } else { there.address })
                });
                after.insert(connection, place.unwrap());
                sent += 1;
            }
            let turn = sender.ring.turn(|_| {}).unwrap();
            assert_eq!(turn.send_errors, 0);
            after.clear();
            here.listen();
            there.listen();
        }
        let mut seen: Vec<u32> = Vec::new();
        for (heard, connections) in [(&here, 0..3u32), (&there, 3..5)] {
            let mut last = BTreeMap::new();
            for datagram in &heard.datagrams {
                let (head, fill) = datagram.split_first_chunk::<4>().unwrap();
                let number = u32::from_le_bytes(*head);
                let connection = number % 5;
                assert!(connections.contains(&connection));
                assert_eq!(datagram.len(), lengths[number as usize % lengths.len()]);
                assert!(fill.iter().all(|byte| u32::from(*byte) == connection));
                let before = last.insert(connection, number);
                assert!(before < Some(number), "{before:?} came before {number}");
                seen.push(number);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..600).collect::<Vec<_>>());
        for node in [sender, here, there] {
            node.ring.close().await.unwrap();
        }
    });
}
