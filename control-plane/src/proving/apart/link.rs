//! A service's end of a session: finding the node, saying who it is, asking, and coming back when the node was away.

use super::counts::Counts;
use super::frame::{self, FrameError, Kind};
use super::listener::IDLE_TIMEOUT;
use super::message::{self, Hello, Refusal, Unread, Welcome};
use crate::proving::workbench::{Models, WorkbenchError};
use haca_client::{ClientError, ClientOptions, dial};
use haca_verifier::zk::CIRCUIT_VERSION;
use haca_wire::connect::Connect;
use haca_wire::sign::{Role, ServiceKey};
use haca_wire::{ModelId, NodeId};
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::watch;

/// Why a service does not work, or not now.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The node takes no services.
    #[error(
        "connect.toml names no address for provers and verifiers that run apart; start the node with --services ADDR \
         (zk.services in its settings) and give its present connect.toml, or its address with --node"
    )]
    NoServices,
    /// It cannot be reached, or is another node.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It does not let this service in, or has sent it away.
    #[error("{address}: {why}")]
    Refused {
        /// The node.
        address: SocketAddr,
        /// What it said.
        why: String,
        /// Whether trying again may help.
        may_pass: bool,
    },
    /// The session ended.
    #[error("{address}: {reason}")]
    Ended {
        /// The node.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// What the node says makes no sense.
    #[error("{address} broke the protocol: {reason}; use the node's release")]
    Protocol {
        /// The node.
        address: SocketAddr,
        /// How.
        reason: String,
    },
    /// A model or a key cannot be kept.
    #[error("{0}; make room, or mend the folder")]
    Disk(WorkbenchError),
    /// The log contradicts itself.
    #[error("ALARM: {address}: {reason}")]
    Contradiction {
        /// The node.
        address: SocketAddr,
        /// How.
        reason: String,
    },
}

impl LinkError {
    /// Whether trying again may help.
    fn may_pass(&self) -> bool {
        match self {
            Self::NoServices | Self::Protocol { .. } | Self::Contradiction { .. } => false,
            Self::Client(error) => !matches!(
                error,
                ClientError::WrongPin { .. } | ClientError::WrongProtocol { .. } | ClientError::LogKey(_)
            ),
            Self::Refused { may_pass, .. } => *may_pass,
            Self::Ended { .. } | Self::Disk(_) => true,
        }
    }
}

/// Tells a service to finish what it is doing and end.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// The telling end, and the end that is told.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    pub(super) fn is_told(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it is told, or nobody can tell any more.
    pub(super) async fn told(&mut self) {
        let _ = self.0.wait_for(|told| *told).await;
    }
}

/// Where a node is, and who wants to serve it.
pub(super) struct Node {
    pub(super) address: SocketAddr,
    pub(super) connect: Connect,
    pub(super) role: Role,
    pub(super) key: ServiceKey,
    pub(super) counts: Arc<Counts>,
}

/// A session.
pub(super) struct Link {
    pub(super) address: SocketAddr,
    endpoint: Endpoint,
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    max_model_bytes: u64,
    pub(super) counts: Arc<Counts>,
    /// Whether it has said anything that came of its work.
    has_worked: bool,
}

/// Time until the next session.
struct Pause(Duration);

impl Pause {
    /// After a session that ended: longer each time, until one has come to something. That one was let in is not enough:
    /// who cannot keep what work takes would ask for it again at once, for ever.
    fn after(&mut self, has_worked: bool) -> Duration {
        let pause = if has_worked { FIRST_PAUSE } else { self.0 };
        self.0 = (2 * pause).min(LAST_PAUSE);
        pause
    }
}

impl Node {
    /// The node that writes this connect.toml.
    pub(super) fn new(connect: Connect, role: Role, seed: &[u8; 32]) -> Result<Self, LinkError> {
        let address = dial::reachable(connect.services.ok_or(LinkError::NoServices)?);
        Ok(Self { address, connect, role, key: ServiceKey::from_seed(seed), counts: Arc::default() })
    }

