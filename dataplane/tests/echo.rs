//! The shard alone, with an application that sends back what it gets, against `quinn` as an independent client.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails there.

mod tls;

use haca_dataplane::metrics::ShardMetrics;
use haca_dataplane::quic::QuicLimits;
use haca_dataplane::server::{Server, ServerConfig};
use haca_dataplane::shard::inbox::{Inbox, Letter};
use haca_dataplane::shard::{Application, Arrival, ConnectionKey, Turn};
use haca_dataplane::transport::ring::RingLimits;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Echoes, and counts the messages it gets.
struct Echo(Arc<AtomicUsize>);

impl Application for Echo {
    type Session = ();
    type Stream = ();
    type Message = ();

    fn connected(&mut self, _: ConnectionKey, _: SocketAddr) {}
    fn opened(&mut self) {}
    fn received(&mut self, arrival: Arrival<'_, Self>, bytes: &[u8], turn: &mut Turn<'_>) {
        turn.outbox.write(arrival.key, |out| out.extend_from_slice(bytes));
    }
    fn ended(&mut self, arrival: Arrival<'_, Self>, turn: &mut Turn<'_>) {
        turn.outbox.finish(arrival.key);
    }
    fn reset(&mut self, _: Arrival<'_, Self>, _: &mut Turn<'_>) {}
    fn disconnected(&mut self, (): ()) {}
    fn message(&mut self, (): (), _: &mut Turn<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
    fn end_of_turn(&mut self, _: &mut Turn<'_>) {}
    fn deadline(&self) -> Option<Instant> {
        None
    }
    fn drain(&mut self) {}
}

fn start(shards: usize, spin: Option<Duration>) -> Server<()> {
    counting(shards, spin).0
}

fn counting(shards: usize, spin: Option<Duration>) -> (Server<()>, Vec<Arc<Inbox<()>>>, Arc<AtomicUsize>) {
    let config = ServerConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        // Both on core 0: a test machine may have no other.
        cpus: vec![0; shards],
        spin,
        quic: QuicLimits {
            max_streams: 64,
            stream_window: 1 << 20,
            connection_window: 8 << 20,
            idle_timeout: Duration::from_secs(10),
        },
        max_connections: 64,
        max_backlog: 4 << 20,
        ring: RingLimits { receive_buffers: 32, send_slots: 16 },
        drain_timeout: Duration::from_secs(5),
    };
    let inboxes: Vec<_> = (0..shards).map(|_| Arc::new(Inbox::new(16).unwrap())).collect();
    let counted = Arc::new(AtomicUsize::new(0));
    let metrics = (0..shards).map(|_| Arc::new(ShardMetrics::default())).collect();
    let applications = (0..shards)
        .map(|_| {
            let counted = Arc::clone(&counted);
            move || Echo(counted)
        })
        .collect();
    let server =
        Server::start(&config, &tls::identity(), b"echo", inboxes.clone(), metrics, applications).unwrap();
    (server, inboxes, counted)
}

async fn echo(connection: &quinn::Connection, bytes: &[u8]) -> Vec<u8> {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let writing = async {
        send.write_all(bytes).await.unwrap();
        send.finish().unwrap();
    };
    let (_, back) = tokio::join!(writing, receive.read_to_end(bytes.len() + 1));
    back.unwrap()
}

#[tokio::test]
async fn bytes_come_back_whole_from_every_shard() {
    let server = start(2, Some(Duration::from_micros(50)));
    let address = server.address();
    let metrics = server.metrics().to_vec();
    let endpoint = tls::client(b"echo");
    let mut connections = Vec::new();
    for _ in 0..12 {
        connections.push(endpoint.connect(address, "node").unwrap().await.unwrap());
    }
    let large: Vec<u8> = (0..2_000_000u32).map(|i| (i % 251) as u8).collect();
    for connection in &connections {
        assert_eq!(echo(connection, b"hello").await, b"hello");
    }
    assert!(echo(&connections[0], &large).await == large, "a stream larger than every window and buffer");
    for connection in &connections {
        // One stream for each request, more than may be open at a time.
        for i in 0..100u32 {
            assert_eq!(echo(connection, &i.to_le_bytes()).await, i.to_le_bytes());
        }
    }
    // The client's first connection id is random, so each of 12 connections lands on either shard.
    let opened: Vec<u64> = metrics.iter().map(|metrics| metrics.connections_opened.value()).collect();
    assert_eq!(opened.iter().sum::<u64>(), 12, "{opened:?}");
    server.drain();
    server.join().unwrap();
    let reason = connections[0].closed().await;
    assert!(reason.to_string().contains("shutting down"), "{reason}");
}

#[tokio::test]
async fn a_parked_shard_wakes_for_packets_and_for_its_inbox() {
    let (server, inboxes, counted) = counting(1, Some(Duration::ZERO));
    let metrics = server.metrics().to_vec();
    // One letter after the other, each to a shard that had time to park again.
    for letter in 1..=5 {
        let parks = metrics[0].parks.value();
        inboxes[0].send(Letter::Application(())).unwrap();
        while counted.load(Ordering::SeqCst) < letter || metrics[0].parks.value() == parks {
            std::thread::yield_now();
        }
    }
    let endpoint = tls::client(b"echo");
    let connection = endpoint.connect(server.address(), "node").unwrap().await.unwrap();
    for _ in 0..20 {
        assert_eq!(echo(&connection, b"wake").await, b"wake");
    }
    assert!(metrics[0].parks.value() > 0);
    server.drain();
    server.join().unwrap();
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let server = start(1, Some(Duration::ZERO));
    let error = tls::client(b"other").connect(server.address(), "node").unwrap().await.unwrap_err();
    assert!(error.to_string().contains("support any known protocol"), "{error}");
    server.drain();
    server.join().unwrap();
}
