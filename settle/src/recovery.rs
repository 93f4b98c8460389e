//! The log's folder: its lock and format, and what must hold before the log opens.
//!
//! The store may hold more than the newest checkpoint says, never less: a crash can only lose what nobody was
//! promised. So the root over each published checkpoint's size is computed again from the store and compared.

use crate::checkpoint::{Checkpoint, CheckpointFiles, LogKey, write_whole};
use crate::error::{OpenError, ReadError, StoreError};
use crate::log::{Audit, LogConfig};
use crate::store::{Store, StoreLimits, request_id};
use crate::tree::{Edge, TILE_WIDTH, TileCache, Tree};
use haca_wire::merkle::leaf_hash;
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A log that was opened and found whole.
pub(crate) struct Recovered {
    pub(crate) lock: FolderLock,
    pub(crate) store: Store,
    pub(crate) edge: Edge,
    pub(crate) files: CheckpointFiles,
    pub(crate) checkpoint: Option<Checkpoint>,
}

/// Held while the log is open. The operating system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct FolderLock(#[expect(dead_code, reason = "held for its lock")] File);

/// Opens the folder, or creates it, and checks everything.
pub(crate) fn recover(config: &LogConfig, key: &LogKey) -> Result<Recovered, OpenError> {
    let dir = &config.dir;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io(dir))?;
    let lock = lock(dir)?;
    check_format(dir, key)?;
    // What a start finds is the log, whether or not somebody was told so before.
    let store = open_store(dir, &config.store_limits(), u64::MAX)?;
    let size = store.len().map_err(store_error(dir))?;
    let (files, checkpoints) = CheckpointFiles::read(dir, key.verifier_key())?;
    if let Some(newest) = checkpoints.last()
        && newest.tree_size > size
    {
        return Err(OpenError::Behind { dir: dir.clone(), store: size, checkpoint: newest.tree_size });
    }
    let edge = Edge::load(&store, size).map_err(damaged(dir))?;
    let mut cache = TileCache::new(AUDIT_TILES);
    let tree = Tree::new(&store, &edge, &mut cache);
    for checkpoint in &checkpoints {
        let found = tree.root(checkpoint.tree_size).map_err(damaged(dir))?;
        if found != checkpoint.root {
            return Err(OpenError::Diverged {
                dir: dir.clone(),
                store: size,
                checkpoint: checkpoint.tree_size,
                found,
                expected: checkpoint.root,
            });
        }
    }
    let first = match config.audit {
        Audit::Whole => 0,
        Audit::Tail => size.saturating_sub(AUDIT_TAIL),
    };
    audit(dir, &store, &tree, first, size)?;
    let checkpoint = checkpoints.into_iter().next_back();
    Ok(Recovered { lock, store, edge, files, checkpoint })
}

/// Every leaf from `first` on is there, hashes to what the tree says, and is found by its request id.
fn audit(dir: &Path, store: &Store, tree: &Tree<'_>, first: u64, size: u64) -> Result<(), OpenError> {
    let mut expected = first;
    for entry in store.leaves_from(first) {
        let (index, leaf) = entry.map_err(store_error(dir))?;
        let id = request_id(&leaf);
        let fault = if index != expected {
            Some(format!("leaf {expected} is missing, leaf {index} follows"))
        } else if tree.leaf_hash(index).map_err(damaged(dir))? != leaf_hash(&leaf) {
            Some(format!("leaf {index} is not what the tree says"))
        } else if store.index_of(&id).map_err(store_error(dir))? != Some(index) {
            Some(format!("request {id} is not indexed at its leaf {index}"))
        } else {
            None
        };
        if let Some(what) = fault {
            return Err(OpenError::Damaged { dir: dir.to_owned(), what });
        }
        expected += 1;
    }
    assert_eq!(expected, size, "the size is that of the last leaf, and the audit went up to it");
    Ok(())
}

