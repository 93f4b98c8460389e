//! The ceremony: keys that nobody can forge proofs under unless all who took part work together.
//!
//! After Bowe, Gabizon and Miers, *Scalable Multi-party Computation for zk-SNARK Parameters in the Random Beacon Model*
//! (IACR ePrint 2017/1050). In phase 1, [`Powers`], contributors multiply secrets of theirs into the powers of τ, α and β,
//! which serve every model. In phase 2, [`Phase2`], they do so with the δ of one model's key. Each phase is one file that
//! goes from contributor to contributor, and ends with a beacon: a contribution whose secret is computed from a public
//! value that nobody could foresee.
//!
//! A file holds a header, the contributions' records, and the points as they are after the last. A record proves that its
//! maker knew the factors, and names the points that came out by their hash; records are chained by hashes
//! (`transcript`). So reading the last file checks all contributions: each by its record, the points once. Whoever reads
//! a file has checked it: there is no other way to get a [`Powers`] or a [`Phase2`] from bytes.

mod contribution;
mod initial;
mod lists;
mod phase2;
mod powers;
mod ratio;
mod secret;
#[cfg(test)]
mod tests;
mod transcript;

use haca_wire::Digest;
use thiserror::Error;

pub use self::contribution::{Beacon, Record, Wrong};
pub use self::phase2::Phase2;
pub use self::powers::{MAX_LOG, Powers};
use super::proof::Malformed;
use super::setup::SetupError;

/// Why bytes are not a file of a ceremony, or a step of one cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CeremonyError {
    /// They do not begin as one does.
    #[error("not a file of a ceremony")]
    NotACeremony,
    /// A version this code does not read.
    #[error("version {0} of a ceremony's file is not known here")]
    Version(u16),
    /// A file of one phase where the other is wanted.
    #[error("it is a file of phase {found}, and one of phase {expected} is wanted")]
    Phase {
        /// Phase of the file.
        found: u8,
        /// What is wanted.
        expected: u8,
    },
    /// Its parts are none that are written.
    #[error("the file is damaged: {0}")]
    Damaged(&'static str),
    /// A point of what no contribution changes is none.
    #[error("{list}, number {index}: {source}")]
    Point {
        /// Which list of points.
        list: &'static str,
        /// Its index there.
        index: usize,
        /// What is wrong with it.
        source: Malformed,
    },
    /// A contribution is wrong; those before it are right.
    #[error("contribution {number} is wrong: {wrong}")]
    Contribution {
        /// Its number, from 1.
        number: usize,
        /// What is wrong with it.
        wrong: Wrong,
    },
    /// The beacon closed it.
    #[error("the ceremony is finished, and takes no more contributions")]
    Finished,
    /// The beacon is missing.
    #[error("the ceremony is not finished: close it with haca zk ceremony finish")]
    Unfinished,
    /// Without a contribution there is no secret.
    #[error("nobody has contributed: the beacon is public, and alone it protects nothing")]
    Uncontributed,
    /// A beacon that is too short or long, or takes too long.
    #[error("a beacon has 16 to 64 bytes and is hashed at most 2^{} times", Beacon::MAX_LOG)]
    Beacon,
    /// No such number of powers.
    #[error("powers of tau are made for 2^1 to 2^{MAX_LOG} constraints, not for 2^{0}")]
    Size(u32),
    /// The circuit is larger than the powers.
    #[error("the circuit needs powers for 2^{needed} constraints, these are for 2^{found}")]
    TooFewPowers {
        /// What the circuit needs.
        needed: u32,
        /// What there is.
        found: u32,
    },
    /// It was begun for another model, circuit or phase 1.
    #[error("the ceremony is of another {0}")]
    Other(&'static str),
    /// The points that it began with are not those of the model and the powers.
    #[error("the points that the ceremony began with are not those of this model and these powers")]
    Initial,
    /// The system has no parameters.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

/// Is told how far a long step is.
pub trait Watch: Sync {
    /// A step of so many points begins.
    fn begin(&self, step: &'static str, points: usize);
    /// So many more are done.
    fn advance(&self, points: usize);
}

/// Nobody watches.
impl Watch for () {
    fn begin(&self, _: &'static str, _: usize) {}
    fn advance(&self, _: usize) {}
}

/// A file of either phase.
#[derive(Debug, Clone, PartialEq)]
pub enum Ceremony {
    /// Powers of tau.
    Powers(Box<Powers>),
    /// The key of a model.
    Phase2(Box<Phase2>),
}

impl Ceremony {
    /// Reads a file and checks it, as [`Powers::read`] and [`Phase2::read`] do.
    ///
    /// # Errors
    /// [`CeremonyError`].
    pub fn read(bytes: &[u8], watch: &impl Watch) -> Result<Ceremony, CeremonyError> {
        match transcript::phase(bytes)? {
            powers::PHASE => Powers::read(bytes, watch).map(|powers| Ceremony::Powers(Box::new(powers))),
            _ => Phase2::read(bytes, watch).map(|phase2| Ceremony::Phase2(Box::new(phase2))),
        }
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Ceremony::Powers(powers) => powers.to_bytes(),
            Ceremony::Phase2(phase2) => phase2.to_bytes(),
        }
    }

    /// As [`Powers::contribute`] and [`Phase2::contribute`].
    ///
    /// # Errors
    /// [`CeremonyError::Finished`].
    pub fn contribute(&mut self, entropy: &[u8], watch: &impl Watch) -> Result<(), CeremonyError> {
        match self {
            Ceremony::Powers(powers) => powers.contribute(entropy, watch),
            Ceremony::Phase2(phase2) => phase2.contribute(entropy, watch),
        }
    }

    /// As [`Powers::finish`] and [`Phase2::finish`].
    ///
    /// # Errors
    /// [`CeremonyError::Finished`], [`CeremonyError::Uncontributed`].
    pub fn finish(&mut self, beacon: Beacon, watch: &impl Watch) -> Result<(), CeremonyError> {
        match self {
            Ceremony::Powers(powers) => powers.finish(beacon, watch),
            Ceremony::Phase2(phase2) => phase2.finish(beacon, watch),
        }
    }

    /// The contributions so far, the beacon's last.
    pub fn records(&self) -> Vec<Record> {
        match self {
            Ceremony::Powers(powers) => powers.records(),
            Ceremony::Phase2(phase2) => phase2.records(),
        }
    }

    /// Digest of the transcript so far: of the header and of all records.
    pub fn digest(&self) -> Digest {
        match self {
            Ceremony::Powers(powers) => powers.digest(),
            Ceremony::Phase2(phase2) => phase2.digest(),
        }
    }

    /// Whether the beacon closed it.
    pub fn is_finished(&self) -> bool {
        self.records().last().is_some_and(|record| record.beacon.is_some())
    }
}
