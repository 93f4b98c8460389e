//! What the log holds beside receipts: what became of a receipt later.
//!
//! An event is a leaf of the log like a receipt's, of as many bytes, and has its id where a receipt has its request's, so
//! the log is idempotent by it. The id follows from the leaf that the event is about: who has that leaf can ask the log
//! for the event. Version 2 is exactly [`Leaf::LEN`] bytes, every number little-endian:
//!
//! | bytes | proof | verdict |
//! |---|---|---|
//! | 0..2 | version, `u16`, 2 | likewise |
//! | 2 | kind, 0 | kind, 1 |
//! | 3..8 | zero | zero |
//! | 8..24 | id: the first 16 bytes of SHA-256(`haca proof event v1` ‖ hash of the receipt's leaf) | of SHA-256(`haca verdict event v1` ‖ hash of the proof's leaf ‖ verifier) |
//! | 24..32 | index of the receipt's leaf in the log, `u64` | index of the proof's leaf |
//! | 32..40 | `u64`, nanoseconds since 1970-01-01 UTC, by the prover's clock | by the verifier's |
//! | 40..72 | id of the verification key: SHA-256 of its bytes | hash of the proof's leaf |
//! | 72..104 | proof, from here to 264: 192 bytes | verifier: Ed25519 public key |
//! | 104 | | 1 accepted, 0 refused |
//! | 105..112 | | zero |
//! | 112..176 | | the verifier's signature over `haca verdict v1` and bytes 0..112 |
//! | 176..264 | | zero |

use crate::ids::{Digest, RequestId};
use crate::leaf::Leaf;
use crate::merkle;
use crate::sign::SIGNATURE_LEN;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

/// Bytes of a Groth16 proof.
pub const PROOF_LEN: usize = 192;

/// A receipt was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProofEvent {
    /// The event's id; see [`proof_id`].
    pub id: RequestId,
    /// Index of the receipt's leaf in the log.
    pub index: u64,
    /// When the proof was made, in nanoseconds since 1970-01-01 UTC.
    pub time: u64,
    /// Id of the verification key.
    pub key: Digest,
    /// The proof.
    pub proof: [u8; PROOF_LEN],
}

/// A verifier looked at a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerdictEvent {
    /// The event's id; see [`verdict_id`].
    pub id: RequestId,
    /// Index of the proof's leaf in the log.
    pub index: u64,
    /// When the proof was checked, in nanoseconds since 1970-01-01 UTC.
    pub time: u64,
    /// Hash of the proof's leaf.
    pub proof: Digest,
    /// The verifier's Ed25519 public key.
    pub verifier: Digest,
    /// Whether the proof held.
    pub accepted: bool,
    /// The verifier's signature.
    pub signature: [u8; SIGNATURE_LEN],
}

/// An event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A receipt was proven.
    Proof(ProofEvent),
    /// A verifier looked at a proof.
    Verdict(VerdictEvent),
}

/// Why bytes are not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Wrong length.
    #[error("an event has {expected} bytes, this has {0}", expected = Leaf::LEN)]
    Length(usize),
    /// A version this code does not read; a receipt's leaf has version 1.
    #[error("event version {0} is not known here; this reads version 2")]
    Version(u16),
    /// The kind byte is none of the known ones.
    #[error("event kind {0} is not known")]
    Kind(u8),
    /// A byte that must be zero is not, or a flag is neither 0 nor 1.
    #[error("event byte {0} has a value that no event has")]
    Reserved(usize),
}

/// The id of the event that a receipt was proven.
pub fn proof_id(receipt: &Digest) -> RequestId {
    id(&[b"haca proof event v1", &receipt.0])
}

/// The id of the event that this verifier looked at a proof, whose leaf has this hash.
pub fn verdict_id(proof: &Digest, verifier: &Digest) -> RequestId {
    id(&[b"haca verdict event v1", &proof.0, &verifier.0])
}

fn id(parts: &[&[u8]]) -> RequestId {
    let hash = parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize();
    RequestId(*hash.first_chunk().expect("a digest has 32 bytes"))
}

const VERSION: u16 = 2;
const PROOF: u8 = 0;
const VERDICT: u8 = 1;

impl ProofEvent {
    /// The leaf's bytes.
    pub fn encode(&self) -> [u8; Leaf::LEN] {
        let mut bytes = head(PROOF, &self.id, self.index, self.time);
        bytes[40..72].copy_from_slice(&self.key.0);
        bytes[72..].copy_from_slice(&self.proof);
        bytes
    }

    /// The leaf's hash in the log's tree.
    pub fn hash(&self) -> Digest {
        merkle::leaf_hash(&self.encode())
    }
}

impl VerdictEvent {
    /// The leaf's bytes.
    pub fn encode(&self) -> [u8; Leaf::LEN] {
        let mut bytes = head(VERDICT, &self.id, self.index, self.time);
        bytes[40..72].copy_from_slice(&self.proof.0);
        bytes[72..104].copy_from_slice(&self.verifier.0);
        bytes[104] = self.accepted.into();
        bytes[112..176].copy_from_slice(&self.signature);
        bytes
    }

    /// Whether the verifier that it names signed it. Strict: no small-order keys, no malleable forms.
    pub fn is_signed(&self) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.verifier.0) else { return false };
        let message = message(&self.encode());
        key.verify_strict(&message, &Signature::from_bytes(&self.signature)).is_ok()
    }
}

