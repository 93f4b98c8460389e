//! The settlement log: append-only, Merkle-tree backed, checkpointed.
//!
//! Shards hand over receipt leaves, and the hashes they know of them, through bounded rings ([`Appender`]) and never
//! wait. One committer thread drains the rings, drops what the log already holds, and appends what is left as one group
//! to the file of leaves: nothing is called durable before fsync has returned. What follows from the leaves (where each
//! request's leaf is, and the upper tiles of the tree) gathers in memory, from where a second thread writes it to an
//! LSM store in long sorted runs. A third signs and publishes checkpoints of the durable tree; a fourth answers who
//! waits for receipts. A slower one never holds up a faster one: each works on the newest state it finds.
//!
//! ```text
//! shard ──ring──┐
//! shard ──ring──┼─► committer ──fsync──► leaves ─► durable edge ─┬─► publisher ──fsync──► checkpoint
//! shard ──ring──┘       └─► memory ─► filer ─► runs              └─► receipts ─► who waits
//! ```
//!
//! A leaf commits to the hashes of an input and an output. Where somebody will need these themselves, to prove the leaf,
//! the shard hands them over with it as the leaf's *opening*. An opening is durable no later than its leaf, is read back
//! in order from a position, and is deleted in whole segments once nobody needs it ([`LogHandle::openings`],
//! [`LogHandle::release_openings`]).
//!
//! A folder holds the log: `FORMAT` (format version and key), `lock`, `store/leaves` (the log itself), `store/runs` (the
//! LSM store of what follows from it), `store/openings` (segments of openings, each named after the position of its first
//! byte; not there before the first opening), `checkpoint` (the newest checkpoint, apart from the store so that it cannot
//! be lost with it) and `checkpoints` (older ones).
//!
//! | module | holds |
//! |---|---|
//! | `queue` | rings from shards to the committer, waking it |
//! | `committer` | groups, idempotence, full disks |
//! | `slot` | a leaf and its hash, as they lie in rings and on disk |
//! | `group` | the leaves of one commit, aligned as the file wants them |
//! | `leaf_file` | the file of leaves: appending, reading, what a power cut does to it |
//! | `opening_record` | an opening as it lies in rings and on disk |
//! | `opening_writer` | openings from the rings to the newest segment |
//! | `openings` | the segments: reading, deleting, what a crash does to them, and past damage |
//! | `ids` | where each request's leaf is, and the right to add one |
//! | `id_hash`, `id_table`, `id_filter` | request ids in memory: hashed, by place, and which ones are surely new |
//! | `recent_tiles` | tiles of the tree in memory |
//! | `runs` | the LSM store: request ids and upper tiles, sorted |
//! | `filer` | the thread that writes runs |
//! | `store` | all of these together, and how they are taken up again; bounded memory |
//! | `huge_pages` | memory that is read at random |
//! | `priority` | the log's threads yield to the shards |
//! | `tree` | RFC 6962 tree in 256-wide tiles, proofs |
//! | `whole_file` | replacing a file durably; also for the models of node and prover |
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
mod opening_record;
mod opening_writer;
mod openings;
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
mod whole_file;

pub use checkpoint::{Checkpoint, CheckpointError, LogKey};
pub use error::{CloseError, OpenError, ReadError, StoreError};
pub use log::{Audit, Log, LogConfig, LogHandle};
pub use openings::{Damage, Opening, OpeningPosition};
pub use queue::{Appender, Full};
pub use receipts::Busy;
pub use shared::LogStatus;
pub use whole_file::write_whole;

/// The bytes of one leaf.
pub(crate) type LeafBytes = [u8; haca_wire::Leaf::LEN];
