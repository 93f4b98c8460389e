//! The async client of a HACA node.
