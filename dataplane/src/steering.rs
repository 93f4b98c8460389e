//! Which shard a packet belongs to: connection ids name it, and a classic BPF program on the `SO_REUSEPORT` group
//! reads them, so a connection stays on its shard when its 4-tuple changes.
//!
//! Every packet goes to `first byte of its destination connection id mod shards`. For a first packet that byte is the
//! client's random choice, which spreads connections; for all later ones it is the shard's own number. Initial
//! packets must follow the same rule and not the kernel's hash, or a retried one could reach another shard.

use quinn_proto::{ConnectionId, ConnectionIdGenerator};
use std::time::Duration;

/// The most shards a node can have: the shard's number is one byte.
pub(crate) const MAX_SHARDS: usize = 256;

/// Length of the connection ids a node issues: the shard, then seven random bytes.
pub(crate) const CID_LEN: usize = 8;

/// The program: RFC 8999 gives the offsets. A long header is `flags, version[4], length, id…`, a short one
/// `flags, id…`.
pub(crate) fn program(shards: usize) -> Vec<libc::sock_filter> {
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let load_byte = |offset| op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, offset);
    vec![
        load_byte(0),
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 2, 0x80),
        load_byte(6),
        op(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1),
        load_byte(1),
        op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, shards as u32),
        op(libc::BPF_RET | BPF_A, 0, 0, 0),
    ]
}

/// `BPF_A` of `<linux/filter.h>`: return the accumulator.
const BPF_A: u32 = 0x10;

/// Issues connection ids that name one shard.
#[derive(Debug)]
pub(crate) struct ShardConnectionIds {
    pub(crate) shard: u8,
}

impl ConnectionIdGenerator for ShardConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CID_LEN];
        getrandom::fill(&mut id).expect("the kernel's random source does not fail once it is seeded");
        id[0] = self.shard;
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issued_ids_name_their_shard_and_do_not_repeat() {
        let mut ids = ShardConnectionIds { shard: 3 };
        let (a, b) = (ids.generate_cid(), ids.generate_cid());
        assert_eq!((a[0], b[0], a.len()), (3, 3, CID_LEN));
        assert_ne!(a, b);
    }
}
