//! One contribution's record: what it multiplied by, that its maker knew it, and which points came out.
//!
//! A record of a phase with `N` secrets:
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0 | length of the beacon | 0: not a beacon |
//! | 1 | binary logarithm of its hashings | |
//! | 2..66 | the beacon's value | then zeros |
//! | 66..98 | SHA-256 of the points after it, as the file has them | |
//! | 98.. | of each secret `x`: `x` in G1, the point after it in G1, the challenge times `x` in G2 | compressed |
//!
//! The challenge is a point of G2 that is hashed from the transcript before the record and from all of the record but the
//! last points. That who gave it times `x` knows `x` is the paper's proof of knowledge (section 2.2 there); that the
//! point before became the point after by the same `x` is one more pairing equation.

use std::array;

use blstrs::{G1Affine, G2Affine, G2Projective};
use group::Curve as _;
use group::prime::PrimeCurveAffine;
use haca_wire::Digest;
use sha2::{Digest as _, Sha256, Sha512};
use thiserror::Error;

use super::CeremonyError;
use super::ratio::same_ratio;
use super::secret::Secret;
use crate::zk::curve::{Curve, G1, G2};
use crate::zk::proof::{Malformed, in_group};

const HEAD: usize = 98;
const STEP: usize = 2 * G1::COMPRESSED + G2::COMPRESSED;
const CHALLENGE: &[u8] = b"HACA-ZK-CEREMONY-V1_BLS12381G2_XMD:SHA-256_SSWU_RO_";

