//! Phase 1: powers of τ, also times α and β, which serve the key of every circuit up to their size.
//!
//! After the transcript (its subject is empty) the file has, compressed, for `n` constraints: `τ^0..τ^(2n-2)` in G1,
//! `τ^0..τ^(n-1)` in G2, `α·τ^0..α·τ^(n-1)` and `β·τ^0..β·τ^(n-1)` in G1, β in G2: 288 bytes for each constraint.

use blstrs::{G1Affine, G2Affine};
use group::Curve as _;
use group::prime::PrimeCurveAffine;
use haca_wire::Digest;

use super::contribution::{Beacon, Record, Wrong};
use super::lists::{self, Lists};
use super::ratio::{same_ratio, successive};
use super::secret::Secret;
use super::transcript::Transcript;
use super::{CeremonyError, Watch};
use crate::zk::curve::{Curve, G1, G2};

pub(super) const PHASE: u8 = 1;
/// Binary logarithm of the most constraints that powers are made for: those of the largest circuit. Their file has 4.8 GB.
pub const MAX_LOG: u32 = 24;
const NAMES: [&str; 3] = ["τ", "α", "β"];

/// Powers of tau with the transcript of those who made them.
#[derive(Debug, Clone, PartialEq)]
pub struct Powers {
    log: u32,
    transcript: Transcript<3>,
    pub(super) points: Points,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Points {
    /// `τ^i`
    pub(super) tau: Vec<G1Affine>,
    /// `τ^i`
    pub(super) tau_g2: Vec<G2Affine>,
    /// `α·τ^i`
    pub(super) alpha: Vec<G1Affine>,
    /// `β·τ^i`
    pub(super) beta: Vec<G1Affine>,
    pub(super) beta_g2: G2Affine,
}

impl Powers {
    /// Powers of one, for `2^log` constraints, to which nobody has contributed.
    ///
    /// # Errors
    /// [`CeremonyError::Size`] unless `log` is 1 to [`MAX_LOG`].
    pub fn new(log: u32) -> Result<Powers, CeremonyError> {
        if !(1..=MAX_LOG).contains(&log) {
            return Err(CeremonyError::Size(log));
        }
        let (size, g1, g2) = (1 << log, G1Affine::generator(), G2Affine::generator());
        let points = Points {
            tau: vec![g1; 2 * size - 1],
            tau_g2: vec![g2; size],
            alpha: vec![g1; size],
            beta: vec![g1; size],
            beta_g2: g2,
        };
        Ok(Powers { log, transcript: Transcript::new(PHASE, log, &[], NAMES), points })
    }

    /// Reads a file, and checks every contribution and all points. Runs on the threads of the current rayon pool.
    ///
    /// # Errors
    /// [`CeremonyError`]; the first contribution that is wrong is named. Points that are wrong although the records hold
    /// are the last contribution's fault, since whoever contributes checks the file before.
    pub fn read(bytes: &[u8], watch: &impl Watch) -> Result<Powers, CeremonyError> {
        let (log, _, rest) = Transcript::<3>::open(bytes, PHASE, 0)?;
        if !(1..=MAX_LOG).contains(&log) {
            return Err(CeremonyError::Size(log));
        }
        let mut transcript = Transcript::new(PHASE, log, &[], NAMES);
        let size = 1 << log;
        let rest = transcript.read(rest, (4 * size - 1) * G1::COMPRESSED + (size + 1) * G2::COMPRESSED)?;
        watch.begin("read", 5 * size);
        let points = Points::read(rest, size, transcript.points(), watch)
            .and_then(|points| {
                watch.begin("check", 5 * size);
                points.check(&transcript.after(), watch)?;
                Ok(points)
            })
            .map_err(|wrong| transcript.blame(wrong))?;
        Ok(Powers { log, transcript, points })
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.transcript.write();
        bytes.append(&mut self.points.to_bytes());
        bytes
    }

    /// Multiplies secrets into the powers, drawn from the system's random numbers and `entropy`, and drops them. Runs on
    /// the threads of the current rayon pool.
    ///
    /// # Errors
    /// [`CeremonyError::Finished`].
    pub fn contribute(&mut self, entropy: &[u8], watch: &impl Watch) -> Result<(), CeremonyError> {
        self.transcript.check_open()?;
        self.multiply(&NAMES.map(|_| Secret::draw(entropy)), None, watch);
        Ok(())
    }

