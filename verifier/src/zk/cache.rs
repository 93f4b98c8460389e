//! Proving keys on disk, so that each is made once.
//!
//! A key is found by the model's id and the version of circuits: `MODEL-v1.zkpk`. The file ends with the SHA-256 of all
//! bytes before, which tells damage; it does not tell malice, and need not: whoever may write here can make proofs fail,
//! but a proof is checked against the verification key that the checker knows.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bellman::groth16::Parameters;
use blstrs::Bls12;
use rand_core::OsRng;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::circuit::{CIRCUIT_VERSION, Circuit};
use super::key::{KeyError, VerifyingKey};
use super::setup::{ProvingKey, SetupError, development};

const MAGIC: &[u8; 8] = b"HACAZKPK";
const HASH: usize = 32;

/// Why there is no key.
#[derive(Debug, Error)]
pub enum CacheError {
    /// The folder or the file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("{path}: {what}; delete the file, and a new key will be made")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// The verification key in it is none.
    #[error("{path}: {source}; delete the file, and a new key will be made")]
    Key {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: KeyError,
    },
    /// No key can be made.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

/// A folder of proving keys.
#[derive(Debug, Clone)]
pub struct KeyCache {
    folder: PathBuf,
}

impl KeyCache {
    /// Keys in this folder, which is made with the first key.
    pub fn new(folder: impl Into<PathBuf>) -> KeyCache {
        KeyCache { folder: folder.into() }
    }

    /// Where the key of a circuit's model is.
    pub fn path(&self, circuit: &Circuit) -> PathBuf {
        let model = haca_wire::Digest(circuit.model().id());
        self.folder.join(format!("{model}-v{CIRCUIT_VERSION}.zkpk"))
    }

    /// The circuit's key, if there is one.
    ///
    /// # Errors
    /// [`CacheError`] if the file cannot be read, is damaged, or is of another circuit.
    pub fn load(&self, circuit: &Circuit) -> Result<Option<ProvingKey>, CacheError> {
        let path = self.path(circuit);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CacheError::Io { path, source }),
        };
        let key = decode(&bytes, &path)?;
        let origin = key.verifying_key.origin();
        if origin.model != circuit.model().id() || origin.circuit != circuit.system().digest() {
            return Err(CacheError::Damaged { path, what: "the key is of another model or circuit" });
        }
        Ok(Some(key))
    }

    /// The circuit's key: the one there is, or a new one of a `development` setup.
    ///
    /// # Errors
    /// As [`KeyCache::load`], and if no key can be made or written.
    pub fn load_or_make(&self, circuit: &Circuit) -> Result<ProvingKey, CacheError> {
        if let Some(key) = self.load(circuit)? {
            return Ok(key);
        }
        let key = development(circuit.system(), circuit.model().id(), &mut OsRng)?;
        let path = self.path(circuit);
        self.store(&path, &encode(&key)).map_err(|source| CacheError::Io { path, source })?;
        Ok(key)
    }

    /// Writes under another name first: whoever finds the file finds all of it.
    fn store(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let partial = path.with_extension(format!("{}.partial", std::process::id()));
        let written = File::create(&partial).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        let done = written.and_then(|()| fs::rename(&partial, path));
        if done.is_err() {
            // What the disk had no room for is of no use.
            let _ = fs::remove_file(&partial);
        }
        done
    }
}

fn encode(key: &ProvingKey) -> Vec<u8> {
    let verifying = key.verifying_key.to_bytes();
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&(verifying.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&verifying);
    key.parameters.write(&mut bytes).expect("writing to memory does not fail");
    let hash = Sha256::digest(&bytes);
    bytes.extend_from_slice(&hash);
    bytes
}

fn decode(bytes: &[u8], path: &Path) -> Result<ProvingKey, CacheError> {
    let damaged = |what| CacheError::Damaged { path: path.to_owned(), what };
    let content = bytes.len().checked_sub(HASH).map(|end| bytes.split_at(end));
    let (content, hash) = content.ok_or_else(|| damaged("the file is cut off"))?;
    if Sha256::digest(content)[..] != *hash {
        return Err(damaged("its hash is another"));
    }
    let rest = content.strip_prefix(MAGIC).ok_or_else(|| damaged("not a proving key"))?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("the file is cut off"))?;
    let (verifying, mut rest) = rest
        .split_at_checked(u32::from_le_bytes(*length) as usize)
        .ok_or_else(|| damaged("the file is cut off"))?;
    let verifying_key = VerifyingKey::from_bytes(verifying)
        .map_err(|source| CacheError::Key { path: path.to_owned(), source })?;
    // What this program wrote, by the hash: points are not checked again.
    let parameters =
        Parameters::<Bls12>::read(&mut rest, false).map_err(|_| damaged("its points do not read"))?;
    if !rest.is_empty() || parameters.vk != verifying_key.points {
        return Err(damaged("its points are of another key"));
    }
    Ok(ProvingKey { parameters, verifying_key })
}
