//! The client: one spinning thread on a core of its own, the same loop for QUIC and for bare datagrams.

mod datagram;
pub(crate) mod quic;
mod requests;

pub(crate) use requests::read_stream;

use std::net::{SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Context;

use self::requests::Requests;
use super::transport::{ALPN, Endpoint};
use crate::load::{Generator, Issue, Measured, Nanos, Plan};
use crate::server_process::ServerProcess;

/// Kernel buffer for what each socket receives.
const SOCKET_BUFFER: usize = 4 << 20;
/// How often a client looks for what it has lost.
const SWEEP: Duration = Duration::from_millis(50);

/// What one run gives.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) measured: Measured,
    /// CPU seconds of the server per second of the measured window.
    pub(crate) server_cores: f64,
    /// Share of the window in which the client had something to do. Near 1, the client is the bottleneck.
    pub(crate) client_busy: f64,
}

/// How requests map to streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streams {
    /// One bidirectional stream for each connection; messages follow each other on it.
    OnePerConnection,
    /// A bidirectional stream for each request, finished after its message.
    OnePerRequest,
}

/// How connections map to UDP sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sockets {
    /// One for all, as the connections of one QUIC endpoint have it: connection ids tell them apart, and the kernel
    /// carries packets of many in one call.
    Shared,
    /// One for each, as separate clients would have.
    OnePerConnection,
}

impl Sockets {
    /// Opens them, connected to `server`.
    fn open(self, server: SocketAddrV4, connections: usize) -> anyhow::Result<Vec<UdpSocket>> {
        let count = match self {
            Self::Shared => 1,
            Self::OnePerConnection => connections,
        };
        let open = || {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect(server)?;
            socket.set_nonblocking(true)?;
            // What a burst of all connections needs, wherever it waits.
            socket2::SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER)?;
            Ok(socket)
        };
        let sockets: std::io::Result<_> = (0..count).map(|_| open()).collect();
        sockets.with_context(|| {
            format!("cannot open {count} UDP sockets to {server}; `ulimit -n` may be too low")
        })
    }

    /// The socket of a connection.
    fn of(self, connection: usize) -> usize {
        match self {
            Self::Shared => 0,
            Self::OnePerConnection => connection,
        }
    }
}

/// Runs `plan` against `server`, a lane for each connection. The calling thread should be pinned.
///
/// # Errors
/// When the server cannot be reached, closes a connection, or answers with anything but an echo.
pub(crate) fn run(
    server: &ServerProcess,
    plan: Plan,
    streams: Streams,
    sockets: Sockets,
) -> anyhow::Result<Run> {
    let endpoint: Endpoint = server.announcement().parse()?;
    let start = Instant::now();
    match endpoint.pin {
        Some(pin) => {
            let config = quic::client_config(pin, ALPN)?;
            let mut client =
                quic::Client::connect(endpoint.address, &config, sockets, plan.lanes, |connection| {
                    Requests::new(streams, plan.depth, connection)
                })?;
            drive(&mut client, server, plan)
        }
        None => drive(&mut datagram::Client::new(endpoint.address, sockets, plan)?, server, plan),
    }
    .with_context(|| format!("the run ended after {:.1} s", start.elapsed().as_secs_f64()))
}

/// One kind of client, driven by [`drive`].
pub(crate) trait Client {
    /// Takes what has arrived and reports each answer to `generator`. Says whether there was anything.
    fn receive(&mut self, now: Instant, clock: Clock, generator: &mut Generator) -> anyhow::Result<bool>;
    /// Starts a request; it leaves with the next [`Self::flush`].
    fn start(&mut self, issue: Issue, now: Nanos) -> anyhow::Result<()>;
    /// Sends whatever is ready and runs timers that are due. Says whether there was anything.
    fn flush(&mut self, now: Instant) -> anyhow::Result<bool>;
    /// Gives up what has waited so long that no answer can come any more. Called every [`SWEEP`].
    fn sweep(&mut self, _now: Nanos, _generator: &mut Generator) {}
    /// Reports every request still without an answer as lost.
    fn give_up(&mut self, now: Nanos, generator: &mut Generator);
}

/// The time since the start of the run.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) start: Instant,
}

impl Clock {
    pub(crate) fn now(self) -> Nanos {
        Nanos::between(self.start, Instant::now())
    }
}

pub(crate) fn drive(client: &mut impl Client, server: &ServerProcess, plan: Plan) -> anyhow::Result<Run> {
    let mut generator = Generator::new(plan);
    let mut cpu_at_open = None;
    let mut cpu_at_close = None;
    let mut busy = Duration::ZERO;
    let mut next_sweep = Nanos(0);
    let clock = Clock { start: Instant::now() };
    loop {
        let began = Instant::now();
        let turn = Nanos::between(clock.start, began);
        generator.turn(turn);
        let in_window = turn >= plan.opens() && turn < plan.closes();
        if turn >= plan.opens() && cpu_at_open.is_none() {
            cpu_at_open = Some((server.cpu_time()?, Instant::now()));
        }
        if turn >= plan.closes() && cpu_at_close.is_none() {
            cpu_at_close = Some((server.cpu_time()?, Instant::now()));
        }
        let mut worked = client.receive(began, clock, &mut generator)?;
        let mut starts = false;
        // The clock is read anew only after work, so that an idle turn is short and a request's start is exact.
        let now = if worked { Instant::now() } else { began };
        let started = Nanos::between(clock.start, now);
        while let Some(issue) = generator.next(started) {
            client.start(issue, started)?;
            starts = true;
        }
        worked |= client.flush(now)? || starts;
        if starts && plan.kernel_times {
            generator.sent(clock.now());
        }
        if turn >= next_sweep {
            client.sweep(turn, &mut generator);
            next_sweep = turn + Nanos::from(SWEEP);
        }
        if worked && in_window {
            busy += began.elapsed();
        }
        if generator.is_over(turn) {
            break;
        }
        std::hint::spin_loop();
    }
    let now = clock.now();
    client.give_up(now, &mut generator);
    let starved = "the client was not given its core during the measured window; measure for longer, or on an \
                   idle machine";
    let (before, opened) = cpu_at_open.context(starved)?;
    let (after, closed) = cpu_at_close.context(starved)?;
    // The turn that opened the window must not also have closed it.
    anyhow::ensure!(closed - opened > plan.measured / 2, starved);
    let window = closed.duration_since(opened).as_secs_f64();
    Ok(Run {
        measured: generator.finish(now),
        server_cores: after.saturating_sub(before).as_secs_f64() / window,
        client_busy: busy.as_secs_f64() / window,
    })
}
