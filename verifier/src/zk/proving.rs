//! Proving keys: the points that proofs are made of, in memory or mapped from a file.
//!
//! A file holds points as they lie in memory, so that it can be used where it is, by several processes at once. That form
//! is of blst on a 64-bit little-endian machine; the file begins with the generator of G1 in it, which tells another.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0..8 | magic | `HACAZKPK` |
//! | 8..12 | version | `u32`, 2, little-endian as all numbers here |
//! | 12..16 | length of the verification key | `u32` |
//! | 16..56 | points in each list below | five `u64` |
//! | 56..152 | the generator of G1 | a raw point |
//! | 152.. | the verification key | then zeros up to a multiple of 8 |
//! | | h, l, a, b in G1; b in G2 | raw points |
//! | last 32 | SHA-256 of all bytes before | |

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use blstrs::{G1Affine, G2Affine};
use group::prime::PrimeCurveAffine;
use memmap2::Mmap;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::curve::{Curve, G1, G2};
use super::key::{KeyError, VerifyingKey};

const MAGIC: &[u8; 8] = b"HACAZKPK";
const VERSION: u32 = 2;
const HEAD: usize = 152;
/// Bytes of the hash at the end.
pub(super) const HASH: usize = 32;

/// Why bytes are not a proving key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotAProvingKey {
    /// The file is not what was written.
    #[error("{0}")]
    Damaged(&'static str),
    /// The verification key in it is none.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The points of a proving key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lists {
    /// `τ^i (τ^n - 1) / δ`
    pub(super) h: Vec<G1Affine>,
    /// Of each private variable, its share divided by δ.
    pub(super) l: Vec<G1Affine>,
    /// Of each variable that occurs on a left side.
    pub(super) a: Vec<G1Affine>,
    /// Of each variable that occurs on a right side.
    pub(super) b_g1: Vec<G1Affine>,
    /// Likewise.
    pub(super) b_g2: Vec<G2Affine>,
}

enum Store {
    Made(Lists),
    Mapped { map: Mmap, ranges: [Range<usize>; 5] },
}

/// What proofs of one system are made with. Clones share the points.
#[derive(Clone)]
pub struct ProvingKey {
    verifying_key: VerifyingKey,
    store: Arc<Store>,
}

impl fmt::Debug for ProvingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProvingKey").field("verifying_key", &self.verifying_key).finish_non_exhaustive()
    }
}

impl ProvingKey {
    /// A key of points that this process has made or checked.
    pub(super) fn new(verifying_key: VerifyingKey, lists: Lists) -> ProvingKey {
        ProvingKey { verifying_key, store: Arc::new(Store::Made(lists)) }
    }

    /// The key its proofs are checked against.
    pub fn verifying_key(&self) -> &VerifyingKey {
        &self.verifying_key
    }

    pub(super) fn h(&self) -> &[G1Affine] {
        self.list::<G1>(0, |lists| &lists.h)
    }

    pub(super) fn l(&self) -> &[G1Affine] {
        self.list::<G1>(1, |lists| &lists.l)
    }

    pub(super) fn a(&self) -> &[G1Affine] {
        self.list::<G1>(2, |lists| &lists.a)
    }

    pub(super) fn b_g1(&self) -> &[G1Affine] {
        self.list::<G1>(3, |lists| &lists.b_g1)
    }

    pub(super) fn b_g2(&self) -> &[G2Affine] {
        self.list::<G2>(4, |lists| &lists.b_g2)
    }

    fn list<C: Curve>(&self, index: usize, made: impl Fn(&Lists) -> &Vec<C::Affine>) -> &[C::Affine] {
        match &*self.store {
            Store::Made(lists) => made(lists),
            Store::Mapped { map, ranges } => C::from_raw(&map[ranges[index].clone()])
                .expect("lists begin at multiples of 8 of a mapped page, and are of whole points"),
        }
    }

    /// The file's bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let verifying = self.verifying_key.to_bytes();
        let lists = [G1::raw(self.h()), G1::raw(self.l()), G1::raw(self.a()), G1::raw(self.b_g1())];
        let counts = [self.h().len(), self.l().len(), self.a().len(), self.b_g1().len(), self.b_g2().len()];
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(verifying.len() as u32).to_le_bytes());
        counts.iter().for_each(|count| bytes.extend_from_slice(&(*count as u64).to_le_bytes()));
        bytes.extend_from_slice(G1::raw(&[G1Affine::generator()]));
        bytes.extend_from_slice(&verifying);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        lists.iter().for_each(|list| bytes.extend_from_slice(list));
        bytes.extend_from_slice(G2::raw(self.b_g2()));
        let hash = Sha256::digest(&bytes);
        bytes.extend_from_slice(&hash);
        bytes
    }

    /// The key in a mapped file. Its hash and its points are not looked at.
    ///
    /// # Errors
    /// What is wrong with its head, its lengths or its verification key.
    pub(super) fn from_map(map: Mmap) -> Result<ProvingKey, NotAProvingKey> {
        let damaged = NotAProvingKey::Damaged;
        let (head, rest) = map.split_first_chunk::<HEAD>().ok_or(damaged("the file is cut off"))?;
        if head[..8] != *MAGIC {
            return Err(damaged("not a proving key"));
        }
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if number(8) != VERSION || head[56..] != *G1::raw(&[G1Affine::generator()]) {
            return Err(damaged("it was written by another version of this program or for another machine"));
        }
        let length = number(12) as usize;
        let verifying_key =
            VerifyingKey::from_bytes(rest.get(..length).ok_or(damaged("the file is cut off"))?)?;
        let mut end = (HEAD + length).next_multiple_of(8);
        let mut ranges = [const { 0..0 }; 5];
        let (counts, _) = head[16..56].as_chunks::<8>();
        for ((range, count), size) in ranges.iter_mut().zip(counts).zip([96, 96, 96, 96, 192]) {
            let list =
                usize::try_from(u64::from_le_bytes(*count)).ok().and_then(|count| count.checked_mul(size));
            let start = end;
            end = list.and_then(|list| end.checked_add(list)).ok_or(damaged("its lengths are none"))?;
            *range = start..end;
        }
        if end.checked_add(HASH) != Some(map.len()) {
            return Err(damaged("its lengths are not those of its lists"));
        }
        Ok(ProvingKey { verifying_key, store: Arc::new(Store::Mapped { map, ranges }) })
    }
}

/// Whether the bytes end with the hash of those before.
pub(super) fn hash_holds(bytes: &[u8]) -> bool {
    bytes
        .split_last_chunk::<HASH>()
        .is_some_and(|(content, hash)| Sha256::digest(content).as_slice() == hash.as_slice())
}

// The verification key and the lists begin at multiples of 8.
const _: () = assert!(HEAD.is_multiple_of(8) && cfg!(target_endian = "little") && size_of::<usize>() == 8);
