//! What a verifier trusts, from the `connect.toml` it was handed by someone it trusts.

use haca_wire::connect::Connect;
use haca_wire::{Digest, NodeId};

use crate::checkpoint::{CheckpointError, LogKey};

/// The keys a verifier trusts.
#[derive(Debug, Clone)]
pub struct Trust {
    /// The key that signs the node's batches.
    pub node_key: NodeId,
    /// SHA-256 of the SubjectPublicKeyInfo of the node's TLS key.
    pub key_pin: Digest,
    /// The log's key.
    pub log_key: LogKey,
    /// The development issuer's public key, where one stands in for a TEE.
    pub development_issuer: Option<Digest>,
    /// The key of the verifier that signs verdicts on proofs.
    pub verifier_key: Option<Digest>,
}

impl Trust {
    /// Trusts the keys this file names.
    ///
    /// # Errors
    /// If its log key is not a C2SP verifier key.
    pub fn from_connect(connect: &Connect) -> Result<Trust, CheckpointError> {
        Ok(Trust {
            node_key: connect.node_key,
            key_pin: connect.key_pin,
            log_key: LogKey::parse(&connect.log_key)?,
            development_issuer: connect.development_issuer,
            verifier_key: connect.verifier_key,
        })
    }
}
