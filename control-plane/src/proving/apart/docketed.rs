//! The message `Judge`: proofs, with what shows that the log holds them and the receipts that they are of.

use super::message::{Fields, Unread};
use crate::proving::judge::Case;
use haca_verifier::{LogKey, TreeHead};
use haca_wire::event::Event;
use haca_wire::merkle::{self, MAX_PATH};
use haca_wire::{Digest, Leaf};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// Proofs to judge, under one checkpoint.
///
/// | bytes | |
/// |---|---|
/// | 0..4 | length of the checkpoint, `u32` |
/// | 4..8 | number of verification keys, `u32` |
/// | 8..10 | number of digests in the path of consistency, `u16` |
/// | 10..16 | zero |
/// | .. | the checkpoint: a signed note of the log |
/// | .. | the path from the checkpoint that the verifier has checked to this one: 32 bytes for each digest |
/// | .. | each key: its length, `u32`, and its bytes |
/// | to the end | each case: the receipt's leaf (264), the proof's (264), the index of that (`u64`), the number of its key (`u32`), the length of the opening (`u32`), the numbers of digests in both leaves' paths (`u16` each), the opening, the paths |
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Docketed {
    pub(super) checkpoint: String,
    pub(super) consistency: Vec<Digest>,
    pub(super) cases: Vec<Shown>,
}

/// A case, and where the log holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) case: Case,
    pub(super) receipt_path: Vec<Digest>,
    pub(super) proof_path: Vec<Digest>,
}

impl Docketed {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut keys: Vec<&Arc<[u8]>> = Vec::new();
        let mut cases = Vec::new();
        for Shown { case, receipt_path, proof_path } in &self.cases {
            let key = keys.iter().position(|key| **key == case.key).unwrap_or_else(|| {
                keys.push(&case.key);
                keys.len() - 1
            });
            cases.extend_from_slice(&case.leaf.encode());
            cases.extend_from_slice(&case.proof.encode());
            cases.extend_from_slice(&case.index.to_le_bytes());
            cases.extend_from_slice(&(key as u32).to_le_bytes());
            cases.extend_from_slice(&(case.opening.len() as u32).to_le_bytes());
            for path in [receipt_path, proof_path] {
                cases.extend_from_slice(&(path.len() as u16).to_le_bytes());
            }
            cases.extend_from_slice(&case.opening);
            receipt_path.iter().chain(proof_path).for_each(|digest| cases.extend_from_slice(&digest.0));
        }
        let mut bytes = Vec::with_capacity(cases.len() + (64 << 10));
        bytes.extend_from_slice(&(self.checkpoint.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(keys.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.consistency.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&[0; 6]);
        bytes.extend_from_slice(self.checkpoint.as_bytes());
        self.consistency.iter().for_each(|digest| bytes.extend_from_slice(&digest.0));
        for key in keys {
            bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
            bytes.extend_from_slice(key);
        }
        bytes.extend_from_slice(&cases);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Unread> {
        let mut fields = Fields(bytes);
        let (checkpoint, keys, consistency) = (fields.count()?, fields.count()?, fields.short()?);
        if fields.take()? != [0; 6] {
            return Err(Unread("a reserved byte is not zero"));
        }
        let checkpoint = std::str::from_utf8(fields.slice(checkpoint)?);
        let checkpoint = checkpoint.map_err(|_| Unread("the checkpoint is not UTF-8"))?.to_owned();
        let consistency = path(&mut fields, consistency)?;
        let mut found: Vec<Arc<[u8]>> = Vec::new();
        for _ in 0..keys {
            let length = fields.count()?;
            found.push(Arc::from(fields.slice(length)?));
        }
        let mut cases = Vec::new();
        while !fields.0.is_empty() {
            cases.push(shown(&mut fields, &found)?);
        }
        Ok(Docketed { checkpoint, consistency, cases })
    }

    /// Checks that the checkpoint is the log's and extends the one that was checked before.
    pub(super) fn head(&self, log: &LogKey, before: Option<&TreeHead>) -> Result<TreeHead, String> {
        let head = log.verify(&self.checkpoint).map_err(|error| format!("its checkpoint: {error}"))?;
        let Some(before) = before else { return Ok(head) };
        if head.size < before.size {
            return Err(format!(
                "the log has {} leaves, and had {} under a checkpoint that it signed before: it has lost some",
                head.size, before.size
            ));
        }
        let extends =
            merkle::is_consistent(before.size, &before.root, head.size, &head.root, &self.consistency);
        extends.then_some(()).ok_or_else(|| {
            format!(
                "the log's {} leaves do not begin with the {} that it signed before",
                head.size, before.size
            )
        })?;
        Ok(head)
    }
}

impl Shown {
    /// Checks that the log holds receipt and proof where they are said to be, and that the key is the one that is named.
    pub(super) fn check(&self, head: &TreeHead) -> Result<(), String> {
        let Case { leaf, proof, index, key, .. } = &self.case;
        let leads = |hash: Digest, index: u64, path: &[Digest]| {
            merkle::root_from_path(&hash, index, head.size, path) == Some(head.root)
        };
        if !leads(leaf.hash(), proof.index, &self.receipt_path) {
            return Err(format!("the log does not hold the receipt at {}", proof.index));
        }
        if !leads(proof.hash(), *index, &self.proof_path) {
            return Err(format!("the log does not hold the proof at {index}"));
        }
        if Digest(Sha256::digest(key).into()) != proof.key {
            return Err("the verification key is another than the proof names".to_owned());
        }
        Ok(())
    }
}

fn shown(fields: &mut Fields<'_>, keys: &[Arc<[u8]>]) -> Result<Shown, Unread> {
    let leaf = Leaf::decode(fields.slice(Leaf::LEN)?).map_err(|_| Unread("a leaf"))?;
    let Ok(Event::Proof(proof)) = Event::decode(fields.slice(Leaf::LEN)?) else {
        return Err(Unread("a proof"));
    };
    let (index, key, opening) = (fields.number()?, fields.count()?, fields.count()?);
    let (receipt_path, proof_path) = (fields.short()?, fields.short()?);
    let key = Arc::clone(keys.get(key).ok_or(Unread("a key is missing"))?);
    let opening = fields.slice(opening)?.to_vec();
    let (receipt_path, proof_path) = (path(fields, receipt_path)?, path(fields, proof_path)?);
    Ok(Shown { case: Case { leaf, proof, index, opening, key }, receipt_path, proof_path })
}

fn path(fields: &mut Fields<'_>, digests: usize) -> Result<Vec<Digest>, Unread> {
    // A path of consistency may have one digest more.
    if digests > MAX_PATH + 1 {
        return Err(Unread("a path is too long"));
    }
    (0..digests).map(|_| Ok(Digest(fields.take()?))).collect()
}
