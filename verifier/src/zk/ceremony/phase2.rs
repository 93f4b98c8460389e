//! Phase 2: the key of one model's circuit, to whose δ contributors multiply.
//!
//! The transcript's subject is, in 148 bytes:
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0..32 | model id | |
//! | 32..64 | circuit | digest of the constraint system |
//! | 64..96 | powers | digest of the finished transcript of phase 1 |
//! | 96..128 | initial key | SHA-256 of its bytes below |
//! | 128..131 | circuit version | 24 bits |
//! | 131 | statement | 0 open, 1 sealed |
//! | 132..148 | public inputs with the constant one, private variables, variables on left sides, on right sides | four `u32` |
//!
//! After the transcript come, compressed, the initial key (α, β in G1, β in G2, a point for each public input; h, l, a, b
//! in G1; b in G2), and what contributions change: δ in both groups, h and l divided by it. So a contributor can check all
//! contributions from the file alone; that it began with the right points is checked from the model and the powers.

use std::fmt;

use bellman::groth16;
use blstrs::{G1Affine, G2Affine};
use group::Curve as _;
use group::prime::PrimeCurveAffine;
use haca_wire::Digest;

use super::contribution::{Beacon, Record, Wrong};
use super::initial::{self, Initial};
use super::lists::{self, Lists};
use super::powers::{MAX_LOG, Powers};
use super::ratio::{parallel, same_ratio};
use super::secret::Secret;
use super::transcript::Transcript;
use super::{CeremonyError, Watch};
use crate::zk::circuit::{CIRCUIT_VERSION, StatementKind};
use crate::zk::curve::{Curve, G1, G2};
use crate::zk::key::{Origin, Setup, VerifyingKey};
use crate::zk::proving::{self, ProvingKey};
use crate::zk::r1cs::ConstraintSystem;

pub(super) const PHASE: u8 = 2;
const NAMES: [&str; 1] = ["δ"];
const SUBJECT: usize = 148;

/// The key of a model in the making, with the transcript of those who make it.
#[derive(Clone, PartialEq)]
pub struct Phase2 {
    pub(super) subject: Subject,
    pub(super) transcript: Transcript<1>,
    pub(super) initial: Initial,
    pub(super) current: Current,
}

impl fmt::Debug for Phase2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Phase2").field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// What it is about.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Subject {
    log: u32,
    model: [u8; 32],
    circuit: [u8; 32],
    powers: Digest,
    pub(super) initial: Digest,
    circuit_version: u32,
    statement: StatementKind,
    public: usize,
    private: usize,
    left: usize,
    right: usize,
}

/// What contributions change.
#[derive(Clone, PartialEq)]
pub(super) struct Current {
    delta_g1: G1Affine,
    pub(super) delta_g2: G2Affine,
    pub(super) h: Vec<G1Affine>,
    pub(super) l: Vec<G1Affine>,
}

impl Phase2 {
    /// The key of a model's constraint system under finished powers, with δ = 1. Runs on the threads of the current rayon
    /// pool.
    ///
    /// # Errors
    /// [`CeremonyError::Unfinished`] powers, [`CeremonyError::TooFewPowers`], [`CeremonyError::Setup`].
    pub fn new(
        system: &ConstraintSystem,
        model: [u8; 32],
        statement: StatementKind,
        powers: &Powers,
        watch: &impl Watch,
    ) -> Result<Phase2, CeremonyError> {
        if !powers.is_finished() {
            return Err(CeremonyError::Unfinished);
        }
        let initial = Initial::new(system, powers, watch)?;
        let subject = Subject {
            log: initial::log(system)?,
            model,
            circuit: system.digest(),
            powers: powers.digest(),
            initial: lists::digest(&write_initial(&initial)),
            circuit_version: CIRCUIT_VERSION,
            statement,
            public: system.public(),
            private: system.variables() - system.public(),
            left: initial.lists.a.len(),
            right: initial.lists.b_g1.len(),
        };
        let current = Current {
            delta_g1: initial.verifying.delta_g1,
            delta_g2: initial.verifying.delta_g2,
            h: initial.lists.h.clone(),
            l: initial.lists.l.clone(),
        };
        let transcript = Transcript::new(PHASE, subject.log, &subject.to_bytes(), NAMES);
        Ok(Phase2 { subject, transcript, initial, current })
    }

