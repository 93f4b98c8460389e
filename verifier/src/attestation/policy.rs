//! Which evidence a verifier accepts.

/// Which evidence a verifier accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether a development issuer may stand in for a TEE. Its evidence says nothing about any hardware.
    pub accept_development: bool,
}

impl Policy {
    /// Accepts nothing but evidence of hardware.
    pub const PRODUCTION: Policy = Policy { accept_development: false };

    /// Accepts the development issuer that the verifier trusts by name.
    pub const DEVELOPMENT: Policy = Policy { accept_development: true };
}
