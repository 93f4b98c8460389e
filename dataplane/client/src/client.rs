//! The connection: set-up, what the node said of itself, the model table, the end.

use crate::check::Checker;
use crate::conversation::Session;
use crate::dial;
use crate::error::ClientError;
use crate::lane::Lanes;
use haca_verifier::Trust;
use haca_wire::connect::Connect;
use haca_wire::frame::FrameKind;
use haca_wire::message::model::{self, ModelEntry, ModelList};
use haca_wire::message::session::{Hello, Welcome};
use haca_wire::message::{DecodeError, Encoder};
use haca_wire::{ALPN, PROTOCOL_VERSION, Status};
use std::sync::Arc;
use std::time::Duration;

/// How a [`Client`] connects.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Name and version of the caller's software, for the operator's logs.
    pub software: String,
    /// How long the node has for the handshake and its `Welcome`.
    pub connect_timeout: Duration,
    /// Streams that requests are pipelined on; at least one. A lost packet holds up only the answers of its stream.
    pub streams: usize,
    /// A packet is sent at least this often, so that the node does not take an idle client for a dead one.
    pub keep_alive: Duration,
    /// A node that is not heard of for this long is given up.
    pub idle_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            software: concat!("haca-client ", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(5),
            streams: 4,
            keep_alive: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(15),
        }
    }
}

/// A session with one node. See the crate's text.
#[derive(Debug)]
pub struct Client {
    endpoint: quinn::Endpoint,
    session: Arc<Session>,
    welcome: Welcome,
    trust: Trust,
    checker: Checker,
    lanes: Lanes,
}

impl Client {
    /// Connects to the node that `connect.toml` describes, and to no other.
    ///
    /// Must be called within a tokio runtime, which then runs the connection.
    ///
    /// # Errors
    /// If the node cannot be reached in time, is another one, speaks another protocol, or refuses.
    pub async fn connect(connect: &Connect, options: ClientOptions) -> Result<Self, ClientError> {
        let address = dial::reachable(connect.address);
        let trust = Trust::from_connect(connect).map_err(|error| ClientError::LogKey(error.to_string()))?;
        let endpoint = dial::endpoint(address)?;
        let set_up = async {
            let connection = dial::connect(&endpoint, address, connect.key_pin, ALPN, &options).await?;
            let session = Arc::new(Session::new(address, connection));
            let mut streams = vec![session.open().await?];
            let welcome = greet(&session, &mut streams[0], options.software.clone()).await?;
            if welcome.node != connect.node_key {
                let (expected, said) = (connect.node_key, welcome.node);
                return Err(session.end(ClientError::WrongNode { address, expected, said }));
            }
            // More lanes than requests in flight would be idle; the first stream becomes one of them.
            let lanes = options.streams.clamp(1, welcome.limits.max_in_flight as usize);
            while streams.len() < lanes {
                streams.push(session.open().await?);
            }
            Ok((session, welcome, streams))
        };
        let (session, welcome, streams) = tokio::time::timeout(options.connect_timeout, set_up)
            .await
            .map_err(|_| ClientError::Unreachable { address, waited: options.connect_timeout })??;
        let lanes = Lanes::start(&session, streams, welcome.limits);
        let checker = Checker::new(&welcome, &trust);
        Ok(Self { endpoint, session, welcome, trust, checker, lanes })
    }

    /// What the node said of itself when the session began. Its model table may have changed since: ask
    /// [`Client::models`].
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Asks the node what it serves now.
    ///
    /// # Errors
    /// If the node refuses, or the connection ends.
    pub async fn models(&self) -> Result<Vec<ModelEntry>, ClientError> {
        let mut request = Vec::new();
        model::encode_list_models(&mut Encoder::new(), &mut request);
        let payload = self.session.ask(&request, FrameKind::ModelList).await?;
        let list =
            ModelList::decode(&payload).map_err(|error| self.undecodable(FrameKind::ModelList, error))?;
        Ok(list.models)
    }

    /// Asks the node for the model that has this name now.
    ///
    /// # Errors
    /// [`ClientError::UnknownModel`] names those there are; and as [`Client::models`].
    pub async fn model(&self, name: &str) -> Result<ModelEntry, ClientError> {
        let models = self.models().await?;
        match models.iter().position(|model| model.name == name) {
            Some(at) => Ok(models[at].clone()),
            None => Err(ClientError::UnknownModel {
                name: name.to_owned(),
                served: models.into_iter().map(|model| model.name).collect(),
            }),
        }
    }

    /// Ends the session, and returns once the node knows or can no longer be told. Calls in flight fail with
    /// [`ClientError::Closed`].
    pub async fn close(&self) {
        self.session.end(ClientError::Closed);
        self.session.ended().await;
        self.endpoint.wait_idle().await;
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    pub(crate) fn checker(&self) -> &Checker {
        &self.checker
    }

    pub(crate) fn trust(&self) -> &Trust {
        &self.trust
    }

    pub(crate) fn undecodable(&self, kind: FrameKind, error: DecodeError) -> ClientError {
        self.session.end(ClientError::decode(self.session.address, kind, error))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.session.end(ClientError::Closed);
    }
}

/// `Hello` out, `Welcome` back, on the session's first stream, which stays open.
async fn greet(
    session: &Session,
    (send, recv): &mut (quinn::SendStream, quinn::RecvStream),
    software: String,
) -> Result<Welcome, ClientError> {
    let address = session.address;
    let mut hello = Vec::new();
    Hello { protocol_version: PROTOCOL_VERSION, software }.encode(&mut Encoder::new(), &mut hello);
    send.write_all(&hello).await.map_err(|error| session.write_failed(&error))?;
    let payload = match session.answer(recv, FrameKind::Welcome).await {
        Err(ClientError::Refused { status: Status::VersionMismatch, detail, .. }) => {
            return Err(session.end(ClientError::Version { address, detail }));
        }
        other => other?,
    };
    let welcome = Welcome::decode(&payload)
        .map_err(|error| session.end(ClientError::decode(address, FrameKind::Welcome, error)))?;
    if welcome.protocol_version != PROTOCOL_VERSION {
        let detail = format!("it speaks version {}", welcome.protocol_version);
        return Err(session.end(ClientError::Version { address, detail }));
    }
    let limits = &welcome.limits;
    if limits.max_in_flight == 0 || limits.max_frame_bytes == 0 || limits.max_await_ids == 0 {
        return Err(session.end(ClientError::protocol(address, "its Welcome states a limit of zero")));
    }
    Ok(welcome)
}
