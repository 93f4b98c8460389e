//! Loads the peer: connections of gRPC in the loop that drives every client.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use prost::Message;

use super::http2::Connection;
use super::{PATH, Rows};
use crate::infer::shipped::Shipped;
use crate::load::{Generator, Issue, Nanos, Plan};
use crate::onnxruntime::TOLERANCE;
use crate::rpc::client::{self, Clock, Run};
use crate::server_process::ServerProcess;

/// Room for all the answers of a connection with many calls in flight.
const READ: usize = 64 * 1024;

/// Asks for the shipped rows in turn, and compares each answer with the shipped one.
#[derive(Debug)]
struct Client<'a> {
    shipped: &'a Shipped,
    /// The message that asks for each row.
    requests: Vec<Vec<u8>>,
    next_row: usize,
    lanes: Vec<Lane>,
    buffer: Vec<u8>,
}

/// A call that has been sent.
#[derive(Clone, Copy, Debug)]
struct Asked {
    intended: Nanos,
    row: usize,
}

/// Runs `plan` against the server, a connection for each lane.
///
/// # Errors
/// When a connection fails, the server refuses a call or an answer is wrong.
pub(in crate::infer) fn load(process: &ServerProcess, plan: Plan) -> anyhow::Result<Run> {
    let shipped = Shipped::load(TOLERANCE)?;
    let mut client = Client::connect(process.announcement().parse()?, plan.lanes, &shipped)?;
    client::drive(&mut client, process, plan)
}

impl<'a> Client<'a> {
    fn connect(address: SocketAddr, lanes: usize, shipped: &'a Shipped) -> anyhow::Result<Self> {
        let lanes = (0..lanes).map(|_| Lane::connect(address)).collect::<anyhow::Result<_>>()?;
        let requests = (0..shipped.rows()).map(|row| request(shipped.input(row))).collect();
        Ok(Self { shipped, requests, next_row: 0, lanes, buffer: vec![0; READ] })
    }
}

impl client::Client for Client<'_> {
    fn receive(&mut self, _now: Instant, clock: Clock, generator: &mut Generator) -> anyhow::Result<bool> {
        let mut any = false;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let Some(received) = lane.read(&mut self.buffer)? else { continue };
            any = true;
            let now = clock.now();
            let mut checked = Ok(());
            lane.connection.receive(&self.buffer[..received], |asked, message| {
                generator.answered(index, asked.intended, now);
                if checked.is_ok() {
                    checked = check(message, self.shipped, asked.row);
                }
            })?;
            checked?;
        }
        Ok(any)
    }

    fn start(&mut self, issue: Issue, _now: Nanos) -> anyhow::Result<()> {
        let row = self.next_row;
        self.next_row = (row + 1) % self.requests.len();
        let asked = Asked { intended: issue.intended, row };
        Ok(self.lanes[issue.lane].connection.call(asked, &self.requests[row])?)
    }

    fn flush(&mut self, _now: Instant) -> anyhow::Result<bool> {
        self.lanes.iter_mut().try_fold(false, |any, lane| Ok(any | lane.flush()?))
    }

    fn give_up(&mut self, now: Nanos, generator: &mut Generator) {
        for (index, lane) in self.lanes.iter().enumerate() {
            for asked in lane.connection.unanswered() {
                generator.lost(index, asked.intended, now);
            }
        }
    }
}

fn request(row: &[f32]) -> Vec<u8> {
    let values: Bytes = row.iter().flat_map(|value| value.to_le_bytes()).collect();
    Rows { rows: 1, values }.encode_to_vec()
}

fn check(message: &[u8], shipped: &Shipped, row: usize) -> anyhow::Result<()> {
    let Rows { rows, values } = Rows::decode(message).context("the server's answer is not a message")?;
    let (answer, rest) = values.as_chunks();
    anyhow::ensure!(rows == 1 && rest.is_empty(), "the server answered one row with {rows}");
    shipped.check(row, answer.iter().map(|bytes| f32::from_le_bytes(*bytes)))
}

/// One connection with its socket.
#[derive(Debug)]
struct Lane {
    socket: TcpStream,
    connection: Connection<Asked>,
}

impl Lane {
    fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        socket.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        socket.set_nonblocking(true).context("cannot make the socket non-blocking")?;
        Ok(Self { socket, connection: Connection::new(&address.to_string(), PATH) })
    }

    /// Sends what is ready, as far as the socket takes it; says whether there was anything.
    fn flush(&mut self) -> anyhow::Result<bool> {
        let outgoing = self.connection.outgoing();
        if outgoing.is_empty() {
            return Ok(false);
        }
        match self.socket.write(outgoing) {
            Ok(sent) => drop(outgoing.drain(..sent)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("cannot send to the server"),
        }
        Ok(true)
    }

    /// What has arrived, or `None`.
    fn read(&mut self, buffer: &mut [u8]) -> anyhow::Result<Option<usize>> {
        match self.socket.read(buffer) {
            Ok(0) => anyhow::bail!("the server closed a connection; what it said is on standard error"),
            Ok(received) => Ok(Some(received)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("cannot receive from the server"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::load::{Measured, Pace};
    use crate::rpc::client::Client as _;

    fn shipped() -> Shipped {
        Shipped::load(1e-6).unwrap()
    }

    /// A server that looks its answers up, for want of a model; `spoil` may change them.
    fn start(spoil: fn(Vec<f32>) -> anyhow::Result<Vec<f32>>) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let shipped = shipped();
            let columns = shipped.columns();
            let answer = move |asked: &[f32]| {
                let rows = 0..shipped.rows();
                let find = |asked: &[f32]| rows.clone().find(|row| shipped.input(*row) == asked).unwrap();
                spoil(asked.chunks(columns).flat_map(|row| shipped.reference(find(row)).to_vec()).collect())
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(super::super::serve(listener, columns, answer))
        });
        address
    }

    /// Runs the client until the window has closed and every call is answered.
    fn run(server: SocketAddr, lanes: usize, depth: usize) -> anyhow::Result<Measured> {
        let (warm_up, measured) = (Duration::ZERO, Duration::from_millis(50));
        let mut generator = Generator::new(Plan {
            lanes,
            depth,
            pace: Pace::Maximum,
            warm_up,
            measured,
            longest_pause: None,
            kernel_times: false,
        });
        let shipped = shipped();
        let mut client = Client::connect(server, lanes, &shipped)?;
        let clock = Clock { start: Instant::now() };
        while !generator.is_over(clock.now()) {
            client.receive(Instant::now(), clock, &mut generator)?;
            while let Some(issue) = generator.next(clock.now()) {
                client.start(issue, clock.now())?;
            }
            client.flush(Instant::now())?;
        }
        client.give_up(clock.now(), &mut generator);
        Ok(generator.finish(clock.now()))
    }

    #[test]
    fn every_call_gets_the_answer_to_its_own_row() {
        let measured = run(start(Ok), 3, 5).unwrap();
        assert!(measured.per_second() > 0.0);
        assert_eq!(measured.unanswered(), 0);
    }

    #[test]
    fn a_wrong_answer_ends_the_run() {
        let spoil = |mut values: Vec<f32>| {
            values[0] += 1.0;
            Ok(values)
        };
        let error = run(start(spoil), 1, 1).unwrap_err();
        assert!(error.to_string().contains("row 0"), "{error}");
    }

    #[test]
    fn a_refused_call_ends_the_run() {
        let refuse = |_: Vec<f32>| anyhow::bail!("no");
        let error = run(start(refuse), 1, 1).unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
