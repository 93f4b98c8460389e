//! The HACA control plane and the one tool, haca.

pub mod http;
pub mod proving;
pub mod shipped;
