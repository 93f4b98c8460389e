//! The settlement log: append-only, Merkle-tree backed, checkpointed.
