//! Sealed inputs of mode `zk`: the leaf carries the caller's commitment to the input in the place of its hash, so that who
//! has the receipt learns no more of the input than its output tells.
//!
//! The commitment is a Poseidon hash of a salt and the row's bytes, which `haca-verifier` computes (`seal`). Nothing on the
//! way to the leaf looks into it: a proof shows that it opens, or there is no proof.

use crate::ids::{Digest, ParseIdError};
use std::fmt;
use std::str::FromStr;

/// What keeps a commitment from being guessed. Who has it can tell whether a row is the sealed one, so it is as private as
/// the row, and does not show itself in debug output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt(pub [u8; Salt::LEN]);

impl Salt {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// The salt in hexadecimal digits, as [`str::parse`] reads it.
    pub fn reveal(&self) -> String {
        Digest(self.0).to_string()
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(…)")
    }
}

impl FromStr for Salt {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        text.parse().map(|Digest(bytes)| Self(bytes))
    }
}

/// What a caller sends beside an input that is to be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// What the prover opens the commitment with.
    pub salt: Salt,
    /// What the leaf is to carry.
    pub commitment: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salt_is_read_as_it_was_revealed_and_does_not_show_itself() {
        let salt = Salt([0xa7; Salt::LEN]);
        assert_eq!(salt.reveal().parse(), Ok(salt));
        assert!("a7".parse::<Salt>().is_err());
        let shown = format!("{:?}", Seal { salt, commitment: Digest([1; 32]) });
        assert!(!shown.contains("a7") && !shown.contains("167"), "{shown}");
    }
}