/// What is wrong with a contribution.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Wrong {
    /// Its record is none that is written.
    #[error("its record is damaged: {0}")]
    Record(&'static str),
    /// A point of its record is none.
    #[error("{secret}: {source}")]
    Point {
        /// Which secret the point is of.
        secret: &'static str,
        /// What is wrong with it.
        source: Malformed,
    },
    /// Nobody shows to have known the secret, or the record was made after other contributions.
    #[error("the proof that its maker knew the factor of {0} does not hold where it stands")]
    Unknown(&'static str),
    /// The step was not made with the secret.
    #[error("{0} was not multiplied by the factor that its record proves")]
    Step(&'static str),
    /// What came out protects nothing.
    #[error("{0} became 1")]
    One(&'static str),
    /// The beacon's record does not follow from its value.
    #[error("its factor of {0} is not that of the beacon")]
    Beacon(&'static str),
    /// A beacon is the last, and not the first.
    #[error("the beacon is not the last contribution, or the only one")]
    Order,
    /// The points in the file are not those the record names.
    #[error("the points in the file are not those that it names: the file was damaged or changed after it")]
    Changed,
    /// A point that came out is none.
    #[error("{list}, number {index}: {source}")]
    ListPoint {
        /// Which list of points.
        list: &'static str,
        /// Its index there.
        index: usize,
        /// What is wrong with it.
        source: Malformed,
    },
    /// The points that came out do not belong together.
    #[error("its points do not belong together: {0}")]
    Points(&'static str),
}

/// Public randomness that closes a phase. It must not be known before the last contribution is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beacon {
    value: Vec<u8>,
    log: u8,
}

impl Beacon {
    /// At 10 million hashes a second, 2^32 take seven minutes, which is what a hostile file can cost who reads it.
    pub const MAX_LOG: u8 = 32;

    /// A beacon of this value, hashed `2^log` times, so that who may choose among values cannot try many.
    ///
    /// # Errors
    /// [`CeremonyError::Beacon`] if the value has not 16 to 64 bytes, or `log` is above [`Beacon::MAX_LOG`].
    pub fn new(value: &[u8], log: u8) -> Result<Beacon, CeremonyError> {
        let fits = (16..=64).contains(&value.len()) && log <= Beacon::MAX_LOG;
        if fits { Ok(Beacon { value: value.to_vec(), log }) } else { Err(CeremonyError::Beacon) }
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Binary logarithm of the number of hashings.
    pub fn log(&self) -> u8 {
        self.log
    }

    pub(super) fn secrets<const N: usize>(&self, names: &[&'static str; N]) -> [Secret; N] {
        let first: [u8; 32] = Sha256::digest(&self.value).into();
        let last = (1..1u64 << self.log).fold(first, |hash, _| Sha256::digest(hash).into());
        names.map(|name| {
            let hash = Sha512::new_with_prefix(b"haca ceremony beacon v1").chain_update(last);
            Secret::from_hash(hash.chain_update(name))
        })
    }
}

/// A contribution as a transcript shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Digest of the transcript up to it: what a contributor publishes, and finds again in the finished file.
    pub digest: Digest,
    /// Its public randomness, if it is the beacon's.
    pub beacon: Option<Beacon>,
}

/// Of one secret.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    factor: G1Affine,
    after: G1Affine,
    proof: G2Affine,
}

/// A contribution's record.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Contribution<const N: usize> {
    pub(super) beacon: Option<Beacon>,
    /// Of the points that came out.
    pub(super) points: Digest,
    steps: [Step; N],
}

impl<const N: usize> Contribution<N> {
    pub(super) const LEN: usize = HEAD + N * STEP;

    /// The record of a contribution to a transcript of this digest, in which the secrets have come to `before`.
    pub(super) fn new(
        previous: &Digest,
        before: &[G1Affine; N],
        secrets: &[Secret; N],
        beacon: Option<Beacon>,
        points: Digest,
    ) -> Contribution<N> {
        let steps = array::from_fn(|index| {
            let secret = secrets[index].scalar();
            let factor = (G1Affine::generator() * secret).to_affine();
            let after = (before[index] * secret).to_affine();
            Step { factor, after, proof: G2Affine::identity() }
        });
        let mut contribution = Contribution { beacon, points, steps };
        let challenges: [G2Affine; N] = array::from_fn(|index| contribution.challenge(previous, index));
        for ((step, challenge), secret) in contribution.steps.iter_mut().zip(challenges).zip(secrets) {
            step.proof = (challenge * secret.scalar()).to_affine();
        }
        contribution
    }

    fn challenge(&self, previous: &Digest, index: usize) -> G2Affine {
        let mut hash = Sha256::new();
        hash.update(previous.0);
        hash.update(self.head());
        for step in &self.steps {
            hash.update(step.factor.to_compressed());
            hash.update(step.after.to_compressed());
        }
        hash.update([index as u8]);
        G2Projective::hash_to_curve(&hash.finalize(), CHALLENGE, &[]).to_affine()
    }

    /// Checks the record against what was before it.
    pub(super) fn check(
        &self,
        previous: &Digest,
        before: &[G1Affine; N],
        names: &[&'static str; N],
    ) -> Result<(), Wrong> {
        if let Some(beacon) = &self.beacon {
            for ((step, secret), name) in self.steps.iter().zip(beacon.secrets(names)).zip(names) {
                if step.factor != (G1Affine::generator() * secret.scalar()).to_affine() {
                    return Err(Wrong::Beacon(name));
                }
            }
        }
        for (index, (step, name)) in self.steps.iter().zip(names).enumerate() {
            let proven = (&self.challenge(previous, index), &step.proof);
            if !same_ratio((&G1Affine::generator(), &step.factor), proven) {
                return Err(Wrong::Unknown(name));
            }
            if !same_ratio((&before[index], &step.after), proven) {
                return Err(Wrong::Step(name));
            }
            if step.after == G1Affine::generator() {
                return Err(Wrong::One(name));
            }
        }
        Ok(())
    }

    /// What the secrets came to.
    pub(super) fn after(&self) -> [G1Affine; N] {
        array::from_fn(|index| self.steps[index].after)
    }

    fn head(&self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        if let Some(beacon) = &self.beacon {
            head[0] = beacon.value.len() as u8;
            head[1] = beacon.log;
            head[2..2 + beacon.value.len()].copy_from_slice(&beacon.value);
        }
        head[66..].copy_from_slice(&self.points.0);
        head
    }

    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.head());
        for step in &self.steps {
            bytes.extend_from_slice(&step.factor.to_compressed());
            bytes.extend_from_slice(&step.after.to_compressed());
            bytes.extend_from_slice(&step.proof.to_compressed());
        }
    }

    /// Reads a record of [`Contribution::LEN`] bytes.
    pub(super) fn read(bytes: &[u8], names: &[&'static str; N]) -> Result<Contribution<N>, Wrong> {
        let damaged = Wrong::Record;
        let (head, steps) = bytes.split_first_chunk::<HEAD>().ok_or(damaged("it is cut off"))?;
        let (value, rest) =
            head[2..66].split_at_checked(head[0].into()).ok_or(damaged("the beacon has no such length"))?;
        if rest.iter().any(|byte| *byte != 0) {
            return Err(damaged("bytes after the beacon's value"));
        }
        let beacon = match (head[0], head[1]) {
            (0, 0) => None,
            (_, log) => Some(Beacon::new(value, log).map_err(|_| damaged("the beacon is none"))?),
        };
        let mut points = Digest([0; 32]);
        points.0.copy_from_slice(&head[66..]);
        let step = |(bytes, &secret): (&[u8], &&'static str)| {
            let read = || {
                Ok(Step {
                    factor: in_group::<G1>(&bytes[..48], '·')?,
                    after: in_group::<G1>(&bytes[48..96], '·')?,
                    proof: in_group::<G2>(&bytes[96..], '·')?,
                })
            };
            read().map_err(|source| Wrong::Point { secret, source })
        };
        let steps: Vec<Step> = steps.chunks_exact(STEP).zip(names).map(step).collect::<Result<_, _>>()?;
        let steps = steps.try_into().map_err(|_| damaged("it is cut off"))?;
        Ok(Contribution { beacon, points, steps })
    }
}
