//! The floor: bare datagrams sent back over a polled io_uring.

use super::{announce_at, bind, v4};
use crate::rpc::ring::UdpRing;

pub(super) fn serve() -> anyhow::Result<()> {
    let socket = bind()?;
    let address = socket.local_addr()?;
    let mut ring = UdpRing::new(vec![socket])?;
    announce_at(address, None)?;
    loop {
        ring.poll()?;
        while let Some(received) = ring.receive()? {
            let mut echo = ring.buffer()?;
            echo.extend_from_slice(ring.payload(&received));
            ring.send(received.socket, Some(v4(received.from)?), echo, received.stride)?;
            ring.recycle(received);
        }
        std::hint::spin_loop();
    }
}