    /// Runs sessions one after the other until the service is told to stop, with more and more time between failures.
    pub(super) async fn serve<S>(
        &self,
        stop: &mut Stop,
        state: &mut S,
        mut session: impl AsyncFnMut(&mut Link, &mut S, &mut Stop) -> Result<(), LinkError>,
    ) -> Result<(), LinkError> {
        let mut pause = Pause(FIRST_PAUSE);
        while !stop.is_told() {
            let link = tokio::select! {
                link = self.open() => link,
                () = stop.told() => return Ok(()),
            };
            let (ended, has_worked) = match link {
                Ok(mut link) => {
                    tracing::info!(node = %self.address, "the node gives work");
                    self.counts.sessions.fetch_add(1, Relaxed);
                    self.counts.connected.store(1, Relaxed);
                    let ended = session(&mut link, state, stop).await;
                    self.counts.connected.store(0, Relaxed);
                    let has_worked = link.has_worked;
                    link.close().await;
                    (ended, has_worked)
                }
                Err(error) => (Err(error), false),
            };
            let pause = pause.after(has_worked);
            match ended {
                Ok(()) => return Ok(()),
                Err(error) if error.may_pass() => {
                    tracing::warn!(%error, again_in = ?pause, "no session with the node");
                }
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.told() => {}
            }
        }
        Ok(())
    }

    async fn open(&self) -> Result<Link, LinkError> {
        let address = self.address;
        let options = ClientOptions { idle_timeout: IDLE_TIMEOUT, ..ClientOptions::default() };
        let (endpoint, waited) = (dial::endpoint(address)?, options.connect_timeout);
        let opened = async {
            let pin = self.connect.key_pin;
            let connection = dial::connect(&endpoint, address, pin, message::ALPN, &options).await?;
            let (send, receive) = connection.open_bi().await.map_err(|error| ended(address, &error))?;
            let endpoint = endpoint.clone();
            let mut link = Link {
                address,
                endpoint,
                connection,
                send,
                receive,
                max_model_bytes: 0,
                counts: Arc::clone(&self.counts),
                has_worked: false,
            };
            let welcome = link.greet(self).await?;
            link.max_model_bytes = welcome.max_model_bytes;
            match welcome.node {
                node if node == self.connect.node_key => Ok(link),
                said => Err(wrong_node(address, self.connect.node_key, said)),
            }
        };
        tokio::time::timeout(waited, opened).await.unwrap_or(Err(ClientError::Unreachable {
            address,
            waited,
        }
        .into()))
    }
}

impl Link {
    async fn greet(&mut self, node: &Node) -> Result<Welcome, LinkError> {
        let mut secret = [0; 32];
        (self.connection.export_keying_material(&mut secret, message::EXPORTER, b""))
            .map_err(|_| self.broken("the TLS session exports no secret"))?;
        let (role, key) = (node.role, node.key.public());
        let circuits = CIRCUIT_VERSION;
        let hello = Hello { role, circuits, key, signature: node.key.greet(role, &secret) };
        self.send(Kind::Hello, &hello.encode()).await?;
        match self.receive().await? {
            (Kind::Welcome, payload) => self.read(Welcome::decode(&payload)),
            (other, _) => Err(self.unexpected(other)),
        }
    }

