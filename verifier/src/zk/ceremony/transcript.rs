//! The part of a ceremony's file that says who did what: a header and the contributions' records, chained by hashes.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0..8 | magic | `HACAZKCE` |
//! | 8..10 | version | `u16`, 1, little-endian as all numbers here |
//! | 10 | phase | 1 or 2 |
//! | 11 | size | binary logarithm of the constraints it serves |
//! | 12.. | subject | what the phase is about, of a length that the phase sets |
//! | 4 bytes | contributions | `u32` |
//! | | records | one after the other |
//!
//! The transcript's digest is the SHA-256 of the bytes up to the number of contributions, after a name of this use; then,
//! for each record, that of the digest before and the record.

use blstrs::G1Affine;
use group::prime::PrimeCurveAffine;
use haca_wire::Digest;
use sha2::{Digest as _, Sha256};

use super::CeremonyError;
use super::contribution::{Beacon, Contribution, Record, Wrong};
use super::secret::Secret;

const MAGIC: &[u8; 8] = b"HACAZKCE";
const VERSION: u16 = 1;
const HEAD: usize = 12;

/// The phase that a file is of.
pub(super) fn phase(bytes: &[u8]) -> Result<u8, CeremonyError> {
    let head = bytes.first_chunk::<HEAD>().ok_or(CeremonyError::NotACeremony)?;
    if head[..8] != *MAGIC {
        return Err(CeremonyError::NotACeremony);
    }
    match (u16::from_le_bytes([head[8], head[9]]), head[10]) {
        (VERSION, phase @ 1..=2) => Ok(phase),
        (VERSION, _) => Err(CeremonyError::Damaged("there is no such phase")),
        (version, _) => Err(CeremonyError::Version(version)),
    }
}

/// A transcript of a phase with `N` secrets, all of whose records hold.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Transcript<const N: usize> {
    head: Vec<u8>,
    names: [&'static str; N],
    /// Of the header alone, then with each record.
    digests: Vec<Digest>,
    contributions: Vec<Contribution<N>>,
}

impl<const N: usize> Transcript<N> {
    /// An empty transcript.
    pub(super) fn new(phase: u8, log: u32, subject: &[u8], names: [&'static str; N]) -> Transcript<N> {
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&[phase, log as u8]);
        head.extend_from_slice(subject);
        let hash = Sha256::new_with_prefix(b"haca ceremony transcript v1").chain_update(&head);
        let digests = vec![Digest(hash.finalize().into())];
        Transcript { head, names, digests, contributions: Vec::new() }
    }

    /// Binary logarithm of the size, subject and what follows both.
    pub(super) fn open(
        bytes: &[u8],
        expected: u8,
        subject: usize,
    ) -> Result<(u32, &[u8], &[u8]), CeremonyError> {
        let found = phase(bytes)?;
        if found != expected {
            return Err(CeremonyError::Phase { found, expected });
        }
        let cut = CeremonyError::Damaged("it is cut off");
        let (subject, rest) = bytes[HEAD..].split_at_checked(subject).ok_or(cut)?;
        Ok((bytes[11].into(), subject, rest))
    }

    /// Reads records that follow an empty transcript's header, and checks each. Returns what follows them, if that has
    /// the length that it must have.
    pub(super) fn read<'a>(&mut self, bytes: &'a [u8], points: usize) -> Result<&'a [u8], CeremonyError> {
        let damaged = || CeremonyError::Damaged("its length is not that of its parts");
        let (count, rest) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
        let records = (u32::from_le_bytes(*count) as usize).checked_mul(Contribution::<N>::LEN);
        let (records, rest) =
            records.and_then(|records| rest.split_at_checked(records)).ok_or_else(damaged)?;
        if rest.len() != points {
            return Err(damaged());
        }
        for record in records.chunks_exact(Contribution::<N>::LEN) {
            let checked = Contribution::read(record, &self.names).and_then(|contribution| {
                if self.is_finished() || (self.contributions.is_empty() && contribution.beacon.is_some()) {
                    return Err(Wrong::Order);
                }
                contribution.check(&self.digest(), &self.after(), &self.names)?;
                Ok(contribution)
            });
            let number = self.contributions.len() + 1;
            self.push(checked.map_err(|wrong| CeremonyError::Contribution { number, wrong })?);
        }
        Ok(rest)
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let mut bytes = self.head.clone();
        bytes.extend_from_slice(&(self.contributions.len() as u32).to_le_bytes());
        self.contributions.iter().for_each(|contribution| contribution.write(&mut bytes));
        bytes
    }

    /// Adds the record of a contribution that was made with these secrets, after which the points have this hash.
    pub(super) fn add(&mut self, secrets: &[Secret; N], beacon: Option<Beacon>, points: Digest) {
        self.push(Contribution::new(&self.digest(), &self.after(), secrets, beacon, points));
    }

    fn push(&mut self, contribution: Contribution<N>) {
        let mut record = Vec::with_capacity(Contribution::<N>::LEN);
        contribution.write(&mut record);
        let hash = Sha256::new_with_prefix(self.digest().0).chain_update(record);
        self.digests.push(Digest(hash.finalize().into()));
        self.contributions.push(contribution);
    }

    /// Whether another contribution may be made.
    pub(super) fn check_open(&self) -> Result<(), CeremonyError> {
        if self.is_finished() { Err(CeremonyError::Finished) } else { Ok(()) }
    }

    /// The secrets of the beacon, if it may close this.
    pub(super) fn beacon(&self, beacon: &Beacon) -> Result<[Secret; N], CeremonyError> {
        self.check_open()?;
        if self.contributions.is_empty() {
            return Err(CeremonyError::Uncontributed);
        }
        Ok(beacon.secrets(&self.names))
    }

    /// Digest of all of it.
    pub(super) fn digest(&self) -> Digest {
        *self.digests.last().expect("there is one of the header")
    }

    pub(super) fn is_finished(&self) -> bool {
        self.contributions.last().is_some_and(|contribution| contribution.beacon.is_some())
    }

    /// What the secrets came to, in G1: at first all are one.
    pub(super) fn after(&self) -> [G1Affine; N] {
        self.contributions.last().map_or([G1Affine::generator(); N], Contribution::after)
    }

    /// The hash of the points that the last contribution names.
    pub(super) fn points(&self) -> Option<&Digest> {
        self.contributions.last().map(|contribution| &contribution.points)
    }

    pub(super) fn records(&self) -> Vec<Record> {
        let records = self.contributions.iter().zip(&self.digests[1..]);
        records
            .map(|(contribution, digest)| Record { digest: *digest, beacon: contribution.beacon.clone() })
            .collect()
    }

    /// That the points after the last contribution are wrong; without one, that the file is.
    pub(super) fn blame(&self, wrong: Wrong) -> CeremonyError {
        match (self.contributions.len(), wrong) {
            (0, Wrong::ListPoint { list, index, source }) => CeremonyError::Point { list, index, source },
            (0, _) => CeremonyError::Damaged("its points are not those that a ceremony begins with"),
            (number, wrong) => CeremonyError::Contribution { number, wrong },
        }
    }
}