/// Opens the store, creating it elsewhere first: a crash while it is created leaves nothing that looks like one.
/// The first `durable` leaves are known to be so.
pub(crate) fn open_store(dir: &Path, limits: &StoreLimits, durable: u64) -> Result<Store, OpenError> {
    let path = dir.join(STORE);
    if !path.try_exists().map_err(io(&path))? {
        let draft = dir.join(STORE_DRAFT);
        if draft.try_exists().map_err(io(&draft))? {
            std::fs::remove_dir_all(&draft).map_err(io(&draft))?;
        }
        drop(Store::open(&draft, limits, 0).map_err(store_error(dir))?);
        std::fs::rename(&draft, &path).map_err(io(&path))?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io(dir))?;
    }
    Store::open(&path, limits, durable).map_err(store_error(dir))
}

fn lock(dir: &Path) -> Result<FolderLock, OpenError> {
    let path = dir.join(LOCK);
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(io(&path))?;
    match file.try_lock() {
        Ok(()) => {
            // Only so that the error of a second process can name this one.
            let written = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
            written.map_err(io(&path))?;
            Ok(FolderLock(file))
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.take(20).read_to_string(&mut holder);
            let holder = match holder.parse::<u32>() {
                Ok(process) => format!(" (process {process})"),
                Err(_) => String::new(),
            };
            Err(OpenError::Locked { dir: dir.to_owned(), holder })
        }
        Err(TryLockError::Error(source)) => Err(OpenError::Io { path, source }),
    }
}

/// `FORMAT` says how the log is laid out and whose it is; it is the first file that is written.
fn check_format(dir: &Path, key: &LogKey) -> Result<(), OpenError> {
    let path = dir.join(FORMAT);
    let mut text = String::new();
    match File::open(&path).and_then(|file| file.take(MAX_FORMAT_BYTES).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let store = dir.join(STORE);
            if store.try_exists().map_err(io(&store))? {
                return Err(OpenError::NotALog { dir: dir.to_owned() });
            }
            text = format!("{FORMAT_LINE}\n{}\n", key.verifier_key());
            return write_whole(&path, text.as_bytes()).map_err(io(&path));
        }
        Err(source) => return Err(OpenError::Io { path, source }),
    }
    let (format, rest) = text.split_once('\n').unwrap_or((&text, ""));
    if format != FORMAT_LINE {
        let found = format.chars().take(80).collect();
        return Err(OpenError::OtherFormat { dir: dir.to_owned(), found, expected: FORMAT_LINE });
    }
    let found = rest.trim_end_matches('\n');
    if found != key.verifier_key() {
        let (found, ours) = (found.to_owned(), key.verifier_key().to_owned());
        return Err(OpenError::OtherKey { dir: dir.to_owned(), found, ours });
    }
    Ok(())
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> OpenError {
    let path: PathBuf = path.to_owned();
    move |source| OpenError::Io { path: path.clone(), source }
}

fn store_error(dir: &Path) -> impl Fn(StoreError) -> OpenError {
    let dir = dir.join(STORE);
    move |source| OpenError::Store { dir: dir.clone(), source }
}

fn damaged(dir: &Path) -> impl Fn(ReadError) -> OpenError {
    let dir = dir.to_owned();
    move |error| match error {
        ReadError::Store(source) => OpenError::Store { dir: dir.join(STORE), source },
        missing => OpenError::Damaged { dir: dir.clone(), what: missing.to_string() },
    }
}

const FORMAT: &str = "FORMAT";
const FORMAT_LINE: &str = "haca settlement log, format 1";
const MAX_FORMAT_BYTES: u64 = 4096;
const LOCK: &str = "lock";
const STORE: &str = "store";
const STORE_DRAFT: &str = "store.new";
/// Leaves at the end that are read again at each start: some seconds of a busy log, some milliseconds of work.
const AUDIT_TAIL: u64 = 16 * TILE_WIDTH as u64;
/// Tiles kept while checking: proofs of neighbouring sizes share most of theirs.
const AUDIT_TILES: usize = 64;
