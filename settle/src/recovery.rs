//! The log's folder: its lock and format, and what must hold before the log opens.
//!
//! The store may hold more than the newest checkpoint says, never less: a crash can only lose what nobody was
//! promised. So the root over each published checkpoint's size is computed again from the store and compared.

use crate::checkpoint::{Checkpoint, CheckpointFiles, LogKey};
use crate::error::{OpenError, ReadError, StoreError};
use crate::group::Group;
use crate::log::{Audit, LogConfig};
use crate::slot::leaf_request_id;
use crate::store::{Store, StoreLimits};
use crate::tree::{Edge, TILE_WIDTH, TileCache, Tree};
use crate::whole_file::write_whole;
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
    /// Empty, to follow the last leaf.
    pub(crate) group: Group,
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
    let (files, checkpoints) = CheckpointFiles::read(dir, key.verifier_key())?;
    let promised = checkpoints.last().map_or(0, |newest| newest.tree_size);
    let behind = |store| OpenError::Behind { dir: dir.clone(), store, checkpoint: promised };
    let (store, edge) = open_store(dir, &config.store_limits()).map_err(|error| match error {
        Unopened::Store(
            ReadError::LostLeaves { leaves: found, .. } | ReadError::DamagedLeaf { index: found, .. },
        ) if found < promised => behind(found),
        Unopened::Store(error) => damaged(dir)(error),
        Unopened::Folder(error) => error,
    })?;
    let size = edge.size();
    if promised > size {
        return Err(behind(size));
    }
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
    store.cut().map_err(damaged(dir))?;
    let group = store.next_group().map_err(store_error(dir))?;
    let checkpoint = checkpoints.into_iter().next_back();
    Ok(Recovered { lock, store, edge, group, files, checkpoint })
}

/// Every leaf from `first` on is there, hashes to what the tree says, and is found by its request id.
fn audit(dir: &Path, store: &Store, tree: &Tree<'_>, first: u64, size: u64) -> Result<(), OpenError> {
    for (index, leaf) in (first..size).zip(store.leaves_from(first)) {
        let leaf = leaf.map_err(damaged(dir))?;
        let id = leaf_request_id(&leaf);
        let fault = if tree.leaf_hash(index).map_err(damaged(dir))? != leaf_hash(&leaf) {
            Some(format!("leaf {index} is not what the tree says"))
        } else if store.index_of(&id).map_err(damaged(dir))? != Some(index) {
            Some(format!("request {id} is not indexed at its leaf {index}"))
        } else {
            None
        };
        if let Some(what) = fault {
            return Err(OpenError::Damaged { dir: dir.to_owned(), what });
        }
    }
    Ok(())
}

enum Unopened {
    Folder(OpenError),
    Store(ReadError),
}

impl From<OpenError> for Unopened {
    fn from(error: OpenError) -> Self {
        Self::Folder(error)
    }
}

/// Opens the store, creating it elsewhere first: a crash while it is created leaves nothing that looks like one.
fn open_store(dir: &Path, limits: &StoreLimits) -> Result<(Store, Edge), Unopened> {
    let path = dir.join(STORE);
    let draft = dir.join(STORE_DRAFT);
    if !path.try_exists().map_err(io(&path))? {
        if draft.try_exists().map_err(io(&draft))? {
            std::fs::remove_dir_all(&draft).map_err(io(&draft))?;
        }
        std::fs::create_dir(&draft).map_err(io(&draft))?;
        drop(Store::open(&draft, limits).map_err(Unopened::Store)?);
        sync_dir(&draft).map_err(io(&draft))?;
        std::fs::rename(&draft, &path).map_err(io(&path))?;
        sync_dir(dir).map_err(io(dir))?;
    }
    Store::open(&path, limits).map_err(Unopened::Store)
}

pub(crate) fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
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
        ReadError::Openings { path, source } => OpenError::Io { path, source },
        missing => OpenError::Damaged { dir: dir.clone(), what: missing.to_string() },
    }
}

const FORMAT: &str = "FORMAT";
const FORMAT_LINE: &str = "haca settlement log, format 2";
const MAX_FORMAT_BYTES: u64 = 4096;
const LOCK: &str = "lock";
const STORE: &str = "store";
const STORE_DRAFT: &str = "store.new";
/// Leaves at the end that are read again at each start: some seconds of a busy log, some milliseconds of work.
const AUDIT_TAIL: u64 = 16 * TILE_WIDTH as u64;
/// Tiles kept while checking: proofs of neighbouring sizes share most of theirs.
const AUDIT_TILES: usize = 64;
