//! The node's end: who is let in, and what becomes of sessions.

use super::frame::{self, FrameError, Kind};
use super::message::{self, Hello, Refusal, Unread, Welcome};
use super::strangers::{Stranger, Strangers};
use super::{of_prover, of_verifier};
use crate::proving::ProofMetrics;
use crate::proving::docket::{Misruling, Registrar};
use crate::proving::workbench::Models;
use crate::proving::workers::Workers;
use haca_dataplane::quic::{self, QuicLimits, TlsIdentity};
use haca_wire::sign::{Role, verify_service};
use haca_wire::{Digest, NodeId};
use quinn::{Connection, Incoming, RecvStream, SendStream, VarInt};
use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// A service that is let in, and what it did.
#[derive(Debug)]
pub struct Served {
    /// What it does.
    pub role: Role,
    /// Its key.
    pub key: Digest,
    /// Sessions that it has now.
    pub sessions: AtomicU64,
    /// Proofs or verdicts that were taken from it.
    pub results: AtomicU64,
}

/// Who is let in.
pub(in crate::proving) struct Admission {
    pub(in crate::proving) served: Vec<Arc<Served>>,
    /// Provers that handed in a proof that does not hold: shut out until the node starts again.
    barred: Mutex<HashSet<Digest>>,
}

impl Admission {
    pub(in crate::proving) fn new(provers: &[Digest], verifiers: &[Digest]) -> Self {
        let served = |role| {
            move |key: &Digest| {
                Arc::new(Served { role, key: *key, sessions: AtomicU64::new(0), results: AtomicU64::new(0) })
            }
        };
        let provers = provers.iter().map(served(Role::Prover));
        let served = provers.chain(verifiers.iter().map(served(Role::Verifier))).collect();
        Self { served, barred: Mutex::default() }
    }

    pub(super) fn bar(&self, key: Digest) {
        self.barred.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    fn admit(&self, role: Role, key: &Digest) -> Result<Arc<Served>, Refusal> {
        let refuse = |may_pass, why| Err(Refusal { may_pass, why });
        let Some(served) = self.served.iter().find(|served| served.role == role && served.key == *key) else {
            return refuse(
                false,
                format!(
                    "this node does not know the {role} {key}; to let it in, add it to the node's settings and \
                     start the node again: zk.{role}s = [\"{key}\"]"
                ),
            );
        };
        if self.barred.lock().unwrap_or_else(PoisonError::into_inner).contains(key) {
            let why = "a proof of this prover did not hold; it is shut out until the node is started again";
            return refuse(false, why.to_owned());
        }
        // Two of one verifier would share its cursor; provers may share a key.
        let most = if role == Role::Verifier { 1 } else { MAX_SESSIONS };
        if served.sessions.fetch_add(1, Relaxed) >= most {
            served.sessions.fetch_sub(1, Relaxed);
            let why = match role {
                Role::Verifier => {
                    "this verifier has a session already: stop the other, or give this one a key of its own"
                        .to_owned()
                }
                Role::Prover => format!(
                    "provers with this key have {most} sessions already, as many as one key may have: stop one of them, \
                     or give this one a key of its own"
                ),
            };
            return refuse(true, why);
        }
        Ok(Arc::clone(served))
    }
}

/// What sessions are served from.
pub(in crate::proving) struct Desk {
    pub(in crate::proving) admission: Arc<Admission>,
    pub(in crate::proving) node: NodeId,
    pub(in crate::proving) workers: Workers,
    pub(in crate::proving) registrar: Arc<Registrar>,
    pub(in crate::proving) models: Models,
    pub(in crate::proving) max_model_bytes: u64,
    pub(in crate::proving) metrics: Arc<ProofMetrics>,
    /// How long a prover has for one proof before another gets the request too.
    pub(in crate::proving) patience: Duration,
    /// For checking proofs before they are logged.
    pub(in crate::proving) pool: rayon::ThreadPool,
}

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Unread(#[from] Unread),
    #[error("{0:?} came where it does not belong")]
    Unexpected(Kind),
    #[error(transparent)]
    Misruling(#[from] Misruling),
    #[error("{}", .0.why)]
    Refused(Refusal),
    #[error("it said nothing for {HANDSHAKE:?}")]
    Silent,
    #[error("it has had a request for {0:?} and not proven it")]
    Overdue(Duration),
    #[error("the node stops")]
    Stopping,
    #[error("the connection ended: {0}")]
    Lost(String),
    /// It has said that this is all.
    #[error("it is done")]
    Done,
}

/// A session, once the service is known.
pub(super) struct Session {
    pub(super) desk: Arc<Desk>,
    pub(super) served: Arc<Served>,
    pub(super) connection: Connection,
    pub(super) send: SendStream,
    pub(super) receive: RecvStream,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.served.sessions.fetch_sub(1, Relaxed);
    }
}

impl Session {
    pub(super) async fn receive(&mut self) -> Result<(Kind, Vec<u8>), End> {
        frame::receive(&mut self.receive, MAX_FROM_SERVICE).await?.ok_or(End::Done)
    }

