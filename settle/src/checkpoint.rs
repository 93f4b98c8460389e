//! Checkpoints: the log's signed promise of what it holds (C2SP `tlog-checkpoint` in a C2SP `signed-note`), their
//! files, and the thread that publishes them.
//!
//! A checkpoint is written to a new file, fsynced, renamed over the old one, and the folder fsynced, before anyone
//! sees it: a log that has lost entries it promised can then always be told from one that has not. For the same
//! reason the file lies apart from the store.

use crate::shared::Shared;
use crate::whole_file::write_whole;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use ed25519_dalek::SigningKey;
use haca_wire::Digest;
use signed_note::{Note, Signer, StandardVerifier, VerifierList};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tlog_tiles::tlog::Hash;

/// A signed statement of the log's size and root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Leaves in the tree.
    pub tree_size: u64,
    /// The tree's root.
    pub root: Digest,
    /// The signed note.
    pub note: String,
}

/// Why text is not a checkpoint of this log.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Not a signed note.
    #[error("not a signed note: {0}")]
    Note(signed_note::NoteError),
    /// No valid signature of the key.
    #[error("not signed by {key}: {why}")]
    Signature {
        /// The verifier key.
        key: String,
        /// What the verifier said.
        why: signed_note::NoteError,
    },
    /// The verifier key does not read.
    #[error("{key:?} is not a verifier key (name+hash+base64): {why}")]
    VerifierKey {
        /// The key.
        key: String,
        /// What is wrong with it.
        why: signed_note::VerifierError,
    },
    /// The note's text is not a checkpoint.
    #[error("the note's text is not a checkpoint (origin, size, root)")]
    Text,
    /// A checkpoint of another log.
    #[error("a checkpoint of {found:?}, not of {expected:?}")]
    Origin {
        /// The origin it names.
        found: String,
        /// The log's own.
        expected: String,
    },
}

impl Checkpoint {
    /// Reads a checkpoint and verifies it under `key`, a C2SP verifier key whose name is the log's origin.
    ///
    /// # Errors
    /// If it is not signed by that key or is not a checkpoint of that origin.
    pub fn verify(note: &str, key: &str) -> Result<Self, CheckpointError> {
        let verifier = StandardVerifier::new(key)
            .map_err(|why| CheckpointError::VerifierKey { key: key.to_owned(), why })?;
        let origin = signed_note::Verifier::name(&verifier).to_owned();
        let parsed = Note::from_bytes(note.as_bytes()).map_err(CheckpointError::Note)?;
        parsed
            .verify(&VerifierList::new(vec![Box::new(verifier)]))
            .map_err(|why| CheckpointError::Signature { key: key.to_owned(), why })?;
        let text = tlog_tiles::Checkpoint::from_bytes(parsed.text()).map_err(|_| CheckpointError::Text)?;
        if text.origin() != origin {
            return Err(CheckpointError::Origin { found: text.origin().to_owned(), expected: origin });
        }
        Ok(Self { tree_size: text.size(), root: Digest(text.hash().0), note: note.to_owned() })
    }
}

/// The Ed25519 key that signs the log's checkpoints. Its name is the log's origin, as C2SP recommends.
pub struct LogKey {
    origin: String,
    key: SigningKey,
    verifier_key: String,
}

impl LogKey {
    /// The key with this secret.
    ///
    /// # Errors
    /// If `origin` cannot name a key: it must not be empty, nor contain spaces, control characters or `+`.
    pub fn from_seed(origin: &str, seed: &[u8; 32]) -> Result<Self, crate::OpenError> {
        if !signed_note::is_key_name_valid(origin) || origin.chars().any(char::is_control) {
            let why = format!("{origin:?} must not be empty, nor contain spaces, control characters or '+'");
            return Err(crate::OpenError::Config { setting: "origin", why });
        }
        let key = SigningKey::from_bytes(seed);
        let verifier_key = signed_note::new_ed25519_verifier_key(origin, &key.verifying_key());
        Ok(Self { origin: origin.to_owned(), key, verifier_key })
    }

    /// The log's origin.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The C2SP verifier key (`name+hash+base64`), under which the checkpoints verify.
    pub fn verifier_key(&self) -> &str {
        &self.verifier_key
    }

    pub(crate) fn sign(&self, tree_size: u64, root: Digest) -> Checkpoint {
        let text = tlog_tiles::Checkpoint::new(&self.origin, tree_size, Hash(root.0), "")
            .expect("a key's name is not empty, so it can be an origin");
        let mut note = Note::new(&text.to_bytes(), &[]).expect("a checkpoint's text ends its last line");
        note.add_sigs(&[self]).expect("the key's name was checked, and Ed25519 signs anything");
        let note = String::from_utf8(note.to_bytes()).expect("a note is UTF-8");
        Checkpoint { tree_size, root, note }
    }
}

impl std::fmt::Debug for LogKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogKey").field(&self.verifier_key).finish()
    }
}

