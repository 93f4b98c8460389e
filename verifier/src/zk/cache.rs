//! Proving keys on disk, so that each is made once, checked once and mapped from then on.
//!
//! A key is found by the model's id and the version of circuits: `MODEL-v1.zkpk`, or `MODEL-v1-sealed.zkpk` if it is of the
//! sealed statement. The file ends with the SHA-256 of all
//! bytes before, which tells damage; it does not tell malice, and need not: whoever may write here can make proofs fail,
//! but a proof is checked against the verification key that the checker knows.
//!
//! Hashing a large key takes seconds, so it is done when the key is written or first met. `MODEL-v1.zkpk.checked` then
//! names the file's hash, length, inode and time of change, and is believed as long as they are the same.
//!
//! A file is mapped, and never written again: another key is another file that takes its name. Who changes one in
//! place while it is mapped makes proofs fail.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use haca_wire::Digest;
use memmap2::Mmap;
use rand_core::OsRng;
use thiserror::Error;

use super::circuit::{CIRCUIT_VERSION, Circuit, StatementKind};
use super::key::{Origin, Setup};
use super::proving::{HASH, NotAProvingKey, ProvingKey, hash_holds};
use super::setup::{SetupError, development};

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
    #[error(
        "{path}: {source}; delete the file: a key of a development setup is made again, one of a ceremony is \
         recovered from its files by haca zk ceremony verify"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: NotAProvingKey,
    },
    /// There is a key of a ceremony, which one of a development setup must not replace.
    #[error("{path}: it is a key of a ceremony; delete it, if another is wanted")]
    Ceremony {
        /// Which.
        path: PathBuf,
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
        self.path_of(&circuit.model().id(), CIRCUIT_VERSION, circuit.statement())
    }

    fn path_of(&self, model: &[u8; 32], version: u32, statement: StatementKind) -> PathBuf {
        let statement = match statement {
            StatementKind::Open => "",
            StatementKind::Sealed => "-sealed",
        };
        self.folder.join(format!("{}-v{version}{statement}.zkpk", Digest(*model)))
    }

    /// Whether there is a file for the key of a model's statements of this kind.
    pub fn has(&self, model: &[u8; 32], statement: StatementKind) -> bool {
        self.path_of(model, CIRCUIT_VERSION, statement).exists()
    }

    /// The circuit's key, if there is one. Its points are mapped from the file.
    ///
    /// # Errors
    /// [`CacheError`] if the file cannot be read, is damaged, or is of another circuit.
    pub fn load(&self, circuit: &Circuit) -> Result<Option<ProvingKey>, CacheError> {
        let path = self.path(circuit);
        let Some(key) = open(&path)? else { return Ok(None) };
        let origin = key.verifying_key().origin();
        if origin.statement != circuit.statement() {
            let source = NotAProvingKey::Damaged("the key is of the other kind of statement");
            return Err(CacheError::Damaged { path, source });
        }
        if origin.model != circuit.model().id() || origin.circuit != circuit.system().digest() {
            let source = NotAProvingKey::Damaged("the key is of another model or circuit");
            return Err(CacheError::Damaged { path, source });
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
        let key = development(circuit.system(), circuit.model().id(), circuit.statement(), &mut OsRng)?;
        self.keep(&key)?;
        Ok(key)
    }

    /// Writes a key, in the place of the one there may be for its model, circuit version and statement. Returns its file.
    ///
    /// # Errors
    /// [`CacheError`] if it cannot be written, or a key of a development setup would replace one of a ceremony.
    pub fn keep(&self, key: &ProvingKey) -> Result<PathBuf, CacheError> {
        let Origin { setup, model, circuit_version, statement, .. } = key.verifying_key().origin();
        let path = self.path_of(model, *circuit_version, *statement);
        if *setup == Setup::Development
            && let Ok(Some(there)) = open(&path)
            && there.verifying_key().origin().setup != Setup::Development
        {
            return Err(CacheError::Ceremony { path });
        }
        let bytes = key.to_bytes();
        let written = fs::create_dir_all(&self.folder)
            .and_then(|()| replace(&path, &bytes))
            .and_then(|()| mark(&path, &fs::metadata(&path)?, &bytes));
        match written {
            Ok(()) => Ok(path),
            Err(source) => Err(CacheError::Io { path, source }),
        }
    }
}

/// Maps a key, and checks it if that was not done before.
fn open(path: &Path) -> Result<Option<ProvingKey>, CacheError> {
    let failed = |source| CacheError::Io { path: path.to_owned(), source };
    let damaged = |source| CacheError::Damaged { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    let metadata = file.metadata().map_err(failed)?;
    // SAFETY: the map is private and read-only. Files of the cache are replaced, never written in place (module text);
    // bytes that change nevertheless are words of points that do not verify, and no length is read from them again.
    let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
    let checked = fs::read(marker(path)).is_ok_and(|text| text == mark_text(&metadata, &map).as_bytes());
    if !checked {
        if !hash_holds(&map) {
            return Err(damaged(NotAProvingKey::Damaged("its hash is another")));
        }
        // Where the folder cannot be written to, the hash is checked again next time.
        let _ = mark(path, &metadata, &map);
    }
    ProvingKey::from_map(map).map(Some).map_err(damaged)
}

/// Writes under another name first: whoever finds the file finds all of it.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_added_extension(format!("{}.partial", std::process::id()));
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

fn marker(path: &Path) -> PathBuf {
    path.with_added_extension("checked")
}

fn mark(path: &Path, metadata: &fs::Metadata, bytes: &[u8]) -> io::Result<()> {
    replace(&marker(path), mark_text(metadata, bytes).as_bytes())
}

/// What tells the file whose hash was checked from any other.
fn mark_text(metadata: &fs::Metadata, bytes: &[u8]) -> String {
    let hash = bytes.last_chunk::<HASH>().map(|hash| Digest(*hash)).unwrap_or_default();
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    format!("{hash} {} {} {seconds}.{nanoseconds:09}\n", metadata.len(), metadata.ino())
}
