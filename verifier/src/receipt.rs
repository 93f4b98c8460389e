//! The checks of one receipt file.

mod proof;

use haca_wire::receipt::{Inclusion, Receipt, ReceiptError, ReceiptFile};
use haca_wire::{Digest, Leaf, Mode, ModelId, evidence, merkle};

use crate::attestation::{Policy, development};
use crate::checkpoint::TreeHead;
use crate::report::{Check, Outcome, Report};
use crate::rows::Rows;
use crate::trust::Trust;
pub use proof::{Asked, CheckProof, ProofKey};

/// What the verifier has beside the receipt. Whatever is missing is reported as not checked.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The keys it trusts.
    pub trust: Option<&'a Trust>,
    /// Which evidence it accepts.
    pub policy: Policy,
    /// Rows among which the input should be.
    pub input: Option<&'a Rows>,
    /// Rows among which the output should be.
    pub output: Option<&'a Rows>,
    /// SHA-256 of the model file.
    pub model: Option<ModelId>,
    /// Ids of the verification keys that proofs may be under; none: see the check `proof`.
    pub keys: &'a [Digest],
    /// Of a sealed receipt: the row of `input` that its commitment opens to, or why none does; `None` if there is no salt to
    /// open it with.
    pub opened: Option<Opened<'a>>,
}

/// Runs the model that was given on one row, given its index and its little-endian float32 bytes, and hashes the float32
/// output as a receipt does; or says why the model refuses the row. See `audit`.
pub type Rerun<'a> = &'a mut dyn FnMut(usize, &[u8]) -> Result<Digest, String>;

const GIVE_KEYS: &str = "--connect-keys DIR/connect.toml of the node you trust";
const GIVE_INPUT: &str = "--input X.npy with the rows that were asked";
const GIVE_SALTS: &str = "--input X.npy and --salts DIR, which the caller has of haca infer --sealed";
const GIVE_OUTPUT: &str = "--output Y.npy with the rows that were answered";
const GIVE_MODEL: &str = "--model OUT.haca, the compiled model file";
const GIVE_LOGGED: &str =
    "the receipt file as written after a checkpoint covered it (haca infer --receipts DIR --wait durable)";

/// Checks the bytes of a receipt file. Bytes that are none fail the check `leaf`, and nothing else can be checked.
pub fn check_bytes(
    bytes: &[u8],
    given: &Given<'_>,
    rerun: Option<Rerun<'_>>,
    check_proof: Option<CheckProof<'_>>,
) -> Report {
    match ReceiptFile::decode(bytes) {
        Ok(file) => check(&file, given, rerun, check_proof),
        Err(error) => unreadable(format!("not a receipt file: {error}")),
    }
}

/// What the commitment of a sealed receipt opens to with the salt at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened<'a> {
    /// This row of the input.
    Row(usize),
    /// None of the input's rows; why, for a person.
    NoRow(&'a str),
    /// The salt is not at hand; why, for a person.
    NoSalt(&'a str),
}

impl Opened<'_> {
    fn row(self) -> Option<usize> {
        match self {
            Opened::Row(row) => Some(row),
            Opened::NoRow(_) | Opened::NoSalt(_) => None,
        }
    }
}

/// Checks a receipt file. With `rerun` also by running the model again, with `check_proof` also the proof of a receipt of
/// mode `zk`; both must be of the model whose id `given` has.
pub fn check(
    file: &ReceiptFile,
    given: &Given<'_>,
    rerun: Option<Rerun<'_>>,
    check_proof: Option<CheckProof<'_>>,
) -> Report {
    let leaf = match file.receipt.leaf() {
        Ok(leaf) => leaf,
        Err(error) => return unreadable(error.to_string()),
    };
    let mut report = Report::unchecked("not reached", "");
    report.set(Check::Leaf, Outcome::Held(describe(&leaf)));
    let root = file.receipt.batch_root();
    report.set(Check::Path, path(&file.receipt, &root));
    report.set(Check::Signature, signature(&file.receipt, &leaf, &root));
    report.set(Check::NodeKey, node_key(&leaf, given.trust));
    report.set(Check::Evidence, evidence(file.evidence.as_deref(), &leaf, given));
    let logged = file.inclusion.as_ref();
    report.set(Check::Inclusion, inclusion(logged, &leaf));
    report.set(Check::Checkpoint, checkpoint(logged, given.trust));
    let rows = Found::new(&leaf, given);
    report.set(Check::Input, rows.input(&leaf, given));
    report.set(Check::Output, rows.output(&leaf, given));
    report.set(Check::Model, model(&leaf, given.model));
    report.set(Check::ReExecution, re_execution(&leaf, given, &rows, rerun));
    let asked = asked(&leaf, given, &rows);
    report.set(Check::Proof, proof::proof(file, &leaf, given, asked, check_proof));
    report.set(Check::Verdict, proof::verdict(file, &leaf, given.trust));
    if leaf.sealed && matches!(report.outcome(Check::Proof), Outcome::Held(_)) {
        // The proof says what these two say, as far as its key is believed, and they are not for everybody to make.
        report.make_up_for(&[Check::Input, Check::ReExecution]);
    }
    report
}

