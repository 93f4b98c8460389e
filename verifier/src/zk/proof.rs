//! Proofs and public inputs as bytes, checked where they come in.

use bellman::groth16;
use blstrs::{Bls12, Scalar};
use group::prime::PrimeCurveAffine;
use thiserror::Error;

use super::curve::{Curve, G1, G2};

/// Why bytes are not a proof or a public input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Wrong length.
    #[error("a proof has {expected} bytes, this has {0}", expected = Proof::LEN)]
    Length(usize),
    /// Not the canonical encoding of a point of the curve.
    #[error("point {0} is not a point of the curve")]
    NotOnCurve(char),
    /// A point of the curve outside the group in which proofs live.
    #[error("point {0} is not in the prime-order group")]
    NotInGroup(char),
    /// The identity, which no honest party makes.
    #[error("point {0} is the identity")]
    Identity(char),
    /// A number that is not reduced would be a second encoding of another.
    #[error("public input {0} is not below the group's order")]
    Scalar(usize),
}

/// A Groth16 proof over BLS12-381.
#[derive(Debug, Clone, PartialEq)]
pub struct Proof(pub(super) groth16::Proof<Bls12>);

impl Proof {
    /// Bytes of an encoded proof: compressed A, B, C.
    pub const LEN: usize = 192;

    /// The proof's bytes.
    pub fn to_bytes(&self) -> [u8; Proof::LEN] {
        let mut bytes = [0; Proof::LEN];
        bytes[..48].copy_from_slice(&self.0.a.to_compressed());
        bytes[48..144].copy_from_slice(&self.0.b.to_compressed());
        bytes[144..].copy_from_slice(&self.0.c.to_compressed());
        bytes
    }

    /// Reads a proof, and checks that its points are on the curve, in their group and not the identity.
    ///
    /// # Errors
    /// What is wrong with which point.
    pub fn from_bytes(bytes: &[u8]) -> Result<Proof, Malformed> {
        let proof = Proof::from_bytes_on_curve(bytes)?;
        proof.check_groups()?;
        Ok(proof)
    }

    /// As [`Proof::from_bytes`], but whether the points are in their group is left to the caller.
    pub(super) fn from_bytes_on_curve(bytes: &[u8]) -> Result<Proof, Malformed> {
        if bytes.len() != Proof::LEN {
            return Err(Malformed::Length(bytes.len()));
        }
        Ok(Proof(groth16::Proof {
            a: on_curve::<G1>(&bytes[..48], 'A')?,
            b: on_curve::<G2>(&bytes[48..144], 'B')?,
            c: on_curve::<G1>(&bytes[144..], 'C')?,
        }))
    }

    pub(super) fn check_g1(&self) -> Result<(), Malformed> {
        let outside =
            [('A', &self.0.a), ('C', &self.0.c)].into_iter().find(|(_, point)| !G1::in_group(point));
        outside.map_or(Ok(()), |(point, _)| Err(Malformed::NotInGroup(point)))
    }

    fn check_groups(&self) -> Result<(), Malformed> {
        self.check_g1()?;
        if G2::in_group(&self.0.b) { Ok(()) } else { Err(Malformed::NotInGroup('B')) }
    }
}

/// A compressed point that is on the curve and not the identity.
pub(super) fn on_curve<C: Curve>(bytes: &[u8], name: char) -> Result<C::Affine, Malformed> {
    let point = C::uncompress(bytes).ok_or(Malformed::NotOnCurve(name))?;
    if bool::from(point.is_identity()) { Err(Malformed::Identity(name)) } else { Ok(point) }
}

/// A compressed point of the group that is not the identity.
pub(super) fn in_group<C: Curve>(bytes: &[u8], name: char) -> Result<C::Affine, Malformed> {
    let point = on_curve::<C>(bytes, name)?;
    if C::in_group(&point) { Ok(point) } else { Err(Malformed::NotInGroup(name)) }
}

/// Reads public inputs, each 32 big-endian bytes below the group's order.
///
/// # Errors
/// [`Malformed::Scalar`] with the index of the first that is not.
pub fn scalars_from_bytes(bytes: &[[u8; 32]]) -> Result<Vec<Scalar>, Malformed> {
    let read = |(index, bytes)| Scalar::from_bytes_be(bytes).into_option().ok_or(Malformed::Scalar(index));
    bytes.iter().enumerate().map(read).collect()
}
