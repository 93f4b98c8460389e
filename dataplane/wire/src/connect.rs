//! `connect.toml`: what a caller needs to know of a node, and what a verifier needs to trust.

use crate::ids::{Digest, NodeId};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The file a node writes for its callers. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// Where the node listens.
    pub address: SocketAddr,
    /// SHA-256 of the SubjectPublicKeyInfo of the node's TLS key.
    pub key_pin: Digest,
    /// The Ed25519 key that signs the node's batches.
    pub node_key: NodeId,
    /// The log's C2SP verifier key (`name+hash+base64`), under which its checkpoints verify.
    pub log_key: String,
    /// Public key of the development issuer, where one stands in for a TEE. Says nothing about hardware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub development_issuer: Option<Digest>,
    /// The Ed25519 key of the verifier that signs verdicts on proofs, where the node offers mode `zk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifier_key: Option<Digest>,
    /// Where provers and verifiers that run apart from the node connect, where it takes any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<SocketAddr>,
}

/// Why a `connect.toml` could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file system said no.
    #[error("{path}: {source}; give the connect.toml that `haca up` wrote into its data directory")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// It is not what a node writes.
    #[error("{path}: not a connect.toml: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
}

impl Connect {
    /// Reads the file.
    ///
    /// # Errors
    /// If it cannot be read or does not parse; the error names the file.
    pub fn read(path: &Path) -> Result<Self, ConnectError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConnectError::Io { path: path.to_owned(), source })?;
        toml::from_str(&text)
            .map_err(|source| ConnectError::Parse { path: path.to_owned(), source: Box::new(source) })
    }

    /// Writes the file whole or not at all: readers never see half of it.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn write(&self, path: &Path) -> Result<(), ConnectError> {
        let text = toml::to_string(self).expect("every field of Connect has a TOML form");
        let draft = path.with_extension("toml.new");
        std::fs::write(&draft, text)
            .and_then(|()| std::fs::rename(&draft, path))
            .map_err(|source| ConnectError::Io { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_round_trips_and_refuses_what_it_does_not_know() {
        let connect = Connect {
            address: "127.0.0.1:4433".parse().unwrap(),
            key_pin: Digest([1; 32]),
            node_key: NodeId([2; 32]),
            log_key: "log+1234+AAAA".into(),
            development_issuer: None,
            verifier_key: None,
            services: None,
        };
        let text = toml::to_string(&connect).unwrap();
        assert_eq!(toml::from_str::<Connect>(&text).unwrap(), connect);
        assert!(toml::from_str::<Connect>(&format!("{text}secret = 1\n")).is_err());
        assert!(toml::from_str::<Connect>(&text.replace("0101", "01")).is_err());
    }
}
