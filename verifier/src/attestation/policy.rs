//! Which evidence and keys a verifier accepts.

/// Which evidence and keys a verifier accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether a development issuer may stand in for a TEE, and a development setup for a ceremony. Evidence of the
    /// first says nothing about any hardware; who made the second can forge proofs.
    pub accept_development: bool,
}

impl Policy {
    /// Accepts nothing but evidence of hardware and keys of ceremonies.
    pub const PRODUCTION: Policy = Policy { accept_development: false };

    /// Accepts the development issuer that the verifier trusts by name, and keys of development setups.
    pub const DEVELOPMENT: Policy = Policy { accept_development: true };
}
