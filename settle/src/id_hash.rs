//! A request id's hash, by which the log finds it.

use haca_wire::RequestId;
use siphasher::sip::SipHasher13;

/// The secret under which one log hashes request ids. Callers choose their ids, so without it somebody could have all
/// of his fall into one place. It is stored with what was sorted by it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdSecret(pub(crate) [u8; 16]);

impl IdSecret {
    pub(crate) fn hash(&self, id: &RequestId) -> IdHash {
        IdHash(SipHasher13::new_with_key(&self.0).hash(&id.0) >> UNUSED)
    }
}

/// 46 bits: enough that two of a hundred million ids share one with odds of one in a million for each id that is looked
/// up, in which case the leaf itself is read and decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdHash(u64);

impl IdHash {
    /// Buckets that ids are sorted into.
    pub(crate) const BUCKETS: usize = 1 << 14;

    pub(crate) fn from_parts(bucket: u16, rest: u32) -> Self {
        Self(u64::from(bucket) << 32 | u64::from(rest))
    }

    /// Less than [`IdHash::BUCKETS`].
    pub(crate) fn bucket(self) -> u16 {
        (self.0 >> 32) as u16
    }

    pub(crate) fn rest(self) -> u32 {
        self.0 as u32
    }

    /// The same, spread over 64 bits.
    pub(crate) fn spread(self) -> u64 {
        self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

/// Bits of the hash that are not kept.
const UNUSED: u32 = u64::BITS - 14 - 32;
