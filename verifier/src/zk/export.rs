//! Proofs for other tools: every coordinate and number as a big-endian hexadecimal string.

use blstrs::{G1Affine, G2Affine, Scalar};
use serde::{Deserialize, Serialize};

use super::{Proof, VerifyingKey};

/// A point of G1: its coordinates.
pub type G1Text = [String; 2];
/// A point of G2: its coordinates, each as the two parts `c0`, `c1` of an element of the quadratic extension.
pub type G2Text = [[String; 2]; 2];

/// A verification key, a proof and its public inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// Always `bls12-381`.
    pub curve: String,
    /// The key.
    pub vk: ExportedKey,
    /// The proof.
    pub proof: ExportedProof,
    /// Without the constant one.
    pub public_inputs: Vec<String>,
}

/// What checking a proof takes of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedKey {
    /// α
    pub alpha_g1: G1Text,
    /// β
    pub beta_g2: G2Text,
    /// γ
    pub gamma_g2: G2Text,
    /// δ
    pub delta_g2: G2Text,
    /// A point for the constant one and each public input.
    pub ic: Vec<G1Text>,
}

/// The three points of a proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedProof {
    /// A
    pub a: G1Text,
    /// B
    pub b: G2Text,
    /// C
    pub c: G1Text,
}

impl Export {
    /// A proof with what it is checked against.
    pub fn new(key: &VerifyingKey, proof: &Proof, inputs: &[Scalar]) -> Export {
        let (points, proof) = (&key.points, &proof.0);
        Export {
            curve: "bls12-381".into(),
            vk: ExportedKey {
                alpha_g1: g1(&points.alpha_g1),
                beta_g2: g2(&points.beta_g2),
                gamma_g2: g2(&points.gamma_g2),
                delta_g2: g2(&points.delta_g2),
                ic: points.ic.iter().map(g1).collect(),
            },
            proof: ExportedProof { a: g1(&proof.a), b: g2(&proof.b), c: g1(&proof.c) },
            public_inputs: inputs.iter().map(|input| hexadecimal(&input.to_bytes_be())).collect(),
        }
    }
}

fn g1(point: &G1Affine) -> G1Text {
    let bytes = point.to_uncompressed();
    [hexadecimal(&bytes[..48]), hexadecimal(&bytes[48..])]
}

fn g2(point: &G2Affine) -> G2Text {
    // Encodings have the part c1 first.
    let bytes = point.to_uncompressed();
    let part = |index: usize| hexadecimal(&bytes[48 * index..48 * (index + 1)]);
    [[part(1), part(0)], [part(3), part(2)]]
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::from("0x"), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}
