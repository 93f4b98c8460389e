//! Evidence of the development issuer. It says nothing about any hardware, and every text here says so.

use haca_wire::evidence::{DevelopmentEvidence, EvidenceError};
use haca_wire::{Digest, Leaf, NodeId};

use super::Policy;
use crate::trust::Trust;

/// Why development evidence does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DevelopmentError {
    /// The bytes are not evidence, or its signature does not verify.
    #[error("development evidence: {0}")]
    Evidence(#[from] EvidenceError),
    /// The policy wants hardware.
    #[error("development evidence says nothing about hardware, and the production policy refuses it")]
    Refused,
    /// It vouches for another node.
    #[error("development evidence vouches for the signing key {bound}, the receipt is of {leaf}")]
    SigningKey {
        /// The key it vouches for.
        bound: NodeId,
        /// The key of the leaf.
        leaf: NodeId,
    },
    /// It was not in force at the time.
    #[error(
        "development evidence was in force from {issued} to {expires} ns, the request was completed at {completed} ns"
    )]
    Time {
        /// Begin, in nanoseconds since 1970-01-01 UTC.
        issued: u64,
        /// End, likewise.
        expires: u64,
        /// When the leaf says the request was done, likewise.
        completed: u64,
    },
    /// It vouches for another TLS key than the trusted one.
    #[error("development evidence vouches for the TLS key {bound}, the trusted pin is {pin}")]
    TlsKey {
        /// The key it vouches for.
        bound: Digest,
        /// The trusted pin.
        pin: Digest,
    },
    /// An issuer nobody trusts.
    #[error("development evidence is of the issuer {issuer}, the trusted development issuer is {trusted}")]
    Issuer {
        /// Who issued it.
        issuer: Digest,
        /// Who is trusted.
        trusted: Digest,
    },
    /// There is no development issuer among the trusted keys.
    #[error("development evidence of the issuer {0}, and the trusted keys name no development issuer")]
    NoIssuer(Digest),
}

/// Checks everything that follows from evidence, leaf and policy alone: its issuer's signature, that it vouches for
/// the key the leaf names, and that it was in force when the leaf says the request was completed.
///
/// # Errors
/// The first thing that does not hold.
pub fn check(evidence: &[u8], leaf: &Leaf, policy: Policy) -> Result<DevelopmentEvidence, DevelopmentError> {
    let evidence = DevelopmentEvidence::decode(evidence)?;
    if !policy.accept_development {
        return Err(DevelopmentError::Refused);
    }
    let bound = evidence.binding.signing_key;
    if bound != leaf.node {
        return Err(DevelopmentError::SigningKey { bound, leaf: leaf.node });
    }
    let (issued, expires, completed) = (evidence.issued, evidence.expires, leaf.completed);
    if completed < issued || completed >= expires {
        return Err(DevelopmentError::Time { issued, expires, completed });
    }
    Ok(evidence)
}

/// Checks that evidence is of the trusted issuer, about the trusted TLS key.
///
/// # Errors
/// The first thing that does not hold.
pub fn check_trusted(evidence: &DevelopmentEvidence, trust: &Trust) -> Result<(), DevelopmentError> {
    let issuer = Digest(evidence.issuer);
    match trust.development_issuer {
        None => return Err(DevelopmentError::NoIssuer(issuer)),
        Some(trusted) if trusted != issuer => return Err(DevelopmentError::Issuer { issuer, trusted }),
        Some(_) => {}
    }
    let bound = evidence.binding.tls_key;
    if bound != trust.key_pin {
        return Err(DevelopmentError::TlsKey { bound, pin: trust.key_pin });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::specimen;

    #[test]
    fn each_mismatch_is_refused_by_its_name() {
        let (leaf, evidence, trust) = (specimen::leaf(), specimen::evidence(), specimen::trust());
        let held = check(&evidence, &leaf, Policy::DEVELOPMENT).unwrap();
        assert_eq!(check_trusted(&held, &trust), Ok(()));

        assert_eq!(check(&evidence, &leaf, Policy::PRODUCTION), Err(DevelopmentError::Refused));
        let other = Leaf { node: NodeId([1; 32]), ..leaf };
        let error = check(&evidence, &other, Policy::DEVELOPMENT);
        assert!(matches!(error, Err(DevelopmentError::SigningKey { .. })));
        for completed in [held.issued - 1, held.expires] {
            let error = check(&evidence, &Leaf { completed, ..leaf }, Policy::DEVELOPMENT);
            assert!(matches!(error, Err(DevelopmentError::Time { .. })));
        }
        let other = Trust { key_pin: Digest([0; 32]), ..trust.clone() };
        assert!(matches!(check_trusted(&held, &other), Err(DevelopmentError::TlsKey { .. })));
        let other = Trust { development_issuer: Some(Digest([0; 32])), ..trust.clone() };
        assert!(matches!(check_trusted(&held, &other), Err(DevelopmentError::Issuer { .. })));
        let other = Trust { development_issuer: None, ..trust };
        assert!(matches!(check_trusted(&held, &other), Err(DevelopmentError::NoIssuer(_))));
    }

    #[test]
    fn every_text_says_development() {
        let node = NodeId([0; 32]);
        for error in [
            DevelopmentError::Evidence(EvidenceError::Signature),
            DevelopmentError::Refused,
            DevelopmentError::SigningKey { bound: node, leaf: node },
            DevelopmentError::Time { issued: 0, expires: 0, completed: 0 },
            DevelopmentError::TlsKey { bound: Digest::default(), pin: Digest::default() },
            DevelopmentError::Issuer { issuer: Digest::default(), trusted: Digest::default() },
            DevelopmentError::NoIssuer(Digest::default()),
        ] {
            assert!(error.to_string().contains("development"), "{error}");
        }
    }
}
