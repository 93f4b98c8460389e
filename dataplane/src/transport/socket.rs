//! The UDP sockets of a node: one per shard, all bound to one address as a `SO_REUSEPORT` group.

use crate::steering;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::mem;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// Kernel buffer asked for on each socket, each way: room for a burst while a shard runs a batch. The kernel grants
/// what `net.core.rmem_max` and `wmem_max` allow.
const SOCKET_BUFFER: usize = 4 << 20;

/// Why the node cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {what}: {source}")]
pub struct ListenError {
    address: SocketAddr,
    what: &'static str,
    source: io::Error,
}

/// Binds one socket for each shard to `address`, in shard order, and attaches the program that sends every packet to
/// the shard its connection id names. The group is never resized after that: the kernel numbers its members.
///
/// # Errors
/// If the address is taken, not ours, or the kernel refuses an option.
pub fn bind_group(address: SocketAddr, shards: usize) -> Result<Vec<UdpSocket>, ListenError> {
    if shards > 1 && address.port() != 0 {
        // A reuseport group would let a second node join it and take its packets. Without the option the address is free
        // or it is not.
        drop(open(address, false).map_err(|(what, source)| ListenError { address, what, source })?);
    }
    let mut bound = address;
    let mut sockets = Vec::with_capacity(shards);
    for _ in 0..shards {
        let fail = |what| move |source| ListenError { address, what, source };
        let socket =
            open(bound, shards > 1).map_err(|(what, source)| ListenError { address, what, source })?;
        // With port 0 the first socket gets a port; the others must join it there.
        bound = socket.local_addr().map_err(fail("local address"))?;
        sockets.push(socket);
    }
    if let [first, _, ..] = &sockets[..] {
        attach_steering(first, shards).map_err(|source| ListenError {
            address,
            what: "attach the steering program",
            source,
        })?;
    }
    Ok(sockets)
}

fn open(address: SocketAddr, group: bool) -> Result<UdpSocket, (&'static str, io::Error)> {
    let at = |what: &'static str| move |error| (what, error);
    let socket =
        Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)).map_err(at("socket"))?;
    if group {
        // Only where there is a group: without it a second node on the same port must fail, not share its packets.
        socket.set_reuse_port(true).map_err(at("SO_REUSEPORT"))?;
    }
    socket.set_recv_buffer_size(SOCKET_BUFFER).map_err(at("SO_RCVBUF"))?;
    socket.set_send_buffer_size(SOCKET_BUFFER).map_err(at("SO_SNDBUF"))?;
    let (v4, wildcard) = (address.is_ipv4(), address.ip().is_unspecified());
    set(&socket, libc::SOL_UDP, libc::UDP_GRO, 1).map_err(at("UDP_GRO"))?;
    if v4 {
        set(&socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1).map_err(at("IP_RECVTOS"))?;
        // PMTU discovery belongs to QUIC: never fragment, and do not let the kernel's guess bound a probe.
        set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
            .map_err(at("IP_MTU_DISCOVER"))?;
        if wildcard {
            set(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1).map_err(at("IP_PKTINFO"))?;
        }
    } else {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1).map_err(at("IPV6_RECVTCLASS"))?;
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
            .map_err(at("IPV6_MTU_DISCOVER"))?;
        if wildcard {
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1).map_err(at("IPV6_RECVPKTINFO"))?;
        }
    }
    socket.bind(&address.into()).map_err(at("bind"))?;
    Ok(socket.into())
}

fn attach_steering(socket: &UdpSocket, shards: usize) -> io::Result<()> {
    let mut program = steering::program(shards);
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_mut_ptr(),
    };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, filter)
}

fn set<T: Copy>(socket: &impl AsRawFd, level: i32, option: i32, value: T) -> io::Result<()> {
    // SAFETY: `value` lives across the call and its size is passed; the kernel copies it (and, for a filter, what it
    // points to, which the caller keeps alive) before it returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            mem::size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_reach_the_shard_their_connection_id_names() {
        let shards = 4;
        let sockets = bind_group("127.0.0.1:0".parse().unwrap(), shards).unwrap();
        let address = sockets[0].local_addr().unwrap();
        for round in 0..25u8 {
            for shard in 0..shards as u8 {
                // A fresh 4-tuple each time, as after a NAT rebinding.
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                let short = [0x40, shard, round, 1, 2, 3, 4, 5];
                let long = [0xe0, 0, 0, 0, 1, 8, shard, round, 1, 2, 3, 4];
                client.send_to(&short, address).unwrap();
                client.send_to(&long, address).unwrap();
                let socket = &sockets[usize::from(shard)];
                socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
                let mut buffer = [0; 64];
                for sent in [&short[..], &long[..]] {
                    let length = socket.recv(&mut buffer).unwrap();
                    assert_eq!(&buffer[..length], sent);
                }
            }
        }
    }

    #[test]
    fn a_second_node_does_not_share_the_port() {
        for shards in [1, 3] {
            let sockets = bind_group("127.0.0.1:0".parse().unwrap(), shards).unwrap();
            let error = bind_group(sockets[0].local_addr().unwrap(), shards).unwrap_err();
            assert!(error.to_string().contains("bind"), "{error}");
        }
    }
}
