//! The floor: bare datagrams sent back over a polled io_uring.

use super::{announce_at, bind};
use crate::rpc::ring::{MOST_SEGMENTS, UdpRing};

pub(super) fn serve() -> anyhow::Result<()> {
    let socket = bind()?;
    let address = socket.local_addr()?;
    let mut ring = UdpRing::new(vec![socket], MOST_SEGMENTS)?;
    announce_at(address, None)?;
    loop {
        ring.poll()?;
        while let Some(received) = ring.receive()? {
            ring.echo(received)?;
        }
        std::hint::spin_loop();
    }
}