    pub(super) async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), End> {
        Ok(frame::send(&mut self.send, kind, payload).await?)
    }
}

/// Takes the address; port 0 takes a free one.
pub(in crate::proving) fn bind(address: SocketAddr) -> std::io::Result<(UdpSocket, SocketAddr)> {
    let socket = UdpSocket::bind(address)?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

/// The node's end of all sessions.
pub(in crate::proving) struct Listener {
    pub(in crate::proving) socket: UdpSocket,
    pub(in crate::proving) identity: TlsIdentity,
    pub(in crate::proving) desk: Desk,
    /// Sent or dropped when the service is to stop.
    pub(in crate::proving) stop: oneshot::Receiver<()>,
}

impl Listener {
    /// Serves until it is to stop.
    pub(in crate::proving) fn run(self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.serve()),
            Err(error) => panic!("no runtime for services that run apart: {error}"),
        }
    }

    async fn serve(self) {
        let limits = QuicLimits {
            max_streams: 2,
            stream_window: WINDOW,
            connection_window: STRANGER_WINDOW,
            idle_timeout: IDLE_TIMEOUT,
        };
        let (endpoint_config, server_config) = quic::settings(&self.identity, message::ALPN, &limits)
            .expect("the shards serve with this identity and such limits");
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = quinn::Endpoint::new(endpoint_config, Some(server_config), self.socket, runtime)
            .expect("a socket that is bound is taken into a runtime");
        let (desk, strangers) = (Arc::new(self.desk), Arc::new(Strangers::default()));
        let accept = async {
            while let Some(incoming) = endpoint.accept().await {
                // A stranger takes one of few places, so it has to show first that it is where it says (RFC 9000,
                // section 8.1.2); who answers no retry takes none.
                if !incoming.remote_address_validated() {
                    // Fails for none that is not validated; that one would be refused.
                    let _ = incoming.retry();
                    continue;
                }
                match strangers.admit(incoming.remote_address().ip()) {
                    Some(stranger) => drop(tokio::spawn(attend(Arc::clone(&desk), incoming, stranger))),
                    None => incoming.refuse(),
                }
            }
        };
        tokio::select! {
            () = accept => {}
            _ = self.stop => {}
        }
        endpoint.close(VarInt::from_u32(0), b"the node stops");
        // For those that can still be told.
        let _ = tokio::time::timeout(HANDSHAKE, endpoint.wait_idle()).await;
    }
}

/// One connection, from its first packet to its end.
async fn attend(desk: Arc<Desk>, incoming: Incoming, stranger: Stranger) {
    let address = incoming.remote_address();
    let greeted = async {
        let connection = incoming.await.map_err(|error| End::Lost(error.to_string()))?;
        let (send, receive) = connection.accept_bi().await.map_err(|error| End::Lost(error.to_string()))?;
        greet(&desk, connection, send, receive).await
    };
    let session = match tokio::time::timeout(HANDSHAKE, greeted).await.unwrap_or(Err(End::Silent)) {
        Ok(session) => session,
        Err(end) => {
            tracing::warn!(%address, %end, "a service is not let in");
            return;
        }
    };
    drop(stranger);
    let (role, key) = (session.served.role, session.served.key);
    tracing::info!(%role, %key, %address, "a service has come");
    let (connection, files) = (session.connection.clone(), Arc::clone(&desk));
    let files = tokio::spawn(serve_files(files, connection.clone()));
    let end = match role {
        Role::Prover => of_prover::serve(session).await,
        Role::Verifier => of_verifier::serve(session).await,
    };
    files.abort();
    match end {
        End::Done | End::Stopping | End::Lost(_) | End::Frame(FrameError::Lost(_)) => {
            tracing::info!(%role, %key, %end, "a service has gone");
        }
        End::Overdue(_) => tracing::warn!(%role, %key, %end, "a service is sent away"),
        end => tracing::error!(%role, %key, %end, "ALARM: a service is sent away"),
    }
    connection.close(VarInt::from_u32(0), b"");
}

