//! SHA-256 (FIPS 180-4) of many messages at once.
//!
//! A node hashes fourteen blocks for a small request: input, output, leaf and its share of the batch's tree. One
//! message after the other, as crates do it, that was a quarter of a shard's time. Sixteen messages side by side, one
//! in each lane of 512-bit vectors, take a third of it. (Two side by side with the processor's SHA instructions gain
//! nothing: one message keeps them busy enough.)
//!
//! Few messages, or a processor without AVX-512: each goes through the crate `sha2`.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod blocks;

use crate::ids::Digest;
use sha2::{Digest as _, Sha256};

/// A message in two parts, so that a domain or a header need not be copied in front of what it heads.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Comes first.
    pub head: &'a [u8],
    /// Comes behind it.
    pub body: &'a [u8],
}

impl Message<'_> {
    /// Its hash.
    pub fn digest(self) -> Digest {
        Digest(Sha256::new().chain_update(self.head).chain_update(self.body).finalize().into())
    }
}

/// Calls `take` with the hash of each message, in order. Quickest where neighbours are of about the same length.
pub fn digest_each<'a>(messages: impl IntoIterator<Item = Message<'a>>, mut take: impl FnMut(Digest)) {
    let mut messages = messages.into_iter();
    #[cfg(target_arch = "x86_64")]
    if avx512::is_available() {
        let mut group = [Message { head: &[], body: &[] }; avx512::LANES];
        loop {
            let mut count = 0;
            for (place, message) in group.iter_mut().zip(&mut messages) {
                *place = message;
                count += 1;
            }
            let group = &group[..count];
            if count < WORTH_A_VECTOR {
                return group.iter().for_each(|message| take(message.digest()));
            }
            // SAFETY: the processor has what it takes.
            let digests = unsafe { avx512::digest_up_to_sixteen(group) };
            digests.into_iter().take(count).for_each(&mut take);
        }
    }
    messages.for_each(|message| take(message.digest()));
}

/// Sixteen lanes, full or not, take as long as about six messages one by one.
#[cfg(target_arch = "x86_64")]
const WORTH_A_VECTOR: usize = 7;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(messages: &[(Vec<u8>, Vec<u8>)]) -> Vec<Digest> {
        let mut digests = Vec::new();
        let views = messages.iter().map(|(head, body)| Message { head, body });
        digest_each(views, |digest| digests.push(digest));
        digests
    }

    fn one_by_one(messages: &[(Vec<u8>, Vec<u8>)]) -> Vec<Digest> {
        messages.iter().map(|(head, body)| Message { head, body }.digest()).collect()
    }

    #[test]
    fn every_length_around_the_block_borders_is_hashed_as_sha2_does() {
        for head in [0usize, 1, 24, 52, 63, 64, 65, 200] {
            let bodies = (0..200u8).map(|length| (0..length).collect::<Vec<u8>>());
            let messages: Vec<_> = bodies.map(|body| (vec![0xa5; head], body)).collect();
            assert_eq!(all(&messages), one_by_one(&messages), "head of {head}");
        }
    }

    #[test]
    fn the_standard_example_is_hashed_as_printed() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for count in 0..40 {
            let digests = all(&vec![(b"a".to_vec(), b"bc".to_vec()); count]);
            assert_eq!(digests.len(), count);
            assert!(digests.iter().all(|digest| digest.to_string() == expected));
        }
    }

    proptest! {
        #[test]
        fn neighbours_of_any_lengths_are_hashed_as_sha2_does(
            messages in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..70), prop::collection::vec(any::<u8>(), 0..400)),
                0..40,
            ),
        ) {
            prop_assert_eq!(all(&messages), one_by_one(&messages));
        }
    }
}
