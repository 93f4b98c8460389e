//! The proof that a receipt of mode `zk` carries, and what the log says of it.

use haca_wire::event::{self, ProofEvent, VerdictEvent};
use haca_wire::receipt::{Inclusion, ReceiptFile, ReceiptProof};
use haca_wire::{Digest, Leaf, Mode, merkle};
use sha2::{Digest as _, Sha256};

use super::{GIVE_KEYS, GIVE_LOGGED, Given, included, short, signed};
use crate::report::Outcome;
use crate::trust::Trust;

/// What is known of the key that a proof was checked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProofKey {
    /// One party made it, and could have kept what forges proofs.
    pub development: bool,
}

/// The input for which a proof is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked<'a> {
    /// A row among those that are at hand.
    Row {
        /// Its index.
        index: usize,
        /// Its bytes, little-endian float32.
        bytes: &'a [u8],
    },
    /// Whatever row the commitment in the leaf opens to.
    Sealed,
}

/// Checks that the key and the proof that a receipt carries read and are of its leaf's model; and given what was asked, that
/// the proof holds for model, input and output. Says what is wrong. See `zk::ProofChecker`.
pub type CheckProof<'a> =
    &'a mut dyn FnMut(&Leaf, &ReceiptProof, Option<Asked<'_>>) -> Result<ProofKey, String>;

const GIVE_PROVED: &str =
    "the receipt file as written once it was proven (haca infer --mode zk --receipts DIR --wait proved)";
const GIVE_KEY: &str = "--key FILE, the verification key that you trust";
const GIVE_VERIFIER: &str = "the connect.toml of the node that offers mode zk, which names its verifier";

/// The check `proof`, given what was asked, or what is missing of it.
pub(super) fn proof(
    file: &ReceiptFile,
    leaf: &Leaf,
    given: &Given<'_>,
    asked: Result<Asked<'_>, Outcome>,
    check: Option<CheckProof<'_>>,
) -> Outcome {
    let carried = match carried(file, leaf) {
        Ok(carried) => carried,
        Err(outcome) => return outcome,
    };
    if carried.proof.id != event::proof_id(&leaf.hash()) {
        return Outcome::Failed("the proof that the file carries is of another receipt".into());
    }
    let (key, named) = (Digest(Sha256::digest(&carried.key).into()), carried.proof.key);
    if key != named {
        let (key, named) = (short(&key), short(&named));
        return Outcome::Failed(format!("the file carries the key {key}, the proof names {named}"));
    }
    if !given.keys.is_empty() && !given.keys.contains(&key) {
        let trusted: Vec<String> = given.keys.iter().map(short).collect();
        let (key, trusted) = (short(&key), trusted.join(", "));
        return Outcome::Failed(format!("the proof is under the key {key}, the key given is {trusted}"));
    }
    let Some(check) = check else {
        return Outcome::not_checked("this program does not verify proofs", "the receipt to haca verify");
    };
    let ProofKey { development } = match check(leaf, carried, asked.as_ref().ok().copied()) {
        Ok(found) => found,
        Err(reason) => return Outcome::Failed(reason),
    };
    if development && !given.policy.accept_development {
        return Outcome::Failed(format!(
            "development key {}: whoever made it could forge, and the policy accepts none",
            short(&key)
        ));
    }
    let input = match asked {
        Ok(Asked::Row { index, .. }) => format!("row {index}"),
        Ok(Asked::Sealed) => "the sealed input".to_owned(),
        Err(missing) => return missing,
    };
    if given.keys.is_empty()
        && let Err(outcome) = believed(carried, development, given.trust)
    {
        return outcome;
    }
    let setup =
        if development { "development key: whoever made it could forge" } else { "made by a ceremony" };
    let key = short(&key);
    Outcome::Held(format!("{input} gives the output's integers, proven under the key {key}; {setup}"))
}

/// Whether a key that was not given is to be believed: one that its maker could forge under is, if the trusted log holds
/// the proof that names it.
fn believed(carried: &ReceiptProof, development: bool, trust: Option<&Trust>) -> Result<(), Outcome> {
    let key = short(&carried.proof.key);
    if !development {
        let why = format!(
            "the key {key} says that a ceremony made it; whether that is the one you trust is not known"
        );
        return Err(Outcome::not_checked(why, GIVE_KEY));
    }
    let trust = trust.ok_or_else(|| {
        Outcome::not_checked(format!("development key {key}; whose log names it is not known"), GIVE_KEYS)
    })?;
    let ReceiptProof { proof, proof_inclusion, .. } = carried;
    included(proof_inclusion, &proof.hash()).and_then(|_| signed(proof_inclusion, trust)).map(|_| ()).map_err(
        |reason| {
            let why = format!("development key {key}, which the trusted log does not name: {reason}");
            Outcome::not_checked(why, GIVE_KEY)
        },
    )
}

