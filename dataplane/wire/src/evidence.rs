//! Attestation evidence as it travels: what binds a node's keys to the machine it claims to run on.
//!
//! A node states one [`Binding`]; whoever vouches for the machine signs the binding's digest. Where there is no TEE,
//! a *development* issuer stands in: a plain Ed25519 root that proves nothing about hardware, and is called so in
//! its type, in the encoded bytes and in every output. Real quotes become further [`EvidenceKind`]s.
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | version, `u16` little-endian, 1 |
//! | 2 | kind: 255 `development` |
//! | 3 | zero |
//! | 4..36 | nonce |
//! | 36..68 | signing key: the node's id |
//! | 68..100 | TLS key: SHA-256 of its SubjectPublicKeyInfo |
//! | 100..132 | GPU set: SHA-256 over the attested GPUs; all zero: none |
//! | 132..164 | policy hash |
//! | 164..172 | issued, nanoseconds since 1970-01-01 UTC |
//! | 172..180 | expires, likewise |
//! | 180..212 | issuer's Ed25519 public key |
//! | 212..276 | Ed25519 signature over `DOMAIN ‖ bytes 0..212 ‖ binding digest` |

use crate::ids::{Digest, NodeId};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

const BINDING_DOMAIN: &[u8; 24] = b"haca evidence binding v1";
const DEVELOPMENT_DOMAIN: &[u8; 24] = b"haca DEVELOPMENT TEE v1\0";

/// What evidence vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The challenger's nonce, or zero at start-up.
    pub nonce: Digest,
    /// The key that signs batches.
    pub signing_key: NodeId,
    /// SHA-256 of the TLS key's SubjectPublicKeyInfo: the key pin.
    pub tls_key: Digest,
    /// SHA-256 over the attested GPUs, zero without any.
    pub gpu_set: Digest,
    /// SHA-256 of the policy the node serves under.
    pub policy: Digest,
}

impl Binding {
    /// `D = SHA-256(domain ‖ nonce ‖ signing key ‖ TLS key ‖ GPU set ‖ policy hash)`: the report data of a quote.
    pub fn digest(&self) -> Digest {
        let hash = Sha256::new()
            .chain_update(BINDING_DOMAIN)
            .chain_update(self.nonce.0)
            .chain_update(self.signing_key.0)
            .chain_update(self.tls_key.0)
            .chain_update(self.gpu_set.0)
            .chain_update(self.policy.0);
        Digest(hash.finalize().into())
    }
}

/// Who vouches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EvidenceKind {
    /// No hardware: a root key that was made for development.
    Development = 255,
}

/// Evidence of the development issuer. It says nothing about any hardware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevelopmentEvidence {
    /// What is vouched for.
    pub binding: Binding,
    /// When it was issued, in nanoseconds since 1970-01-01 UTC.
    pub issued: u64,
    /// When it ends, likewise.
    pub expires: u64,
    /// The issuer's public key.
    pub issuer: [u8; 32],
    signature: [u8; 64],
}

/// Why bytes are not evidence, or evidence does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Wrong length.
    #[error("evidence has {0} bytes, expected {expected}", expected = DevelopmentEvidence::LEN)]
    Length(usize),
    /// A version or kind this code does not read.
    #[error(
        "evidence of version {version} and kind {kind} is not known; this reads version 1, kind 255 (development)"
    )]
    Kind {
        /// Version found.
        version: u16,
        /// Kind found.
        kind: u8,
    },
    /// The signature is not the issuer's.
    #[error("the development issuer's signature does not verify")]
    Signature,
}

impl DevelopmentEvidence {
    /// Bytes of encoded evidence.
    pub const LEN: usize = 276;
    const SIGNED: usize = 212;

    /// Issues evidence with the development root of this seed.
    pub fn issue(root_seed: &[u8; 32], binding: Binding, issued: u64, expires: u64) -> Self {
        let key = SigningKey::from_bytes(root_seed);
        let issuer = key.verifying_key().to_bytes();
        let mut evidence = Self { binding, issued, expires, issuer, signature: [0; 64] };
        evidence.signature = key.sign(&evidence.message()).to_bytes();
        evidence
    }

    /// The evidence's bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let parts: [&[u8]; 9] = [
            &[1, 0, EvidenceKind::Development as u8, 0],
            &self.binding.nonce.0,
            &self.binding.signing_key.0,
            &self.binding.tls_key.0,
            &self.binding.gpu_set.0,
            &self.binding.policy.0,
            &self.issued.to_le_bytes(),
            &self.expires.to_le_bytes(),
            &self.issuer,
        ];
        let mut at = 0;
        for part in parts {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        debug_assert_eq!(at, Self::SIGNED);
        bytes[at..].copy_from_slice(&self.signature);
        bytes
    }

    /// Reads evidence and checks the signature of the issuer it names. Whether that issuer may be trusted, and
    /// whether development evidence is acceptable at all, is the caller's policy.
    ///
    /// # Errors
    /// Other bytes than [`DevelopmentEvidence::encode`] writes, or a signature that does not verify.
    pub fn decode(bytes: &[u8]) -> Result<Self, EvidenceError> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().map_err(|_| EvidenceError::Length(bytes.len()))?;
        let digest = |at: usize| Digest(std::array::from_fn(|i| bytes[at + i]));
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if bytes[..4] != [1, 0, EvidenceKind::Development as u8, 0] {
            let version = u16::from_le_bytes([bytes[0], bytes[1]]);
            return Err(EvidenceError::Kind { version, kind: bytes[2] });
        }
        let evidence = Self {
            binding: Binding {
                nonce: digest(4),
                signing_key: NodeId(digest(36).0),
                tls_key: digest(68),
                gpu_set: digest(100),
                policy: digest(132),
            },
            issued: number(164),
            expires: number(172),
            issuer: digest(180).0,
            signature: std::array::from_fn(|i| bytes[Self::SIGNED + i]),
        };
        let key = VerifyingKey::from_bytes(&evidence.issuer).map_err(|_| EvidenceError::Signature)?;
        key.verify_strict(&evidence.message(), &Signature::from_bytes(&evidence.signature))
            .map_err(|_| EvidenceError::Signature)?;
        Ok(evidence)
    }

    fn message(&self) -> Vec<u8> {
        [DEVELOPMENT_DOMAIN, &self.encode()[..Self::SIGNED], &self.binding.digest().0].concat()
    }
}

/// The digest a leaf carries of the evidence it was served under.
pub fn digest(evidence: &[u8]) -> Digest {
    Digest(Sha256::digest(evidence).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn evidence() -> DevelopmentEvidence {
        let binding = Binding {
            nonce: Digest([1; 32]),
            signing_key: NodeId([2; 32]),
            tls_key: Digest([3; 32]),
            gpu_set: Digest([4; 32]),
            policy: Digest([5; 32]),
        };
        DevelopmentEvidence::issue(&[9; 32], binding, 10, 20)
    }

    proptest! {
        #[test]
        fn evidence_with_any_bit_changed_is_refused(at in 0..DevelopmentEvidence::LEN, bit in 0u8..8) {
            let mut bytes = evidence().encode();
            prop_assert_eq!(DevelopmentEvidence::decode(&bytes), Ok(evidence()));
            bytes[at] ^= 1 << bit;
            prop_assert!(DevelopmentEvidence::decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_evidence_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(DevelopmentEvidence::decode(&bytes).is_err());
        }
    }
}
