//! What can go wrong with the log, and what to do about it.

use crate::checkpoint::CheckpointError;
use std::path::PathBuf;

/// Why the log did not open. Nothing has been changed on disk, unless the log was created by this call.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting that cannot work.
    #[error("log setting {setting}: {why}")]
    Config {
        /// The field of [`LogConfig`](crate::LogConfig).
        setting: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// Another process has this log open.
    #[error(
        "{dir}: the log is in use by another process{holder}; stop that one, or give this one a folder of its own"
    )]
    Locked {
        /// The log's folder.
        dir: PathBuf,
        /// ` (process 123)` where the holder wrote its number.
        holder: String,
    },
    /// The folder holds something that is not a log.
    #[error(
        "{dir}: holds a store but no FORMAT file, so it is not a log of this program; give an empty folder, or restore FORMAT from a backup"
    )]
    NotALog {
        /// The folder.
        dir: PathBuf,
    },
    /// Written by a version of this program that lays the log out otherwise.
    #[error(
        "{dir}: the log has format {found:?}, this program reads {expected:?}; run the version that wrote it"
    )]
    OtherFormat {
        /// The log's folder.
        dir: PathBuf,
        /// What FORMAT says.
        found: String,
        /// What it would have to say.
        expected: &'static str,
    },
    /// The log belongs to another origin or key.
    #[error(
        "{dir}: the log belongs to the key {found}, not to {ours}; use that key and origin, or another folder"
    )]
    OtherKey {
        /// The log's folder.
        dir: PathBuf,
        /// The verifier key that FORMAT names.
        found: String,
        /// The verifier key given.
        ours: String,
    },
    /// A checkpoint file that does not read or verify.
    #[error(
        "{path}: {source}; restore it from a backup: without it nobody can say whether the log lost entries"
    )]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CheckpointError,
    },
    /// The store has lost entries that a checkpoint promised.
    #[error(
        "{dir}: the store holds {store} entries but a checkpoint for {checkpoint} was published, so it has lost entries; \
         restore `store` from a backup that is not older than the file `checkpoint`"
    )]
    Behind {
        /// The log's folder.
        dir: PathBuf,
        /// Entries in the store.
        store: u64,
        /// Entries under the newest checkpoint.
        checkpoint: u64,
    },
    /// The store does not hold what a checkpoint promised.
    #[error(
        "{dir}: the store holds {store} entries and the tree over the first {checkpoint} has the root {found}, but a \
         checkpoint was published with {expected}; the store was changed: restore it from a backup"
    )]
    Diverged {
        /// The log's folder.
        dir: PathBuf,
        /// Entries in the store.
        store: u64,
        /// Entries under the checkpoint.
        checkpoint: u64,
        /// The root computed from the store.
        found: haca_wire::Digest,
        /// The root that the checkpoint states.
        expected: haca_wire::Digest,
    },
    /// An entry that must be in the store is not, or is not what the tree says.
    #[error("{dir}: {what}; the store is damaged: restore it from a backup")]
    Damaged {
        /// The log's folder.
        dir: PathBuf,
        /// What is missing or wrong.
        what: String,
    },
    /// The store did not open or read.
    #[error("{dir}: {source}")]
    Store {
        /// The store's folder.
        dir: PathBuf,
        /// What it said.
        source: StoreError,
    },
}

/// An error of the LSM store.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct StoreError {
    /// What was being done.
    pub(crate) what: &'static str,
    /// What the store said.
    pub(crate) source: fjall::Error,
}

/// Why something could not be read from the log.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store is being opened again after an error. Try again.
    #[error("the log's store is being opened again after an error; try again")]
    Reopening,
    /// The store did not read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A proof was asked for in a tree that is not durable, or for a leaf outside it.
    #[error("no proof for {what} in a tree of {tree_size}: the durable log has {durable} entries")]
    OutOfRange {
        /// Leaf index or older size.
        what: u64,
        /// The tree asked for.
        tree_size: u64,
        /// Entries that are durable.
        durable: u64,
    },
    /// A leaf that must be there is not.
    #[error("the store lacks leaf {index}; the log must be restored from a backup")]
    MissingLeaf {
        /// The leaf's index.
        index: u64,
    },
    /// A leaf that was stored, with more leaves behind it than one commit writes, is not what was stored.
    #[error(
        "leaf {index} is not what was written, and room for {behind} more follows, so this is no torn end; the log must be \
         restored from a backup"
    )]
    DamagedLeaf {
        /// The leaf's index.
        index: u64,
        /// Leaves for which the file is long enough from there on.
        behind: u64,
    },
    /// There are fewer leaves than the index of them says.
    #[error(
        "the store holds {leaves} leaves but its index covers {covered}; the log must be restored from a backup"
    )]
    LostLeaves {
        /// Leaves that the file has room for.
        leaves: u64,
        /// Leaves that the index covers.
        covered: u64,
    },
    /// The index is not written now, and memory for what is to go into it is full.
    #[error("the log's index takes no run: {0}")]
    Unfiled(std::sync::Arc<str>),
    /// The file system refused something about the openings of leaves.
    #[error("{path}: {source}")]
    Openings {
        /// The segment, or the folder of segments.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// At this place no opening begins that is as it was written.
    #[error(
        "{path}: no intact opening begins at {position}: the segment is damaged, or that is no position that was given out"
    )]
    DamagedOpening {
        /// The segment.
        path: PathBuf,
        /// The place among all openings.
        position: u64,
    },
    /// A segment of openings is not as long as it must be, or one is missing behind it.
    #[error("{path}: has {length} bytes of openings, and the segment that follows begins after {expected}")]
    LostOpenings {
        /// The segment.
        path: PathBuf,
        /// How long it is.
        length: u64,
        /// How long it must be.
        expected: u64,
    },
    /// A tile that must be there is not.
    #[error("the store lacks tile {index} of level {level}; the log must be restored from a backup")]
    MissingTile {
        /// Level of the tile: its entries are nodes of tree level `8 * level`.
        level: u8,
        /// The tile's number in its level.
        index: u64,
    },
}

/// Why the log could not be closed cleanly. What was called durable stays so.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// Leaves that were taken but could not be made durable.
    #[error("{unsettled} leaves could not be made durable before the log closed: {cause}")]
    Unsettled {
        /// How many.
        unsettled: u64,
        /// The last error of the store.
        cause: String,
    },
    /// The last checkpoint could not be published; the next start publishes one.
    #[error("the log is durable but its last checkpoint could not be published: {0}")]
    Checkpoint(String),
    /// A thread of the log panicked.
    #[error("the log's {0} thread panicked; its message is on standard error")]
    Panicked(&'static str),
}