    /// Closes the phase with public randomness.
    ///
    /// # Errors
    /// [`CeremonyError::Finished`]; [`CeremonyError::Uncontributed`] if there is no contribution.
    pub fn finish(&mut self, beacon: Beacon, watch: &impl Watch) -> Result<(), CeremonyError> {
        let secrets = self.transcript.beacon(&beacon)?;
        self.multiply(&secrets, Some(beacon), watch);
        Ok(())
    }

    pub(super) fn multiply(&mut self, secrets: &[Secret; 3], beacon: Option<Beacon>, watch: &impl Watch) {
        watch.begin("multiply", 5 << self.log);
        let points = &mut self.points;
        let [tau, alpha, beta] = secrets;
        Secret::multiply::<G1>(&Secret::one(), tau, &mut points.tau, watch);
        Secret::multiply::<G2>(&Secret::one(), tau, &mut points.tau_g2, watch);
        Secret::multiply::<G1>(alpha, tau, &mut points.alpha, watch);
        Secret::multiply::<G1>(beta, tau, &mut points.beta, watch);
        points.beta_g2 = (points.beta_g2 * beta.scalar()).to_affine();
        self.transcript.add(secrets, beacon, lists::digest(&points.to_bytes()));
    }

    /// Binary logarithm of the constraints they serve.
    pub fn log(&self) -> u32 {
        self.log
    }

    /// Digest of the transcript so far.
    pub fn digest(&self) -> Digest {
        self.transcript.digest()
    }

    /// The contributions so far, the beacon's last.
    pub fn records(&self) -> Vec<Record> {
        self.transcript.records()
    }

    /// Whether the beacon closed them.
    pub fn is_finished(&self) -> bool {
        self.transcript.is_finished()
    }
}

impl Points {
    fn read(bytes: &[u8], size: usize, named: Option<&Digest>, watch: &impl Watch) -> Result<Points, Wrong> {
        if named.is_some_and(|named| *named != lists::digest(bytes)) {
            return Err(Wrong::Changed);
        }
        let mut lists = Lists { rest: bytes, watch };
        Ok(Points {
            tau: lists.g1("powers of τ in G1", 2 * size - 1)?,
            tau_g2: lists.g2("powers of τ in G2", size)?,
            alpha: lists.g1("powers of τ times α", size)?,
            beta: lists.g1("powers of τ times β", size)?,
            beta_g2: lists.g2("β in G2", 1)?[0],
        })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        lists::write::<G1>(&mut bytes, &self.tau);
        lists::write::<G2>(&mut bytes, &self.tau_g2);
        lists::write::<G1>(&mut bytes, &self.alpha);
        lists::write::<G1>(&mut bytes, &self.beta);
        lists::write::<G2>(&mut bytes, &[self.beta_g2]);
        bytes
    }

    /// Whether these are powers of the secrets that came to `after`.
    fn check(&self, after: &[G1Affine; 3], watch: &impl Watch) -> Result<(), Wrong> {
        let (g1, g2) = (G1Affine::generator(), G2Affine::generator());
        if self.tau[0] != g1 || self.tau_g2[0] != g2 {
            return Err(Wrong::Points("the first power of τ is not 1"));
        }
        if [self.tau[1], self.alpha[0], self.beta[0]] != *after {
            return Err(Wrong::Points("τ, α and β are not those of the record"));
        }
        let tau = (&g2, &self.tau_g2[1]);
        if !same_ratio((&g1, &self.tau[1]), tau) {
            return Err(Wrong::Points("τ differs in G1 and G2"));
        }
        if !same_ratio((&g1, &self.beta[0]), (&g2, &self.beta_g2)) {
            return Err(Wrong::Points("β differs in G1 and G2"));
        }
        for (points, what) in [
            (&self.tau, "in G1, not each is the one before times τ"),
            (&self.alpha, "with α, not each is the one before times τ"),
            (&self.beta, "with β, not each is the one before times τ"),
        ] {
            let (before, behind) = successive::<G1>(points);
            if !same_ratio((&before, &behind), tau) {
                return Err(Wrong::Points(what));
            }
            watch.advance(points.len());
        }
        let (before, behind) = successive::<G2>(&self.tau_g2);
        if !same_ratio((&g1, &self.tau[1]), (&before, &behind)) {
            return Err(Wrong::Points("in G2, not each is the one before times τ"));
        }
        watch.advance(self.tau_g2.len());
        Ok(())
    }
}
