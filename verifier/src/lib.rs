//! Offline checks of receipts, log proofs and attestation evidence.
