//! Session set-up: `Hello` and `Welcome`.

use super::model::{ModelEntry, models_from_fb, models_to_fb};
use super::{DecodeError, Encoder, decode_root};
use crate::fb;
use crate::frame::FrameKind;
use crate::ids::{Digest, NodeId, SessionId};

/// The caller's first frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The protocol version the caller speaks: [`PROTOCOL_VERSION`](crate::PROTOCOL_VERSION).
    pub protocol_version: u16,
    /// Name and version of the caller's software, for the operator's logs.
    pub software: String,
}

/// The limits a node holds its callers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest payload of a frame, in bytes.
    pub max_frame_bytes: u32,
    /// Requests of one session that may be unanswered at a time.
    pub max_in_flight: u32,
    /// Request ids in one `AwaitReceipts`.
    pub max_await_ids: u32,
    /// The longest model file that may be pushed, in bytes.
    pub max_model_bytes: u64,
    /// A session without a packet for this long ends, in milliseconds.
    pub idle_timeout_ms: u32,
}

/// The node's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The protocol version the node speaks.
    pub protocol_version: u16,
    /// Name and version of the node's software.
    pub software: String,
    /// The key that signs batches.
    pub node: NodeId,
    /// This session.
    pub session: SessionId,
    /// What the node holds the caller to.
    pub limits: Limits,
    /// What the node serves now.
    pub models: Vec<ModelEntry>,
    /// Epoch of the policy in force.
    pub policy_epoch: u32,
    /// Whether `vanilla` answers are signed.
    pub signs_vanilla: bool,
    /// Attestation evidence; without any, `tee` is not offered.
    pub evidence: Option<Vec<u8>>,
    /// What the operator signs to push a model in this session.
    pub operator_challenge: Digest,
}

impl Hello {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.frame(FrameKind::Hello, out, |builder| {
            let software = Some(builder.create_string(&self.software));
            let args = fb::HelloArgs { protocol_version: self.protocol_version, software };
            fb::Hello::create(builder, &args)
        });
    }

    /// Reads the payload of a `Hello` frame.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let hello = decode_root::<fb::Hello<'_>>(payload)?;
        Ok(Self {
            protocol_version: hello.protocol_version(),
            software: hello.software().unwrap_or_default().chars().take(128).collect(),
        })
    }
}

impl Welcome {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.frame(FrameKind::Welcome, out, |builder| {
            let software = Some(builder.create_string(&self.software));
            let limits = Some(fb::Limits::create(
                builder,
                &fb::LimitsArgs {
                    max_frame_bytes: self.limits.max_frame_bytes,
                    max_in_flight: self.limits.max_in_flight,
                    max_await_ids: self.limits.max_await_ids,
                    max_model_bytes: self.limits.max_model_bytes,
                    idle_timeout_ms: self.limits.idle_timeout_ms,
                },
            ));
            let models = Some(models_to_fb(builder, &self.models));
            let evidence = self.evidence.as_ref().map(|evidence| builder.create_vector(evidence));
            let args = fb::WelcomeArgs {
                protocol_version: self.protocol_version,
                software,
                node: Some(&fb::Digest::new(&self.node.0)),
                session: Some(&fb::SessionId::new(&self.session.0)),
                limits,
                models,
                policy_epoch: self.policy_epoch,
                signs_vanilla: self.signs_vanilla,
                evidence,
                operator_challenge: Some(&fb::Digest::new(&self.operator_challenge.0)),
            };
            fb::Welcome::create(builder, &args)
        });
    }

    /// Reads the payload of a `Welcome` frame.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let welcome = decode_root::<fb::Welcome<'_>>(payload)?;
        let limits = welcome.limits();
        Ok(Self {
            protocol_version: welcome.protocol_version(),
            software: welcome.software().unwrap_or_default().to_owned(),
            node: NodeId(welcome.node().bytes().into()),
            session: SessionId(welcome.session().bytes().into()),
            limits: Limits {
                max_frame_bytes: limits.max_frame_bytes(),
                max_in_flight: limits.max_in_flight(),
                max_await_ids: limits.max_await_ids(),
                max_model_bytes: limits.max_model_bytes(),
                idle_timeout_ms: limits.idle_timeout_ms(),
            },
            models: models_from_fb(welcome.models())?,
            policy_epoch: welcome.policy_epoch(),
            signs_vanilla: welcome.signs_vanilla(),
            evidence: welcome.evidence().map(|evidence| evidence.bytes().to_vec()),
            operator_challenge: Digest(welcome.operator_challenge().bytes().into()),
        })
    }
}