impl Signer for LogKey {
    fn name(&self) -> &str {
        &self.origin
    }

    fn key_id(&self) -> u32 {
        let mut key = vec![ED25519];
        key.extend_from_slice(self.key.verifying_key().as_bytes());
        signed_note::key_id(&self.origin, &key)
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ed25519_dalek::SignatureError> {
        use ed25519_dalek::Signer as _;
        Ok(self.key.try_sign(message)?.to_bytes().to_vec())
    }
}

/// The signature type of C2SP `signed-note` for Ed25519.
const ED25519: u8 = 1;

/// The files `checkpoint` and `checkpoints` in the log's folder.
#[derive(Debug)]
pub(crate) struct CheckpointFiles {
    dir: PathBuf,
    /// Notes in the history file, oldest first.
    history: Vec<String>,
}

impl CheckpointFiles {
    /// Reads both files. The newest checkpoint comes last; each was verified under `key`.
    pub(crate) fn read(dir: &Path, key: &str) -> Result<(Self, Vec<Checkpoint>), crate::OpenError> {
        let mut checkpoints = Vec::new();
        // The history is written without fsync after the checkpoint itself, so a crash may cut its end off.
        for note in split_notes(&read_bounded(&dir.join(HISTORY))?.unwrap_or_default()) {
            match Checkpoint::verify(note, key) {
                Ok(checkpoint) => checkpoints.push(checkpoint),
                Err(_) => break,
            }
        }
        let history = checkpoints.iter().map(|checkpoint| checkpoint.note.clone()).collect();
        let path = dir.join(CHECKPOINT);
        if let Some(note) = read_bounded(&path)? {
            let newest = Checkpoint::verify(&note, key)
                .map_err(|source| crate::OpenError::Checkpoint { path, source })?;
            checkpoints.push(newest);
        }
        checkpoints.sort_by_key(|checkpoint| checkpoint.tree_size);
        Ok((Self { dir: dir.to_owned(), history }, checkpoints))
    }

    /// Makes the checkpoint outlast a crash, then adds it to the history.
    fn publish(&mut self, checkpoint: &Checkpoint) -> std::io::Result<()> {
        write_whole(&self.dir.join(CHECKPOINT), checkpoint.note.as_bytes())?;
        if self.history.len() >= MAX_HISTORY {
            // Every second one goes: the history still spans the log's whole life, the more coarsely the older.
            let mut position = 0;
            self.history.retain(|_| {
                position += 1;
                position % 2 == 1
            });
            self.history.push(checkpoint.note.clone());
            write_whole(&self.dir.join(HISTORY), join_notes(&self.history).as_bytes())
        } else {
            self.history.push(checkpoint.note.clone());
            let mut file = std::fs::File::options().create(true).append(true).open(self.dir.join(HISTORY))?;
            file.write_all(join_notes(&self.history[self.history.len() - 1..]).as_bytes())
        }
    }
}

fn read_bounded(path: &Path) -> Result<Option<String>, crate::OpenError> {
    use std::io::Read;
    let read = std::fs::File::open(path).and_then(|file| {
        let mut text = String::new();
        file.take(MAX_FILE_BYTES).read_to_string(&mut text).map(|_| text)
    });
    match read {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(crate::OpenError::Io { path: path.to_owned(), source }),
    }
}

/// Notes one after the other, each followed by an empty line.
fn join_notes(notes: &[String]) -> String {
    notes.iter().flat_map(|note| [note.as_str(), "\n"]).collect()
}

/// A note is a text, an empty line and signature lines; the history adds an empty line after each.
fn split_notes(history: &str) -> impl Iterator<Item = &str> {
    let mut rest = history;
    std::iter::from_fn(move || {
        let text = rest.find("\n\n")? + 2;
        let end = text + rest[text..].find("\n\n")? + 1;
        let note = &rest[..end];
        rest = &rest[end + 1..];
        Some(note)
    })
}

/// The thread that signs and publishes checkpoints.
pub(crate) struct Publisher {
    pub(crate) shared: Arc<Shared>,
    pub(crate) key: LogKey,
    pub(crate) files: CheckpointFiles,
    pub(crate) interval: Duration,
    /// The durable tree has grown. Closed when it will not grow again.
    pub(crate) grown: Receiver<()>,
    /// Closed when the log closes, so that the last interval is not waited out.
    pub(crate) closing: Receiver<()>,
    pub(crate) progress: Sender<()>,
}

impl Publisher {
    /// Runs until the log closes. Returns the error if the last checkpoint could not be published.
    pub(crate) fn run(mut self) -> Result<(), String> {
        let mut due = Instant::now();
        // What was durable at the last crash may be without a checkpoint.
        let mut outcome = self.publish();
        loop {
            let more = match outcome {
                Ok(()) => self.grown.recv().is_ok(),
                // Not published yet: try again although nothing may have grown.
                Err(_) => !matches!(self.grown.recv_timeout(RETRY), Err(RecvTimeoutError::Disconnected)),
            };
            if more && let Some(wait) = due.checked_duration_since(Instant::now()) {
                let _ = self.closing.recv_timeout(wait);
            }
            due = Instant::now() + self.interval;
            outcome = self.publish();
            if !more {
                return outcome.map_err(|error| error.to_string());
            }
        }
    }

