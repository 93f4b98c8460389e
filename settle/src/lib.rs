//! The settlement log: append-only, Merkle-tree backed, checkpointed.
//!
//! Shards hand over receipt leaves through bounded rings ([`Appender`]) and never wait. One committer thread drains
//! the rings, drops what the log already holds, and commits what is left as one group: leaves, index of request ids
//! and completed tiles of the tree go into the store in one batch, and nothing is called durable before fsync has
//! returned. A second thread signs and publishes checkpoints of the durable tree; a third answers who waits for
//! receipts. A slower one never holds up a faster one: each works on the newest state it finds.
//!
//! ```text
//! shard ──ring──┐
//! shard ──ring──┼─► committer ──fsync──► store ─► durable edge ─┬─► publisher ──fsync──► checkpoint
//! shard ──ring──┘                                               └─► receipts ─► who waits
//! ```
//!
//! A folder holds the log: `FORMAT` (format version and key), `lock`, `store/` (the LSM store), `checkpoint` (the
//! newest checkpoint, apart from the store so that it cannot be lost with it) and `checkpoints` (older ones).
//!
//! | module | holds |
//! |---|---|
//! | `queue` | rings from shards to the committer, waking it |
//! | `committer` | groups, idempotence, full disks |
//! | `store` | keyspaces, atomic commit, bounded memory |
//! | `ids` | where each request's leaf is, in memory and in sorted runs |
//! | `id_filter` | which ids are surely not on disk |
//! | `priority` | the log's threads yield to the shards |
//! | `tree` | RFC 6962 tree in 256-wide tiles, proofs |
//! | `checkpoint` | signed notes, their files, the publisher |
//! | `recovery` | the folder, its lock and format, what must hold before the log opens |
//! | `receipts` | waiting for ids to become durable or checkpointed |
//! | `log` | the public face |
//!
//! Later come `witness` (cosignatures over checkpoints), `ledger` and `epoch` (who owes what, from the same leaves)
//! and `blobs` (evidence, proofs and sealed bundles, by hash).

mod checkpoint;
mod committer;
mod error;
mod filer;
mod group;
mod huge_pages;
mod id_filter;
mod id_hash;
mod id_table;
mod ids;
mod leaf_file;
mod log;
mod priority;
mod queue;
mod receipts;
mod recent_tiles;
mod recovery;
mod runs;
mod shared;
mod slot;
mod store;
mod tree;

pub use checkpoint::{Checkpoint, CheckpointError, LogKey};
pub use error::{CloseError, OpenError, ReadError, StoreError};
pub use log::{Audit, Log, LogConfig, LogHandle};
pub use queue::{Appender, Full};
pub use receipts::Busy;
pub use shared::LogStatus;

/// The bytes of one leaf.
pub(crate) type LeafBytes = [u8; haca_wire::Leaf::LEN];