    /// Reads a file, and checks every contribution and all points, save that the points it began with are those of a model
    /// and of powers: that is [`Phase2::check_initial`]. Runs on the threads of the current rayon pool.
    ///
    /// # Errors
    /// [`CeremonyError`]; the first contribution that is wrong is named, as by [`Powers::read`].
    pub fn read(bytes: &[u8], watch: &impl Watch) -> Result<Phase2, CeremonyError> {
        let (log, head, rest) = Transcript::<1>::open(bytes, PHASE, SUBJECT)?;
        let subject = Subject::read(log, head).ok_or(CeremonyError::Damaged("its counts are none"))?;
        let mut transcript = Transcript::new(PHASE, log, head, NAMES);
        let (initial, current) = (subject.initial_len(), subject.current_len());
        let (initial, current) = transcript.read(rest, initial + current)?.split_at(initial);
        if lists::digest(initial) != subject.initial {
            return Err(CeremonyError::Damaged("the initial key is not the one that the header names"));
        }
        watch.begin("read", subject.points());
        let initial = read_initial(initial, &subject, watch).map_err(|wrong| match wrong {
            Wrong::ListPoint { list, index, source } => CeremonyError::Point { list, index, source },
            wrong => transcript.blame(wrong),
        })?;
        let current = Current::read(current, &subject, transcript.points(), watch)
            .and_then(|current| {
                current.check(&initial, &transcript.after(), watch)?;
                Ok(current)
            })
            .map_err(|wrong| transcript.blame(wrong))?;
        Ok(Phase2 { subject, transcript, initial, current })
    }

    /// Checks that this began with the key of the model's constraint system under the powers, by making that again.
    ///
    /// # Errors
    /// What differs: [`CeremonyError::Other`], [`CeremonyError::Initial`]; or why there is no such key.
    pub fn check_initial(
        &self,
        system: &ConstraintSystem,
        model: [u8; 32],
        statement: StatementKind,
        powers: &Powers,
        watch: &impl Watch,
    ) -> Result<(), CeremonyError> {
        let subject = &self.subject;
        for (same, what) in [
            (subject.model == model, "model"),
            (subject.circuit_version == CIRCUIT_VERSION, "version of circuits"),
            (subject.statement == statement, "kind of statement"),
            (subject.circuit == system.digest(), "circuit"),
            (subject.powers == powers.digest(), "phase 1"),
        ] {
            if !same {
                return Err(CeremonyError::Other(what));
            }
        }
        let new = Phase2::new(system, model, statement, powers, watch)?;
        if new.subject == self.subject && new.initial == self.initial {
            Ok(())
        } else {
            Err(CeremonyError::Initial)
        }
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.transcript.write();
        bytes.append(&mut write_initial(&self.initial));
        bytes.append(&mut self.current.to_bytes());
        bytes
    }