    fn publish(&mut self) -> std::io::Result<()> {
        let durable = self.shared.durable();
        let published = self.shared.checkpoint().map_or(0, |checkpoint| checkpoint.tree_size);
        if durable.size() == published {
            return Ok(());
        }
        assert!(durable.size() > published, "the durable tree only grows, and recovery compared it");
        let checkpoint = self.key.sign(durable.size(), durable.root());
        let outcome = self.files.publish(&checkpoint);
        match &outcome {
            Ok(()) => {
                self.shared.publish_checkpoint(checkpoint);
                self.shared.set_checkpoint_failure(None);
                self.shared.refresh_disk_bytes();
                // A full channel already says that there is progress.
                let _ = self.progress.try_send(());
            }
            Err(error) => {
                let path = self.files.dir.join(CHECKPOINT);
                tracing::error!(path = %path.display(), %error, "checkpoint not published; trying again");
                self.shared.set_checkpoint_failure(Some(format!("{}: {error}", path.display()).into()));
            }
        }
        outcome
    }
}

const CHECKPOINT: &str = "checkpoint";
const HISTORY: &str = "checkpoints";
/// Notes kept in the history: about 250 bytes each, so a quarter of a megabyte.
const MAX_HISTORY: usize = 1024;
/// Four times what the history can grow to.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// How long after a failure to write a checkpoint it is tried again.
const RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> LogKey {
        LogKey::from_seed("example.org/log", &[5; 32]).unwrap()
    }

    #[test]
    fn a_checkpoint_verifies_under_its_key_and_no_other() {
        let checkpoint = key().sign(7, Digest([3; 32]));
        assert_eq!(Checkpoint::verify(&checkpoint.note, key().verifier_key()).unwrap(), checkpoint);
        let other = LogKey::from_seed("example.org/log", &[6; 32]).unwrap();
        assert!(matches!(
            Checkpoint::verify(&checkpoint.note, other.verifier_key()),
            Err(CheckpointError::Signature { .. })
        ));
        let grown = checkpoint.note.replacen("\n7\n", "\n8\n", 1);
        assert!(matches!(
            Checkpoint::verify(&grown, key().verifier_key()),
            Err(CheckpointError::Signature { .. })
        ));
    }

    #[test]
    fn a_key_of_another_name_does_not_vouch_for_an_origin() {
        let text = "example.org/other\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
        let mut note = Note::new(text.as_bytes(), &[]).unwrap();
        note.add_sigs(&[&key()]).unwrap();
        let note = String::from_utf8(note.to_bytes()).unwrap();
        assert!(matches!(
            Checkpoint::verify(&note, key().verifier_key()),
            Err(CheckpointError::Origin { .. })
        ));
    }

    #[test]
    fn names_that_cannot_be_origins_are_refused() {
        for origin in ["", "a b", "a+b", "a\nb", "a\u{1}b"] {
            assert!(LogKey::from_seed(origin, &[5; 32]).is_err(), "{origin:?}");
        }
    }

    #[test]
    fn the_history_stays_bounded_spans_everything_and_survives_a_torn_end() {
        let dir = tempfile::tempdir().unwrap();
        let key = key();
        let (mut files, none) = CheckpointFiles::read(dir.path(), key.verifier_key()).unwrap();
        assert!(none.is_empty());
        // Fills the history without an fsync each.
        files.history = (1..MAX_HISTORY as u64).map(|size| key.sign(size, Digest([1; 32])).note).collect();
        write_whole(&dir.path().join(HISTORY), join_notes(&files.history).as_bytes()).unwrap();
        for size in [2000, 3000, 4000] {
            files.publish(&key.sign(size, Digest([2; 32]))).unwrap();
        }
        let sizes = || -> Vec<u64> {
            let (_, read) = CheckpointFiles::read(dir.path(), key.verifier_key()).unwrap();
            read.iter().map(|checkpoint| checkpoint.tree_size).collect()
        };
        // The newest is in both files.
        let read = sizes();
        assert_eq!((read[0], read[1], &read[read.len() - 4..]), (1, 3, &[1023, 3000, 4000, 4000][..]));
        assert_eq!(read.len(), MAX_HISTORY / 2 + 3);

        let path = dir.path().join(HISTORY);
        let torn = std::fs::read(&path).unwrap();
        std::fs::write(&path, &torn[..torn.len() - 20]).unwrap();
        assert_eq!(sizes()[MAX_HISTORY / 2..], [3000, 4000]);
    }
}
