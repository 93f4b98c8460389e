//! Checkpoints: the signed notes with which the log states its size and root.
//!
//! Formats: C2SP `signed-note` and `tlog-checkpoint`.

use haca_wire::Digest;
use signed_note::{Note, NoteError, StandardVerifier, VerificationError, Verifier, Verifiers};

/// The key under which the log's checkpoints verify.
#[derive(Clone)]
pub struct LogKey(StandardVerifier);

/// What a checkpoint states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeHead {
    /// The log's name.
    pub origin: String,
    /// Leaves in its tree.
    pub size: u64,
    /// Root of its tree.
    pub root: Digest,
}

/// Why a text is not a checkpoint, or not the trusted log's.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Not a signed note.
    #[error("it is not a C2SP signed note")]
    Note,
    /// A signed note, but its text is not a tree head.
    #[error("its text is not origin, size and root hash, a line each")]
    Text,
    /// The log's own signature line does not verify.
    #[error("the signature of {0} does not verify")]
    Signature(String),
    /// There is no signature line of the trusted key.
    #[error("{0} has not signed it")]
    NotSigned(String),
    /// The note speaks for another log than the key.
    #[error("it is a checkpoint of the log {found:?}, the trusted key is that of {expected:?}")]
    Origin {
        /// The origin line.
        found: String,
        /// The key's name.
        expected: String,
    },
    /// Not a verifier key.
    #[error("log key {key:?}: {source}; it has the form name+hash+base64")]
    Key {
        /// The text.
        key: String,
        /// What is wrong with it.
        source: signed_note::VerifierError,
    },
}

impl LogKey {
    /// Reads a C2SP verifier key, `name+hash+base64`.
    ///
    /// # Errors
    /// [`CheckpointError::Key`].
    pub fn parse(key: &str) -> Result<LogKey, CheckpointError> {
        let error = |source| CheckpointError::Key { key: key.chars().take(200).collect(), source };
        StandardVerifier::new(key).map(LogKey).map_err(error)
    }

    /// The log's name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Checks that this key signed the checkpoint, and reads it. Lines of other signers (witnesses) may be there;
    /// they are not looked at.
    ///
    /// # Errors
    /// If the note is malformed, not signed by this key, or of another origin.
    pub fn verify(&self, checkpoint: &str) -> Result<TreeHead, CheckpointError> {
        let note = Note::from_bytes(checkpoint.as_bytes()).map_err(|_| CheckpointError::Note)?;
        note.verify(self).map_err(|error| match error {
            NoteError::InvalidSignature { name, .. } => CheckpointError::Signature(name),
            _ => CheckpointError::NotSigned(self.name().to_owned()),
        })?;
        let head = TreeHead::from_text(note.text())?;
        if head.origin != self.name() {
            return Err(CheckpointError::Origin { found: head.origin, expected: self.name().to_owned() });
        }
        Ok(head)
    }
}

impl std::fmt::Debug for LogKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogKey({}+{:08x})", self.0.name(), self.0.key_id())
    }
}

impl Verifiers for LogKey {
    fn verifier(&self, name: &str, id: u32) -> Result<&dyn Verifier, VerificationError> {
        if name == self.0.name() && id == self.0.key_id() {
            Ok(&self.0)
        } else {
            Err(VerificationError::UnknownKey { name: name.to_owned(), id })
        }
    }
}

impl TreeHead {
    /// Reads what a checkpoint states without asking who signed it.
    ///
    /// # Errors
    /// If it is not a checkpoint.
    pub fn read_unverified(checkpoint: &str) -> Result<TreeHead, CheckpointError> {
        let note = Note::from_bytes(checkpoint.as_bytes()).map_err(|_| CheckpointError::Note)?;
        Self::from_text(note.text())
    }

    fn from_text(text: &[u8]) -> Result<TreeHead, CheckpointError> {
        let head = tlog_tiles::Checkpoint::from_bytes(text).map_err(|_| CheckpointError::Text)?;
        Ok(TreeHead { origin: head.origin().to_owned(), size: head.size(), root: Digest(head.hash().0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::specimen::{LOG_NAME, log_key, sign_checkpoint};
    use proptest::prelude::*;

    #[test]
    fn a_checkpoint_of_the_log_reads_and_one_of_another_origin_is_refused() {
        let (key, root) = (LogKey::parse(&log_key()).unwrap(), Digest([7; 32]));
        let head = key.verify(&sign_checkpoint(LOG_NAME, 9, &root)).unwrap();
        assert_eq!(head, TreeHead { origin: LOG_NAME.into(), size: 9, root });
        let error = key.verify(&sign_checkpoint("other.example/log", 9, &root)).unwrap_err();
        assert!(matches!(error, CheckpointError::Origin { .. }), "{error}");
    }

    #[test]
    fn a_malformed_key_is_named_in_the_error() {
        let error = LogKey::parse("log+00000000+AAAA").unwrap_err();
        assert!(error.to_string().contains("log+00000000+AAAA"), "{error}");
    }

    proptest! {
        #[test]
        fn a_checkpoint_with_any_bit_changed_is_refused(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let key = LogKey::parse(&log_key()).unwrap();
            let mut bytes = sign_checkpoint(LOG_NAME, 9, &Digest([7; 32])).into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(text) = String::from_utf8(bytes) {
                prop_assert!(key.verify(&text).is_err());
            }
        }

        #[test]
        fn any_text_is_a_checkpoint_or_an_error(text in "(\\PC|\n|— ){0,200}") {
            prop_assert!(LogKey::parse(&log_key()).unwrap().verify(&text).is_err());
            let _ = TreeHead::read_unverified(&text);
            let _ = LogKey::parse(&text);
        }
    }
}