/// Learns who it is, and welcomes or refuses it.
async fn greet(
    desk: &Arc<Desk>,
    connection: Connection,
    mut send: SendStream,
    mut receive: RecvStream,
) -> Result<Session, End> {
    let hello = match frame::receive(&mut receive, Hello::LEN).await?.ok_or(End::Done)? {
        (Kind::Hello, hello) => Hello::decode(&hello)?,
        (other, _) => return Err(End::Unexpected(other)),
    };
    let mut secret = [0; 32];
    let exported = connection.export_keying_material(&mut secret, message::EXPORTER, b"");
    let is_known = exported.is_ok() && verify_service(&hello.key, hello.role, &secret, &hello.signature);
    let admitted = match is_known {
        true => hello.check_circuits().and_then(|()| desk.admission.admit(hello.role, &hello.key)),
        false => Err(Refusal { may_pass: false, why: "the greeting is not signed by its key".to_owned() }),
    };
    match admitted {
        Ok(served) => {
            connection.set_send_window(2 * u64::from(WINDOW));
            connection.set_receive_window(VarInt::from_u32(2 * WINDOW));
            let welcome = Welcome { node: desk.node, max_model_bytes: desk.max_model_bytes };
            let mut session = Session { desk: Arc::clone(desk), served, connection, send, receive };
            session.send(Kind::Welcome, &welcome.encode()).await?;
            Ok(session)
        }
        Err(refusal) => Err(refuse(&mut send, &connection, refusal).await),
    }
}

/// Says why, and waits until that has come, or the other has gone.
pub(super) async fn refuse(send: &mut SendStream, connection: &Connection, refusal: Refusal) -> End {
    if frame::send(send, Kind::Refusal, &refusal.encode()).await.is_ok() && send.finish().is_ok() {
        let _ = tokio::time::timeout(HANDSHAKE, connection.closed()).await;
    }
    End::Refused(refusal)
}

/// Answers requests for models, each on a stream of its own, one after the other.
async fn serve_files(desk: Arc<Desk>, connection: Connection) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let asked = async {
            let (kind, payload) = frame::receive(&mut receive, Digest::LEN).await?.ok_or(End::Done)?;
            if kind != Kind::GetModel {
                return Err(End::Unexpected(kind));
            }
            let (id, models) = (message::decode_model(&payload)?, desk.models.clone());
            // What is damaged here is told here: the other end can do nothing about it.
            let file = move || models.load(&id).and_then(|_| models.file(&id));
            match tokio::task::spawn_blocking(file).await {
                Ok(Ok(file)) => frame::send(&mut send, Kind::Model, &file).await?,
                Ok(Err(error)) => {
                    tracing::error!(model = %id, %error, "a service cannot be given a model");
                    let refusal = Refusal { may_pass: error.may_pass(), why: error.to_caller() };
                    frame::send(&mut send, Kind::Refusal, &refusal.encode()).await?;
                }
                Err(_) => return Err(End::Stopping),
            }
            // Fails only where the other does not want it any more.
            let _ = send.finish();
            Ok(())
        };
        if let Err(end) = asked.await {
            tracing::warn!(%end, "a service did not get a model");
        }
    }
}

/// Sessions of provers with one key. Each may hold a frame of [`MAX_FROM_SERVICE`].
const MAX_SESSIONS: u64 = 64;
/// How long a stranger has to say who it is, and the node for the end of a session.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A service that is not heard of for so long is gone; it sends something every two seconds.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a service sends at most: a proof with its key, or verdicts.
const MAX_FROM_SERVICE: usize = 16 << 20;
/// What is held of one stream of a service that is let in, and twice that of all.
const WINDOW: u32 = 4 << 20;
/// What is held of one that is not: its greeting has a hundred bytes.
const STRANGER_WINDOW: u32 = 1 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_so_many_sessions_and_who_comes_next_is_told_what_to_do() {
        let key = Digest([1; 32]);
        let admission = Admission::new(&[key], &[key]);
        for (role, most, says) in
            [(Role::Verifier, 1, "stop the other"), (Role::Prover, MAX_SESSIONS, "have 64 sessions already")]
        {
            for _ in 0..most {
                admission.admit(role, &key).unwrap();
            }
            for _ in 0..2 {
                let Refusal { may_pass, why } = admission.admit(role, &key).unwrap_err();
                assert!(may_pass && why.contains(says) && why.contains("a key of its own"), "{why}");
            }
            let served = admission.served.iter().find(|served| served.role == role).unwrap();
            assert_eq!(served.sessions.load(Relaxed), most);
        }
    }
}