    pub(super) async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), LinkError> {
        let sent = frame::send(&mut self.send, kind, payload).await;
        self.has_worked |= matches!(kind, Kind::Proven | Kind::Unprovable | Kind::Rulings);
        sent.map_err(|error| self.failed(error))
    }

    /// Asks for work, having checked the log up to this size, and waits for it; `None` once the service is told to stop.
    pub(super) async fn ask(
        &mut self,
        checked: u64,
        stop: &mut Stop,
    ) -> Result<Option<(Kind, Vec<u8>)>, LinkError> {
        if stop.is_told() {
            self.finish().await;
            return Ok(None);
        }
        self.send(Kind::Ask, &message::encode_ask(checked)).await?;
        tokio::select! {
            given = self.receive() => given.map(Some),
            () = stop.told() => Ok(None),
        }
    }

    /// The next frame that is no refusal.
    pub(super) async fn receive(&mut self) -> Result<(Kind, Vec<u8>), LinkError> {
        let address = self.address;
        let received = frame::receive(&mut self.receive, MAX_FROM_NODE).await;
        match received.map_err(|error| self.failed(error))? {
            Some((Kind::Refusal, payload)) => {
                let Refusal { may_pass, why } = self.read(Refusal::decode(&payload))?;
                Err(LinkError::Refused { address, why, may_pass })
            }
            Some(frame) => Ok(frame),
            None => Err(LinkError::Ended { address, reason: "the node ended the session".to_owned() }),
        }
    }

    /// Sees to it that the folder has a model: asks for its file if it is not there, or damaged. The inner error says why the node has none to give,
    /// and will have none: that is the fault of one model, and no reason to end the session.
    pub(super) async fn fetch(
        &mut self,
        models: &Models,
        id: &ModelId,
    ) -> Result<Result<(), String>, LinkError> {
        if models.has_whole(id) {
            return Ok(Ok(()));
        }
        let address = self.address;
        let (mut send, mut receive) =
            self.connection.open_bi().await.map_err(|error| ended(address, &error))?;
        frame::send(&mut send, Kind::GetModel, &id.0).await.map_err(|error| self.failed(error))?;
        let limit = usize::try_from(self.max_model_bytes).unwrap_or(usize::MAX);
        let file = match frame::receive(&mut receive, limit).await.map_err(|error| self.failed(error))? {
            Some((Kind::Model, file)) => file,
            Some((Kind::Refusal, payload)) => {
                let Refusal { may_pass, why } = self.read(Refusal::decode(&payload))?;
                let why = format!("model {id} cannot be fetched: {why}");
                return match may_pass {
                    true => Err(LinkError::Refused { address, why, may_pass }),
                    false => Ok(Err(why)),
                };
            }
            Some((other, _)) => return Err(self.unexpected(other)),
            None => return Err(self.broken("a model's stream ended without it")),
        };
        match models.keep_checked(id, &file) {
            Ok(true) => Ok(Ok(())),
            Ok(false) => Ok(Err(format!("what the node gives as model {id} is not that model"))),
            Err(error) => Err(LinkError::Disk(error)),
        }
    }

    /// Says that this is all, and waits until the node has taken everything.
    pub(super) async fn finish(&mut self) {
        if self.send.finish().is_ok() {
            let _ = tokio::time::timeout(IDLE_TIMEOUT, self.receive.read_to_end(0)).await;
        }
    }

    async fn close(self) {
        self.connection.close(VarInt::from_u32(0), b"");
        let _ = tokio::time::timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }

    pub(super) fn read<T>(&self, read: Result<T, Unread>) -> Result<T, LinkError> {
        read.map_err(|error| LinkError::Protocol { address: self.address, reason: error.to_string() })
    }

    pub(super) fn unexpected(&self, kind: Kind) -> LinkError {
        LinkError::Protocol {
            address: self.address,
            reason: format!("{kind:?} came where it does not belong"),
        }
    }

    fn broken(&self, reason: &str) -> LinkError {
        LinkError::Protocol { address: self.address, reason: reason.to_owned() }
    }

    fn failed(&self, error: FrameError) -> LinkError {
        let address = self.address;
        match error {
            FrameError::Lost(reason) => LinkError::Ended { address, reason },
            other => LinkError::Protocol { address, reason: other.to_string() },
        }
    }
}

fn ended(address: SocketAddr, error: &quinn::ConnectionError) -> LinkError {
    LinkError::Ended { address, reason: error.to_string() }
}

fn wrong_node(address: SocketAddr, expected: NodeId, said: NodeId) -> LinkError {
    ClientError::WrongNode { address, expected, said }.into()
}

/// Between the first failure and the next attempt; doubled from there.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(15);
/// Proofs to judge, with their openings and keys. The node is the pinned one.
const MAX_FROM_NODE: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_a_session_has_come_to_something() {
        let mut pause = Pause(FIRST_PAUSE);
        assert_eq!([false; 3].map(|worked| pause.after(worked)), [1, 2, 4].map(|times| FIRST_PAUSE * times));
        assert_eq!([true, false].map(|worked| pause.after(worked)), [FIRST_PAUSE, FIRST_PAUSE * 2]);
        assert_eq!([false; 9].map(|worked| pause.after(worked))[8], LAST_PAUSE);
    }
}
