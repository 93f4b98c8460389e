//! Verification keys: what a proof is checked against, named by the hash of its bytes.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0..8 | magic | `HACAZKVK` |
//! | 8..10 | version | `u16`, 2, little-endian as all numbers here |
//! | 10 | setup | 0 development, 1 ceremony |
//! | 11 | statement | 0 open, 1 sealed |
//! | 12..16 | circuit version | `u32` |
//! | 16..20 | public inputs | `u32`, without the constant one |
//! | 20..52 | model id | SHA-256 of the compiled model file; all zero: no model |
//! | 52..84 | circuit | digest of the constraint system |
//! | 84..116 | transcript | digest of the finished ceremony's transcript; zero in a development key |
//! | 116..548 | α in G1, β in G1, β in G2, γ in G2, δ in G1, δ in G2 | compressed points |
//! | 548.. | one G1 point for the constant one and each public input | likewise |

use std::fmt;

use bellman::groth16;
use blstrs::Bls12;
use group::prime::PrimeCurveAffine;
use haca_wire::Digest;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::circuit::StatementKind;
use super::curve::{Curve, G1, G2};
use super::pairing::Product;
use super::proof::{Malformed, in_group};
use crate::attestation::Policy;

/// Who can forge proofs under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// One party made it, and may have kept what forges proofs.
    Development,
    /// Many parties made it; forging takes all of them. The key says so itself: what shows it is the transcript, which
    /// `haca zk ceremony verify` recomputes.
    Ceremony {
        /// Digest of the ceremony's transcript.
        transcript: Digest,
    },
}

/// What a key was made for, by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Who made it.
    pub setup: Setup,
    /// The model, or zero.
    pub model: [u8; 32],
    /// Version of the circuits of which the system is one.
    pub circuit_version: u32,
    /// The kind of statement that the system proves.
    pub statement: StatementKind,
    /// Digest of the constraint system.
    pub circuit: [u8; 32],
}

/// Why bytes are not a verification key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// They do not begin as one does.
    #[error("not a verification key")]
    NotAKey,
    /// A version this code does not read.
    #[error("verification key version {0} is not known here; this reads version {VERSION}")]
    Version(u16),
    /// Setup, statement, number of inputs or length is none that is written.
    #[error("the verification key is damaged: {0}")]
    Damaged(&'static str),
    /// A point is not one.
    #[error("verification key, {name}: {source}")]
    Point {
        /// Which.
        name: String,
        /// What is wrong with it.
        source: Malformed,
    },
    /// Points that must belong together do not, or two that must differ are equal.
    #[error("the verification key is inconsistent: {0}")]
    Inconsistent(&'static str),
    /// The policy wants a ceremony.
    #[error(
        "the verification key is of a development setup, whose maker can forge proofs, and the production policy \
         refuses it; make one by a ceremony"
    )]
    Development,
}

/// A checked verification key.
#[derive(Clone)]
pub struct VerifyingKey {
    pub(super) points: groth16::VerifyingKey<Bls12>,
    origin: Origin,
    id: Digest,
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingKey")
            .field("id", &self.id)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

const MAGIC: &[u8; 8] = b"HACAZKVK";
const VERSION: u16 = 2;
const HEAD: usize = 548;
/// A key of more public inputs would be of 48 MB.
const MAX_INPUTS: usize = 1 << 20;

impl VerifyingKey {
    /// A key from points that this process has made.
    pub(super) fn new(points: groth16::VerifyingKey<Bls12>, origin: Origin) -> VerifyingKey {
        let id = Digest(Sha256::digest(encode(&points, &origin)).into());
        VerifyingKey { points, origin, id }
    }

    /// SHA-256 of the key's bytes.
    pub fn id(&self) -> Digest {
        self.id
    }

    /// What it was made for.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Refuses a key of a development setup where the policy does not accept one. A ceremony is taken by the key's word:
    /// trust a key by its id, which the ceremony's verification prints.
    ///
    /// # Errors
    /// [`KeyError::Development`].
    pub fn check_policy(&self, policy: Policy) -> Result<(), KeyError> {
        match self.origin.setup {
            Setup::Development if !policy.accept_development => Err(KeyError::Development),
            _ => Ok(()),
        }
    }

    /// Public inputs of a proof, without the constant one.
    pub fn inputs(&self) -> usize {
        self.points.ic.len() - 1
    }

    /// The key's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(&self.points, &self.origin)
    }