impl Event {
    /// Reads an event.
    ///
    /// # Errors
    /// Anything that is not written.
    pub fn decode(bytes: &[u8]) -> Result<Event, EventError> {
        let bytes: &[u8; Leaf::LEN] = bytes.try_into().map_err(|_| EventError::Length(bytes.len()))?;
        let version = u16::from_le_bytes([bytes[0], bytes[1]]);
        if version != VERSION {
            return Err(EventError::Version(version));
        }
        let zero = |range: std::ops::Range<usize>| match range.clone().find(|at| bytes[*at] != 0) {
            Some(at) => Err(EventError::Reserved(at)),
            None => Ok(()),
        };
        zero(3..8)?;
        let (id, index, time) = (RequestId(field(bytes, 8)), number(bytes, 24), number(bytes, 32));
        match bytes[2] {
            PROOF => {
                let (key, proof) = (Digest(field(bytes, 40)), field(bytes, 72));
                Ok(Event::Proof(ProofEvent { id, index, time, key, proof }))
            }
            VERDICT => {
                zero(105..112)?;
                zero(176..Leaf::LEN)?;
                if bytes[104] > 1 {
                    return Err(EventError::Reserved(104));
                }
                Ok(Event::Verdict(VerdictEvent {
                    id,
                    index,
                    time,
                    proof: Digest(field(bytes, 40)),
                    verifier: Digest(field(bytes, 72)),
                    accepted: bytes[104] == 1,
                    signature: field(bytes, 112),
                }))
            }
            kind => Err(EventError::Kind(kind)),
        }
    }
}

/// The key of a verifier, which signs its verdicts.
pub struct VerifierKey(SigningKey);

impl VerifierKey {
    /// The key with this 32-byte seed (RFC 8032 section 5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The public half.
    pub fn public(&self) -> Digest {
        Digest(self.0.verifying_key().to_bytes())
    }

    /// A verdict on the proof whose leaf is at this index.
    pub fn verdict(&self, proof: &ProofEvent, index: u64, accepted: bool, time: u64) -> VerdictEvent {
        let (proof, verifier) = (proof.hash(), self.public());
        let id = verdict_id(&proof, &verifier);
        let signature = [0; SIGNATURE_LEN];
        let mut verdict = VerdictEvent { id, index, time, proof, verifier, accepted, signature };
        verdict.signature = self.0.sign(&message(&verdict.encode())).to_bytes();
        verdict
    }
}

impl std::fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VerifierKey({})", self.public())
    }
}

/// Begins every message that a verifier signs.
const DOMAIN: &[u8; 16] = b"haca verdict v1\0";
/// Bytes of a verdict that its signature covers.
const SIGNED: usize = 112;

fn message(verdict: &[u8; Leaf::LEN]) -> [u8; DOMAIN.len() + SIGNED] {
    let mut message = [0; DOMAIN.len() + SIGNED];
    message[..DOMAIN.len()].copy_from_slice(DOMAIN);
    message[DOMAIN.len()..].copy_from_slice(&verdict[..SIGNED]);
    message
}

fn head(kind: u8, id: &RequestId, index: u64, time: u64) -> [u8; Leaf::LEN] {
    let mut bytes = [0; Leaf::LEN];
    bytes[..2].copy_from_slice(&VERSION.to_le_bytes());
    bytes[2] = kind;
    bytes[8..24].copy_from_slice(&id.0);
    bytes[24..32].copy_from_slice(&index.to_le_bytes());
    bytes[32..40].copy_from_slice(&time.to_le_bytes());
    bytes
}

fn field<const N: usize>(bytes: &[u8; Leaf::LEN], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("every field lies within the leaf")
}

fn number(bytes: &[u8; Leaf::LEN], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn proof() -> ProofEvent {
        let id = proof_id(&Digest([1; 32]));
        ProofEvent { id, index: 2, time: 3, key: Digest([4; 32]), proof: [5; PROOF_LEN] }
    }

    #[test]
    fn events_round_trip_and_a_verdict_is_its_verifiers_until_a_bit_changes() {
        let proof = proof();
        assert_eq!(Event::decode(&proof.encode()), Ok(Event::Proof(proof)));
        let verdict = VerifierKey::from_seed(&[6; 32]).verdict(&proof, 7, true, 8);
        assert!(verdict.is_signed());
        let bytes = verdict.encode();
        assert_eq!(Event::decode(&bytes), Ok(Event::Verdict(verdict)));
        for bit in 0..8 * bytes.len() {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(Event::Verdict(changed)) = Event::decode(&changed) {
                assert!(!changed.is_signed(), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_receipt_is_not_an_event_and_an_event_is_not_a_receipt() {
        let mut receipt = [0; Leaf::LEN];
        receipt[0] = 1;
        assert_eq!(Event::decode(&receipt), Err(EventError::Version(1)));
        assert!(Leaf::decode(&proof().encode()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_event_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 264), kind in 0u8..3) {
            bytes[..8].copy_from_slice(&[2, 0, kind, 0, 0, 0, 0, 0]);
            match Event::decode(&bytes) {
                Ok(Event::Proof(event)) => prop_assert_eq!(&event.encode()[..], &bytes[..]),
                Ok(Event::Verdict(event)) => prop_assert_eq!(&event.encode()[..], &bytes[..]),
                Err(_) => {}
            }
        }
    }
}
