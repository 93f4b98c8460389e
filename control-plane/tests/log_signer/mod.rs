//! Signs checkpoints as a log does.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

use ed25519_dalek::{Signer as _, SigningKey};
use haca_wire::Digest;

pub(crate) const ORIGIN: &str = "haca.example/log";

pub(crate) struct LogSigner(pub(crate) SigningKey);

impl LogSigner {
    /// The checkpoint of a tree.
    pub(crate) fn checkpoint(&self, size: u64, root: &Digest) -> String {
        let text = tlog_tiles::Checkpoint::new(ORIGIN, size, tlog_tiles::Hash(root.0), "").unwrap();
        let mut note = signed_note::Note::new(&text.to_bytes(), &[]).unwrap();
        note.add_sigs(&[self]).unwrap();
        String::from_utf8(note.to_bytes()).unwrap()
    }
}

impl signed_note::Signer for LogSigner {
    fn name(&self) -> &str {
        ORIGIN
    }

    fn key_id(&self) -> u32 {
        signed_note::key_id(ORIGIN, &[&[1], &self.0.verifying_key().to_bytes()[..]].concat())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ed25519_dalek::SignatureError> {
        Ok(self.0.sign(message).to_bytes().to_vec())
    }
}