    /// Reads a key and checks every point, that the points in both groups agree, and that γ and δ differ.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<VerifyingKey, KeyError> {
        let (head, ic) = bytes.split_first_chunk::<HEAD>().ok_or(KeyError::NotAKey)?;
        if head[..8] != *MAGIC {
            return Err(KeyError::NotAKey);
        }
        let version = u16::from_le_bytes([head[8], head[9]]);
        if version != VERSION {
            return Err(KeyError::Version(version));
        }
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let mut digests = [[0; 32]; 3];
        for (digest, bytes) in digests.iter_mut().zip(head[20..116].as_chunks::<32>().0) {
            *digest = *bytes;
        }
        let [model, circuit, transcript] = digests;
        let setup = match head[10] {
            0 if transcript == [0; 32] => Setup::Development,
            1 => Setup::Ceremony { transcript: Digest(transcript) },
            _ => return Err(KeyError::Damaged("the setup is not known")),
        };
        let statement = StatementKind::from_number(head[11]);
        let statement = statement.ok_or(KeyError::Damaged("the statement is not known"))?;
        let inputs = number(16) as usize;
        if inputs > MAX_INPUTS {
            return Err(KeyError::Damaged("too many public inputs"));
        }
        if ic.len() != (inputs + 1) * G1::COMPRESSED {
            return Err(KeyError::Damaged("it has not one point for each public input"));
        }
        let origin = Origin { setup, model, circuit_version: number(12), statement, circuit };
        let points = groth16::VerifyingKey {
            alpha_g1: point::<G1>(&head[116..164], || "α in G1".into())?,
            beta_g1: point::<G1>(&head[164..212], || "β in G1".into())?,
            beta_g2: point::<G2>(&head[212..308], || "β in G2".into())?,
            gamma_g2: point::<G2>(&head[308..404], || "γ in G2".into())?,
            delta_g1: point::<G1>(&head[404..452], || "δ in G1".into())?,
            delta_g2: point::<G2>(&head[452..548], || "δ in G2".into())?,
            ic: ic
                .chunks_exact(G1::COMPRESSED)
                .enumerate()
                .map(|(index, bytes)| point::<G1>(bytes, || format!("public input {index}")))
                .collect::<Result<_, _>>()?,
        };
        check_relations(&points)?;
        Ok(VerifyingKey { points, origin, id: Digest(Sha256::digest(bytes).into()) })
    }
}

fn point<C: Curve>(bytes: &[u8], name: impl Fn() -> String) -> Result<C::Affine, KeyError> {
    in_group::<C>(bytes, '·').map_err(|source| KeyError::Point { name: name(), source })
}

/// With γ = δ a proof of one statement is easily made into one of another. β and δ must be the same in both groups.
fn check_relations(points: &groth16::VerifyingKey<Bls12>) -> Result<(), KeyError> {
    if points.gamma_g2 == points.delta_g2 {
        return Err(KeyError::Inconsistent("γ and δ are equal"));
    }
    let (g1, g2) = (blstrs::G1Affine::generator(), blstrs::G2Affine::generator());
    let equal = |left, right| Product::new(&[left, -g1], &[g2, right]).is_one();
    if !equal(points.beta_g1, points.beta_g2) {
        return Err(KeyError::Inconsistent("β differs in G1 and G2"));
    }
    if !equal(points.delta_g1, points.delta_g2) {
        return Err(KeyError::Inconsistent("δ differs in G1 and G2"));
    }
    Ok(())
}

fn encode(points: &groth16::VerifyingKey<Bls12>, origin: &Origin) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + points.ic.len() * G1::COMPRESSED);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    let (setup, transcript) = match origin.setup {
        Setup::Development => (0, Digest([0; 32])),
        Setup::Ceremony { transcript } => (1, transcript),
    };
    bytes.extend_from_slice(&[setup, origin.statement.number()]);
    bytes.extend_from_slice(&origin.circuit_version.to_le_bytes());
    bytes.extend_from_slice(&(points.ic.len() as u32 - 1).to_le_bytes());
    bytes.extend_from_slice(&origin.model);
    bytes.extend_from_slice(&origin.circuit);
    bytes.extend_from_slice(&transcript.0);
    bytes.extend_from_slice(&points.alpha_g1.to_compressed());
    bytes.extend_from_slice(&points.beta_g1.to_compressed());
    bytes.extend_from_slice(&points.beta_g2.to_compressed());
    bytes.extend_from_slice(&points.gamma_g2.to_compressed());
    bytes.extend_from_slice(&points.delta_g1.to_compressed());
    bytes.extend_from_slice(&points.delta_g2.to_compressed());
    for point in &points.ic {
        bytes.extend_from_slice(&point.to_compressed());
    }
    bytes
}