/// The report on a file whose leaf nobody can read: the check `leaf` failed for this reason, no other could be made.
pub fn unreadable(reason: String) -> Report {
    let mut report = Report::unchecked("there is no leaf to check it against", "an undamaged receipt file");
    report.set(Check::Leaf, Outcome::Failed(reason));
    report
}

fn describe(leaf: &Leaf) -> String {
    let (seconds, nanos) = (leaf.completed / 1_000_000_000, leaf.completed % 1_000_000_000);
    let sealed = if leaf.sealed { " with a sealed input" } else { "" };
    format!(
        "request {}, mode {}{sealed}, completed at Unix time {seconds}.{nanos:09}",
        leaf.request, leaf.mode
    )
}

fn path(receipt: &Receipt, root: &Result<Digest, ReceiptError>) -> Outcome {
    match root {
        Ok(root) => {
            let Receipt { index, batch_size, .. } = receipt;
            Outcome::Held(format!("leaf {index} of {batch_size} under the batch root {}", short(root)))
        }
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

fn signature(receipt: &Receipt, leaf: &Leaf, root: &Result<Digest, ReceiptError>) -> Outcome {
    if root.is_err() {
        return Outcome::not_checked(
            "the path leads to no root that could be signed",
            "an undamaged receipt file",
        );
    }
    match (&receipt.signature, receipt.verify()) {
        (_, Err(error)) => Outcome::Failed(error.to_string()),
        (Some(_), Ok(_)) => Outcome::Held(format!("Ed25519, by the node key {}", leaf.node)),
        (None, Ok(_)) if leaf.mode != Mode::Vanilla => {
            Outcome::Failed(format!("a {} receipt must be signed, and this one is not", leaf.mode))
        }
        (None, Ok(_)) => Outcome::not_checked(
            format!("the node does not sign {} answers", leaf.mode),
            "a receipt of another mode, or of a node that signs every answer",
        ),
    }
}

fn node_key(leaf: &Leaf, trust: Option<&Trust>) -> Outcome {
    match trust {
        None => Outcome::not_checked("no trusted node key was given", GIVE_KEYS),
        Some(trust) if trust.node_key == leaf.node => Outcome::Held("it is the trusted one".into()),
        Some(trust) => Outcome::Failed(format!(
            "the leaf is of node {}, the trusted key is {}",
            leaf.node, trust.node_key
        )),
    }
}

fn evidence(carried: Option<&[u8]>, leaf: &Leaf, given: &Given<'_>) -> Outcome {
    let named = leaf.evidence != Digest::default();
    let carried = match (carried, named) {
        (None, false) if leaf.mode == Mode::Tee => {
            return Outcome::Failed("a tee receipt must name evidence, and this one names none".into());
        }
        (None, false) => return Outcome::Held(format!("mode {} claims none", leaf.mode)),
        (Some(_), false) => {
            return Outcome::Failed("the file carries evidence, but the leaf names none".into());
        }
        (None, true) => {
            let why = format!("the file does not carry the evidence {}", short(&leaf.evidence));
            return Outcome::not_checked(why, "the receipt file as haca infer --receipts wrote it");
        }
        (Some(carried), true) => carried,
    };
    let digest = evidence::digest(carried);
    if digest != leaf.evidence {
        let (found, named) = (short(&digest), short(&leaf.evidence));
        return Outcome::Failed(format!("the file carries the evidence {found}, the leaf names {named}"));
    }
    let evidence = match development::check(carried, leaf, given.policy) {
        Ok(evidence) => evidence,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    match given.trust.map(|trust| development::check_trusted(&evidence, trust)) {
        None => Outcome::not_checked(
            "development evidence; whether its issuer is trusted is not known",
            GIVE_KEYS,
        ),
        Some(Err(error)) => Outcome::Failed(error.to_string()),
        Some(Ok(())) => {
            let issuer = short(&Digest(evidence.issuer));
            Outcome::Held(format!(
                "development issuer {issuer} vouches for the node key; nothing about hardware"
            ))
        }
    }
}

fn inclusion(inclusion: Option<&Inclusion>, leaf: &Leaf) -> Outcome {
    let Some(inclusion) = inclusion else {
        return Outcome::not_checked("the file carries no proof of the log", GIVE_LOGGED);
    };
    match included(inclusion, &leaf.hash()) {
        Ok(root) => {
            let Inclusion { index, tree_size, .. } = inclusion;
            let root = short(&root);
            Outcome::Held(format!("leaf {index} of {tree_size} in the log's tree with root {root}"))
        }
        Err(reason) => Outcome::Failed(reason),
    }
}

/// The root of the tree in which the checkpoint says the leaf with this hash is. Who signed the checkpoint is not asked.
fn included(
    Inclusion { index, tree_size, path, checkpoint }: &Inclusion,
    leaf: &Digest,
) -> Result<Digest, String> {
    let head = TreeHead::read_unverified(checkpoint)
        .map_err(|error| format!("the checkpoint does not read: {error}"))?;
    if head.size != *tree_size {
        let size = head.size;
        return Err(format!("the proof is for a tree of {tree_size}, the checkpoint has {size} leaves"));
    }
    match merkle::root_from_path(leaf, *index, *tree_size, path) {
        Some(root) if root == head.root => Ok(root),
        Some(root) => {
            let (root, stated) = (short(&root), short(&head.root));
            Err(format!("the proof leads to the root {root}, the checkpoint states {stated}"))
        }
        None => Err(format!(
            "a path of {} digests does not lead from leaf {index} to the root of a tree of {tree_size}",
            path.len()
        )),
    }
}

fn checkpoint(inclusion: Option<&Inclusion>, trust: Option<&Trust>) -> Outcome {
    let Some(inclusion) = inclusion else {
        return Outcome::not_checked("the file carries no checkpoint", GIVE_LOGGED);
    };
    let Some(trust) = trust else {
        return Outcome::not_checked("no trusted log key was given", GIVE_KEYS);
    };
    match signed(inclusion, trust) {
        Ok(head) => Outcome::Held(format!("{} leaves, signed by the log {}", head.size, head.origin)),
        Err(reason) => Outcome::Failed(reason),
    }
}

/// What the checkpoint states, if the trusted log signed it.
fn signed(inclusion: &Inclusion, trust: &Trust) -> Result<TreeHead, String> {
    trust.log_key.verify(&inclusion.checkpoint).map_err(|error| format!("the checkpoint: {error}"))
}

fn model(leaf: &Leaf, given: Option<ModelId>) -> Outcome {
    match given {
        None => Outcome::not_checked(format!("the model {} was not given", leaf.model), GIVE_MODEL),
        Some(id) if id == leaf.model => Outcome::Held(format!("SHA-256 {id}")),
        Some(id) => {
            Outcome::Failed(format!("the receipt is of model {}, the file given is {id}", leaf.model))
        }
    }
}

/// Where the leaf's tensors are among the rows that were given.
struct Found {
    input: Option<usize>,
    output: Option<usize>,
}

impl Found {
    /// Equal rows have equal hashes: where the arrays have them, the rows that answer each other are taken.
    fn new(leaf: &Leaf, given: &Given<'_>) -> Found {
        let outputs = given.output.map(|rows| rows.find(&leaf.output)).into_iter().flatten();
        if leaf.sealed {
            let input = given.input.and(given.opened).and_then(Opened::row);
            let common = outputs.clone().find(|output| Some(*output) == input);
            return Found { input, output: common.or(outputs.clone().next()) };
        }
        let inputs = given.input.map(|rows| rows.find(&leaf.input)).into_iter().flatten();
        let common = inputs.clone().find(|index| outputs.clone().any(|other| other == *index));
        Found { input: common.or(inputs.clone().next()), output: common.or(outputs.clone().next()) }
    }

    fn input(&self, leaf: &Leaf, given: &Given<'_>) -> Outcome {
        if leaf.sealed {
            return match (given.input, given.opened) {
                (Some(rows), Some(Opened::Row(row))) => {
                    Outcome::Held(format!("row {row} of {}, to which the commitment opens", rows.name()))
                }
                (Some(_), Some(Opened::NoRow(why))) => Outcome::Failed(why.to_owned()),
                (Some(_), Some(Opened::NoSalt(why))) => Outcome::not_checked(why, GIVE_SALTS),
                _ => sealed(),
            };
        }
        match (given.input, self.input) {
            (None, _) => Outcome::not_checked("the input was not given", GIVE_INPUT),
            (Some(rows), Some(row)) => Outcome::Held(format!("row {row} of {}", rows.name())),
            (Some(rows), None) => absent(rows, &leaf.input),
        }
    }

    fn output(&self, leaf: &Leaf, given: &Given<'_>) -> Outcome {
        let Some(rows) = given.output else {
            return Outcome::not_checked("the output was not given", GIVE_OUTPUT);
        };
        let Some(row) = self.output else { return absent(rows, &leaf.output) };
        // Arrays of as many rows are question and answer in the same order; other arrays need not be.
        if let (Some(inputs), Some(input)) = (given.input, self.input)
            && inputs.len() == rows.len()
            && input != row
        {
            let (inputs, rows) = (inputs.name(), rows.name());
            return Outcome::Failed(format!(
                "it is row {row} of {rows}, but the input is row {input} of {inputs}"
            ));
        }
        Outcome::Held(format!("row {row} of {}", rows.name()))
    }
}

fn absent(rows: &Rows, hash: &Digest) -> Outcome {
    let (count, name) = (rows.len(), rows.name());
    Outcome::Failed(format!(
        "none of the {count} rows of {name} is the float32 tensor with hash {}",
        short(hash)
    ))
}

/// What is said where a check takes what the caller sealed.
fn sealed() -> Outcome {
    Outcome::not_checked(
        "the input is sealed: the leaf has the caller's commitment to it, and no hash",
        GIVE_SALTS,
    )
}

/// That the receipt's model is at hand; or what is.
fn model_at_hand(leaf: &Leaf, given: &Given<'_>) -> Result<(), Outcome> {
    match given.model {
        None => Err(Outcome::not_checked("the model was not given", GIVE_MODEL)),
        Some(id) if id != leaf.model => {
            Err(Outcome::not_checked("the model given is another one", GIVE_MODEL))
        }
        Some(_) => Ok(()),
    }
}

/// What a proof is checked for, if it is at hand; or what is not.
fn asked<'a>(leaf: &Leaf, given: &Given<'a>, found: &Found) -> Result<Asked<'a>, Outcome> {
    match leaf.sealed {
        true => model_at_hand(leaf, given).map(|()| Asked::Sealed),
        false => at_hand(leaf, given, found).map(|(index, bytes)| Asked::Row { index, bytes }),
    }
}

/// Number and bytes of the row that the receipt's model was given, if that model and the row are at hand; or what is not.
fn at_hand<'a>(leaf: &Leaf, given: &Given<'a>, found: &Found) -> Result<(usize, &'a [u8]), Outcome> {
    model_at_hand(leaf, given)?;
    match (given.input, found.input) {
        (Some(rows), Some(row)) => Ok((row, rows.row(row))),
        _ if leaf.sealed => Err(sealed()),
        _ => Err(Outcome::not_checked("the input is not at hand", GIVE_INPUT)),
    }
}

fn re_execution(leaf: &Leaf, given: &Given<'_>, found: &Found, rerun: Option<Rerun<'_>>) -> Outcome {
    let (row, bytes) = match at_hand(leaf, given, found) {
        Ok(row) => row,
        Err(missing) => return missing,
    };
    let Some(rerun) = rerun else {
        return Outcome::not_checked("this program does not run models", "the receipt to haca verify");
    };
    match rerun(row, bytes) {
        Ok(hash) if hash == leaf.output => Outcome::Held(format!("row {row} gives the same bits again")),
        Ok(hash) => {
            let (hash, stated) = (short(&hash), short(&leaf.output));
            Outcome::Failed(format!("row {row} gives the output {hash}, the receipt states {stated}"))
        }
        Err(reason) => Outcome::Failed(format!("the model refuses row {row}: {reason}")),
    }
}

/// Enough of a digest for a person to tell it from another.
fn short(digest: &Digest) -> String {
    let mut text = digest.to_string();
    text.truncate(16);
    text.push('…');
    text
}

#[cfg(test)]
mod tests;