/// The check `verdict`.
pub(super) fn verdict(file: &ReceiptFile, leaf: &Leaf, trust: Option<&Trust>) -> Outcome {
    let carried = match carried(file, leaf) {
        Ok(carried) => carried,
        Err(outcome) => return outcome,
    };
    let ReceiptProof { proof, proof_inclusion, verdict, verdict_inclusion, .. } = carried;
    let events = [
        ("proof", proof.hash(), proof_inclusion),
        ("verdict", merkle::leaf_hash(&verdict.encode()), verdict_inclusion),
    ];
    let inconsistent = belongs(verdict, proof)
        .and_then(|()| in_order(proof, proof_inclusion, verdict, file.inclusion.as_ref()))
        .and_then(|()| {
            events.iter().try_for_each(|(name, hash, inclusion)| {
                included(inclusion, hash)
                    .map_err(|reason| format!("the {name}'s place in the log: {reason}"))?;
                match trust.map(|trust| signed(inclusion, trust)) {
                    Some(Err(reason)) => Err(format!("the {name}'s place in the log: {reason}")),
                    _ => Ok(()),
                }
            })
        });
    if let Err(reason) = inconsistent {
        return Outcome::Failed(reason);
    }
    let verifier = short(&verdict.verifier);
    if !verdict.accepted {
        return Outcome::Failed(format!("the verifier {verifier} refused the proof"));
    }
    if file.inclusion.is_none() {
        return Outcome::not_checked("the file does not say where the log holds the receipt", GIVE_LOGGED);
    }
    match trust.map(|trust| trust.verifier_key) {
        None => Outcome::not_checked("whose log and whose verifier it is, is not known", GIVE_KEYS),
        Some(None) => Outcome::not_checked("the keys you trust name no verifier", GIVE_VERIFIER),
        Some(Some(trusted)) if trusted != verdict.verifier => {
            let trusted = short(&trusted);
            Outcome::Failed(format!(
                "the verdict is of the verifier {verifier}, the trusted one is {trusted}"
            ))
        }
        Some(Some(_)) => {
            let Inclusion { index, tree_size, .. } = verdict_inclusion;
            Outcome::Held(format!("accepted by the trusted verifier, leaf {index} of {tree_size} in the log"))
        }
    }
}

/// Whether a verdict is its verifier's on this proof.
fn belongs(verdict: &VerdictEvent, proof: &ProofEvent) -> Result<(), String> {
    let hash = proof.hash();
    if verdict.proof != hash {
        let (hash, named) = (short(&hash), short(&verdict.proof));
        return Err(format!("the file carries the proof {hash}, the verdict is on {named}"));
    }
    if verdict.id != event::verdict_id(&hash, &verdict.verifier) {
        return Err("the verdict's id is not that of this proof and verifier".into());
    }
    if !verdict.is_signed() {
        return Err(format!("the verifier {} has not signed the verdict", short(&verdict.verifier)));
    }
    Ok(())
}

/// Whether the events name the places in the log of what they are about.
fn in_order(
    proof: &ProofEvent,
    proof_inclusion: &Inclusion,
    verdict: &VerdictEvent,
    receipt: Option<&Inclusion>,
) -> Result<(), String> {
    if let Some(receipt) = receipt.filter(|receipt| receipt.index != proof.index) {
        let (named, index) = (proof.index, receipt.index);
        return Err(format!("the proof is of leaf {named}, the log holds the receipt at {index}"));
    }
    if verdict.index != proof_inclusion.index {
        let (named, index) = (verdict.index, proof_inclusion.index);
        return Err(format!("the verdict is on leaf {named}, the log holds the proof at {index}"));
    }
    Ok(())
}

/// The proof of a receipt that must have one; else the outcome of both checks.
fn carried<'a>(file: &'a ReceiptFile, leaf: &Leaf) -> Result<&'a ReceiptProof, Outcome> {
    match (&file.proof, leaf.mode == Mode::Zk) {
        (Some(proof), true) => Ok(proof),
        (None, true) => Err(Outcome::not_checked("the file carries no proof", GIVE_PROVED)),
        (None, false) => Err(Outcome::Held(format!("mode {} claims none", leaf.mode))),
        (Some(_), false) => {
            Err(Outcome::Failed(format!("the file carries a proof, but the leaf is of mode {}", leaf.mode)))
        }
    }
}

#[cfg(test)]
mod tests;