    /// Multiplies a secret into δ, drawn from the system's random numbers and `entropy`, and drops it. Runs on the threads
    /// of the current rayon pool.
    ///
    /// # Errors
    /// [`CeremonyError::Finished`].
    pub fn contribute(&mut self, entropy: &[u8], watch: &impl Watch) -> Result<(), CeremonyError> {
        self.transcript.check_open()?;
        self.multiply(&[Secret::draw(entropy)], None, watch);
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

    pub(super) fn multiply(&mut self, secrets: &[Secret; 1], beacon: Option<Beacon>, watch: &impl Watch) {
        let (current, [delta]) = (&mut self.current, secrets);
        watch.begin("multiply", current.h.len() + current.l.len());
        let inverse = delta.inverse();
        Secret::multiply::<G1>(&inverse, &Secret::one(), &mut current.h, watch);
        Secret::multiply::<G1>(&inverse, &Secret::one(), &mut current.l, watch);
        current.delta_g1 = (current.delta_g1 * delta.scalar()).to_affine();
        current.delta_g2 = (current.delta_g2 * delta.scalar()).to_affine();
        self.transcript.add(secrets, beacon, lists::digest(&current.to_bytes()));
    }

    /// The finished key, which names the transcript. Whether it is of the model it names, [`Phase2::check_initial`] tells.
    ///
    /// # Errors
    /// [`CeremonyError::Unfinished`].
    pub fn key(&self) -> Result<ProvingKey, CeremonyError> {
        if !self.is_finished() {
            return Err(CeremonyError::Unfinished);
        }
        let (Phase2 { subject, initial, current, .. }, transcript) = (self, self.digest());
        let origin = Origin {
            setup: Setup::Ceremony { transcript },
            model: subject.model,
            circuit_version: subject.circuit_version,
            statement: subject.statement,
            circuit: subject.circuit,
        };
        let verifying = groth16::VerifyingKey {
            delta_g1: current.delta_g1,
            delta_g2: current.delta_g2,
            ..initial.verifying.clone()
        };
        let lists = proving::Lists { h: current.h.clone(), l: current.l.clone(), ..initial.lists.clone() };
        Ok(ProvingKey::new(VerifyingKey::new(verifying, origin), lists))
    }

    /// Digest of the transcript so far.
    pub fn digest(&self) -> Digest {
        self.transcript.digest()
    }

    /// The contributions so far, the beacon's last.
    pub fn records(&self) -> Vec<Record> {
        self.transcript.records()
    }

    /// Whether the beacon closed it.
    pub fn is_finished(&self) -> bool {
        self.transcript.is_finished()
    }

    /// The model whose key this is.
    pub fn model(&self) -> [u8; 32] {
        self.subject.model
    }

    /// The kind of statement that it is for.
    pub fn statement(&self) -> StatementKind {
        self.subject.statement
    }

    /// Digest of the finished transcript of phase 1.
    pub fn powers(&self) -> Digest {
        self.subject.powers
    }
}

impl Subject {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = [self.model, self.circuit, self.powers.0, self.initial.0].concat();
        let [low, middle, high, _] = self.circuit_version.to_le_bytes();
        bytes.extend_from_slice(&[low, middle, high, self.statement.number()]);
        for count in [self.public, self.private, self.left, self.right] {
            bytes.extend_from_slice(&(count as u32).to_le_bytes());
        }
        bytes
    }

    fn read(log: u32, bytes: &[u8]) -> Option<Subject> {
        let (digests, numbers) = bytes.split_at_checked(128)?;
        let [model, circuit, powers, initial] = *digests.as_chunks::<32>().0 else { return None };
        let numbers: Vec<u32> =
            numbers.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        let [version, public, private, left, right] = *numbers else { return None };
        let [low, middle, high, statement] = version.to_le_bytes();
        let circuit_version = u32::from_le_bytes([low, middle, high, 0]);
        let statement = StatementKind::from_number(statement)?;
        let [public, private, left, right] = [public, private, left, right].map(|count| count as usize);
        let variables = public + private;
        // The constant one is public; every variable occurs, but not on every side.
        let fits = (1..=MAX_LOG).contains(&log) && public > 0 && left <= variables && right <= variables;
        let (powers, initial) = (Digest(powers), Digest(initial));
        fits.then_some(Subject {
            log,
            model,
            circuit,
            powers,
            initial,
            circuit_version,
            statement,
            public,
            private,
            left,
            right,
        })
    }

    /// Points of h.
    fn quotient(&self) -> usize {
        (1 << self.log) - 1
    }

    pub(super) fn initial_len(&self) -> usize {
        let g1 = 2 + self.public + self.quotient() + self.private + self.left + self.right;
        g1 * G1::COMPRESSED + (1 + self.right) * G2::COMPRESSED
    }

