//! One Ed25519 signature (RFC 8032) over the root of a batch.

use crate::ids::{Digest, NodeId};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

/// Begins every signed batch message, so that no other signature of the same key can pass for one.
const DOMAIN: &[u8; 24] = b"haca batch root v1\0\0\0\0\0\0";

/// Bytes of a signature.
pub const SIGNATURE_LEN: usize = 64;

/// The node's signing key.
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// The key with this 32-byte seed (RFC 8032 section 5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The public half: the node's id.
    pub fn node(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs the root of a batch of `size` leaves.
    pub fn sign_batch(&self, size: u32, root: &Digest) -> [u8; SIGNATURE_LEN] {
        self.0.sign(&batch_message(size, root)).to_bytes()
    }
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeKey({})", self.node())
    }
}

/// Says whether `signature` is the node's over this batch root. Strict: no small-order keys, no malleable forms.
pub fn verify_batch(node: &NodeId, size: u32, root: &Digest, signature: &[u8; SIGNATURE_LEN]) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(&node.0) else { return false };
    key.verify_strict(&batch_message(size, root), &Signature::from_bytes(signature)).is_ok()
}

fn batch_message(size: u32, root: &Digest) -> [u8; 60] {
    let mut message = [0u8; 60];
    message[..24].copy_from_slice(DOMAIN);
    message[24..28].copy_from_slice(&size.to_le_bytes());
    message[28..].copy_from_slice(&root.0);
    message
}

/// The operator's key: it says which models a node serves.
pub struct OperatorKey(SigningKey);

/// Begins every message the operator signs to push a model.
const PUSH_DOMAIN: &[u8; 24] = b"haca push model v1\0\0\0\0\0\0";

impl OperatorKey {
    /// The key with this 32-byte seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// Permits one push: this model under this name, in the session that was given this challenge.
    pub fn permit_push(&self, challenge: &Digest, model: &Digest, name: &str) -> [u8; SIGNATURE_LEN] {
        self.0.sign(&push_message(challenge, model, name)).to_bytes()
    }
}

/// Says whether the operator permitted this push.
pub fn verify_push(
    operator: &[u8; 32],
    challenge: &Digest,
    model: &Digest,
    name: &str,
    signature: &[u8; SIGNATURE_LEN],
) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(operator) else { return false };
    key.verify_strict(&push_message(challenge, model, name), &Signature::from_bytes(signature)).is_ok()
}

fn push_message(challenge: &Digest, model: &Digest, name: &str) -> Vec<u8> {
    [&PUSH_DOMAIN[..], &challenge.0, &model.0, name.as_bytes()].concat()
}

/// What a service that runs apart from the node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// It makes proofs.
    Prover = 0,
    /// It judges them.
    Verifier = 1,
}

impl Role {
    /// The role with this number.
    pub fn from_wire(number: u8) -> Option<Self> {
        [Role::Prover, Role::Verifier].get(usize::from(number)).copied()
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Role::Prover => "prover",
            Role::Verifier => "verifier",
        })
    }
}

/// The key by which a node knows a service that runs apart from it.
pub struct ServiceKey(SigningKey);

/// Begins every message by which a service says who it is.
const SERVICE_DOMAIN: &[u8; 24] = b"haca service session v1\0";

impl ServiceKey {
    /// The key with this 32-byte seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The public half.
    pub fn public(&self) -> Digest {
        Digest(self.0.verifying_key().to_bytes())
    }

    /// Says that this service is at the other end of the TLS session with this exported secret (RFC 8446 section 7.5).
    pub fn greet(&self, role: Role, session: &[u8; 32]) -> [u8; SIGNATURE_LEN] {
        self.0.sign(&service_message(role, session)).to_bytes()
    }
}

/// Says whether the service with this key is at the other end of the TLS session.
pub fn verify_service(key: &Digest, role: Role, session: &[u8; 32], signature: &[u8; SIGNATURE_LEN]) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(&key.0) else { return false };
    key.verify_strict(&service_message(role, session), &Signature::from_bytes(signature)).is_ok()
}

fn service_message(role: Role, session: &[u8; 32]) -> [u8; 57] {
    let mut message = [0; 57];
    message[..24].copy_from_slice(SERVICE_DOMAIN);
    message[24] = role as u8;
    message[25..].copy_from_slice(session);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_tampered_root_size_key_or_signature_never_verifies(
            seed: [u8; 32], root: [u8; 32], size: u32, part in 0usize..4, bit in 0usize..8, at in any::<prop::sample::Index>(),
        ) {
            let key = NodeKey::from_seed(&seed);
            let (mut node, mut root, mut size) = (key.node(), Digest(root), size);
            let mut signature = key.sign_batch(size, &root);
            prop_assert!(verify_batch(&node, size, &root, &signature));
            match part {
                0 => node.0[at.index(32)] ^= 1 << bit,
                1 => root.0[at.index(32)] ^= 1 << bit,
                2 => size ^= 1 << at.index(32),
                _ => signature[at.index(64)] ^= 1 << bit,
            }
            prop_assert!(!verify_batch(&node, size, &root, &signature));
        }
    }

    #[test]
    fn a_service_is_known_in_one_role_and_one_session() {
        let key = ServiceKey::from_seed(&[7; 32]);
        let greeting = key.greet(Role::Prover, &[1; 32]);
        assert!(verify_service(&key.public(), Role::Prover, &[1; 32], &greeting));
        assert!(!verify_service(&key.public(), Role::Verifier, &[1; 32], &greeting));
        assert!(!verify_service(&key.public(), Role::Prover, &[2; 32], &greeting));
        assert!(!verify_service(&Digest([0; 32]), Role::Prover, &[1; 32], &greeting));
        let numbers: Vec<_> = (0..=2).map(Role::from_wire).collect();
        assert_eq!(numbers, [Some(Role::Prover), Some(Role::Verifier), None]);
    }

    #[test]
    fn a_permit_is_for_one_name_and_one_session() {
        let key = OperatorKey::from_seed(&[7; 32]);
        let (challenge, model) = (Digest([1; 32]), Digest([2; 32]));
        let permit = key.permit_push(&challenge, &model, "a");
        assert!(verify_push(&key.public(), &challenge, &model, "a", &permit));
        assert!(!verify_push(&key.public(), &challenge, &model, "b", &permit));
        assert!(!verify_push(&key.public(), &model, &model, "a", &permit));
        assert!(!verify_push(&[0; 32], &challenge, &model, "a", &permit));
    }
}