    fn current_len(&self) -> usize {
        (1 + self.quotient() + self.private) * G1::COMPRESSED + G2::COMPRESSED
    }

    fn points(&self) -> usize {
        self.public + 2 * (self.quotient() + self.private) + self.left + 2 * self.right
    }
}

pub(super) fn write_initial(initial: &Initial) -> Vec<u8> {
    let (verifying, lists) = (&initial.verifying, &initial.lists);
    let mut bytes = Vec::new();
    lists::write::<G1>(&mut bytes, &[verifying.alpha_g1, verifying.beta_g1]);
    lists::write::<G2>(&mut bytes, &[verifying.beta_g2]);
    for list in [&verifying.ic, &lists.h, &lists.l, &lists.a, &lists.b_g1] {
        lists::write::<G1>(&mut bytes, list);
    }
    lists::write::<G2>(&mut bytes, &lists.b_g2);
    bytes
}

fn read_initial(bytes: &[u8], subject: &Subject, watch: &impl Watch) -> Result<Initial, Wrong> {
    let mut lists = Lists { rest: bytes, watch };
    let (alpha_beta, beta_g2) = (lists.g1("α and β", 2)?, lists.g2("β in G2", 1)?[0]);
    Ok(Initial {
        verifying: groth16::VerifyingKey {
            alpha_g1: alpha_beta[0],
            beta_g1: alpha_beta[1],
            beta_g2,
            gamma_g2: G2Affine::generator(),
            delta_g1: G1Affine::generator(),
            delta_g2: G2Affine::generator(),
            ic: lists.g1("public inputs", subject.public)?,
        },
        lists: proving::Lists {
            h: lists.g1("initial h", subject.quotient())?,
            l: lists.g1("initial l", subject.private)?,
            a: lists.g1("a", subject.left)?,
            b_g1: lists.g1("b in G1", subject.right)?,
            b_g2: lists.g2("b in G2", subject.right)?,
        },
    })
}

impl Current {
    fn read(
        bytes: &[u8],
        subject: &Subject,
        named: Option<&Digest>,
        watch: &impl Watch,
    ) -> Result<Current, Wrong> {
        if named.is_some_and(|named| *named != lists::digest(bytes)) {
            return Err(Wrong::Changed);
        }
        let mut lists = Lists { rest: bytes, watch };
        Ok(Current {
            delta_g1: lists.g1("δ in G1", 1)?[0],
            delta_g2: lists.g2("δ in G2", 1)?[0],
            h: lists.g1("h", subject.quotient())?,
            l: lists.g1("l", subject.private)?,
        })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        lists::write::<G1>(&mut bytes, &[self.delta_g1]);
        lists::write::<G2>(&mut bytes, &[self.delta_g2]);
        lists::write::<G1>(&mut bytes, &self.h);
        lists::write::<G1>(&mut bytes, &self.l);
        bytes
    }

    /// Whether this is the initial key with the δ that came to `after`.
    fn check(&self, initial: &Initial, after: &[G1Affine; 1], watch: &impl Watch) -> Result<(), Wrong> {
        let (g1, g2) = (G1Affine::generator(), G2Affine::generator());
        if [self.delta_g1] != *after {
            return Err(Wrong::Points("δ is not that of the record"));
        }
        if !same_ratio((&g1, &self.delta_g1), (&g2, &self.delta_g2)) {
            return Err(Wrong::Points("δ differs in G1 and G2"));
        }
        watch.begin("check", self.h.len() + self.l.len());
        for (now, before, what) in [
            (&self.h, &initial.lists.h, "h is not the initial h divided by δ"),
            (&self.l, &initial.lists.l, "l is not the initial l divided by δ"),
        ] {
            let (now, before) = parallel::<G1>(now, before);
            if !same_ratio((&now, &before), (&g2, &self.delta_g2)) {
                return Err(Wrong::Points(what));
            }
        }
        watch.advance(self.h.len() + self.l.len());
        Ok(())
    }
}
